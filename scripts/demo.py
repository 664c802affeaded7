"""A web page to search videos, inspect interactions and ask questions: `python scripts/demo.py`.

Without arguments it uses the models of scripts/quickstart.sh, and indexes the quickstart's videos.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.benchmarks.measure import count
from scripts.model_arguments import add_device_arguments
from scripts.search import main as search
from scripts.searching.captions import Captioner
from scripts.searching.query import VideoIndex
from scripts.searching.questions import load_question_model
from utils.distributed import start
from utils.errors import InputError
from utils.run import run

QUICKSTARTS = {Path("output/quickstart"): Path("data/shapes"), Path("output/quickstart-fast"): Path("data/shapes-fast")}
"""Output folder -> data folder."""
QUICKSTART_MODEL = ("--recipe", "corrected", "--rate", "0.4", "0.3", "0.3", "--max_words", "24")
QUICKSTART_QUERIES = (
    "a big red circle moves left, then it spins",
    "a small blue star bounces and then it turns green",
    "a big pink ring grows, and then a small white cross leaves",
)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, help="folder that scripts/search.py index made (the quickstart's videos)")
    parser.add_argument("--checkpoint", help="path of the index's model (the path at indexing)")
    parser.add_argument("--questions", help="checkpoint of a model that answers questions (the quickstart's, if any)")
    parser.add_argument("--answers", help="the answers of that model (train_ans2label.json next to it)")
    parser.add_argument("--captions", help="checkpoint of a model that describes results (the quickstart's, if any)")
    parser.add_argument("--recipe", choices=("released", "corrected"), default="corrected",
                        help="of the model that answers questions")
    parser.add_argument("--examples", nargs="*", default=QUICKSTART_QUERIES, metavar="QUERY",
                        help="queries to click on (some for the quickstart's videos)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s, this machine alone)")
    parser.add_argument("--port", type=count, default=7860, help="port to listen at (%(default)s)")
    add_device_arguments(parser)
    return parser


def index_quickstart() -> Path:
    """Bring the index of the quickstart's videos up to date, and return its folder.

    Raises:
        InputError: the quickstart has not been run.
    """
    for output, data in QUICKSTARTS.items():
        if checkpoint := best_checkpoint(output / "hbi_exact"):
            index = output / "index"
            words = [str(data / "MSRVTT_Videos"), "--checkpoint", checkpoint, "--index", str(index)]
            search(["index", *words, *QUICKSTART_MODEL])
            return index
    raise InputError(
        f"{next(iter(QUICKSTARTS))}: no model is there; run bash scripts/quickstart.sh, or give an --index that "
        "scripts/search.py index made"
    )


def best_checkpoint(folder: Path) -> str | None:
    """The best checkpoint of a training run, None if there is none."""
    return next(map(str, sorted(folder.glob("pytorch_model.bin.best.*"))), None)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted."""
    args = build_parser().parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        raise InputError("gradio is not installed: run pip install -r requirements-demo.txt")
    path, device = args.index or index_quickstart(), start(args.device)
    checkpoint = args.questions or best_checkpoint(path.parent / "vqa")
    questions = checkpoint and load_question_model(device, args.answers, checkpoint=checkpoint, recipe=args.recipe)
    captions = args.captions or best_checkpoint(path.parent / "captions")
    captioner = Captioner.load(captions, device) if captions else None
    os.umask(0o077)  # visitors' files are readable by this user alone
    with tempfile.TemporaryDirectory(prefix="hbi_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # which gradio reads when it is imported
        # Slow to import, and installed for the demo alone.
        import uvicorn

        from scripts.webdemo.explorer import Explorer
        from scripts.webdemo.playback import Converter
        from scripts.webdemo.protection import Protection
        from scripts.webdemo.serving import build_app
        from scripts.webdemo.uploads import Uploads

        uploads, converter = Uploads(Path(folder, "uploads")), Converter(Path(folder, "converted"))
        open_index = partial(VideoIndex, path, device, args.checkpoint)
        explorer = Explorer(open_index, uploads, questions or None, captioner)
        app = Protection(build_app(explorer, converter, args.examples), args.host)
        address = f"http://{args.host}:{args.port}" + (f"/?token={app.token}" if app.token else "")
        print(f"{explorer.size} at {address} (Ctrl-C ends it)")
        uvicorn.run(app, host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    run(main)
