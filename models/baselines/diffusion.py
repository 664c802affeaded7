"""Diffusion of a distribution over candidates: schedules, added noise, deterministic sampling (DDIM).

Dimension letters: n queries, K candidates, T steps.
Source: DDPM, arXiv 2006.11239; cosine schedule, arXiv 2102.09672; DDIM, arXiv 2010.02502.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from utils.errors import InputError

SCHEDULES = ("linear", "cosine")
MAX_BETA = 0.999


def betas(schedule: str, steps: int) -> Tensor:
    """Variance that each of T steps adds: float64 (T,).

    Raises:
        InputError: unknown schedule, or a linear one of fewer than 20 steps, whose variances exceed 1.
    """
    match schedule:
        case "cosine":
            place = torch.arange(steps + 1, dtype=torch.float64) / steps
            level = ((place + 0.008) / 1.008 * math.pi / 2).cos().square()
            return (1 - level[1:] / level[:-1]).clamp(max=MAX_BETA)
        case "linear" if steps >= 20:
            return torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
        case "linear":
            raise InputError(f"--diffusion_steps {steps}: the linear --noise_schedule needs 20 or more")
    raise InputError(f"--noise_schedule {schedule}: unknown; choose one of {', '.join(SCHEDULES)}")


class Diffusion:
    """A noise schedule of T steps, and its sampler; `signal`, float64 (T,): variance of the signal after each step."""

    def __init__(self, schedule: str, steps: int):
        self.signal = (1 - betas(schedule, steps)).cumprod(dim=0)

    def add_noise(self, x_start: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
        """Take x_start (n, K) to the steps (n,), from 0 to T - 1, with Gaussian noise (n, K)."""
        signal = self.signal.to(steps.device)[steps].unsqueeze(1)
        return signal.sqrt().float() * x_start + (1 - signal).sqrt().float() * noise

    def denoise(self, x: Tensor, x_start: Tensor, step: int) -> Tensor:
        """Take x (n, K) one step back by DDIM with eta 0, given a prediction of x_start (n, K)."""
        signal = self.signal[step].item()
        before = self.signal[step - 1].float().item() if step else 1.0  # its rounding shows where it is almost 1
        noise = (x / math.sqrt(signal) - x_start) / math.sqrt(1 / signal - 1)
        return math.sqrt(before) * x_start + math.sqrt(1 - before) * noise

    def sample(self, predict: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
        """Sample a distribution (n, K), within [-1, 1], from Gaussian noise x (n, K).

        `predict` takes x (n, K) and a step (1,) and predicts x_start (n, K).
        """
        for step in reversed(range(len(self.signal))):
            x_start = predict(x, torch.tensor([step], device=x.device)).clamp(-1, 1)
            x = self.denoise(x, x_start, step)
        return x
