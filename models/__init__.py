"""The method: towers, levels, games and losses; `load_model` is the way in."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from models.clip import CLIP, CLIPConfig
from models.hbi import HBI
from models.pretrained import load_clip, uses_quick_gelu
from utils.checkpoint import load_weights, read_weights
from utils.errors import InputError


def load_model(
    checkpoint: str | Path | None = None,
    *,
    base_encoder: str | Path | None = None,
    estimator: str | Path | None = None,
    device: str | torch.device = "cpu",
    trust_checkpoint: bool = False,
    **options,
) -> HBI:
    """Build a retrieval model from a checkpoint, or from CLIP's weights to be trained.

    Args:
        checkpoint: file in the released format; every size is derived from it.
        base_encoder: CLIP's weights, see `models.pretrained.load_clip`; needed where there is no checkpoint. Beside a
            checkpoint only its name counts, which tells the activation of the towers.
        estimator: file of the trained Banzhaf estimator (12 keys), which becomes the teacher.
        device: where the model goes.
        trust_checkpoint: open a TorchScript archive of unknown SHA-256.
        **options: keywords of `HBI`; what the keys of a checkpoint tell (temporal encoder, its depth, interaction) need
            not be given, and must agree if it is.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: a file is missing, damaged or of another architecture.
    """
    state = None
    if checkpoint is not None:
        state = read_weights(checkpoint, trust=trust_checkpoint)
        clip = clip_of_checkpoint(state, checkpoint, quick_gelu=base_encoder is None or uses_quick_gelu(base_encoder))
        options = checkpoint_options(state) | options
    elif base_encoder is not None:
        clip = load_clip(base_encoder, trust=trust_checkpoint)
    else:
        raise InputError("a model needs weights: give a checkpoint, or base_encoder for CLIP's")
    model = HBI(clip, **options)
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
        reason = str(error).splitlines()[0]
        raise InputError(f"{source}: no model of HBI ({reason} under clip.*); give a pytorch_model.bin.N") from error


def checkpoint_options(state: Mapping[str, Tensor]) -> dict:
    """Read a checkpoint's temporal encoder, its depth and its interaction off its keys."""
    blocks = {name.split(".")[2] for name in state if name.startswith("transformerClip.resblocks.")}
    temporal = "seqTransf" if blocks else "seqLSTM" if "lstm_visual.weight_hh_l0" in state else None
    interaction = "wti" if "text_weight_fc.0.weight" in state else "mean"
    return {"temporal": temporal, "interaction": interaction} | ({"temporal_layers": len(blocks)} if blocks else {})


__all__ = ["CLIP", "HBI", "CLIPConfig", "load_clip", "load_model"]
