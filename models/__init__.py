"""Retrieval methods and their parts; `load_model` builds a model, `METHODS` names the methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.answering import AnswerMethod
from models.baselines.clip4clip import CLIP4Clip
from models.baselines.dicosa import DiCoSA
from models.baselines.diffusionret import DiffusionRet
from models.baselines.drl import DRL
from models.baselines.emcl import EMCL
from models.baselines.emcl_qa import EMCLQA
from models.captioning import DescribedWord, Description, HBICaptioning, has_decoder
from models.clip import CLIP, CLIPConfig
from models.encoder import TokenEncoder, Tokens
from models.export import find_checkpoint, options_of_config
from models.hbi import HBI
from models.hbi_vqa import HBIVQA
from models.loading import answer_names, build_with_weights
from models.method import RetrievalMethod
from models.pretrained import load_clip, uses_quick_gelu
from models.ranked_estimator import network_of
from utils.checkpoint import load_weights, read_weights
from utils.errors import InputError

# Methods by their names on the command line, the default first: for retrieval, for questions, for captions.
METHODS: dict[str, type[RetrievalMethod]] = {
    method.method: method for method in (HBI, CLIP4Clip, DRL, EMCL, DiCoSA, DiffusionRet)
}
ANSWER_METHODS: dict[str, type[AnswerMethod]] = {method.method: method for method in (HBIVQA, EMCLQA)}
CAPTION_METHODS: dict[str, type[HBICaptioning]] = {"hbi": HBICaptioning}


def load_model(
    checkpoint: str | Path | None = None,
    *,
    method: str | None = None,
    base_encoder: str | Path | None = None,
    answers: str | Path | Sequence[str] | None = None,
    captions: bool = False,
    device: str | torch.device = "cpu",
    trust_checkpoint: bool = False,
    **options: Any,
) -> RetrievalMethod:
    """Build a model, in evaluation mode, from a checkpoint, or from CLIP's weights to be trained.

    Args:
        checkpoint: file in the released format, or the folder of a run or of an export (`models.export`), or USER/MODEL
            on the Hub; every size is derived from it. The config.json next to the weights says method and options.
        method: a key of `METHODS`; None: found by the checkpoint's keys, or the first one without a checkpoint.
        base_encoder: CLIP's weights, see `models.pretrained.load_clip`; needed where there is no checkpoint. With a
            checkpoint only its name counts: it determines the activation of the towers.
        answers: of a model for question answering, in the order of their labels, or a file for
            `utils.answers.read_answers`. Without them the answers of a checkpoint are called "0", "1", ...
        captions: add an untrained caption decoder to a checkpoint without one.
        device: where the model goes.
        trust_checkpoint: open a TorchScript archive of unknown SHA-256.
        **options: keywords of the method; those that a checkpoint determines (temporal encoder, its depth, interaction)
            must agree if given. For HBI also "estimator": file of the trained Banzhaf estimator, the teacher; with a
            checkpoint only if the recipe says so.

    Raises:
        InputError: no such method; a file is missing, damaged, of another architecture or number of answers.
    """
    estimator, state, config = options.pop("estimator", None), {}, None
    if checkpoint is not None:
        checkpoint, config = find_checkpoint(checkpoint)
        state = read_weights(checkpoint, trust=trust_checkpoint)
    elif base_encoder is None:
        raise InputError("a model needs weights: give a checkpoint, or base_encoder for CLIP's")
    names = answer_names(getattr(config, "answers", None) if answers is None else answers, state, checkpoint)
    methods = CAPTION_METHODS if captions or has_decoder(state) else METHODS if names is None else ANSWER_METHODS
    name = method or (config and config.method) or find_method(state) or next(iter(methods))
    if name not in methods:
        raise InputError(f"method {name}: choose one of {', '.join(methods)}{' for questions' * (names is not None)}")
    if checkpoint is not None and config is not None and config.method == name:
        options = options_of_config(config, methods[name].Options, checkpoint) | options
    if checkpoint is None:
        assert base_encoder is not None
        clip = load_clip(base_encoder, trust=trust_checkpoint)
        build: Any = methods[name]
        model = build(clip, **options) if names is None else build(clip, names, **options)
    else:
        quick_gelu = uses_quick_gelu(base_encoder) if base_encoder else config is None or config.quick_gelu
        model = _with_weights(methods[name], state, checkpoint, quick_gelu=quick_gelu, answers=names, **options)
        model.source = checkpoint
    if estimator is not None and not (state and model.recipe.teacher_of_checkpoint):
        weights = read_weights(estimator)
        model.use_estimator(network_of(weights))
        load_weights(model.teacher, weights, estimator)
    return model.to(device).eval()


def find_method(state: Mapping[str, Tensor]) -> str | None:
    """The method whose keys a checkpoint has; None if it has those of none."""
    return next((name for name, cls in METHODS.items() if cls.recognises(state)), None)


def _with_weights(
    method: type[RetrievalMethod], state: Mapping[str, Tensor], source: str | Path, **options: Any
) -> Any:
    """Build a method with weights; the error for others names their method and head."""
    try:
        return build_with_weights(method, state, source, **options)
    except InputError as error:
        found, name = find_method(state), method.method
        if found in (None, name):
            raise
        head = ", ".join(f"{option} {value}" for option, value in METHODS[found].options_of_state(state).items())
        raise InputError(
            f"{source}: weights of the method {found} ({head}), not of {name}; choose --method {found} or another file"
        ) from error


__all__ = [
    "ANSWER_METHODS", "CAPTION_METHODS", "CLIP", "CLIP4Clip", "DRL", "EMCL", "EMCLQA", "HBI", "HBICaptioning", "HBIVQA",
    "METHODS", "AnswerMethod", "CLIPConfig", "DescribedWord", "Description", "DiCoSA", "DiffusionRet",
    "RetrievalMethod", "TokenEncoder", "Tokens", "load_clip", "load_model",
]  # fmt: skip
