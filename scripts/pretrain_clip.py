"""Pretrain a small CLIP on pictures of shapes, for use as `--base_encoder`.

Run it as `python scripts/pretrain_clip.py --output data/shapes/tiny_clip.pt`. The pictures are rendered as they are
needed; no scene of the corpus is among them.
Letters: A sentences, B pictures, N_t words, D width of the shared embedding, R resolution.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from models.clip import CLIP, MAX_LOGIT_SCALE, CLIPConfig
from models.tokenizer import Tokenizer
from scripts.shapes.initialisation import set_positions
from scripts.shapes.pictures import draw_pictures, draw_sentences, is_true
from utils.args import run
from utils.files import atomic_write

MAX_WORDS = 24
WARMUP = 100  # steps
SINGLES = (0.08, 0.23), (1.0, 0.35)  # share of pictures of one thing: until when, and from when, as parts of all steps
ALIKE = 4


class Batches(IterableDataset):
    """A row of random batches, as `draw_batch` makes them.

    It begins with pictures of one thing, on which shapes are learnt soonest; those of several, on which it is learnt
    what is where, become more. Some pictures in a row are alike but for shape, tilt and place: hard negatives.
    """

    def __init__(self, seed: int, pictures: int, resolution: int, steps: int):
        """Args: seed: of all draws; pictures: B; resolution: R; steps: number of batches."""
        self.seed, self.pictures, self.resolution, self.steps = seed, pictures, resolution, steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches, the same ones each time."""
        rng, tokenizer = np.random.default_rng(self.seed), Tokenizer()
        for step in range(self.steps):
            singles = float(np.interp(step / self.steps, *SINGLES))
            yield draw_batch(rng, tokenizer, self.pictures, self.resolution, singles=singles, alike=ALIKE)


def draw_batch(
    rng: np.random.Generator, tokenizer: Tokenizer, count: int, resolution: int, **looks: float
) -> dict[str, Tensor]:
    """Draw pictures and a sentence about each; arguments as for `draw_pictures`.

    Returns:
        `pictures` uint8 (B, 3, R, R), `ids` and `mask` int64 (B, N_t), and `truth` bool (B, B): which sentence is true
        of which picture.
    """
    pictures, facts = draw_pictures(rng, count, resolution, **looks)
    sentences, claims = draw_sentences(rng, facts)
    ids, mask = tokenizer(sentences, MAX_WORDS)
    longest = int(mask.sum(dim=1).max())
    return {
        "pictures": torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(),
        "ids": ids[:, :longest],
        "mask": mask[:, :longest],
        "truth": torch.from_numpy(is_true(claims, facts)),
    }


