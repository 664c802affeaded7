"""Training that is interrupted: from each saved state it resumes exactly."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import main_retrieval
from dataloaders.sampling import DrawnDataset, TrainingSampler
from models import HBI
from tests.chaos import kill
from tests.chaos.training import command_line
from tests.processes import run_together
from tests.retrieval_case import build_corpus, read_metrics
from utils.checkpoint import read_weights
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer
from utils.engine.training_state import read_state
from utils.errors import InputError
from utils.preemption import StopRequest, ignore_foreign_signals
from utils.randomness import derived_seed, draws_of, seed_all
from utils.run import run

CPU = torch.device("cpu")


def draw_all():
    return torch.rand(2).tolist(), np.random.normal(), random.gauss(0, 1), random.random()


def test_draws_of_a_key_leave_the_others_alone():
    seed_all(4)
    expected = draw_all()
    seed_all(4)
    with draws_of(1, 2, 3):
        inside = draw_all()
    assert draw_all() == expected
    with draws_of(1, 2, 3):
        assert draw_all() == inside
    with draws_of(1, 2, 4):
        assert draw_all() != inside


def test_seeds_depend_on_every_number_of_their_key():
    keys = [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 2)]
    assert len({derived_seed(*key) for key in keys}) == len(keys)
    assert derived_seed(1, 2, 3) == derived_seed(1, 2, 3)


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return index, torch.rand(()).item(), random.random(), np.random.rand()


def batches(workers, epochs, skipped=0):
    """The batches of the last of some epochs."""
    sampler = TrainingSampler(Noise(), 2, 1, seed=5, drop_last=True)
    loader = torch.utils.data.DataLoader(
        DrawnDataset(Noise()), batch_size=2, sampler=sampler, num_workers=workers, collate_fn=list,
        persistent_workers=workers > 0,
    )  # fmt: skip
    for epoch in epochs:
        sampler.set_epoch(epoch, skipped)
        found = list(loader)
    return found


def test_a_batch_depends_on_its_place_alone():
    whole = batches(0, [0, 1])
    assert len(whole) == 5
    assert batches(2, [0, 1]) == whole  # whichever process made it, and what was made before
    assert batches(1, [1], skipped=4) == whole[2:]
    assert batches(0, [0]) != whole


def test_signals_are_noted_and_then_as_before():
    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        with StopRequest() as stop:
            assert not stop.received
            os.kill(os.getpid(), number)
            assert stop.received
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(0.01)
        return os.getpid()


def test_loading_processes_outlive_signals_but_not_their_parent(tmp_path):
    """In a separate process: LanceDB, which other tests import, starts threads in forked processes."""
    run_together(tmp_path / "log.txt", 1, check_loading_processes)


def check_loading_processes():
    loader = torch.utils.data.DataLoader(Slow(), num_workers=1, worker_init_fn=ignore_foreign_signals)
    iterator = iter(loader)
    worker = next(iterator).item()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        subprocess.run(["kill", f"-{int(number)}", str(worker)], check=True)  # from another process than its parent
    assert [item.item() for item in iterator] == [worker] * 39
    again = iter(loader)
    next(again)
    process = again._workers[0]
    process.terminate()
    process.join(timeout=10)
    assert process.exitcode == 0


class Line(torch.nn.Module):
    """A loss that is finite or not, as the batch says."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.steps = 0

    def forward(self, factor):
        return {"loss": (self.weight * factor).sum()}

    def after_step(self):
        self.steps += 1


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 3e38])
def test_a_step_that_is_not_finite_moves_nothing(factor):
    model = Line()
    trainer = Trainer(model, torch.optim.Adam(model.parameters()), device=CPU, options=TrainingOptions())
    trainer.step({"factor": torch.tensor(1.0)}, update=True)
    assert trainer.finite
    before = trainer.state()
    trainer.step({"factor": torch.tensor(factor)}, update=True)
    after = trainer.state()
    assert not trainer.finite and model.steps == 1
    assert torch.equal(after["model"]["weight"], before["model"]["weight"])
    assert all(torch.equal(after["optimizer"][0][name], value) for name, value in before["optimizer"][0].items())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=2, test=2)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A run of two epochs of five steps, the states of which are all kept, and its command line."""
    folder = tmp_path_factory.mktemp("whole")
    words = command_line(corpus, "--workers", 0, "--output_dir", folder)
    main_retrieval.main([*words, "--save_every", "1", "--keep", "10"])
    return folder, words


def weights(folder):
    return read_weights(folder / "pytorch_model.bin.1")


def assert_same(found, expected):
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("step", [3, 5, 10])
def test_from_any_state_the_same_weights_come(step, whole, corpus, tmp_path):
    """From the middle of an epoch, from its end before its evaluation, and from the end of the training."""
    folder, _ = whole
    words = command_line(corpus, "--workers", 1, "--output_dir", tmp_path)
    main_retrieval.main([*words, "--resume", str(folder / "training_state" / f"step_{step}")])
    assert_same(weights(tmp_path), weights(folder))
    log = (tmp_path / "log.txt").read_text()
    assert "resumed: --workers: 0 in the state, 1 now" in log and f"after step {step}" in log
    assert read_metrics(tmp_path) == read_metrics(folder)
    assert f"step {step % 5 + 1} of 5" in log or step == 10


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "is the state of an earlier run; give --resume auto or another --output_dir"),
        (["--resume", "auto", "--recipe", "corrected"], "--recipe: released in the state, corrected now; give"),
        (["--resume", "auto", "--num_hidden_layers", "2"], "--num_hidden_layers: 4 in the state, 2 now"),
        (["--resume", "auto", "--batch_size", "4"], "--batch_size: 2 in the state, 4 now"),
        (["--resume", "auto", "--seed", "7"], "--seed: 42 in the state, 7 now"),
        (["--resume", "nowhere"], "nowhere: holds no complete training state"),
    ],
)
def test_what_does_not_fit_is_refused(words, reason, whole):
    with pytest.raises(InputError, match=reason):
        main_retrieval.main([*whole[1], *words])


def test_going_back_before_later_states_is_refused(whole):
    folder, words = whole
    with pytest.raises(InputError, match="step_10: is later than .*step_3; to go back, remove it or give another"):
        main_retrieval.main([*words, "--resume", str(folder / "training_state" / "step_3")])


def test_deterministic_kernels_only(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seed_all(1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    first = draw_all()
    seed_all(1)
    assert not torch.are_deterministic_algorithms_enabled() and draw_all() == first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_saves_and_ends_the_run(number, whole, corpus, tmp_path, monkeypatch, capsys):
    folder, _ = whole
    words = command_line(corpus, "--workers", 0, "--output_dir", tmp_path)
    step = Trainer.step

    def step_and_signal(self, *arguments, **options):
        os.kill(os.getpid(), number)
        return step(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "step", step_and_signal)
    monkeypatch.setattr(sys, "argv", ["main_retrieval.py", *words])
    with pytest.raises(SystemExit) as ended:
        run(main_retrieval.main)
    assert ended.value.code == 75
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("main_retrieval.py: ")]
    assert len(said) == 1 and "stopped by a signal after step 1" in said[0] and "--resume auto" in said[0]
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "training_state").iterdir()] == ["step_1"]
    main_retrieval.main([*words, "--resume", "auto"])
    assert_same(weights(tmp_path), weights(folder))


def test_ctrl_c_where_there_is_no_state_to_save_is_one_line(monkeypatch, capsys):
    def interrupted(_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(sys, "argv", ["main_retrieval.py"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started pytest with &
    with pytest.raises(SystemExit) as ended:
        run(interrupted)
    signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130 and capsys.readouterr().err == "main_retrieval.py: interrupted\n"


def test_steps_that_are_not_finite_are_reported_and_end_the_run(corpus, tmp_path, monkeypatch):
    words = command_line(corpus, "--workers", 0, "--output_dir", tmp_path, "--max_bad_steps", 2)
    losses = iter([1.0, float("nan"), 1.0, float("inf"), float("nan")])
    compute = HBI.losses

    def spoilt(self, *arguments):
        factor = next(losses)
        return {name: factor * term for name, term in compute(self, *arguments).items()}

    monkeypatch.setattr(HBI, "losses", spoilt)
    with pytest.raises(InputError, match="2 steps in a row without a finite loss.*last good state is .*step_5"):
        main_retrieval.main(words)
    log = (tmp_path / "log.txt").read_text()
    assert log.count("is skipped") == 3
    assert "step 2 is skipped" in log and "loss nan" in log and "entity.ce_t2v " in log and "samples: video" in log
    state = read_state(tmp_path / "training_state" / "step_5")
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


@pytest.mark.slow
def test_killed_trainings_end_with_the_same_weights(capsys):
    """The short form of tests/chaos/kill.py: in one process, and in two under torchrun."""
    kill.main(["--kills", "1", "0", "--videos", "1"])
    assert capsys.readouterr().out.count("weights bit-identical") == 3
