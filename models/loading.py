"""Build a model from the weights of a checkpoint, which determine all sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.clip import CLIP
from utils.answers import read_answers
from utils.checkpoint import load_weights, released_names
from utils.errors import InputError, one_line
from utils.randomness import Undrawn

CLASSIFIER = "classifier.2.weight"


def build_with_weights(
    method: Any,
    state: Mapping[str, Tensor],
    source: str | Path,
    *,
    quick_gelu: bool = True,
    answers: Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """Build a method with the weights of a checkpoint, given in the released spelling.

    `source` is their file, for messages. Keywords of the method that the keys determine may be left out.

    Raises:
        InputError: the weights are not those of such a model, or it has no such option.
    """
    known = {field.name for field in fields(method.Options)} | {"temporal", "temporal_layers"}
    if unknown := options.keys() - known:
        raise InputError(f"{source}: the method {method.method} has no option {min(unknown)}; leave it out")
    options = temporal_options(state) | method.options_of_state(state) | options

    def build() -> Any:
        clip = clip_of_checkpoint(state, source, quick_gelu=quick_gelu)
        return method(clip, **options) if answers is None else method(clip, answers, **options)

    with Undrawn(), torch.random.fork_rng(devices=[]):
        model = build()
    if set(released_names(model).values()) - state.keys():
        model = build()  # some weights stay untrained
    load_weights(model, model.complete(state), source)
    return model


def clip_of_checkpoint(state: Mapping[str, Tensor], source: str | Path, *, quick_gelu: bool = True) -> CLIP:
    """Build CLIP from the `clip.*` keys of a checkpoint; `quick_gelu` as for `CLIPConfig`.

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
    """Find a checkpoint's temporal encoder and its depth by its keys."""
    blocks = {name.split(".")[2] for name in state if name.startswith("transformerClip.resblocks.")}
    temporal = "seqTransf" if blocks else "seqLSTM" if "lstm_visual.weight_hh_l0" in state else None
    return {"temporal": temporal} | ({"temporal_layers": len(blocks)} if blocks else {})


def answer_names(
    answers: str | Path | Sequence[str] | None, state: Mapping[str, Tensor], source: str | Path | None
) -> Sequence[str] | None:
    """The answers of a model in the order of their labels; None for a retrieval model.

    Raises:
        InputError: the checkpoint's classifier has another number of answers.
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
