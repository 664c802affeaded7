"""Train and evaluate video captioning."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders.build import selection_split
from dataloaders.captioning import (
    CaptionLoaders,
    build_caption_loaders,
    build_caption_training_loader,
    check_captioned,
    check_unseen,
)
from models import CAPTION_METHODS, HBICaptioning, Tokens
from models.captioning import has_decoder
from models.tokenizer import Tokenizer
from utils.args import caption_parser, read_command
from utils.caption_metrics import caption_metrics
from utils.checkpoint import read_weights
from utils.distributed import from_main
from utils.engine.builders import build_model
from utils.engine.task import Task, run_task
from utils.errors import InputError
from utils.files import atomic_write
from utils.gather import gather_shards
from utils.logger import table, used, write_metrics
from utils.run import run


class Results(NamedTuple):
    """Metrics, and for each clip: name, caption, score of the caption, references."""

    metrics: dict
    names: list[str]
    captions: list[str]
    scores: list[float]
    references: list[list[str]]


class Captioning(Task[Results]):
    """Captions by a decoder on HBI's video hierarchy."""

    model: HBICaptioning

    def build_model(self) -> HBICaptioning:
        """Build the model; evaluation alone needs a trained decoder."""
        args = self.args
        check_captioned(args.datatype)
        if not args.do_train and not (args.init_model and has_decoder(read_weights(args.init_model))):
            raise InputError(f"{args.init_model}: has no caption decoder; give a checkpoint of main_captioning.py")
        options = CAPTION_METHODS[args.method].options_from(args) | {"method": args.method, "captions": True}
        model = build_model(args, self.device, **options)
        assert isinstance(model, HBICaptioning)
        return model

    def loaders(self, split: str) -> CaptionLoaders:
        """Load the clips and captions of a split."""
        return build_caption_loaders(self.args, self.model.clip.config.resolution, self.device, split)

    @cached_property
    def test(self) -> CaptionLoaders:
        """The test split."""
        return self.loaders("test")

    @cached_property
    def selection(self) -> CaptionLoaders:
        """The split on which the best epoch is selected: validation, or test where there is none."""
        split = selection_split(self.args)
        if split == "test":
            self.logger.warning("no validation split: the best epoch is selected on the test split")
        found = self.test if split == "test" else self.loaders(split)
        if len(found.names) < 2:
            raise InputError(f"{self.args.anno_path}: 1 video to select on, but CIDEr is defined from 2 on; add others")
        return found

    @property
    def counts(self) -> dict[str, int]:
        """Videos and references of the test split."""
        return self.test.counts

    def training_loader(self) -> DataLoader:
        """Load the training pairs; the evaluation data must be there, too."""
        for name, loaders in (("test", self.test), ("val", self.selection)):
            shard: Any = loaders.clips.dataset
            warning = self.args.init_model and check_unseen(self.args, shard.dataset.clips, name)
            if warning:
                self.logger.warning(warning)
        return build_caption_training_loader(self.args, Tokenizer(), self.model.clip.config.resolution, self.device)

    @property
    def schedule_epochs(self) -> int:
        """Horizon of the learning-rate schedule."""
        return self.args.epochs

    def select(self) -> float:
        """CIDEr of greedy captions on the selection split."""
        return self.write(self.selection, beams=1).metrics["captions"]["CIDEr"]

    def evaluate(self) -> Results:
        """Caption the test split by beam search."""
        self.model.eval()
        return self.write(self.test, self.args.beams)

    def write(self, loaders: CaptionLoaders, beams: int) -> Results:
        """Caption this process's shard of the clips, gather, and compare the captions with all references."""
        options = {"beams": beams, "max_words": self.args.max_words, "exponent": self.args.length_exponent}

        def caption(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            video = Tokens(self.model.frame_tokens(batch["frames"], batch["video_mask"]), batch["video_mask"])
            best = self.model.generate(video, **options).best()
            return best.ids, best.scores

        ids, scores = (gather_shards(x).cpu() for x in self.encode(loaders.clips, caption, "captions"))
        captions = self.model.sentences(ids)
        found = from_main(lambda: caption_metrics(captions, loaders.references))
        counts = {"videos": len(captions), "references": sum(map(len, loaders.references)), "beams": beams}
        self.log(captions, found)
        return Results({"captions": found, **counts}, loaders.names, captions, scores.tolist(), loaders.references)

    def log(self, captions: list[str], metrics: dict[str, float]) -> None:
        """Log the metrics, and warn of empty captions."""
        if empty := captions.count(""):
            self.logger.warning("%d of %d captions are empty and score 0", empty, len(captions))
        if "CIDEr" not in metrics:
            self.logger.warning("CIDEr is not defined for one video and is left out")
        self.logger.info(", ".join(f"{name} {value:.1f}" for name, value in metrics.items()))

    def report(self, results: Results) -> None:
        """Print the metrics as a table; write metrics.json, and captions and references in COCO's formats."""
        found, folder = results.metrics["captions"], Path(self.args.output_dir)
        print(table(["", *found], [[used(self.counts), *found.values()]]))
        write_metrics(folder / "metrics.json", results.metrics | {"run": self.about()})
        with atomic_write(folder / "captions.jsonl") as file:
            for row in zip(results.names, results.captions, results.scores, strict=True):
                line = dict(zip(("image_id", "caption", "score"), row, strict=True))
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        references = zip(results.names, results.references, strict=True)
        pairs = [(name, caption) for name, of_clip in references for caption in of_clip]
        annotations = [{"id": number, "image_id": name, "caption": text} for number, (name, text) in enumerate(pairs)]
        with atomic_write(folder / "references.json") as file:
            json.dump({"images": [{"id": name} for name in results.names], "annotations": annotations}, file)


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the command line `argv` and return the metrics of the best or the given checkpoint."""
    methods = {name: method.add_arguments for name, method in CAPTION_METHODS.items()}
    return run_task(Captioning, read_command(methods, caption_parser, argv))


if __name__ == "__main__":
    run(main)
