"""The flags of scripts/search.py."""

import argparse
from pathlib import Path

from scripts.benchmarks.measure import count
from scripts.model_arguments import add_device_arguments, add_model_arguments
from scripts.searching.compression import BITS
from scripts.searching.query import SHORTLIST
from scripts.searching.spans import CUTS
from utils.arguments import AMOUNT, WORKERS


def add_index_arguments(index: argparse.ArgumentParser) -> None:
    """The flags of the command index."""
    index.add_argument("folder", type=Path, help="folder of videos, its subfolders included")
    index.add_argument("--max_words", type=count, default=32, help="tokens of a query, its ends included")
    index.add_argument("--max_frames", type=count, default=12, help="frames of a segment")
    index.add_argument("--framerate", type=count, default=1, help="frames taken from a second of video")
    index.add_argument("--cut", choices=CUTS, default="windows", help="where videos are cut into segments")
    index.add_argument("--segment", type=count, default=12, help="longest segment in seconds")
    index.add_argument("--overlap", type=int, default=4, help="seconds that neighbouring windows share")
    index.add_argument("--group", type=int, default=4, help="segments that a long one covers; 0: no long ones")
    index.add_argument("--bits", type=int, choices=BITS, default=16, help="of each number of the stored tokens")
    index.add_argument("--details", type=Path, help="CSV file: video, caption, tags (with ; between), date")
    index.add_argument("--captions", metavar="CHECKPOINT", help="of main_captioning.py; describes each segment")
    index.add_argument("--rebuild", action="store_true", help="make the index again, with other options or from damage")
    index.add_argument("--watch", type=AMOUNT, metavar="SECONDS",
                       help="keep running, and update the index once a changed folder is unchanged for this long")
    index.add_argument("--workers", type=WORKERS, default=2, help="decoding processes of each process")
    add_model_arguments(index)
    add_device_arguments(index)


def add_query_arguments(query: argparse.ArgumentParser) -> None:
    """The flags of the command query."""
    query.add_argument("query", nargs="?", help="sentence; left out: those of --queries, or typed ones")
    query.add_argument("--queries", type=Path, metavar="FILE", help="a sentence in each line")
    query.add_argument("--top", type=count, default=10, help="results to show")
    query.add_argument("--skip", type=int, default=0, help="first results to leave out, as shown on earlier pages")
    query.add_argument("--where", help="condition in SQL, such as: date >= '2024-01-01' AND duration < 60")
    query.add_argument("--shortlist", type=count, default=SHORTLIST, help="segments that the method compares")
    query.add_argument("--folder", help="folder of the videos; left out: the one that was indexed")
    query.add_argument("--checkpoint", help="path of the index's model; left out: the path at indexing")
    add_device_arguments(query)