def similarities(clip: CLIP, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Compare sentences with pictures by their last token, as CLIP does, and by all words, as HBI does.

    Returns:
        Cosine of end token and picture, and mean over the words of their cosines with the picture; both (A, B).
    """
    pictures = F.normalize(clip.encode_frames(batch["pictures"]).float(), dim=-1)  # (B, D)
    words = F.normalize(clip.encode_text(batch["ids"], batch["mask"]).float(), dim=-1)  # (A, N_t, D)
    weights = batch["mask"] / batch["mask"].sum(dim=1, keepdim=True)  # (A, N_t)
    mean_word = torch.einsum("atd,at->ad", words, weights)
    return clip.pooled_text(words, batch["ids"]) @ pictures.T, mean_word @ pictures.T


def contrastive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """CLIP's loss where a sentence may be true of several pictures: cross-entropies against the even mix of them.

    Args:
        logits: (A, B).
        truth: bool (A, B), at least one True in each row and column.
    """
    pairs = ((logits, truth.float()), (logits.T, truth.T.float()))
    return sum(F.cross_entropy(rows, true / true.sum(dim=1, keepdim=True)) for rows, true in pairs) / 2


def pretrain(config: CLIPConfig, *, steps: int, minutes: float, batch_size: int, lr: float, seed: int) -> CLIP:
    """Train a CLIP from scratch.

    The result depends on the arguments and the machine's arithmetic alone, as long as `minutes` are not used up.

    Args:
        config: sizes of the towers.
        steps: optimiser steps.
        minutes: the learning rate falls to zero by then even if not all steps are done.
        batch_size: pictures in a step.
        lr: largest learning rate.
        seed: of weights and pictures.
    """
    torch.manual_seed(seed)
    clip = CLIP(config)
    word_scale = torch.nn.Parameter(clip.logit_scale.detach().clone())
    set_positions(clip.visual)
    # Painted by a process of its own, whose seed is the same whatever this one has drawn.
    batches = DataLoader(Batches(seed, batch_size, config.resolution, steps), batch_size=None, num_workers=1)
    optimizers = build_optimizers(clip, word_scale)
    began = time.monotonic()
    bar = tqdm(batches, total=steps, desc="pretraining", unit="step")
    for step, batch in enumerate(bar):
        progress = max(step / steps, (time.monotonic() - began) / (60 * minutes))
        if progress >= 1:
            break
        rate = lr * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * progress))
        with torch.autocast("cpu", torch.bfloat16):
            by_end, by_words = similarities(clip, batch)
        loss = contrastive_loss(clip.logit_scale.exp() * by_end, batch["truth"])
        loss = loss + contrastive_loss(word_scale.exp() * by_words, batch["truth"])
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        clip.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss.item():.2f}")
    return clip


def build_optimizers(clip: CLIP, word_scale: Tensor) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, which learns places in a tenth of Adam's steps, and Adam for the rest.

    A step uses few word vectors: they get a sparse Adam.
    """
    clip.token_embedding.sparse = True
    parameters = dict(clip.named_parameters())
    words = parameters.pop("token_embedding.weight")
    matrices = [parameters.pop(name) for name in list(parameters) if "resblocks" in name and parameters[name].ndim == 2]
    return [
        torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([*parameters.values(), word_scale], betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        torch.optim.SparseAdam([words], betas=(0.9, 0.98)),
    ]


@torch.no_grad()
def accuracy(clip: CLIP, seed: int, count: int = 256) -> tuple[float, float]:
    """Share of unseen sentences that are true of the best of `count` pictures: by end token, and by all words."""
    batch = draw_batch(np.random.default_rng(seed), Tokenizer(), count, clip.config.resolution)
    right = [
        batch["truth"].gather(1, sim.argmax(dim=1, keepdim=True)).float().mean().item()
        for sim in similarities(clip, batch)
    ]
    return right[0], right[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, pretrain, save in CLIP's key format and print the accuracy on unseen pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("data/shapes/tiny_clip.pt"), help="file to write")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time after which to end early")
    parser.add_argument("--batch_size", type=int, default=64, help="pictures in a step")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=1, help="of weights and pictures")
    parser.add_argument("--resolution", type=int, default=48, help="of the pictures, a multiple of the patch")
    parser.add_argument("--patch", type=int, default=8, help="side of a patch in pixels")
    parser.add_argument("--width", type=int, default=128, help="of both towers and of the embedding, a multiple of 64")
    parser.add_argument("--vision_layers", type=int, default=3, help="blocks of the image tower")
    parser.add_argument("--text_layers", type=int, default=2, help="blocks of the text tower")
    options = parser.parse_args(arguments)
    config = CLIPConfig(
        resolution=options.resolution,
        patch=options.patch,
        vision_width=options.width,
        vision_layers=options.vision_layers,
        text_width=options.width,
        text_layers=options.text_layers,
        embed_dim=options.width,
    )
    clip = pretrain(
        config,
        steps=options.steps,
        minutes=options.minutes,
        batch_size=options.batch_size,
        lr=options.lr,
        seed=options.seed,
    )
    with atomic_write(options.output, "wb") as file:
        torch.save(clip.state_dict(), file)
    by_end, by_words = accuracy(clip, seed=options.seed + 1)
    print(f"{options.output}: right picture of 256 by end token {by_end:.0%}, by all words {by_words:.0%}")


if __name__ == "__main__":
    run(main)
