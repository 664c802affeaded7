"""Train and evaluate text-video retrieval."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders.build import (
    EvaluationLoaders,
    build_bank_loader,
    build_evaluation_loaders,
    build_pair_bank_loaders,
    build_training_loader,
    selection_split,
)
from models import METHODS, RetrievalMethod, Tokens
from models.shortlist import check_shortlist, two_stage_similarity
from models.tokenizer import Tokenizer
from utils.args import read_command, retrieval_parser
from utils.devices import PRECISIONS
from utils.distributed import gather_shards, rank, world_size
from utils.engine.builders import build_model
from utils.engine.task import Task, run_task
from utils.errors import InputError
from utils.files import atomic_write
from utils.logger import table, used, write_metrics
from utils.metrics import percent_within, rank_statistics, retrieval_metrics, text_to_video_ranks, video_to_text_ranks
from utils.post_processing import dual_softmax_metrics, query_bank_metrics, query_bank_norm
from utils.run import run

CHECKED = 200
"""Captions, about as many, that are compared with all clips to see what a shortlist leaves out."""


class Results(NamedTuple):
    """Metrics, the similarity (A, B) of all captions with all clips, and ranks from 0: both ways, and of subsets."""

    metrics: dict
    sim: Tensor
    ranks: dict[str, Tensor]


class Retrieval(Task[Results]):
    """Text-video retrieval by the method that --method names."""

    def build_model(self) -> RetrievalMethod:
        """Build the method."""
        options = METHODS[self.args.method].options_from(self.args)
        model = build_model(self.args, self.device, method=self.args.method, **options)
        if self.args.shortlist:
            check_shortlist(model)
            if model.bank_norms:
                raise InputError(f"--shortlist: QB-Norm of {self.args.method} needs all similarities; give --qbnorm 0")
        return model

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations, as published."""
        return 3 * self.args.n_display

    def loaders(self, split: str) -> EvaluationLoaders:
        """Load the captions and clips of a split."""
        return build_evaluation_loaders(self.args, Tokenizer(), self.model.clip.config.resolution, self.device, split)

    @cached_property
    def test(self) -> EvaluationLoaders:
        """The test split."""
        return self.loaders("test")

    @cached_property
    def selection(self) -> EvaluationLoaders:
        """The split on which the best epoch is selected: validation, or test where there is none."""
        if selection_split(self.args) == "test":
            self.logger.warning("no validation split: the best epoch is selected on the test split, as published")
            return self.test
        self.logger.info("the best epoch is selected on the validation split")
        return self.loaders("val")

    @property
    def counts(self) -> dict[str, int]:
        """Captions and clips of the test split."""
        return self.test.split.counts()

    def training_loader(self) -> DataLoader:
        """Load the training pairs; the evaluation data must be there, too."""
        assert self.test and self.selection
        return build_training_loader(self.args, Tokenizer(), self.model.clip.config.resolution, self.device)

    def select(self) -> float:
        """R@1 of text to video on the selection split."""
        return self.rank(self.selection).metrics["t2v"]["R1"]

    def evaluate(self) -> Results:
        """Rank on the test split, and apply post-processing."""
        self.model.eval()
        results = self.rank(self.test)
        processed, clip_of_caption = results.metrics["post_processed"], self.test.clip_of_caption
        if "dsl" in self.args.post_process:
            processed["dual softmax"] = dual_softmax_metrics(results.sim, clip_of_caption)
        if "qbnorm" in self.args.post_process:
            text = self.encode_texts(build_bank_loader(self.args, Tokenizer(), self.device))
            bank = self.compare(text, self.encode_clips(self.test.clips))
            processed["QB-Norm"] = query_bank_metrics(results.sim, clip_of_caption, bank)
        return results

    @cached_property
    def banks(self) -> tuple[DataLoader, DataLoader]:
        """Training captions and clips, for a method that always evaluates after QB-Norm."""
        return build_pair_bank_loaders(self.args, Tokenizer(), self.model.clip.config.resolution, self.device)

    @torch.no_grad()
    def rank(self, loaders: EvaluationLoaders) -> Results:
        """Rank all clips for each caption and all captions for each clip.

        Each process encodes its shard of captions and clips and compares its captions with all clips, or with
        --shortlist with those of nearest pooled features; clips outside of a caption's shortlist then have smaller
        similarities than those inside, see `two_stage_similarity`.
        """
        video, text = self.encode_clips(loaders.clips), self.encode_texts(loaders.text)
        sim = self.compare(text, video, self.args.shortlist)
        t2v, v2t = self.scores(sim, text, video)
        t2v_ranks = text_to_video_ranks(t2v, loaders.clip_of_caption)
        ranks = {"t2v": t2v_ranks, "v2t": video_to_text_ranks(v2t, loaders.clip_of_caption)}
        subsets = {name: t2v_ranks[rows] for name, rows in loaders.split.subsets.items() if rows}
        metrics = {side: rank_statistics(found) for side, found in ranks.items()}
        if t2v is not sim:
            metrics["plain"] = retrieval_metrics(sim, loaders.clip_of_caption)
        metrics["subsets"] = {name: rank_statistics(found) for name, found in subsets.items()}
        metrics["post_processed"] = {}
        if self.args.shortlist:
            step = math.ceil(len(sim) / CHECKED)
            own = [place for place, caption in enumerate(loaders.text.dataset.indices) if caption % step == 0]
            best = self.compare(Tokens(*(tensor[own] for tensor in text)), video).argmax(dim=1)
            metrics["shortlist"] = {
                "clips": self.args.shortlist,
                "true": percent_within(t2v_ranks, self.args.shortlist),
                "best": percent_within(text_to_video_ranks(sim[::step], best), self.args.shortlist),
                "checked": len(best),
            }
        figures = metrics["t2v"]["R1"], metrics["v2t"]["R1"]
        self.logger.info("text to video R@1 %.1f, video to text R@1 %.1f", *figures)
        return Results(metrics, sim, ranks | {f"t2v {name}": found for name, found in subsets.items()})

    def compare(self, text: Tokens, video: Tokens, shortlist: int | None = None) -> Tensor:
        """Similarity (A, B) of the captions of all processes with all clips, on the CPU."""
        memory = self.args.similarity_memory * 2**20
        if shortlist:
            sim = two_stage_similarity(self.model, text, video, shortlist, memory=memory)
        else:
            text = own_blocks(text, self.model.block)
            sim = self.model.similarity(text, video, memory=memory, dtype=PRECISIONS[self.args.precision])
        return gather_shards(sim).cpu()

    def scores(self, sim: Tensor, text: Tokens, video: Tokens) -> tuple[Tensor, Tensor]:
        """Scores (A, B) that clips and captions are ranked by: the method's, and after QB-Norm if it is part of it."""
        t2v, v2t = self.model.rerank(sim, text, video, memory=self.args.similarity_memory * 2**20)
        if norms := self.model.bank_norms:
            captions, clips = self.banks
            t2v = query_bank_norm(t2v, self.compare(self.encode_texts(captions), video), **norms["t2v"])
            v2t = query_bank_norm(v2t.T, self.compare(text, self.encode_clips(clips)).T, **norms["v2t"]).T
        return t2v, v2t

    def report(self, results: Results) -> None:
        """Print the results as a table; write ranks.npz, metrics.json, and the similarities if requested."""
        metrics, names = results.metrics, {"t2v": "text to video", "v2t": "video to text"}
        rows = {label: metrics[key] for key, label in names.items()}
        rows |= {f"{names[key]}, similarity alone": values for key, values in metrics.get("plain", {}).items()}
        rows |= {f"text to video, {name} negatives": values for name, values in metrics["subsets"].items()}
        for method, values in metrics["post_processed"].items():
            rows |= {f"{names[key]}, after {method}": values[key] for key in values}
        columns = list(metrics["t2v"])
        cells = [[label, *(values[name] for name in columns)] for label, values in rows.items()]
        print(table([used(self.counts), *columns], cells))
        if self.args.shortlist:
            print(
                "shortlists of {clips} clips: the caption's own clip is inside for {true:.1f} % of the captions, the "
                "most similar of all clips for {best:.1f} % of {checked} captions".format(**metrics["shortlist"])
            )
        folder = Path(self.args.output_dir)
        if self.args.save_similarity:
            with atomic_write(folder / "similarity.npy", "wb") as file:
                np.save(file, results.sim.numpy())
        with atomic_write(folder / "ranks.npz", "wb") as file:
            np.savez(file, **{name: ranks.numpy() for name, ranks in results.ranks.items()})
        write_metrics(folder / "metrics.json", metrics | {"run": self.about()})


def own_blocks(text: Tokens, block: int | None) -> Tokens:
    """This process's captions; where scores depend on a block of them, whole blocks of those of all processes."""
    if block is None:
        return text
    text = Tokens(*map(gather_shards, text))
    blocks = math.ceil(len(text.mask) / block)
    bounds = [blocks * part // world_size() * block for part in (rank(), rank() + 1)]
    return Tokens(*(tensor[slice(*bounds)] for tensor in text))


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the command line `argv` and return the metrics of the best or the given checkpoint."""
    methods = {name: method.add_arguments for name, method in METHODS.items()}
    return run_task(Retrieval, read_command(methods, retrieval_parser, argv))


if __name__ == "__main__":
    run(main)
