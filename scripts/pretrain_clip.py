"""Pretrain a small CLIP on pictures of shapes, for use as `--base_encoder`.

Run it as `python scripts/pretrain_clip.py --output data/shapes/tiny_clip.pt`, or with `torchrun --nproc_per_node N`.
Pictures are rendered on the fly; none shows a scene of the corpus.
Letters: A sentences, B pictures, N_t words, D width of the shared embedding, R resolution.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from models.clip import CLIP, MAX_LOGIT_SCALE, CLIPConfig
from models.tokenizer import Tokenizer
from scripts.shapes.initialisation import set_positions
from scripts.shapes.pictures import draw_pictures, draw_sentences, is_true
from scripts.shapes.reading import Reader
from scripts.shapes.scene import CLASSES, Classes
from utils.distributed import is_main, rank, start, world_size
from utils.files import atomic_write
from utils.run import run

MAX_WORDS = 24
WARMUP = 100  # steps
SINGLES = (0.08, 0.23), (1.0, 0.35)  # share of one-thing pictures: 1 until 8 % of the steps, 0.35 from 23 % on
ALIKE = 4
READING = 8.0  # weight of the reader's loss


def batches(seed: int, pictures: int, resolution: int, steps: int, classes: Classes) -> Iterator[dict[str, Tensor]]:
    """Yield training batches, different on every process.

    Training begins with pictures of one thing, from which shapes are learnt soonest; the share of pictures of two, from
    which positions are learnt, grows. Groups of pictures differ in shape, tilt and place alone: hard negatives.

    Args:
        seed: of all draws.
        pictures: B.
        resolution: R.
        steps: number of batches.
        classes: what the pictures show.
    """
    rng, tokenizer = np.random.default_rng((seed, rank())), Tokenizer()
    for step in range(steps):
        singles = float(np.interp(step / steps, *SINGLES))
        yield draw_batch(rng, tokenizer, pictures, resolution, classes=classes, singles=singles, alike=ALIKE)


def draw_batch(
    rng: np.random.Generator, tokenizer: Tokenizer, count: int, resolution: int, *, classes: Classes, **looks: float
) -> dict[str, Tensor]:
    """Draw pictures and a sentence about each; arguments as for `draw_pictures`.

    Returns:
        `pictures` uint8 (B, 3, R, R), their `facts` int64 (B, THINGS, 5), `ids` and `mask` int64 (B, N_t), and `truth`
        bool (B, B): which sentence is true of which picture.
    """
    pictures, facts = draw_pictures(rng, count, resolution, classes=classes, **looks)
    sentences, claims = draw_sentences(rng, facts)
    ids, mask = tokenizer(sentences, MAX_WORDS)
    longest = int(mask.sum(dim=1).max())
    return {
        "pictures": torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(),
        "facts": torch.from_numpy(facts),
        "ids": ids[:, :longest],
        "mask": mask[:, :longest],
        "truth": torch.from_numpy(is_true(claims, facts)),
    }


def similarities(clip: CLIP, batch: dict[str, Tensor], pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Compare sentences with pictures by the end token, as CLIP does, and by all words, as HBI does.

    Args:
        clip: the towers.
        batch: of `draw_batch`.
        pictures: (B, D), as the image tower embeds them.

    Returns:
        Cosine of end token and picture, and mean over the words of their cosines with the picture; both (A, B).
    """
    pictures = F.normalize(pictures.float(), dim=-1)
    words = F.normalize(clip.encode_text(batch["ids"], batch["mask"]).float(), dim=-1)  # (A, N_t, D)
    weights = batch["mask"] / batch["mask"].sum(dim=1, keepdim=True)  # (A, N_t)
    mean_word = torch.einsum("atd,at->ad", words, weights)
    return clip.pooled_text(words, batch["ids"]) @ pictures.T, mean_word @ pictures.T


def contrastive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """CLIP's loss where a sentence may be true of several pictures: cross-entropies with uniform targets over them.

    Args:
        logits: (A, B).
        truth: bool (A, B), at least one True in each row and column.
    """
    pairs = ((logits, truth.float()), (logits.T, truth.T.float()))
    return sum(F.cross_entropy(rows, true / true.sum(dim=1, keepdim=True)) for rows, true in pairs) / 2


