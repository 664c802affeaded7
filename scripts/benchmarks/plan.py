"""Training time on GPUs you don't have: an estimate, not a measurement.

The kernels of one step are counted as a GPU would run it (fused attention, no activation checkpointing), without
computing them, and converted to seconds by published figures of the GPUs and the assumptions in the table. B pairs of
one GPU, N_t words, N_v frames, no padding.
"""

from argparse import ArgumentParser
from collections import Counter
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models import HBI, Tokens, transformer
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
}  # SXM cards of 80 GB, as NVIDIA publishes them: dense matrix products, and NVLink
RUNTIME = 1.5e9  # bytes for CUDA, its libraries and fragmentation
BACKWARD = 2 / 3  # share of a step during which gradients can be exchanged


@dataclass(frozen=True)
class Corpus:
    """A data set in training.

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
    """The machines, the data and what is assumed of both."""
    parser.add_argument("--gpus", type=count, default=8, help="of one machine, linked by NVLink")
    parser.add_argument("--gpu", choices=GPUS, default="a100", help="kind")
    parser.add_argument("--nodes", type=count, default=1, help="machines")
    parser.add_argument("--link", type=count, default=100, help="Gbit/s between two machines, in one direction")
    parser.add_argument("--dataset", choices=CORPORA, default="msrvtt", help="what is trained on")
    parser.add_argument("--batch_size", type=count, default=128, help="pairs, over all GPUs")
    parser.add_argument("--epochs", type=count, default=5, help="passes over the pairs")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of the forward pass")
    parser.add_argument("--grad_checkpointing", action="store_true", help="less memory for more time")
    parser.add_argument("--cores", type=count, default=8, help="processor cores that decode for one GPU")
    parser.add_argument("--decoded", type=count, default=7500, help="320 x 240 frames that a core decodes a second")
    parser.add_argument("--fps", type=count, default=30, help="frames a second of the videos, all of them decoded")
    parser.add_argument("--augment_ms", type=float, default=1.0, help="milliseconds of augmentation a sampled frame")


@dataclass(frozen=True)
class Plan:
    """The command line; see `add_arguments`."""

    gpus: int
    gpu: str
    nodes: int
    link: int
    dataset: str
    batch_size: int
    epochs: int
    precision: str
    grad_checkpointing: bool
    cores: int
    decoded: int
    fps: int
    augment_ms: float

    def __post_init__(self) -> None:
        if self.batch_size % self.processes:
            raise InputError(
                f"--batch_size {self.batch_size}: cannot be divided among {self.processes} GPUs; give a multiple of "
                f"{self.processes}"
            )

    @property
    def processes(self) -> int:
        """GPUs of all machines."""
        return self.gpus * self.nodes

    @property
    def pairs(self) -> int:
        """Pairs of one GPU."""
        return self.batch_size // self.processes

    @property
    def device(self) -> Device:
        """What is published about the GPU."""
        return GPUS[self.gpu]

    @property
    def corpus(self) -> Corpus:
        """The data set."""
        return CORPORA[self.dataset]

    def travelling(self, size: float, share: float) -> float:
        """Seconds for every GPU to receive the others' parts of `size` bytes, at `share` of the slowest link."""
        within = (self.gpus - 1) / self.gpus / self.device.link
        between = (self.nodes - 1) / self.nodes / (self.link * 1e9 / 8)
        return size * max(within, between) / share

    @property
    def loading(self) -> float:
        """Seconds to decode one GPU's pairs."""
        sample = self.corpus.seconds * self.fps / self.decoded + self.corpus.frames * self.augment_ms / 1000
        return sample * self.pairs / self.cores


@dataclass(frozen=True)
class Step:
    """Counts of one training step on one GPU.

    Attributes:
        roofline: its kernels.
        kept: bytes for the backward pass.
        weights, trained: bytes of all parameters and of the trained ones.
        features: bytes of the features of all GPUs.
    """

    roofline: Roofline
    kept: int
    weights: int
    trained: int
    features: int

    def network(self, plan: Plan) -> float:
        """Seconds for features, their gradients, and the weights' gradients after the backward pass."""
        share = self.roofline.shares.bandwidth
        left = plan.travelling(2 * self.trained, share) - BACKWARD * self.roofline.seconds.total()
        return max(0, left) + plan.travelling(2 * self.features, share)

    def host(self) -> float:
        """Seconds in which the host launches the kernels."""
        return self.roofline.kernels * self.roofline.shares.host

    def memory(self, plan: Plan) -> float:
        """Bytes on one GPU."""
        return self.weights + (4 if plan.processes > 1 else 3) * self.trained + self.kept + RUNTIME


def measure(**options: Any) -> list[Row]:
    """Estimated figures, and their basis as "from"; the options are those of the command line.

    Raises:
        InputError: the GPUs do not divide the batch.
    """
    plan = Plan(**options)
    step = count_plan(plan)
    values = figures(plan, step)
    return [{"case": case, "value": values[case], "from": basis} for case, basis in bases(plan, step).items()]


