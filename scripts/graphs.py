"""Export of a model to ONNX graphs, checked against PyTorch.

Dimension letters: A texts, B videos, N_t words, N_v frames, D width, R resolution, C answers.
"""

import importlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from models import EMCLQA, HBIVQA, AnswerMethod, HBICaptioning, RetrievalMethod, Tokens
from scripts.caption_graphs import PAST, Memory, NextWord, word_inputs, word_shapes
from utils.errors import InputError
from utils.files import atomic_write

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
BATCHES = ((2, 2), (1, 3), (4, 1))
"""Numbers of texts and videos in the test inputs of a graph; each question has its own video."""


class TextTower(nn.Module):
    """Captions to word tokens: ids and mask, int64 (A, N_t), to (A, N_t, D)."""

    def __init__(self, model: RetrievalMethod):
        """Args: model: gives the tower."""
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, text_mask: Tensor) -> Tensor:
        """See the class."""
        return self.model.text_tokens(ids, text_mask)


class FrameTower(nn.Module):
    """Clips to frame tokens, temporal encoder included.

    Frames, uint8 (B, N_v, 3, R, R), and mask, int64 (B, N_v), to (B, N_v, D).
    """

    def __init__(self, model: RetrievalMethod):
        """Args: model: gives the tower."""
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, video_mask: Tensor) -> Tensor:
        """See the class."""
        return self.model.frame_tokens(frames, video_mask)


