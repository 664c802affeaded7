"""Loading CLIP's weights."""

from pathlib import Path

from models.clip import CLIP
from utils.checkpoint import OPENAI_DIGESTS, read_weights
from utils.errors import InputError, one_line

WEIGHTS_FOLDER = Path(__file__).parent
OPENAI_ADDRESS = "https://openaipublic.azureedge.net/clip/models/{digest}/{file}"


def load_clip(source: str | Path, *, trust: bool = False) -> CLIP:
    """Build CLIP with weights; `trust` opens a TorchScript archive of unknown SHA-256.

    A source is a released name ("ViT-B/32", "ViT-B/16", "ViT-L/14", whose file lies in `models/`), a file (TorchScript
    archive of OpenAI's, state dict or safetensors), or a model of open_clip as NAME or NAME:PRETRAINED.
    """
    path = Path(source)
    if source in OPENAI_DIGESTS:
        path = WEIGHTS_FOLDER / f"{source.replace('/', '-')}.pt"
    if path.is_file():
        return _clip_from_file(path, trust)
    if source in OPENAI_DIGESTS:
        address = OPENAI_ADDRESS.format(digest=OPENAI_DIGESTS[source], file=path.name)
        raise InputError(f"{path}: CLIP's weights are missing; fetch {address}, or give another --base_encoder")
    return _clip_from_open_clip(str(source))


def uses_quick_gelu(source: str | Path) -> bool:
    """Whether the weights called `source` were trained with QuickGELU: OpenAI's and files were, open_clip's own not."""
    name, _, tag = str(source).partition(":")
    return source in OPENAI_DIGESTS or Path(source).is_file() or "quickgelu" in name or tag == "openai"


def _clip_from_file(path: Path, trust: bool) -> CLIP:
    try:
        return CLIP.from_state_dict(read_weights(path, trust=trust))
    except (KeyError, RuntimeError) as error:
        reason = one_line(error)
        raise InputError(f"{path}: not the weights of a CLIP ViT ({reason}); give another --base_encoder") from error


def _clip_from_open_clip(source: str) -> CLIP:
    import open_clip  # takes seconds, and few models come from it

    name, _, tag = source.partition(":")
    if name not in open_clip.list_models():
        raise InputError(f"--base_encoder {source}: no file and no model; give a path, ViT-B/32 or an open_clip name")
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = tag or (tags[0] if tags else "")
    if tag not in tags:
        raise InputError(f"--base_encoder {source}: open_clip knows no such weights; choose {name}: {', '.join(tags)}")
    quick_gelu = uses_quick_gelu(f"{name}:{tag}")
    try:
        model = open_clip.create_model(name, pretrained=tag, precision="fp32", force_quick_gelu=quick_gelu)
    except (OSError, RuntimeError) as error:
        reason = one_line(error)
        raise InputError(f"--base_encoder {source}: open_clip could not load it ({reason}); give a file") from error
    try:
        return CLIP.from_state_dict(model.state_dict(), quick_gelu=quick_gelu)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"--base_encoder {source}: not a CLIP ViT as released; choose another model") from error
