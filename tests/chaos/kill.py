"""Kill a short training at random moments, resume it each time, and compare its weights with an undisturbed run's.

python -m tests.chaos.kill --kills 20 --processes 2
"""

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from tests.chaos.training import command_line, start
from tests.retrieval_case import build_corpus
from utils.checkpoint import read_weights

LONGEST_WAIT = 60  # seconds in which the others must end after one process was killed


def main() -> None:
    """Kill until there were enough kills and the last training has come to its end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), args.kills, args.processes, random.Random(args.seed))


def check(folder: Path, kills: int, processes: int, draw: random.Random) -> None:
    """Train undisturbed, then with kills, and compare; a training that ends before its kill is followed by another."""
    words = command_line(build_corpus(folder / "shapes", train=2, test=2), "--save_every", 1, "--resume", "auto")
    started = time.monotonic()
    codes = finish(start([*words, "--output_dir", str(folder / "whole")], folder / "whole.log", processes))
    assert not any(codes), (folder / "whole.log").read_text()
    duration = time.monotonic() - started
    print(f"undisturbed: {duration:.1f} s", flush=True)
    moments, slowest, trainings = Counter(), 0.0, 0
    while sum(moments.values()) < kills:
        trainings += 1
        output = folder / f"killed{trainings}"
        killed = True
        while killed:
            log = folder / f"killed{trainings}.log"
            running = start([*words, "--output_dir", str(output)], log, processes)
            killed = sum(moments.values()) < kills and wait(running, draw.uniform(0, duration))
            if killed:
                draw.choice(running).kill()
                moments[moment(output, log)] += 1
                killed_at = time.monotonic()
            codes = finish(running)
            if killed:
                slowest = max(slowest, time.monotonic() - killed_at)
            else:
                assert not any(codes), log.read_text()
        compare(folder / "whole", output)
        shutil.rmtree(output)
    print(f"{kills} kills of {processes} processes in {trainings} trainings: weights bit-identical")
    print(", ".join(f"{number} {name}" for name, number in moments.most_common()))
    print(f"the others ended {slowest:.1f} s after a kill at the latest", flush=True)


def wait(running: list, seconds: float) -> bool:
    """Wait, and tell whether all processes are still there."""
    time.sleep(seconds)
    return all(process.is_alive() for process in running)


def finish(running: list) -> list[int]:
    """Wait for the end of all processes and return their exit codes; after a kill none may hang."""
    killed_at = None
    while any(process.is_alive() for process in running):
        time.sleep(0.02)
        if any(process.exitcode for process in running) and killed_at is None:
            killed_at = time.monotonic()
        assert killed_at is None or time.monotonic() - killed_at < LONGEST_WAIT, "the others hang"
    return [process.exitcode for process in running]


def moment(output: Path, log: Path) -> str:
    """What the training was doing, as far as its files tell."""
    if list(output.glob("**/.*")):
        return "while a file was being written"
    lines = log.read_text().splitlines() if log.exists() else []
    steps = [line for line in lines if "epoch" in line or "R@1" in line or "resumed" in line]
    if not steps:
        return "before the first step"
    return "after an evaluation" if "R@1" in steps[-1] else "in a step, a save or an evaluation"


def compare(whole: Path, other: Path) -> None:
    """Demand the same checkpoints, with the same bits."""
    names = {path.name for path in whole.glob("pytorch_model.bin.*")}
    assert names == {path.name for path in other.glob("pytorch_model.bin.*")}, names
    for name in names:
        expected, found = read_weights(whole / name), read_weights(other / name)
        differing = [key for key, tensor in expected.items() if not torch.equal(tensor, found[key])]
        assert not differing, f"{name}: {len(differing)} tensors differ, among them {differing[0]}"


if __name__ == "__main__":
    main()
