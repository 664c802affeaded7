"""Expectation maximisation of EMCL: features reconstructed from a few bases, found in each batch.

Dimension letters: D width, M rows, K bases.
Source: Expectation-Maximization Contrastive Learning for Compact Video-and-Language Representations, arXiv 2211.11427,
in the form of the released code (see `models.recipe`).
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.method import MethodOptions, RetrievalMethod
from models.released.emcl import released_name
from utils.arguments import AMOUNT, COUNT, SHARE
from utils.schema import Amount, Share, Size

STATE = "mu"
EPS = 1e-6


@dataclass(frozen=True)
class EMOptions(MethodOptions):
    """Keywords of expectation maximisation.

    Attributes:
        centerK: K, bases.
        stage_num: steps of expectation and maximisation.
        momentum: share of the bases' start that is kept in a training step.
        lamd: temperature of the assignment of channels to bases.
        beta: weight of the reconstruction, which is added to the features.
    """

    centerK: Size = 32
    stage_num: Size = 9
    momentum: Share = 0.9
    lamd: Amount = 1.0
    beta: Amount = 3.0


class EMMethod(RetrievalMethod):
    """A method with bases; they start from the buffer `mu` (1, K)."""

    method = "emcl"
    options: EMOptions
    mu: Tensor
    optional = frozenset({STATE})
    released_name = staticmethod(released_name)

    def build(self) -> None:
        """Draw the start of the bases, always the same, as released checkpoints lack it: values near 1 or -1."""
        draw = torch.randn(1, self.options.centerK, generator=torch.Generator().manual_seed(0))
        draw *= (2 / self.options.centerK) ** 0.5
        self.register_buffer(STATE, draw / (EPS + draw.abs()))

    @property
    def unsaved(self) -> frozenset[str]:
        """Buffers that checkpoints do not hold, by the recipe."""
        return self.optional if self.recipe.em_state_unsaved else frozenset()

    def reconstruct(self, rows: Tensor) -> Tensor:
        """Add to features (M, D) their reconstruction; in training the start of the bases moves towards them."""
        options = self.options
        settings: dict[str, Any] = {"stages": options.stage_num, "lamd": options.lamd}
        bases, assignment = expectation_maximization(rows.detach(), self.mu, **settings)
        if self.training:
            with torch.no_grad():
                moved = self.mu.lerp(bases.mean(dim=0, keepdim=True), 1 - options.momentum)
                self.mu.copy_(moved.where(moved.isfinite().all(), self.mu))  # a bad batch is skipped
        return torch.addmm(rows, bases, assignment.mT, alpha=options.beta)


@torch.no_grad()
def expectation_maximization(rows: Tensor, start: Tensor, *, stages: int, lamd: float) -> tuple[Tensor, Tensor]:
    """Find bases of features: the channels of `rows` (M, D) are D data points in M dimensions.

    Returns:
        Bases (M, K) of length 1, and the last assignment (D, K), normalised over the channels.
    """
    bases = start.expand(len(rows), -1)
    for _ in range(stages):
        assignment = (rows.mT @ bases / lamd).softmax(dim=1)
        assignment = assignment / (EPS + assignment.sum(dim=0, keepdim=True))
        bases = rows @ assignment
        bases = bases / (EPS + bases.norm(dim=0, keepdim=True))
    return bases, assignment


def add_em_arguments(parser: argparse.ArgumentParser, default: EMOptions) -> None:
    """Add the flags of expectation maximisation."""
    group = parser.add_argument_group("expectation maximisation")
    kinds = {
        "centerK": (COUNT, "bases"), "stage_num": (COUNT, "steps"), "lamd": (AMOUNT, "temperature"),
        "beta": (AMOUNT, "weight of the reconstruction"), "momentum": (SHARE, "of what the bases start from"),
    }  # fmt: skip
    for name, (kind, text) in kinds.items():
        group.add_argument(f"--{name}", type=kind, default=getattr(default, name), help=text)
