"""Search among your own videos: index a folder once, then query it, or ask a question about one video.

python scripts/search.py index FOLDER --checkpoint pytorch_model.bin.N --index output/index
python scripts/search.py query "a red circle moves left" --index output/index
python scripts/search.py ask "what colour is the circle?" VIDEO --checkpoint output/vqa/pytorch_model.bin.N
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import load_model
from models.export import model_digest
from models.shortlist import check_shortlist
from scripts.benchmarks.measure import count
from scripts.model_arguments import add_device_arguments, add_model_arguments, model_options
from scripts.searching.build import build_index
from scripts.searching.query import SHORTLIST, Hit, VideoIndex, clock
from scripts.searching.questions import Answer, load_question_model
from scripts.searching.storage import IndexedModel, Manifest, Sampling
from utils.args import WORKERS, ArgumentParser
from utils.distributed import is_main, start
from utils.engine.builders import check_sizes
from utils.errors import InputError, printable
from utils.files import atomic_write
from utils.logger import table
from utils.run import run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    options = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}

    index = commands.add_parser("index", help="make an index of a folder, or bring it up to date", **options)
    index.add_argument("folder", type=Path, help="folder of videos, its subfolders included")
    index.add_argument("--max_words", type=count, default=32, help="tokens of a query, its ends included")
    index.add_argument("--max_frames", type=count, default=12, help="frames of a segment")
    index.add_argument("--framerate", type=count, default=1, help="frames taken from a second of video")
    index.add_argument("--segment", type=count, default=30, help="seconds of a segment; a shorter video is one")
    index.add_argument("--overlap", type=int, default=10, help="seconds that neighbouring segments share")
    index.add_argument("--workers", type=WORKERS, default=2, help="decoding processes of each process")
    add_model_arguments(index)
    add_device_arguments(index)

    query = commands.add_parser("query", help="find the segments that a sentence describes", **options)
    query.add_argument("query", help="sentence")
    query.add_argument("--top", type=count, default=10, help="segments to show")
    query.add_argument("--shortlist", type=count, default=SHORTLIST, help="segments that the interaction ranks")
    query.add_argument("--checkpoint", help="where the index's model lies now; left out: where it lay then")
    for command in (index, query):
        command.add_argument("--index", type=Path, default=Path("output/index"), help="folder of the index")

    ask = commands.add_parser("ask", help="answer a question about a video", **options)
    ask.add_argument("question", help="question")
    ask.add_argument("video", type=Path, help="file")
    ask.add_argument("--answers", help="the model's answers; left out: train_ans2label.json next to the checkpoint")
    ask.add_argument("--start", type=float, help="seconds; left out: the beginning")
    ask.add_argument("--end", type=float, help="seconds; left out: the end")
    ask.add_argument("--top", type=count, default=5, help="answers to show")
    ask.add_argument("--max_words", type=count, default=32, help="tokens of the question, its ends included")
    ask.add_argument("--max_frames", type=count, default=12, help="frames of the video")
    add_model_arguments(ask)
    add_device_arguments(ask)

    for command in (query, ask):
        command.add_argument("--json", type=Path, metavar="FILE", help="write the results here as well")
    add_device_arguments(query)
    return parser


def make_index(args: argparse.Namespace) -> None:
    """Index the folder of the command line and say what changed."""
    if not 0 <= args.overlap < args.segment:
        raise InputError(f"--overlap {args.overlap}: segments of {args.segment} s overlap by 0 to {args.segment - 1} s")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hbi").setLevel(logging.INFO)
    device = start(args.device)
    options = {**model_options(args), "checkpoint": str(Path(args.checkpoint).resolve())}
    model = load_model(**options, device=device)
    check_shortlist(model)
    check_sizes(model, args.max_words, args.max_frames)
    manifest = Manifest(
        folder=str(args.folder.resolve()),
        model=IndexedModel(**options),
        digest=model_digest(args.checkpoint),
        sampling=Sampling(**{name: getattr(args, name) for name in ("max_frames", "framerate", "segment", "overlap")}),
        max_words=args.max_words,
    )
    changes = build_index(model, args.index, manifest, args.workers)
    if is_main():
        for file, reason in changes.skipped.items():
            print(f"skipped {printable(file)}: {reason}")
        print(
            f"{args.index}: {changes.computed} videos computed, {changes.kept} kept, {changes.removed} removed, "
            f"{len(changes.skipped)} skipped"
        )


def query_index(args: argparse.Namespace) -> None:
    """Print and write the segments that the query of the command line finds."""
    index = VideoIndex(args.index, start(args.device), args.checkpoint)
    hits = index.search(args.query, top=args.top, shortlist=args.shortlist)
    rows = [[printable(hit.file), clock(hit.start), clock(hit.end), f"{hit.similarity:.3f}"] for hit in hits]
    print(table(["video", "from", "to", "similarity"], rows))
    write_results(args.json, {"query": args.query, "folder": index.manifest.folder}, hits)


def answer_question(args: argparse.Namespace) -> None:
    """Print and write the answers to the question of the command line."""
    model = load_question_model(start(args.device), args.answers, **model_options(args))
    check_sizes(model, args.max_words, args.max_frames)
    options = {name: getattr(args, name) for name in ("start", "end", "top", "max_words", "max_frames")}
    answers = [Answer(*answer) for answer in model.answer(args.question, args.video, **options)]
    print(table(["answer", "probability"], [[answer.answer, f"{answer.probability:.3f}"] for answer in answers]))
    write_results(args.json, {"question": args.question, "video": str(args.video)}, answers)


def write_results(path: Path | None, request: dict[str, str], results: Sequence[Hit] | Sequence[Answer]) -> None:
    """Write the request and the results as JSON, if a path is given.

    Raises:
        InputError: the file cannot be written.
    """
    if path is not None:
        with atomic_write(path) as file:
            json.dump({**request, "results": [asdict(result) for result in results]}, file, indent=1)


COMMANDS = {"index": make_index, "query": query_index, "ask": answer_question}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv`."""
    args = build_parser().parse_args(argv)
    COMMANDS[args.command](args)


if __name__ == "__main__":
    run(main)
