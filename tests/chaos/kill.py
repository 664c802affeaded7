"""Kill a short training at random moments, resume it each time, and compare its weights with an undisturbed run's.

python -m tests.chaos.kill --processes 1 2 --kills 20 20
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

import main_retrieval
from tests.chaos.training import command_line
from tests.processes import Group, script, start
from tests.retrieval_case import build_corpus
from utils.checkpoint import read_weights

LONGEST_WAIT = 60  # seconds in which the others must end after one process was killed


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill until there were enough kills and the last training has finished."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kills", type=int, nargs="+", default=[20, 20], help="for each number of processes")
    parser.add_argument("--videos", type=int, default=2, help="to train on; five pairs each, two a step")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = build_corpus(folder / "shapes", train=args.videos, test=2)
        words = command_line(corpus, "--save_every", 1, "--resume", "auto")
        finish(start(folder / "imports.log", 1, print))  # done before the first training is timed
        for processes, kills in zip(args.processes, args.kills, strict=True):
            runs = folder / str(processes)
            runs.mkdir()
            check(runs, words, kills, processes, random.Random(args.seed))
            if processes > 1:
                check_restart(runs, words, processes)


def check(folder: Path, words: list[str], kills: int, processes: int, draw: random.Random) -> None:
    """Train undisturbed, then with kills, and compare; a training that ends before its kill is followed by another."""
    started = time.monotonic()
    codes = finish(train(words, folder / "whole", processes))
    assert not any(codes), log_of(folder / "whole").read_text()
    duration = time.monotonic() - started
    print(f"undisturbed: {duration:.1f} s", flush=True)
    moments, slowest, trainings = Counter(), 0.0, 0
    while sum(moments.values()) < kills:
        trainings += 1
        output = folder / f"killed{trainings}"
        killed = True
        while killed:
            fresh, began = not output.exists(), time.monotonic()
            running = train(words, output, processes)
            killed = sum(moments.values()) < kills and wait(running, draw.uniform(0, 0.9 * duration))
            if killed:
                draw.choice(running).kill()
                moments[moment(output)] += 1
                killed_at = time.monotonic()
            codes = finish(running)
            if killed:
                slowest = max(slowest, time.monotonic() - killed_at)
            else:
                assert not any(codes), log_of(output).read_text()
                duration = min(duration, time.monotonic() - began) if fresh else duration
        compare(folder / "whole", output)
        shutil.rmtree(output)
    print(f"{kills} kills of {processes} processes in {trainings} trainings: weights bit-identical")
    print(", ".join(f"{number} {name}" for name, number in moments.most_common()))
    print(f"the others ended {slowest:.1f} s after a kill at the latest", flush=True)


def train(words: list[str], output: Path, processes: int) -> Group:
    """Begin or resume a training; what it prints is in a file next to its output folder."""
    return start(log_of(output), processes, script, main_retrieval.main, *words, "--output_dir", output)


def log_of(output: Path) -> Path:
    """Where the training with this output folder prints."""
    return output.with_suffix(".log")


def check_restart(folder: Path, words: list[str], processes: int) -> None:
    """Kill one process of several under torchrun, which restarts all of them, and compare with an undisturbed run."""
    output = folder / "torchrun"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, "--max-restarts=1", "main_retrieval.py", *words, "--output_dir", str(output)]
    with (
        (folder / "torchrun.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as launched,
    ):
        while not (output / "training_state" / "step_3" / "state.json").exists():
            assert launched.poll() is None, (folder / "torchrun.log").read_text()
            time.sleep(0.02)
        ranks = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
        os.kill(int(ranks[-1]), signal.SIGKILL)
    said = (folder / "torchrun.log").read_text()
    assert launched.returncode == 0 and "resumed from" in said, said
    compare(folder / "whole", output)
    print("one killed under torchrun --max-restarts=1: weights bit-identical", flush=True)


def wait(running: Group, seconds: float) -> bool:
    """Wait, and return whether all processes still run."""
    time.sleep(seconds)
    return all(process.is_alive() for process in running)


def finish(running: Group) -> list[int]:
    """Wait for the end of all processes and return their exit codes; after a kill none may hang."""
    killed_at = None
    while any(process.is_alive() for process in running):
        time.sleep(0.02)
        if any(process.exitcode for process in running) and killed_at is None:
            killed_at = time.monotonic()
        assert killed_at is None or time.monotonic() - killed_at < LONGEST_WAIT, "the others hang"
    return [process.exitcode for process in running]


def moment(output: Path) -> str:
    """What the training was doing, by its files."""
    # Older ones are left from an earlier kill.
    if any(time.time() - path.stat().st_mtime < 0.5 for path in output.glob("**/.*")):
        return "while a file was being written"
    lines = log_of(output).read_text().splitlines() if log_of(output).exists() else []
    steps = [line for line in lines if "epoch" in line or "R@1" in line or "resumed" in line]
    if not steps:
        return "before the first step"
    return "after an evaluation" if "R@1" in steps[-1] else "in a step, a save or an evaluation"


def compare(whole: Path, other: Path) -> None:
    """Require the same checkpoints, bit by bit."""
    names = {path.name for path in whole.glob("pytorch_model.bin.*")}
    assert names == {path.name for path in other.glob("pytorch_model.bin.*")}, names
    for name in names:
        expected, found = read_weights(whole / name), read_weights(other / name)
        differing = [key for key, tensor in expected.items() if not torch.equal(tensor, found[key])]
        assert not differing, f"{name}: {len(differing)} tensors differ, among them {differing[0]}"


if __name__ == "__main__":
    main()
