"""A training run of a small task: when it evaluates, and which checkpoint is the best."""

import argparse
import logging
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from dataloaders.sampling import DrawnDataset, TrainingSampler
from tests.test_trainer import CPU, Regression
from utils.engine.engine import Run
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer

STEPS = 4


class Rows:
    def __len__(self) -> int:
        return 2 * STEPS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((3,), float(index)), "scale": torch.tensor(0.01)}


@dataclass
class CountingTask:
    """Predefined scores, and the number of batches at which each was requested."""

    scores: list[float]
    later_of_equals: bool = False
    evaluate_every: int | None = None
    evaluated: list[int] = field(default_factory=list)
    args: argparse.Namespace = field(default_factory=argparse.Namespace)
    scalars: dict[str, float] = field(default_factory=dict)
    run: Run | None = None

    def select(self) -> float:
        self.evaluated.append(self.run.done)
        return self.scores[len(self.evaluated) - 1]

    def state(self) -> dict[str, torch.Tensor]:
        return self.run.trainer.model.state_dict()


def fit(folder: Path, task: CountingTask, epochs: int, **options) -> Path:
    data, model = DrawnDataset(Rows()), Regression()
    loader = DataLoader(data, batch_size=2, sampler=TrainingSampler(data, num_replicas=1, rank=0))
    options = TrainingOptions(output_dir=folder, epochs=epochs, **options)
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), device=CPU, options=options)
    task.run = Run(task, trainer, loader, logging.getLogger("run"))
    task.run.resume()
    return task.run.fit()


@pytest.mark.parametrize(("later", "best"), [(True, 2), (False, 1)])
def test_of_equal_scores_the_recipe_says_which_is_the_best(later, best, tmp_path):
    task = CountingTask([40.0, 50.0, 50.0, 45.0], later_of_equals=later)
    assert fit(tmp_path, task, 4).name == f"pytorch_model.bin.best.{best}"


def test_evaluations_within_epochs_count_the_batches_of_all(tmp_path):
    rising = partial(CountingTask, [float(score) for score in range(20)])
    task = rising(evaluate_every=3)
    fit(tmp_path / "three", task, 3)
    assert task.evaluated == [3, 4, 6, 8, 9, 12]  # after epochs, and in them at 3, 6 and 9, not at 3, 7 and 11
    task = rising()
    fit(tmp_path / "none", task, 3)
    assert task.evaluated == [4, 8, 12]


def test_every_step_is_in_training_mode_also_after_an_evaluation_within_an_epoch(tmp_path, monkeypatch):
    modes, forward = [], Regression.forward

    def noted(self, x, scale):
        modes.append(self.training)
        return forward(self, x, scale)

    monkeypatch.setattr(Regression, "forward", noted)
    fit(tmp_path, CountingTask([float(score) for score in range(20)], evaluate_every=1), 2)
    assert modes == [True] * (2 * STEPS)


def test_states_are_saved_after_so_many_steps_and_at_the_end_of_each_epoch(tmp_path):
    fit(tmp_path, CountingTask([0.0, 0.0, 0.0]), 3, save_every=3, keep=20)
    saved = {int(folder.name.removeprefix("step_")) for folder in (tmp_path / "training_state").iterdir()}
    assert saved == {3, 4, 7, 8, 11, 12}


def test_scalars_after_the_state_that_a_run_resumes_from_are_discarded(tmp_path):
    fit(tmp_path, CountingTask([1.0, 1.0]), 2, save_every=3, keep=20, n_display=1)
    state = tmp_path / "training_state"
    for step in (7, 8):
        shutil.rmtree(state / f"step_{step}")
    fit(tmp_path, CountingTask([1.0, 1.0]), 2, save_every=3, keep=20, n_display=1, resume="auto")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [*range(1, 2 * STEPS + 1)]
