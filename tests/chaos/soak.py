"""Train a tiny model for thousands of steps and watch the memory and the open files of all its processes.

python -m tests.chaos.soak --steps 5000
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.training import command_line
from tests.retrieval_case import build_corpus

WARM_UP = 0.2  # share of the run after which memory must no longer grow
MOST_GROWTH = 0.02
INTERVAL = 5.0  # seconds between measurements


def main() -> None:
    """Run, and require that memory grew by less than 2 % and open files not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        watch(Path(folder), args.steps)


def watch(folder: Path, steps: int) -> None:
    """Train `steps` steps with evaluations, saved states and a loading process, and check the measurements."""
    corpus = build_corpus(folder / "shapes", train=40, test=2)  # 100 steps an epoch
    words = command_line(corpus, "--epochs", steps // 100, "--n_display", 50, "--save_every", 500, "--keep", 1)
    log = folder / "output" / "log.txt"
    started = time.monotonic()
    # Not forked: memory shared with this process would be copied on write, and look like growth.
    process = subprocess.Popen([sys.executable, "main_retrieval.py", *words, "--output_dir", str(log.parent)])
    looks = []
    while process.poll() is None:
        time.sleep(INTERVAL)
        if WARM_UP * steps <= last_step(log) < steps:  # at the end the processes disappear during a measurement
            looks.append((memory_of(process.pid), open_files_of(process.pid)))
            print(f"step {last_step(log)}: {looks[-1][0] / 2**20:.1f} MiB, {looks[-1][1]} open files", flush=True)
    assert process.returncode == 0
    minutes = (time.monotonic() - started) / 60
    quarter = max(len(looks) // 4, 1)
    first, last = (statistics.median(memory for memory, _ in part) for part in (looks[:quarter], looks[-quarter:]))
    # The minimum, as each batch in progress takes some.
    first_files, last_files = (min(files for _, files in part) for part in (looks[:quarter], looks[-quarter:]))
    growth = last / first - 1
    print(f"{steps} steps in {minutes:.1f} min, {len(looks)} looks after the first {WARM_UP:.0%}")
    print(f"memory {first / 2**20:.1f} MiB, then {last / 2**20:.1f} MiB: {growth:+.2%}")
    print(f"open files {first_files}, then {last_files}")
    assert growth < MOST_GROWTH and last_files <= first_files


def last_step(log: Path) -> int:
    """Steps done so far, by the log."""
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
    """Bytes of the process and its children, shared ones counted once."""
    lines = [line for one in family_of(pid) for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def open_files_of(pid: int) -> int:
    """Number of open files of the process and its children."""
    return sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in family_of(pid))


if __name__ == "__main__":
    main()