def count_plan(plan: Plan) -> Step:
    """Count one step as a GPU would run it, without computing it."""
    with FakeTensorMode(), patch.object(transformer, "on_cpu", return_value=False):
        model = random_model().train()
        model.clip.set_grad_checkpointing(plan.grad_checkpointing)
        roofline, kept = count_step(model, plan, Roofline(plan.device, Shares()))
        return Step(
            roofline,
            kept,
            weights=sum(map(_bytes, model.parameters())),
            trained=sum(_bytes(parameter) for parameter in model.parameters() if parameter.requires_grad),
            features=4 * plan.batch_size * (plan.corpus.words + plan.corpus.frames) * model.clip.config.embed_dim,
        )


def figures(plan: Plan, step: Step) -> dict[str, float | str]:
    """The figures by name."""
    roofline, kernels = step.roofline, step.roofline.seconds
    network, memory = step.network(plan), step.memory(plan)
    computing = kernels.total() + network
    seconds = max(computing, step.host(), plan.loading)
    epoch = plan.corpus.pairs // plan.batch_size * seconds
    parts = Counter(kernels, network=network)
    slowest = "loader" if seconds == plan.loading else "host" if seconds == step.host() else max(parts, key=parts.get)
    return {
        "matrix products, TFLOP": roofline.flops / 1e12,
        "memory traffic, GB": roofline.bytes / 1e9,
        "kernels": roofline.kernels,
        "parameters, million": step.weights / 4e6,
        "arithmetic, s": kernels["arithmetic"],
        "memory bandwidth, s": kernels["memory bandwidth"],
        "starting kernels, s": kernels["starting kernels"],
        "network, s": network,
        "host, s": step.host(),
        "loader, s": plan.loading,
        "step, s": seconds,
        "memory of a GPU, GB": memory / 1e9,
        "epoch, min": epoch / 60,
        f"{plan.epochs} epochs, h": plan.epochs * epoch / 3600,
        "bottleneck": "memory" if memory > plan.device.memory else slowest,
    }


def bases(plan: Plan, step: Step) -> dict[str, str]:
    """The basis of each figure."""
    device, corpus, shares = plan.device, plan.corpus, step.roofline.shares
    links = f"{device.link / 1e9:g} GB/s" + f" and {plan.link} Gbit/s between machines" * (plan.nodes > 1)
    rates = f"{device.half / 1e12:g} TFLOP/s in bfloat16, {device.single / 1e12:g} in float32 (no TF32)"
    return {
        "matrix products, TFLOP": f"counted for {plan.pairs} pairs, {corpus.words} words x {corpus.frames} frames, "
        f"ViT-B/32; losses over {plan.batch_size} pairs",
        "memory traffic, GB": "counted, what each kernel reads and writes",
        "kernels": "counted",
        "parameters, million": "counted",
        "arithmetic, s": f"at {shares.arithmetic:.0%} of {rates}",
        "memory bandwidth, s": f"at {shares.bandwidth:.0%} of {device.bandwidth / 1e9:g} GB/s",
        "starting kernels, s": f"those that run shorter than {shares.start * 1e6:g} us",
        "network, s": f"at {shares.bandwidth:.0%} of {links}: features and their gradients, and what is left of the "
        "weights' gradients after the backward pass",
        "host, s": f"{shares.host * 1e6:g} us of Python and PyTorch a kernel, while the GPU works",
        "loader, s": f"{plan.cores} cores a GPU; {corpus.seconds:g} s of video at {plan.fps} frames/s, {plan.decoded} "
        f"decoded a second, {plan.augment_ms:g} ms a frame taken",
        "step, s": "kernels one after another and then the network, or the host or the loader if that takes longer",
        "memory of a GPU, GB": f"weights, gradients, moments, {step.kept / 1e9:.1f} GB for the backward pass, "
        f"{RUNTIME / 1e9:g} GB for CUDA; {device.memory / 1e9:g} GB are there",
        "epoch, min": f"{corpus.pairs} pairs, {plan.batch_size} a step",
        f"{plan.epochs} epochs, h": "without evaluation",
        "bottleneck": "what does not fit, or takes longest",
    }


def count_step(model: HBI, plan: Plan, roofline: Roofline) -> tuple[Roofline, int]:
    """Add one training step of one GPU to `roofline`; also the bytes kept for the backward pass."""
    optimizer = build_optimizer(model, TrainingOptions(), total_steps=100)
    sizes = plan.corpus.words, plan.corpus.frames
    masks = [torch.ones(plan.pairs, positions, dtype=torch.int64) for positions in sizes]
    resolution = model.clip.config.resolution
    frames = torch.empty(masks[1].numel(), 3, resolution, resolution, dtype=torch.uint8)
    with roofline:
        with kept_bytes(list(model.parameters())) as kept, autocast(torch.device("cpu"), plan.precision):
            tokens = model.text_tokens(torch.ones_like(masks[0]), masks[0]), model.frame_tokens(frames, masks[1])
            text, video, text_mask, video_mask = (_gathered(tensor, plan.processes) for tensor in (*tokens, *masks))
            terms = model.loss(Tokens(text, text_mask), Tokens(video, video_mask), torch.arange(len(text)))
        terms["loss"].backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        torch._foreach_norm(gradients)  # as `utils.engine.trainer` clips them
        torch._foreach_mul_(gradients, 1.0)
        optimizer.step(norms=[0.0] * len(gradients))
    return roofline, sum(kept)


def _gathered(tensor: Tensor, processes: int) -> Tensor:
    """A tensor with the rows of all GPUs."""
    return tensor.repeat(processes, *[1] * (tensor.dim() - 1))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
