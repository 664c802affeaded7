"""Train a tiny model for thousands of steps and watch the memory and the open files of all its processes.

python -m tests.chaos.soak --steps 5000
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tests.chaos.training import command_line, start
from tests.retrieval_case import build_corpus

WARM_UP = 0.2  # share of the run after which memory must no longer grow
MOST_GROWTH = 0.02
INTERVAL = 5.0  # seconds between looks


def main() -> None:
    """Run, look, and demand that memory grew by less than 2 % and open files not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        watch(Path(folder), args.steps)


def watch(folder: Path, steps: int) -> None:
    """Train `steps` steps with evaluations, saved states and a loading process, and judge what was seen."""
    corpus = build_corpus(folder / "shapes", train=40, test=2)  # 100 steps an epoch
    words = command_line(corpus, "--epochs", steps // 100, "--n_display", 50, "--save_every", 500, "--keep", 1)
    log = folder / "log"
    started = time.monotonic()
    (process,) = start([*words, "--output_dir", str(folder / "output")], log)
    looks = []
    while process.is_alive():
        time.sleep(INTERVAL)
        if WARM_UP * steps <= last_step(log) < steps:  # at its end the processes go away while they are looked at
            looks.append((memory_of(process.pid), open_files_of(process.pid)))
            print(f"step {last_step(log)}: {looks[-1][0] / 2**20:.1f} MiB, {looks[-1][1]} open files", flush=True)
    assert process.exitcode == 0, log.read_text()
    minutes = (time.monotonic() - started) / 60
    quarter = max(len(looks) // 4, 1)
    parts = looks[:quarter], looks[-quarter:]
    (first, first_files), (last, last_files) = (
        [statistics.median(column) for column in zip(*part, strict=True)] for part in parts
    )
    growth = last / first - 1
    print(f"{steps} steps in {minutes:.1f} min, {len(looks)} looks after the first {WARM_UP:.0%}")
    print(f"memory {first / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB: {growth:+.2%}")
    print(f"open files {first_files:.0f}, then {last_files:.0f}")
    assert growth < MOST_GROWTH and last_files <= first_files


def last_step(log: Path) -> int:
    """Steps done so far, as the log tells."""
    lines = [line.split() for line in log.read_text().splitlines() if " step " in line] if log.exists() else []
    if not lines:
        return 0
    words = lines[-1]
    epoch, step, length = (int(words[words.index(name) + 1].strip(",:")) for name in ("epoch", "step", "of"))
    return (epoch - 1) * length + step


def family_of(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def memory_of(pid: int) -> int:
    """Bytes that the process and its children have for themselves alone."""
    lines = [line for one in family_of(pid) for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def open_files_of(pid: int) -> int:
    """How many files the process and its children have open."""
    return sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in family_of(pid))


if __name__ == "__main__":
    main()
