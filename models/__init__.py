"""The method: towers, levels, games and losses; `load_model` is the way in."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.clip import CLIP, CLIPConfig
from models.hbi import HBI
from models.hbi_vqa import HBIVQA
from models.hub import WEIGHTS, read_config
from models.pretrained import load_clip, uses_quick_gelu
from utils.answers import read_answers
from utils.checkpoint import load_weights, read_weights
from utils.errors import InputError, one_line

CLASSIFIER = "classifier.2.weight"


def load_model(
    checkpoint: str | Path | None = None,
    *,
    base_encoder: str | Path | None = None,
    estimator: str | Path | None = None,
    answers: str | Path | Sequence[str] | None = None,
    device: str | torch.device = "cpu",
    trust_checkpoint: bool = False,
    **options,
) -> HBI:
    """Build a model from a checkpoint, or from CLIP's weights to be trained.

    Args:
        checkpoint: file in the released format, or the folder of an export (`models.hub`), which tells its options too;
            every size is derived from it.
        base_encoder: CLIP's weights, see `models.pretrained.load_clip`; needed where there is no checkpoint. Beside a
            checkpoint only its name counts, which tells the activation of the towers.
        estimator: file of the trained Banzhaf estimator (12 keys), which becomes the teacher.
        answers: the answers of a model for question answering, in the order of their labels, or a file as
            `utils.answers.read_answers` reads it. A checkpoint with answer heads is such a model in any case; where it
            is not told its answers, they are called by their labels, "0", "1", ...
        device: where the model goes.
        trust_checkpoint: open a TorchScript archive of unknown SHA-256.
        **options: keywords of `HBI`; what the keys of a checkpoint tell (temporal encoder, its depth, interaction) need
            not be given, and must agree if it is.

    Returns:
        The model, in evaluation mode: an `HBIVQA` if it answers questions.

    Raises:
        InputError: a file is missing, damaged or of another architecture, or has another number of answers.
    """
    state = None
    quick_gelu = base_encoder is None or uses_quick_gelu(base_encoder)
    if checkpoint is not None and Path(checkpoint).is_dir():
        config = read_config(checkpoint)
        checkpoint, quick_gelu = Path(checkpoint) / WEIGHTS, config["quick_gelu"]
        answers = config["answers"] if answers is None else answers
        options = config["options"] | options
    if checkpoint is not None:
        state = read_weights(checkpoint, trust=trust_checkpoint)
        clip = clip_of_checkpoint(state, checkpoint, quick_gelu=quick_gelu)
        options = checkpoint_options(state) | options
    elif base_encoder is not None:
        clip = load_clip(base_encoder, trust=trust_checkpoint)
    else:
        raise InputError("a model needs weights: give a checkpoint, or base_encoder for CLIP's")
    names = answer_names(answers, state or {}, checkpoint)
    model = HBI(clip, **options) if names is None else HBIVQA(clip, names, **options)
    if state is not None:
        load_weights(model, state, checkpoint)
    if estimator is not None:
        load_weights(model.teacher, read_weights(estimator), estimator)
    return model.to(device).eval()


def clip_of_checkpoint(state: Mapping[str, Tensor], source: str | Path, *, quick_gelu: bool = True) -> CLIP:
    """Build the towers, with weights, that a released checkpoint describes; `quick_gelu` as for `CLIPConfig`.

    Raises:
        InputError: the checkpoint has no complete set of `clip.*` keys.
    """
    prefix = "clip."
    weights = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
    try:
        return CLIP.from_state_dict(weights, quick_gelu=quick_gelu)
    except (KeyError, RuntimeError) as error:
        reason = one_line(error)
        raise InputError(f"{source}: no model of HBI (under clip.*: {reason}); give a pytorch_model.bin.N") from error


def checkpoint_options(state: Mapping[str, Tensor]) -> dict:
    """Read a checkpoint's temporal encoder, its depth and its interaction off its keys."""
    blocks = {name.split(".")[2] for name in state if name.startswith("transformerClip.resblocks.")}
    temporal = "seqTransf" if blocks else "seqLSTM" if "lstm_visual.weight_hh_l0" in state else None
    interaction = "wti" if "text_weight_fc.0.weight" in state else "mean"
    return {"temporal": temporal, "interaction": interaction} | ({"temporal_layers": len(blocks)} if blocks else {})


def answer_names(
    answers: str | Path | Sequence[str] | None, state: Mapping[str, Tensor], source: str | Path | None
) -> Sequence[str] | None:
    """Name the answers of a model as `load_model` says; None for a retrieval model.

    Raises:
        InputError: the checkpoint's classifier has another number of answers than there are names.
    """
    names = read_answers(answers) if isinstance(answers, str | Path) else answers
    if CLASSIFIER not in state:
        return names
    labels = len(state[CLASSIFIER])
    if names is None:
        return [str(label) for label in range(labels)]
    if len(names) != labels:
        given = answers if isinstance(answers, str | Path) else "the list of answers"
        raise InputError(
            f"{given}: has {len(names)} answers, but the classifier of {source} has {labels}; give the file it was "
            "trained with"
        )
    return names


__all__ = ["CLIP", "HBI", "HBIVQA", "CLIPConfig", "load_clip", "load_model"]
