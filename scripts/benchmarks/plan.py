"""What training would take on GPUs that are not here: counted, not measured.

The kernels of one step are counted without computing any of them; published figures of the GPUs and the assumptions
that the table names make seconds of them. B pairs of one GPU, N_t words, N_v frames; no position is padding.
"""

from argparse import ArgumentParser
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import clip_grad_norm_

from models import HBI, Tokens
from scripts.benchmarks.measure import Row, count
from scripts.benchmarks.model import random_model
from scripts.benchmarks.roofline import Device, Roofline, Shares, kept_bytes
from scripts.published_sizes import PUBLISHED_SIZES
from utils.devices import autocast
from utils.engine.builders import build_optimizer
from utils.engine.options import TrainingOptions
from utils.errors import InputError

GPUS = {
    "a100": Device(half=312e12, single=19.5e12, bandwidth=2039e9, memory=80e9, link=300e9),
    "h100": Device(half=989e12, single=67e12, bandwidth=3350e9, memory=80e9, link=450e9),
}
"""SXM cards of 80 GB, as NVIDIA publishes them: dense matrix products, and NVLink."""
RUNTIME = 1.5e9
"""Bytes that CUDA, its libraries and the gaps between tensors take."""
BACKWARD = 2 / 3
"""Share of a step during which gradients can travel."""


@dataclass(frozen=True)
class Corpus:
    """A data set as it is trained on.

    Attributes:
        pairs: an epoch's.
        words, frames: positions.
        seconds: mean length of a clip.
    """

    pairs: int
    words: int
    frames: int
    seconds: float


def _pairs(name: str) -> int:
    """Training captions of a published split."""
    return PUBLISHED_SIZES[name]["train"][1]


CORPORA = {
    "msrvtt": Corpus(_pairs("msrvtt 9k"), words=24, frames=12, seconds=15),
    "activity": Corpus(_pairs("activity"), words=64, frames=64, seconds=117),
    "didemo": Corpus(_pairs("didemo"), words=64, frames=64, seconds=28),
    "msvd": Corpus(_pairs("msvd"), words=24, frames=12, seconds=10),
    "lsmdc": Corpus(_pairs("lsmdc"), words=24, frames=12, seconds=4),
}


def add_arguments(parser: ArgumentParser) -> None:
    """The machine, the data and what is assumed of both."""
    parser.add_argument("--gpus", type=count, default=8, help="of one machine, linked by NVLink")
    parser.add_argument("--gpu", choices=GPUS, default="a100", help="kind")
    parser.add_argument("--dataset", choices=CORPORA, default="msrvtt", help="what is trained on")
    parser.add_argument("--batch_size", type=count, default=128, help="pairs, over all GPUs")
    parser.add_argument("--epochs", type=count, default=5, help="passes over the pairs")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of the forward pass")
    parser.add_argument("--grad_checkpointing", action="store_true", help="less memory for more time")
    parser.add_argument("--cores", type=count, default=8, help="processor cores that decode for one GPU")
    parser.add_argument("--decoded", type=count, default=7500, help="320 x 240 frames that a core decodes a second")
    parser.add_argument("--fps", type=count, default=30, help="frames a second of the videos, all of them decoded")
    parser.add_argument("--augment_ms", type=float, default=1.0, help="milliseconds of augmentation a sampled frame")


