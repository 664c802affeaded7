"""Write the built-in video corpus: moving shapes, in the file formats of MSR-VTT, ActivityNet Captions and MSRVTT-QA.

Run it as `python scripts/make_shapes.py --output data/shapes`.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.parallel import map_videos
from scripts.shapes import grammar
from scripts.shapes.questions import ask
from scripts.shapes.scene import CLASSES
from scripts.shapes.stories import Family, draw_test, draw_train
from scripts.shapes.writing import Entry, write_activitynet, write_captions, write_msrvtt, write_questions, write_video
from utils.errors import InputError
from utils.files import atomic_write, claim_folder, remove
from utils.texts import read_json


def make_corpus(
    output: Path,
    *,
    train: int = 1200,
    test: int = 200,
    captions: int = 5,
    classes: str = "all",
    seed: int = 0,
    workers: int = 2,
) -> bool:
    """Write the corpus into `output`, unless it exists, made with the same settings and code.

    Args:
        output: folder; gets `anns`, `captions`, `qa`, `MSRVTT_Videos`, `ActivityNet`, and last `made_with.json`.
        train: number of training videos, at least 1.
        test: number of test videos, at least 1; a multiple of 8 makes a quarter of each kind of hard negative.
        captions: of each training video, at least 1.
        classes: name of CLASSES that the videos show.
        seed: the same seed and counts give the same files, whatever the number of workers.
        workers: processes that render; 0 for this one.

    Returns:
        True if it was made, False if it was there.

    Raises:
        InputError: a count below 1, or the folder cannot be written.
    """
    if min(train, test, captions) < 1 or workers < 0:
        raise InputError(
            f"--train {train}, --test {test} and --captions {captions} must be 1 or more, --workers {workers} 0 or more"
        )
    settings = {
        "train": train,
        "test": test,
        "captions": captions,
        "classes": classes,
        "seed": seed,
        "code": _code_digest(),
    }
    marker = output / "made_with.json"
    if _read_settings(marker) == settings:
        return False
    claim_folder(output, "corpus", flag="--output")
    remove(marker, r"made_with\.json")
    train_entries = _entries(draw_train(seed, train, CLASSES[classes]), first=0, captions=captions, seed=seed)
    test_entries = _entries(draw_test(seed, test, CLASSES[classes]), first=train, captions=1, seed=seed)
    entries = train_entries + test_entries
    videos = output / "MSRVTT_Videos"
    paths = [videos / f"{entry.video_id}.mp4" for entry in entries]
    map_videos(write_video, paths, [entry.scene for entry in entries], workers=workers, chunksize=8)
    write_msrvtt(output / "anns", train_entries, test_entries)
    write_captions(output / "captions", train_entries, test_entries)
    write_questions(output / "qa", train_entries, test_entries)
    write_activitynet(output / "ActivityNet", videos, train_entries, test_entries)
    with atomic_write(marker) as file:
        json.dump(settings, file)
    return True


def _entries(families: Sequence[Family], *, first: int, captions: int, seed: int) -> list[Entry]:
    """Number the scenes from `first`, and find the words for each."""
    scenes = [(scene, family.subset) for family in families for scene in family.scenes]
    entries = []
    for number, (scene, subset) in enumerate(scenes, start=first):
        rng = Random(f"words {seed} {number}")
        sentences = tuple(grammar.sentence(scene, rng) for _ in range(captions))
        clauses = tuple(grammar.clauses(scene, rng))
        entries.append(Entry(f"video{number}", scene, sentences, clauses, tuple(ask(scene, rng)), subset))
    return entries


def _code_digest() -> str:
    """Digest of the code that makes the corpus."""
    folder = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for path in (Path(__file__).resolve(), *sorted((folder / "shapes").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_settings(marker: Path) -> dict | None:
    """Read the settings of a complete corpus; None if there is none."""
    try:
        return read_json(marker)
    except InputError:
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and make the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("data/shapes"), help="folder to write (%(default)s)")
    parser.add_argument("--train", type=int, default=1200, help="training videos (%(default)s)")
    parser.add_argument("--test", type=int, default=200, help="test videos (%(default)s)")
    parser.add_argument("--captions", type=int, default=5, help="captions of a training video (%(default)s)")
    parser.add_argument("--classes", choices=CLASSES, default="all", help="what videos show (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that render, 0 for none (%(default)s)")
    options = parser.parse_args(arguments)
    made = make_corpus(
        options.output,
        train=options.train,
        test=options.test,
        captions=options.captions,
        classes=options.classes,
        seed=options.seed,
        workers=options.workers,
    )
    print(f"{options.output}: " + ("made" if made else "complete already"))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"make_shapes.py: {error}")
