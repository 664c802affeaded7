"""CLIP's weights by the names of open_clip, and what is refused."""

from types import SimpleNamespace

import open_clip
import pytest
import torch
from torch import nn

from models import load_clip, load_model
from models.pretrained import uses_quick_gelu
from utils.errors import InputError

TAGS = ["first", "openai", "second"]


@pytest.fixture
def created(monkeypatch):
    """Make open_clip know a small model, and note what is asked of it; `answer` is what it gives."""
    towers = {"layers": 1, "width": 64, "heads": 1}
    torch.manual_seed(0)
    model = open_clip.CLIP(16, {"layers": 1, "width": 64, "head_width": 64, "patch_size": 8, "image_size": 32}, towers)
    noted = SimpleNamespace(answer=model, asked=[])

    def create_model(name, **options):
        noted.asked.append((name, options))
        if isinstance(noted.answer, Exception):
            raise noted.answer
        return noted.answer

    monkeypatch.setattr(open_clip, "list_models", lambda: ["small", "empty"])
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", {"small": TAGS, "empty": []}.get)
    monkeypatch.setattr(open_clip, "create_model", create_model)
    return noted


@pytest.mark.parametrize(
    ("source", "tag", "quick_gelu"), [("small", "first", False), ("small:second", "second", False),
                                      ("small:openai", "openai", True)],
)  # fmt: skip
def test_a_name_of_open_clip_is_a_model_and_its_weights(created, source, tag, quick_gelu):
    clip = load_clip(source)
    assert created.asked == [("small", {"pretrained": tag, "precision": "fp32", "force_quick_gelu": quick_gelu})]
    assert clip.config.quick_gelu is quick_gelu and clip.config.resolution == 32
    theirs = created.answer.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in clip.state_dict().items())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("small:third", "small:third: open_clip knows no such weights; choose small: first, openai, second"),
        ("empty", "empty: open_clip knows no such weights; choose empty: "),
        ("large:first", "large:first: no file and no model; give a path, ViT-B/32 or an open_clip name"),
    ],
)
def test_unknown_names_are_refused(created, source, says):
    with pytest.raises(InputError) as refused:
        load_clip(source)
    assert str(refused.value) == f"--base_encoder {says}" and not created.asked


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (OSError("no connection\nat all"), r"open_clip could not load it \(no connection at all\); give a file"),
        (RuntimeError("another shape"), r"open_clip could not load it \(another shape\); give a file"),
        (nn.Linear(2, 2), "not a CLIP ViT as released; choose another model"),
    ],
)
def test_what_open_clip_cannot_give_is_said(created, answer, says):
    created.answer = answer
    with pytest.raises(InputError, match=f"^--base_encoder small:second: {says}$"):
        load_clip("small:second")


def test_the_name_says_the_activation(tmp_path):
    (tmp_path / "file.pt").write_bytes(b"")
    names = ["ViT-B/32", "ViT-B-32-quickgelu", "ViT-B-32:openai", str(tmp_path / "file.pt")]
    assert all(map(uses_quick_gelu, names))
    assert not any(map(uses_quick_gelu, ["ViT-B-32", "ViT-B-32:laion2b_e16", "openai", "file.pt"]))


def test_a_checkpoint_has_the_activation_of_its_encoder_and_goes_to_the_device(checkpoint):
    assert load_model(checkpoint, base_encoder="ViT-B-32:laion2b_e16").clip.config.quick_gelu is False
    for name in ("ViT-B/32", None):
        assert load_model(checkpoint, base_encoder=name).clip.config.quick_gelu is True
    model = load_model(checkpoint, device="meta")
    assert model.source == checkpoint
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"} and not model.training


def test_what_does_not_fit_a_checkpoint_names_it(checkpoint):
    with pytest.raises(InputError, match=rf"^{checkpoint}: the method hbi has no option colour; leave it out$"):
        load_model(checkpoint, colour="red", zest=1)
    with pytest.raises(InputError, match=rf"^{checkpoint}: weights of another architecture"):
        load_model(checkpoint, interaction="mean")


def test_an_unknown_recipe_is_refused(checkpoint, unchecked_shapes):
    with pytest.raises(ValueError, match="^unknown recipe 'new': choose one of released, corrected$"):
        load_model(checkpoint, recipe="new")