class Lesson(nn.Module):
    """A CLIP and its pretraining loss."""

    def __init__(self, clip: CLIP):
        """Args: clip: the towers."""
        super().__init__()
        self.clip = clip
        self.reader = Reader(clip.config.embed_dim)
        self.word_scale = nn.Parameter(clip.logit_scale.detach().clone())

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """CLIP's loss by end tokens and by all words, and the reader's; `batch` as from `draw_batch`."""
        with torch.autocast("cpu", torch.bfloat16):
            pictures = self.clip.encode_frames(batch["pictures"]).float()
            by_end, by_words = similarities(self.clip, batch, pictures)
        loss = READING * self.reader(pictures, batch["facts"])
        loss = loss + contrastive_loss(self.clip.logit_scale.exp() * by_end, batch["truth"])
        return loss + contrastive_loss(self.word_scale.exp() * by_words, batch["truth"])


def pretrain(config: CLIPConfig, *, steps: int, batch_size: int, lr: float, seed: int, classes: Classes) -> CLIP:
    """Train a CLIP from scratch, each process on its own pictures.

    The result depends only on the arguments, the number of processes and the machine's arithmetic.

    Args:
        config: sizes of the towers.
        steps: optimiser steps.
        batch_size: pictures of a process in a step.
        lr: largest learning rate.
        seed: of weights and pictures.
        classes: what the pictures show.
    """
    torch.manual_seed(seed)
    clip = CLIP(config)
    set_positions(clip.visual)
    lesson = Lesson(clip)
    patches = nn.Parameter(clip.visual.conv1.weight.detach().flatten(1))  # shares the memory of the weights
    optimizers = build_optimizers(lesson, patches)
    parallel = DistributedDataParallel(lesson) if world_size() > 1 else lesson
    bar = tqdm(
        batches(seed, batch_size, config.resolution, steps, classes),
        total=steps,
        desc="pretraining",
        unit="step",
        disable=not is_main(),
    )
    for step, batch in enumerate(bar):
        rate = lr * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = parallel(batch)
        loss.backward()
        patches.grad = clip.visual.conv1.weight.grad.flatten(1)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        lesson.zero_grad()
        clip.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        if step % 50 == 49:
            bar.set_postfix(loss=f"{loss.item():.2f}")
    return clip


def build_optimizers(lesson: Lesson, patches: nn.Parameter) -> list[torch.optim.Optimizer]:
    """Muon for matrices, which learns positions in a tenth of Adam's steps, and Adam for the rest.

    A step uses few word vectors: they get a sparse Adam. `patches` is the image tower's patch embedding as a matrix.
    """
    lesson.clip.token_embedding.sparse = True
    parameters = dict(lesson.named_parameters())
    words = parameters.pop("clip.token_embedding.weight")
    del parameters["clip.visual.conv1.weight"]
    matrices = [parameters.pop(name) for name in list(parameters) if "resblocks" in name and parameters[name].ndim == 2]
    return [
        torch.optim.Muon([patches, *matrices], weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(parameters.values(), betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        torch.optim.SparseAdam([words], betas=(0.9, 0.98)),
    ]


@torch.no_grad()
def accuracy(clip: CLIP, seed: int, classes: Classes) -> tuple[float, float]:
    """Share of unseen sentences that are true of the best of 256 pictures, by end token and by all words."""
    batch = draw_batch(np.random.default_rng(seed), Tokenizer(), 256, clip.config.resolution, classes=classes)
    right = [
        batch["truth"].gather(1, sim.argmax(dim=1, keepdim=True)).float().mean().item()
        for sim in similarities(clip, batch, clip.encode_frames(batch["pictures"]))
    ]
    return right[0], right[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, pretrain, save in CLIP's key format and print the accuracy on unseen pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("data/shapes/tiny_clip.pt"), help="file to write")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps")
    parser.add_argument("--batch_size", type=int, default=64, help="pictures of a process in a step")
    parser.add_argument("--lr", type=float, default=5e-3, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=1, help="of weights and pictures")
    parser.add_argument(
        "--classes", choices=CLASSES, default="all", help="what the pictures show, as of make_shapes.py"
    )
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
    classes = CLASSES[options.classes]
    start("cpu")
    clip = pretrain(
        config, steps=options.steps, batch_size=options.batch_size, lr=options.lr, seed=options.seed, classes=classes
    )
    if not is_main():
        return
    with atomic_write(options.output, "wb") as file:
        torch.save(clip.state_dict(), file)
    by_end, by_words = accuracy(clip, seed=options.seed + 1, classes=classes)
    print(f"{options.output}: right picture of 256 by end token {by_end:.0%}, by all words {by_words:.0%}")


if __name__ == "__main__":
    run(main)
