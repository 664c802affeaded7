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
from models.captioning import HBICaptioning, has_decoder
from models.clip import CLIP, CLIPConfig
from models.encoder import TokenEncoder, Tokens
from models.export import WEIGHTS, read_config
from models.hbi import HBI
from models.hbi_vqa import HBIVQA
from models.method import RetrievalMethod
from models.pretrained import load_clip, uses_quick_gelu
from models.ranked_estimator import NETWORKS, network_of
from utils.answers import read_answers
from utils.checkpoint import load_weights, read_weights
from utils.config import find_config, options_of_run
from utils.errors import InputError, one_line

METHODS: dict[str, type[RetrievalMethod]] = {
    "hbi": HBI,
    "clip4clip": CLIP4Clip,
    "drl": DRL,
    "emcl": EMCL,
    "dicosa": DiCoSA,
    "diffusionret": DiffusionRet,
}
"""Every retrieval method by its name on the command line, the default first."""
ANSWER_METHODS: dict[str, type[AnswerMethod]] = {"hbi": HBIVQA, "emcl": EMCLQA}
"""Those of them that answer questions."""
CAPTION_METHODS: dict[str, type[HBICaptioning]] = {"hbi": HBICaptioning}
"""Those of them that write captions."""

CLASSIFIER = "classifier.2.weight"


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
    """Build a model from a checkpoint, or from CLIP's weights to be trained.

    Args:
        checkpoint: file in the released format, or the folder of an export (`models.export`), which holds its options,
            too; every size is derived from it. Next to the file may lie the config.json of the run that wrote it
            (`utils.config`), which says the method and its options.
        method: a key of `METHODS`; None: found by the checkpoint's keys, or the first one without a checkpoint.
        base_encoder: CLIP's weights, see `models.pretrained.load_clip`; needed where there is no checkpoint. With a
            checkpoint only its name counts: it determines the activation of the towers.
        answers: the answers of a model for question answering, in the order of their labels, or a file as
            `utils.answers.read_answers` reads it. A checkpoint with answer heads is such a model in any case; without
            `answers` they are called by their labels, "0", "1", ...
        captions: add a caption decoder, which is yet to be trained, to a model without one; a checkpoint with a decoder
            is a captioning model in any case.
        device: where the model goes.
        trust_checkpoint: open a TorchScript archive of unknown SHA-256.
        **options: keywords of the method; those that the keys of a checkpoint determine (temporal encoder, its depth,
            interaction) are not needed, and must agree if given. For HBI also "estimator": file of the trained
            Banzhaf estimator, which becomes the teacher; with a checkpoint only if the recipe says so.

    Returns:
        The model, in evaluation mode: one of `ANSWER_METHODS` if it answers questions, one of
        `CAPTION_METHODS` if it writes captions.

    Raises:
        InputError: a file is missing, damaged or of another architecture or method, or has another number of answers;
            no such method.
    """
    state, estimator, run = None, options.pop("estimator", None), find_config(checkpoint)
    quick_gelu = (run is None or run.quick_gelu) if base_encoder is None else uses_quick_gelu(base_encoder)
    if checkpoint is not None and Path(checkpoint).is_dir():
        config = read_config(checkpoint)
        checkpoint, quick_gelu = Path(checkpoint) / WEIGHTS, config["quick_gelu"]
        answers = config["answers"] if answers is None else answers
        options = config["options"] | options
    if checkpoint is not None:
        state = read_weights(checkpoint, trust=trust_checkpoint)
        clip = clip_of_checkpoint(state, checkpoint, quick_gelu=quick_gelu)
    elif base_encoder is not None:
        clip = load_clip(base_encoder, trust=trust_checkpoint)
    else:
        raise InputError("a model needs weights: give a checkpoint, or base_encoder for CLIP's")
    names = answer_names(answers, state or {}, checkpoint)
    captions = captions or has_decoder(state or {})
    methods = CAPTION_METHODS if captions else METHODS if names is None else ANSWER_METHODS
    name = method or (run and run.method) or find_method(state or {}) or next(iter(methods))
    if name not in methods:
        raise InputError(f"method {name}: choose one of {', '.join(methods)}{' for questions' * (names is not None)}")
    if run and run.method == name:
        options = options_of_run(run, methods[name].Options, checkpoint) | options
    if state is not None:
        options = temporal_options(state) | methods[name].options_of_state(state) | options
    model = methods[name](clip, **options) if names is None else methods[name](clip, names, **options)
    if state is not None:
        _load_weights_of_method(model, name, model.complete(state), checkpoint)
    if estimator is not None and not (state and model.recipe.teacher_of_checkpoint):
        weights = read_weights(estimator)
        model.teacher = NETWORKS[network_of(weights)]().requires_grad_(False)
        load_weights(model.teacher, weights, estimator)
    return model.to(device).eval()


def find_method(state: Mapping[str, Tensor]) -> str | None:
    """The method whose keys a checkpoint has; None if it has those of none."""
    return next((name for name, cls in METHODS.items() if cls.recognises(state)), None)


def _load_weights_of_method(model: RetrievalMethod, name: str, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights; if they do not fit, say of which method and head they are."""
    try:
        load_weights(model, state, source)
    except InputError as error:
        found = find_method(state)
        if found in (None, name):
            raise
        head = ", ".join(f"{option} {value}" for option, value in METHODS[found].options_of_state(state).items())
        raise InputError(
            f"{source}: weights of the method {found} ({head}), not of {name}; choose --method {found} or another file"
        ) from error


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
        raise InputError(f"{source}: no retrieval model (in clip.*: {reason}); give a pytorch_model.bin.N") from error


def temporal_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read a checkpoint's temporal encoder and its depth off its keys."""
    blocks = {name.split(".")[2] for name in state if name.startswith("transformerClip.resblocks.")}
    temporal = "seqTransf" if blocks else "seqLSTM" if "lstm_visual.weight_hh_l0" in state else None
    return {"temporal": temporal} | ({"temporal_layers": len(blocks)} if blocks else {})


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


__all__ = [
    "ANSWER_METHODS",
    "CAPTION_METHODS",
    "CLIP",
    "CLIP4Clip",
    "DRL",
    "EMCL",
    "EMCLQA",
    "HBI",
    "HBICaptioning",
    "HBIVQA",
    "METHODS",
    "AnswerMethod",
    "CLIPConfig",
    "DiCoSA",
    "DiffusionRet",
    "RetrievalMethod",
    "TokenEncoder",
    "Tokens",
    "load_clip",
    "load_model",
]