class Similarity(nn.Module):
    """Tokens and masks of both modalities to the outputs of each level, and last to the model's own result.

    For retrieval (A, B) each; for question answering logits (A, C) each, question i about video i. A method without
    levels has only the result.
    """

    def __init__(self, model: RetrievalMethod):
        """Args: model: gives similarities or answers."""
        super().__init__()
        self.model = model

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        answers = isinstance(self.model, AnswerMethod)
        levels = [] if isinstance(self.model, EMCLQA) else [level.name for level in self.model.token_levels()]
        return [*levels, "answers" if answers else "similarity"]

    def forward(self, text: Tensor, text_mask: Tensor, video: Tensor, video_mask: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        model, sides = self.model, (Tokens(text, text_mask), Tokens(video, video_mask))
        if isinstance(model, EMCLQA):
            return (model.mixed_logits(*sides),)
        if not model.token_levels():
            return (model.similarity(*sides, memory=None),)
        sets = model.level_sets(*sides, len(model.token_levels()))
        if isinstance(model, HBIVQA):
            levels = [head(*pair) for (_, *pair), head in zip(sets, model.answer_heads, strict=True)]
        else:
            levels = [level(*pair).sim for level, *pair in sets]
        return *levels, sum(rate * level for rate, level in zip(model.rates, levels, strict=True))


def require_packages() -> dict[str, ModuleType]:
    """Import the packages that only this export needs.

    Returns:
        Name -> package.

    Raises:
        InputError: one is not installed.
    """
    try:
        return {package: importlib.import_module(package) for package in PACKAGES}
    except ImportError as error:
        remedy = f"pip install {' '.join(PACKAGES)}, or give --without_onnx"
        raise InputError(f"ONNX graphs need packages that are not installed ({error}); {remedy}") from error


def check_graphs(model: RetrievalMethod) -> None:
    """Raise an InputError for a model whose scores do not depend on one text and one video alone."""
    if model.block:
        raise InputError(
            f"{type(model).__name__}: a score of the released recipe depends on the other captions and videos of its "
            "block, so there is no graph of it; export with --recipe corrected or --without_onnx"
        )


def write_graphs(model: RetrievalMethod, folder: Path, *, max_words: int, max_frames: int) -> dict[str, float]:
    """Write text.onnx, frames.onnx, and similarity.onnx or for question answering answers.onnx.

    For captions also memory.onnx and next_word.onnx, see `scripts.caption_graphs`.

    Batches may have any size; the numbers of words and frames are those given.

    Args:
        model: on the CPU, in evaluation mode.
        folder: for the files.
        max_words: N_t.
        max_frames: N_v.

    Returns:
        File name -> largest difference from the model's own outputs.

    Raises:
        InputError: a package is missing, a file cannot be written, or a graph differs from the model by more than
            `TOLERANCE`.
    """
    found = {}
    for name, graph in graphs_of(model, max_words, max_frames).items():
        path = folder / f"{name}.onnx"
        write_graph(graph.module, graph.cases[0], graph.shapes, graph.outputs, path)
        found[path.name] = largest_difference(graph.module, graph.cases, path)
        if not found[path.name] <= TOLERANCE:
            raise InputError(f"{path}: differs from the model by {found[path.name]:.2g}; do not use it")
    return found


class Graph(NamedTuple):
    """A module to export, its test inputs, their dynamic dimensions, and the names of its outputs."""

    module: nn.Module
    cases: list[dict[str, Tensor]]
    shapes: dict[str, dict[int, Dim]]
    outputs: list[str]


def graphs_of(model: RetrievalMethod, max_words: int, max_frames: int) -> dict[str, Graph]:
    """The graphs of a model by name."""
    texts, videos = Dim("texts", min=1), Dim("videos", min=1)
    answers, compare = isinstance(model, AnswerMethod), Similarity(model)
    both = (texts, texts) if answers else (texts, videos)

    def graph(module: nn.Module, batches: list[Dim], outputs: list[str]) -> Graph:
        sizes = [(texts, texts if answers else videos) for texts, videos in BATCHES]
        cases = [example_inputs(module, *batch, max_words, max_frames) for batch in sizes]
        shapes = {name: {0: batch} for name, batch in zip(cases[0], batches, strict=True)}
        return Graph(module, cases, shapes, outputs)

    graphs = {
        "text": graph(TextTower(model), [texts] * 2, ["text"]),
        "frames": graph(FrameTower(model), [videos] * 2, ["video"]),
        compare.outputs[-1]: graph(compare, [both[0]] * 2 + [both[1]] * 2, compare.outputs),
    }
    if isinstance(model, HBICaptioning):
        graphs["memory"] = graph(Memory(model), [videos] * 2, ["memory", "memory_mask"])
        words = [word_inputs(model, videos, max_frames, past) for (_, videos), past in zip(BATCHES, PAST, strict=True)]
        graphs["next_word"] = Graph(NextWord(model), words, word_shapes(videos), ["log_probs", "words_and_next"])
    return graphs


def example_inputs(
    module: nn.Module, texts: int, videos: int, max_words: int, max_frames: int
) -> dict[str, Tensor]:
    """Random inputs of a graph by name, with padding."""
    draw = torch.Generator().manual_seed(texts)
    config = module.model.clip.config
    text_mask, video_mask = (
        (torch.arange(most) < torch.randint(1 + most // 2, most + 1, (count, 1), generator=draw)).long()
        for count, most in ((texts, max_words), (videos, max_frames))
    )
    if isinstance(module, TextTower):
        ids = torch.randint(config.vocabulary, text_mask.shape, generator=draw)
        return {"ids": ids * text_mask, "text_mask": text_mask}
    if isinstance(module, FrameTower):
        shape = (*video_mask.shape, 3, config.resolution, config.resolution)
        frames = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
        return {"frames": frames, "video_mask": video_mask}
    text, video = (torch.randn(*mask.shape, config.embed_dim, generator=draw) for mask in (text_mask, video_mask))
    if isinstance(module, Memory):
        return {"video": video, "video_mask": video_mask}
    return {"text": text, "text_mask": text_mask, "video": video, "video_mask": video_mask}


@torch.no_grad()
def write_graph(
    module: nn.Module, inputs: dict[str, Tensor], shapes: dict[str, dict[int, Dim]], outputs: list[str], path: Path
) -> None:
    """Trace a module on named inputs with the dynamic dimensions `shapes`, and write the graph."""
    module.eval()(**inputs)  # makes cached draws
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (),
            kwargs=inputs,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=outputs,
            custom_translation_table=missing_operators(),
            dynamo=True,
            verbose=False,
        )
    with atomic_write(path, "wb") as file:
        file.write(program.model_proto.SerializeToString())


def missing_operators() -> dict[Callable, Callable]:
    """Operators of the clustering that the exporter lacks, in ONNX's operators."""
    op = require_packages()["onnxscript"].opset18

    def distance(one: Any, other: Any, p: float, compute_mode: int | None) -> Any:
        """Subtracts rows rather than multiplying them, to keep the order of near tokens, which decides the merge."""
        return op.ReduceL2(op.Sub(op.Unsqueeze(one, [-2]), op.Unsqueeze(other, [-3])), [-1], keepdims=0)

    def sort(values: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        """ONNX's TopK keeps the order of equal values, as a stable sort does."""
        return op.TopK(values, op.Shape(values, start=-1), axis=dim, largest=int(descending))

    return {torch.ops.aten._cdist_forward.default: distance, torch.ops.aten.sort.stable: sort}


@torch.no_grad()
def largest_difference(module: nn.Module, cases: list[dict[str, Tensor]], path: Path) -> float:
    """The largest difference of the graph's outputs from the module's; NaN if an output is."""
    session = require_packages()["onnxruntime"].InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for inputs in cases:
        expected = module(**inputs)
        computed = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        for ours, theirs in zip(expected if isinstance(expected, tuple) else (expected,), computed, strict=True):
            theirs = torch.from_numpy(theirs)
            differences.append((ours - theirs).abs().masked_fill(ours == theirs, 0).max())  # -inf equals -inf
    return torch.stack(differences).max().item()
