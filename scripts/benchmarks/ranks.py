"""Evaluation by several processes: similarities of random tokens, ranks, predictions and the saved matrix."""

import tempfile
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from models import CLIP, HBI, CLIPConfig, Tokens
from scripts.benchmarks.measure import Row, count
from scripts.benchmarks.model import ragged_mask
from utils.distributed import stop
from utils.engine.ranking import find_best, rank_split, write_similarity


def add_arguments(parser: ArgumentParser) -> None:
    """Sizes and processes."""
    parser.add_argument("--texts", type=count, default=20_000, help="captions")
    parser.add_argument("--videos", type=count, default=20_000, help="clips")
    parser.add_argument("--words", type=count, default=8, help="positions of a caption")
    parser.add_argument("--frames", type=count, default=4, help="positions of a clip")
    parser.add_argument("--width", type=count, default=64, help="of a token, a multiple of 64")
    parser.add_argument("--processes", type=count, default=4, help="with gloo, on this machine")


@dataclass(frozen=True)
class Case:
    """The command line; see `add_arguments`."""

    texts: int
    videos: int
    words: int
    frames: int
    width: int
    processes: int


def measure(**options: int) -> list[Row]:
    """Seconds of evaluation, and the peak memory of all processes together, libraries included."""
    case, peak = Case(**options), 0
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        arguments = case, Path(folder)
        context = mp.start_processes(_evaluate, arguments, case.processes, join=False, start_method="forkserver")
        while not context.join(timeout=0.05):
            peak = max(peak, sum(map(_memory, context.pids())))
        seconds = time.perf_counter() - began
        size = (Path(folder) / "similarity.npy").stat().st_size
    name = f"{case.texts} x {case.videos}, processes: {case.processes}"
    return [{"case": name, "s": seconds, "matrix MB": size / 2**20, "MB of all": peak / 2**20}]


def _memory(process: int) -> int:
    """Bytes of a process; shared memory counts in proportion."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@torch.no_grad()
def _evaluate(rank: int, case: Case, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=case.processes)
    torch.manual_seed(0)
    model = HBI(CLIP(CLIPConfig(16, 8, 64, 1, case.width, 1, case.width, vocabulary=90)), temporal=None).eval()
    own = len(range(rank, case.texts, case.processes))

    def tokens(number: int, positions: int) -> Tokens:
        return Tokens(torch.randn(number, positions, case.width), ragged_mask(number, positions, 1))

    sim = model.similarity(tokens(own, case.words), tokens(case.videos, case.frames))
    owner = torch.arange(case.texts) * case.videos // case.texts
    ranking = rank_split(sim, (sim, sim), owner, {})
    find_best(ranking, owner, lambda clips: [])
    write_similarity(folder / "similarity.npy", sim)
    stop()
