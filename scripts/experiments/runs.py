"""Runs of an entry script, each in its own folder; finished ones are kept."""

import json
import math
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from scipy import stats

from utils.errors import InputError
from utils.files import atomic_write
from utils.texts import read_json

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """One run of an entry script.

    Attributes:
        folder: its --output_dir.
        words: its flags, without --output_dir and those of `needs`.
        script: the entry script.
        needs: flags that take the best checkpoint of another run, and that run's folder.
    """

    folder: Path
    words: tuple[str, ...]
    script: str = "main_retrieval.py"
    needs: Mapping[str, Path] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether all results exist."""
        return (self.folder / "metrics.json").is_file()

    def finish(self) -> dict:
        """Run or resume it unless it is finished, and return the metrics.

        Raises:
            InputError: the folder is of a run with other flags, or the run failed.
        """
        words = [*self.words]
        for flag, folder in self.needs.items():
            words += [flag, str(best_checkpoint(folder))]
        command = self.folder / "command.json"
        if command.is_file() and read_json(command) != words:
            raise InputError(f"{self.folder}: is of a run with other flags; give another --output, or remove it")
        if not self.finished:
            print(f"{self.folder}: {self.script} {shlex.join(words)}", flush=True)
            with atomic_write(command) as file:
                json.dump(words, file)
            script = [sys.executable, str(ROOT / self.script), "--output_dir", str(self.folder)]
            code = subprocess.run([*script, "--resume", "auto", *words]).returncode
            if code:
                raise InputError(f"{self.folder}: the run ended with code {code}; fix its cause, and start again")
        return read_json(self.folder / "metrics.json")


def finish_all(runs: Sequence[Run], jobs: int) -> None:
    """Finish runs in order, `jobs` at a time; a run starts after those that it needs."""
    waiting, running = list(runs), {}
    unfinished = {run.folder for run in runs}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            ready = [run for run in waiting if unfinished.isdisjoint(run.needs.values())]
            for run in ready[: jobs - len(running)]:
                running[pool.submit(run.finish)] = run
                waiting.remove(run)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                unfinished.remove(running.pop(future).folder)
                future.result()


def submit_all(runs: Sequence[Run], folder: Path, settings: Mapping[str, str | int]) -> None:
    """Finish runs as job arrays by submitit: one array of runs without needs, then one of those that need them.

    Args:
        runs: in an order in which needed runs come first.
        folder: for the scripts and logs of the jobs.
        settings: of submitit's AutoExecutor, such as slurm_partition; "cluster" chooses another than Slurm.
    """
    import submitit  # slow to import, and only needed on clusters

    settings = dict(settings)
    executor = submitit.AutoExecutor(folder=folder, cluster=settings.pop("cluster", None))
    executor.update_parameters(**settings)
    depth: dict[Path, int] = {}
    for run in runs:
        depth[run.folder] = max((depth[need] + 1 for need in run.needs.values()), default=0)
    for level in range(max(depth.values(), default=-1) + 1):
        jobs = executor.map_array(Run.finish, [run for run in runs if depth[run.folder] == level])
        for job in jobs:
            job.result()


def best_checkpoint(folder: Path) -> Path:
    """The best checkpoint of a finished run."""
    return next(folder.glob("pytorch_model.bin.best.*"))


def mean_and_interval(values: Sequence[float]) -> dict:
    """The mean, and half the width of its 95 % interval by Student's t; 0 for a single value."""
    interval = 0.0
    if len(values) > 1:
        interval = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.mean(values), "interval": float(interval), "values": list(values)}
