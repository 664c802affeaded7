"""Search your own videos: index a folder once, then query it; ask a question about one video, or describe it.

python scripts/search.py index FOLDER --checkpoint pytorch_model.bin.N --index output/index
python scripts/search.py query "a red circle moves left" --index output/index
python scripts/search.py query --index output/index                                  # prompts for queries
python scripts/search.py ask "what colour is the circle?" VIDEO --checkpoint output/vqa/pytorch_model.bin.N
python scripts/search.py describe VIDEO --checkpoint output/captions/pytorch_model.bin.N
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import RetrievalMethod, load_model
from models.export import model_digest
from scripts.benchmarks.measure import count
from scripts.describe import add_describe_arguments, describe_video
from scripts.model_arguments import add_device_arguments, add_model_arguments, model_options
from scripts.searching.about import IndexedModel, Manifest, Sampling
from scripts.searching.arguments import add_index_arguments, add_query_arguments
from scripts.searching.build import build_index
from scripts.searching.captions import Captioner
from scripts.searching.details import read_details
from scripts.searching.query import VideoIndex, clock
from scripts.searching.questions import Answer, load_question_model
from scripts.searching.watch import changes
from utils.arguments import ArgumentParser
from utils.distributed import is_main, start
from utils.engine.builders import check_sizes
from utils.errors import InputError, printable
from utils.files import atomic_write
from utils.logger import table
from utils.run import run
from utils.texts import read_text


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    options = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    index = commands.add_parser("index", help="make or update an index of a folder", **options)
    add_index_arguments(index)
    query = commands.add_parser("query", help="find the segments that a sentence describes", **options)
    add_query_arguments(query)
    for command in (index, query):
        command.add_argument("--index", default="output/index", help="folder of the index, or address as s3://...")

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

    add_describe_arguments(commands.add_parser("describe", help="say what happens in a video", **options))
    for command in (query, ask):
        command.add_argument("--json", type=Path, metavar="FILE", help="write the results here as well")
    return parser


def make_index(args: argparse.Namespace) -> None:
    """Index the folder of the command line and print the changes."""
    if not 0 <= args.overlap < args.segment:
        raise InputError(f"--overlap {args.overlap}: segments of {args.segment} s overlap by 0 to {args.segment - 1} s")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hbi").setLevel(logging.INFO)
    device = start(args.device)
    model = load_model(**model_options(args), device=device)
    check_sizes(model, args.max_words, args.max_frames)
    captioner = Captioner.load(args.captions, device) if args.captions else None
    names = ("max_frames", "framerate", "cut", "segment", "overlap", "group")
    manifest = Manifest(
        folder=str(args.folder.resolve()),
        model=IndexedModel.of(model, args.checkpoint, args.base_encoder),
        digest=model_digest(args.checkpoint),
        sampling=Sampling(**{name: getattr(args, name) for name in names}),
        max_words=args.max_words,
        bits=args.bits,
        captions=captioner and captioner.digest,
    )
    update_index(model, manifest, args, captioner, rebuild=args.rebuild)
    if args.watch:
        for _ in changes(args.folder, args.watch):
            update_index(model, manifest, args, captioner)


def update_index(
    model: RetrievalMethod,
    manifest: Manifest,
    args: argparse.Namespace,
    captioner: Captioner | None = None,
    *,
    rebuild: bool = False,
) -> None:
    """Update the index of the command line and print the changes."""
    details = None if args.details is None else read_details(args.details)
    options = {"details": details, "captioner": captioner, "rebuild": rebuild}
    changed = build_index(model, args.index, manifest, args.workers, **options)
    if is_main():
        for file, reason in changed.skipped.items():
            print(f"skipped {printable(file)}: {reason}")
        counts = {name: getattr(changed, name) for name in ("computed", "kept", "moved", "removed")}
        counts["skipped"] = len(changed.skipped)
        print(f"{args.index}: {counts.pop('computed')} videos computed, "
              f"{', '.join(f'{number} {name}' for name, number in counts.items())}", flush=True)  # fmt: skip


def query_index(args: argparse.Namespace) -> None:
    """Print and write the segments that the queries of the command line find."""
    index = VideoIndex(args.index, start(args.device), args.checkpoint, args.folder)
    found, described = [], index.manifest.captions is not None
    for query in queries(args):
        hits = index.search(query, top=args.top, shortlist=args.shortlist, skip=args.skip, where=args.where)
        rows = [
            [printable(hit.file), clock(hit.start), clock(hit.end), clock(hit.begin), f"{hit.similarity:.3f}"]
            + [hit.description] * described
            for hit in hits
        ]
        if args.query is None:
            print(f"\n{printable(query)}")
        print(table(["video", "from", "to", "match at", "similarity"] + ["description"] * described, rows))
        found.append({"query": query, "folder": index.manifest.folder, "results": list(map(asdict, hits))})
    write_results(args.json, found if args.query is None else found[0])


def queries(args: argparse.Namespace) -> Iterator[str]:
    """The sentence of the command line, those of its file, or typed ones until an empty line."""
    if args.query is not None:
        yield args.query
    elif args.queries is not None:
        yield from filter(str.strip, read_text(args.queries).splitlines())
    else:
        with suppress(EOFError):
            while query := input("search for: ").strip():
                yield query


def answer_question(args: argparse.Namespace) -> None:
    """Print and write the answers to the question of the command line."""
    model = load_question_model(start(args.device), args.answers, **model_options(args))
    check_sizes(model, args.max_words, args.max_frames)
    options = {name: getattr(args, name) for name in ("start", "end", "top", "max_words", "max_frames")}
    answers = [Answer(*answer) for answer in model.answer(args.question, args.video, **options)]
    print(table(["answer", "probability"], [[answer.answer, f"{answer.probability:.3f}"] for answer in answers]))
    written = {"question": args.question, "video": str(args.video), "results": list(map(asdict, answers))}
    write_results(args.json, written)


def write_results(path: Path | None, results: Any) -> None:
    """Write results as JSON, if a path is given.

    Raises:
        InputError: the file cannot be written.
    """
    if path is not None:
        with atomic_write(path) as file:
            json.dump(results, file, indent=1)


COMMANDS = {"index": make_index, "query": query_index, "ask": answer_question, "describe": describe_video}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv`."""
    args = build_parser().parse_args(argv)
    COMMANDS[args.command](args)


if __name__ == "__main__":
    run(main)