def measure(
    gpus: int, gpu: str, dataset: str, batch_size: int, epochs: int, precision: str, grad_checkpointing: bool,
    cores: int, decoded: int, fps: int, augment_ms: float,
) -> list[Row]:  # fmt: skip
    """Expected figures, and in "from" what each was made of; the arguments are those of the command line.

    Raises:
        InputError: the GPUs do not divide the batch.
    """
    if batch_size % gpus:
        raise InputError(f"--batch_size {batch_size}: cannot be divided among {gpus} GPUs; give a multiple of {gpus}")
    device, corpus, shares = GPUS[gpu], CORPORA[dataset], Shares()
    with FakeTensorMode():
        model = random_model().train()
        model.clip.set_grad_checkpointing(grad_checkpointing)
        roofline, kept = count_step(model, corpus, batch_size // gpus, gpus, precision, Roofline(device, shares))
        weights = sum(map(_bytes, model.parameters()))
        trained = sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad)

    features = 4 * batch_size * (corpus.words + corpus.frames) * model.clip.config.embed_dim
    passed = (gpus - 1) / gpus / (shares.bandwidth * device.link)
    computing = roofline.seconds.total()
    network = max(0, 2 * trained * passed - BACKWARD * computing) + 2 * features * passed
    sample = corpus.seconds * fps / decoded + corpus.frames * augment_ms / 1000
    loading = sample * batch_size / gpus / cores
    step = max(computing + network, loading)
    parts = Counter(roofline.seconds, network=network)
    memory = weights + (4 if gpus > 1 else 3) * trained + kept + RUNTIME
    bottleneck = "loader" if step == loading else max(parts, key=parts.get)
    epoch = corpus.pairs // batch_size * step

    counted = f"counted for {batch_size // gpus} pairs, {corpus.words} words x {corpus.frames} frames, ViT-B/32"
    rates = f"{device.half / 1e12:g} TFLOP/s in bfloat16, {device.single / 1e12:g} in float32"
    video = (
        f"{corpus.seconds:g} s of video at {fps} frames/s, {decoded} decoded a second, {augment_ms:g} ms a frame taken"
    )
    state = f"weights, gradients, moments, {kept / 1e9:.1f} GB for the backward pass, {RUNTIME / 1e9:g} GB for CUDA"
    there = f"{device.memory / 1e9:g} GB are there"
    rows = {
        "matrix products, TFLOP": (roofline.flops / 1e12, f"{counted}; losses over {batch_size} pairs"),
        "memory traffic, GB": (roofline.bytes / 1e9, "counted, what each kernel reads and writes"),
        "kernels": (roofline.kernels, "counted"),
        "parameters, million": (weights / 4e6, "counted"),
        "arithmetic, s": (parts["arithmetic"], f"at {shares.arithmetic:.0%} of {rates}"),
        "memory bandwidth, s": (
            parts["memory bandwidth"],
            f"at {shares.bandwidth:.0%} of {device.bandwidth / 1e9:g} GB/s",
        ),
        "starting kernels, s": (parts["starting kernels"], f"those that run shorter than {shares.start * 1e6:g} us"),
        "network, s": (
            network,
            f"at {shares.bandwidth:.0%} of {device.link / 1e9:g} GB/s: features and their gradients, and what is left "
            "of the weights' gradients after the backward pass",
        ),
        "loader, s": (loading, f"{cores} cores a GPU; {video}"),
        "step, s": (step, "kernels one after another and then the network, or the loader if that takes longer"),
        "memory of a GPU, GB": (memory / 1e9, f"{state}; {there}"),
        "epoch, min": (epoch / 60, f"{corpus.pairs} pairs, {batch_size} a step"),
        f"{epochs} epochs, h": (epochs * epoch / 3600, "without evaluation"),
        "bottleneck": ("memory" if memory > device.memory else bottleneck, "what does not fit, or takes longest"),
    }
    return [{"case": case, "value": value, "from": basis} for case, (value, basis) in rows.items()]


def count_step(
    model: HBI, corpus: Corpus, pairs: int, gpus: int, precision: str, roofline: Roofline
) -> tuple[Roofline, int]:
    """Count one training step of one GPU under `FakeTensorMode`.

    Args:
        model: in training mode.
        corpus: gives N_t and N_v.
        pairs: B.
        gpus: how many GPUs' features meet in the loss.
        precision: of the forward pass.
        roofline: where the kernels are added.

    Returns:
        `roofline`, and the bytes kept for the backward pass.
    """
    optimizer = build_optimizer(model, TrainingOptions(), total_steps=100)
    masks = [torch.ones(pairs, positions, dtype=torch.int64) for positions in (corpus.words, corpus.frames)]
    resolution = model.clip.config.resolution
    frames = torch.empty(pairs * corpus.frames, 3, resolution, resolution, dtype=torch.uint8)
    with roofline:
        with kept_bytes(list(model.parameters())) as kept, autocast(torch.device("cpu"), precision):
            tokens = model.text_tokens(torch.ones_like(masks[0]), masks[0]), model.frame_tokens(frames, masks[1])
            text, video, text_mask, video_mask = (_gathered(tensor, gpus) for tensor in (*tokens, *masks))
            terms = model.loss(Tokens(text, text_mask), Tokens(video, video_mask), torch.arange(len(text)))
        terms["loss"].backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return roofline, sum(kept)


def _gathered(tensor: Tensor, gpus: int) -> Tensor:
    """As many rows as those of all GPUs."""
    return tensor.repeat(gpus, *[1] * (tensor.dim() - 1))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
