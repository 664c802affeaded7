"""Train and evaluate video question answering."""

import argparse
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders.question_answering import (
    QuestionLoaders,
    build_evaluation_loaders,
    build_training_loader,
    build_vocabulary,
)
from models import ANSWER_METHODS, AnswerMethod
from models.recipe import as_recipe
from models.tokenizer import Tokenizer
from utils.answers import answer_metrics, read_answers, write_answers
from utils.args import question_parser, read_command
from utils.distributed import barrier, is_main
from utils.engine.builders import build_model
from utils.engine.task import Task, run_task
from utils.errors import InputError
from utils.files import atomic_write
from utils.gather import gather_shards
from utils.logger import table, used, write_metrics
from utils.run import run

TOP = 5
FIGURES = ("questions", "top1", "top5", "majority")


class Results(NamedTuple):
    """What `utils.answers.answer_metrics` returns, and for each question an entry of predictions.jsonl."""

    metrics: dict
    predictions: list[dict]


class QuestionAnswering(Task[Results]):
    """Video question answering by the method that --method names."""

    model: AnswerMethod

    def build_model(self) -> AnswerMethod:
        """Build the model for the answer vocabulary."""
        options = ANSWER_METHODS[self.args.method].options_from(self.args) | {"method": self.args.method}
        model = build_model(self.args, self.device, answers=self.find_answers(), **options)
        assert isinstance(model, AnswerMethod)
        return model

    def find_answers(self) -> Path:
        """The file of the answer vocabulary, --data_path or made of the training answers; --output_dir gets a copy."""
        path, given = Path(self.args.output_dir) / "train_ans2label.json", self.args.data_path
        if is_main():
            write_answers(path, read_answers(given) if given else build_vocabulary(self.args))
        barrier()
        return Path(given) if given else path

    @property
    def schedule_epochs(self) -> int:
        """Horizon of the learning-rate schedule."""
        return self.args.epochs

    @cached_property
    def test(self) -> QuestionLoaders:
        """The evaluation questions."""
        resolution = self.model.clip.config.resolution
        return build_evaluation_loaders(self.args, self.model.answers, Tokenizer(), resolution, self.device)

    @property
    def counts(self) -> dict[str, int]:
        """Evaluation questions and their videos."""
        return self.test.counts

    def training_loader(self) -> DataLoader:
        """Load the training questions; the evaluation data must be there, too."""
        assert self.test
        resolution = self.model.clip.config.resolution
        answers = self.model.answers
        return build_training_loader(self.args, answers, Tokenizer(), resolution, self.device, self.logger)

    def select(self) -> float:
        """Top-1 over the questions that the recipe counts."""
        scope = "answerable" if self.model.recipe.answerable_only else "all"
        return self.evaluate().metrics["total"][scope]["top1"]

    def evaluate(self) -> Results:
        """Answer every question; each video is encoded once.

        Raises:
            InputError: the model's answers are not finite numbers.
        """
        self.model.eval()
        loaders, model = self.test, self.model
        video = self.encode_clips(loaders.clips)

        def answer(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            """The true answer's rank (A,), and the labels and probabilities of the best answers (A, TOP)."""
            text = model.text_tokens(batch["ids"], batch["text_mask"]), batch["text_mask"]
            logits = model.mixed_logits(text, video.select(batch["video_of_text"]))
            true = logits.gather(1, batch["labels"].clamp(min=0).unsqueeze(1))
            probability, label = logits.softmax(dim=-1).topk(min(TOP, len(model.answers)))
            return (logits >= true).sum(dim=1) - 1, label, probability

        shard = self.encode(loaders.questions, answer, "questions")
        ranks, labels, probabilities = (gather_shards(x).cpu() for x in shard)
        if not probabilities.isfinite().all():
            raise InputError("the answers are not all finite numbers: train with a lower --lr or --precision fp32")
        truths = [question.answer for question in loaders.all_questions]
        metrics = answer_metrics(ranks, truths, [question.kind for question in loaders.all_questions], model.answers)
        for scope, figures in metrics["total"].items():
            self.logger.info("%s questions: top-1 %.1f, top-5 %.1f", scope, figures["top1"], figures["top5"])
        predictions = [
            {
                "question": question.question,
                "video_id": question.video_id,
                "truth": question.answer,
                "top5": [[model.answers[label], share] for label, share in zip(*best, strict=True)],
            }
            for question, *best in zip(loaders.all_questions, labels.tolist(), probabilities.tolist(), strict=True)
        ]
        return Results(metrics, predictions)

    def report(self, results: Results) -> None:
        """Print the results as a table, and write metrics.json and predictions.jsonl."""
        scopes, folder = ("answerable", "all"), Path(self.args.output_dir)
        rows = [
            [kind, *(figures[scope][name] if scope in figures else "-" for scope in scopes for name in FIGURES)]
            for kind, figures in results.metrics.items()
        ]
        print(table([used(self.counts), *(name for scope in scopes for name in (scope, *FIGURES[1:]))], rows))
        write_metrics(folder / "metrics.json", results.metrics | {"run": self.about()})
        with atomic_write(folder / "predictions.jsonl") as file:
            file.writelines(json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in results.predictions)


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the command line `argv` and return the metrics of the best or the given checkpoint."""
    methods = {name: method.add_arguments for name, method in ANSWER_METHODS.items()}
    return run_task(QuestionAnswering, as_published(read_command(methods, question_parser, argv)))


def as_published(args: argparse.Namespace) -> argparse.Namespace:
    """Change flags as the published script does: --batch_size counts the questions of an optimiser step.

    Raises:
        InputError: an optimiser step has more batches than questions.
    """
    steps = args.gradient_accumulation_steps
    if args.batch_size < steps:
        raise InputError(f"--gradient_accumulation_steps {steps}: give {args.batch_size} or fewer, the --batch_size")
    args.batch_size //= steps
    if args.method == "hbi" and as_recipe(args.recipe).even_frames_in_answers:
        args.slice_framepos = 2
    return args


if __name__ == "__main__":
    run(main)
