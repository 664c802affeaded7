"""Train and evaluate text-video retrieval."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

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
from dataloaders.captioning import clip_name
from models import METHODS, RetrievalMethod, Tokens
from models.shortlist import check_shortlist
from models.tokenizer import Tokenizer
from models.two_stage import TwoStageSimilarity
from utils.args import read_command, retrieval_parser
from utils.devices import PRECISIONS
from utils.distributed import from_main, rank, world_size
from utils.engine.builders import build_model
from utils.engine.ranking import (
    Ranking,
    find_best,
    own_rows,
    rank_split,
    shortlist_metrics,
    write_predictions,
    write_similarity,
)
from utils.engine.task import Task, run_task
from utils.errors import InputError
from utils.files import atomic_write
from utils.gather import gather_shards, gather_to_main
from utils.logger import table, used, write_metrics
from utils.metrics import Scores
from utils.post_processing import dual_softmax_metrics, query_bank_metrics, query_bank_norm
from utils.run import run

CHECKED = 200
"""Approximate number of captions that are compared with all clips to check a shortlist."""
NAMES = {"t2v": "text to video", "v2t": "video to text"}


class Results(NamedTuple):
    """Metrics, ranks, entries of predictions.jsonl."""

    metrics: dict
    ranks: dict[str, Tensor]
    found: dict[str, Tensor]


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
    def memory(self) -> int:
        """Bytes for the token similarities of a block."""
        return self.args.similarity_memory * 2**20

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
        metrics = self.rank(self.selection, *self.encode_split(self.selection)).metrics
        self.scalars = {f"{side}.{name}": metrics[side][name] for side in NAMES for name in ("R1", "R5", "R10")}
        return metrics["t2v"]["R1"]

    @torch.no_grad()
    def evaluate(self) -> Results:
        """Rank on the test split, write the similarities if requested, and apply post-processing."""
        self.model.eval()
        text, video = self.encode_split(self.test)
        ranking = self.rank(self.test, text, video)
        metrics = ranking.metrics | {"post_processed": {}}
        if self.args.shortlist:
            metrics["shortlist"] = self.check_shortlist(ranking, text, video)
        if self.args.save_similarity:
            write_similarity(Path(self.args.output_dir) / "similarity.npy", ranking.sim)
        if self.args.post_process:
            assert isinstance(ranking.sim, Tensor)  # no shortlist goes with it
            sim = gather_to_main(ranking.sim)
            for name, process in self.post_processing(video).items():
                metrics["post_processed"][name] = from_main(partial(process, sim, self.test.clip_of_caption))
        levels = partial(self.level_similarities, text, video, ranking.sim)
        return Results(metrics, ranking.ranks, find_best(ranking, self.test.clip_of_caption, levels))

    def post_processing(self, video: Tokens) -> dict[str, Callable[..., dict]]:
        """The requested normalisations by name, as functions from similarity and clip of each caption to metrics."""
        chosen: dict[str, Callable[..., dict]] = {}
        if "dsl" in self.args.post_process:
            chosen["dual softmax"] = dual_softmax_metrics
        if "qbnorm" in self.args.post_process:
            text = self.encode_texts(build_bank_loader(self.args, Tokenizer(), self.device))
            bank: Any = gather_to_main(self.compare(text, video))  # None where the metrics are not computed
            chosen["QB-Norm"] = partial(query_bank_metrics, bank=bank)
        return chosen

    def encode_split(self, loaders: EvaluationLoaders) -> tuple[Tokens, Tokens]:
        """Word tokens of this process's captions, and frame tokens of all clips."""
        video = self.encode_clips(loaders.clips)
        return self.encode_texts(loaders.text), video

    @cached_property
    def banks(self) -> tuple[DataLoader, DataLoader]:
        """Banks of training captions and clips, for a method that always evaluates after QB-Norm."""
        return build_pair_bank_loaders(self.args, Tokenizer(), self.model.clip.config.resolution, self.device)

    @torch.no_grad()
    def rank(self, loaders: EvaluationLoaders, text: Tokens, video: Tokens) -> Ranking:
        """Rank clips for each caption and captions for each clip; for --shortlist see `TwoStageSimilarity`."""
        if self.args.shortlist:
            sim: Scores = TwoStageSimilarity(self.model, text, video, self.args.shortlist, memory=self.memory)
        else:
            sim = self.compare(text, video)
        scores = self.scores(sim, text, video)
        ranking = rank_split(sim, scores, loaders.clip_of_caption, loaders.split.subsets)
        figures = (ranking.metrics[side][name] for side in NAMES for name in ("R1", "R5", "R10"))
        self.logger.info("R@1, 5 and 10: text to video %.1f, %.1f, %.1f, video to text %.1f, %.1f, %.1f", *figures)
        return ranking

    def compare(self, text: Tokens, video: Tokens) -> Tensor:
        """Similarity (A_r, B) of this process's captions with all clips."""
        text = own_blocks(text, self.model.block)
        return self.model.similarity(text, video, memory=self.memory, dtype=PRECISIONS[self.args.precision])

    def scores(self, sim: Scores, text: Tokens, video: Tokens) -> tuple[Scores, Scores]:
        """Scores (A_r, B) by which clips and captions are ranked: the method's, after QB-Norm if that is part of it.

        Reranking and QB-Norm need the similarity of all captions on every process.
        """
        norms, count = self.model.bank_norms, len(sim)
        if not norms and type(self.model).rerank is RetrievalMethod.rerank:
            return sim, sim
        whole = gather_shards(sim[:]).cpu()
        t2v, v2t = self.model.rerank(whole, text, video, memory=self.memory)
        if norms:
            captions, clips = self.banks
            bank = gather_shards(self.compare(self.encode_texts(captions), video)).cpu()
            t2v = query_bank_norm(t2v, bank, **norms["t2v"])
            bank = gather_shards(self.compare(text, self.encode_clips(clips))).cpu()
            v2t = query_bank_norm(v2t.T, bank.T, **norms["v2t"]).T
        return (sim, sim) if t2v is whole else (own_rows(t2v, count), own_rows(v2t, count))

    def check_shortlist(self, ranking: Ranking, text: Tokens, video: Tokens) -> dict[str, float]:
        """Measure what shortlists miss, on some captions that are compared with all clips."""
        step = math.ceil(len(self.test.clip_of_caption) / CHECKED)
        captions: Any = self.test.text.dataset
        own = [place for place, caption in enumerate(captions.indices) if caption % step == 0]
        best = gather_shards(self.compare(Tokens(*(tensor[own] for tensor in text)), video).argmax(dim=1))
        return shortlist_metrics(ranking, self.args.shortlist, gather_shards(ranking.sim[own]), best)

    def level_similarities(
        self, text: Tokens, video: Tokens, sim: Scores, clips: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        """Name and similarities of captions with some `clips` (A_r, K) at each level that evaluation mixes."""
        if self.model.used_levels < 2:
            return
        clips = clips.to(self.device)
        if isinstance(sim, TwoStageSimilarity):
            yield from sim.gallery.level_similarities(text, clips, memory=self.memory)
            return
        dtype = PRECISIONS[self.args.precision]
        for level, texts, videos in self.model.level_sets(text, video, self.model.used_levels):
            yield level.name, level.similarity(texts, videos, self.memory, dtype).gather(1, clips)

    def report(self, results: Results) -> None:
        """Print the results as a table; write the metrics, ranks and predictions."""
        metrics, rows = results.metrics, {label: results.metrics[key] for key, label in NAMES.items()}
        rows |= {f"{NAMES[key]}, similarity alone": values for key, values in metrics.get("plain", {}).items()}
        rows |= {f"text to video, {name} negatives": values for name, values in metrics["subsets"].items()}
        for method, values in metrics["post_processed"].items():
            rows |= {f"{NAMES[key]}, after {method}": values[key] for key in values}
        columns = list(metrics["t2v"])
        cells = [[label, *(values[name] for name in columns)] for label, values in rows.items()]
        print(table([used(self.counts), *columns], cells))
        if self.args.shortlist:
            print(
                "shortlists of {clips} clips: the caption's own clip is inside for {true:.1f} % of the captions, the "
                "most similar of all clips for {best:.1f} % of {checked} captions".format(**metrics["shortlist"])
            )
        folder = Path(self.args.output_dir)
        with atomic_write(folder / "ranks.npz", "wb") as file:
            np.savez(file, **{name: ranks.numpy() for name, ranks in results.ranks.items()})
        split = self.test.split
        names = [clip_name(clip) for clip in split.clips]
        write_predictions(folder / "predictions.jsonl", split.captions, names, results.found, results.ranks)
        write_metrics(folder / "metrics.json", metrics | {"run": self.about()})


def own_blocks(text: Tokens, block: int | None) -> Tokens:
    """This process's shard of the captions; of whole blocks where a score depends on the captions of its block."""
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
