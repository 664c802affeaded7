"""The examples of docs/extending.md train and evaluate."""

import json
import re
from pathlib import Path

import pytest

import main_retrieval
from dataloaders import DATASETS
from models import METHODS
from tests.conftest import write_video
from tests.retrieval_case import build_corpus

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
SIZES = ["--max_words", "8", "--max_frames", "2", "--workers", "0", "--augment", "none", "--num_hidden_layers", "1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=2, test=2)


def train(corpus, output, *words):
    paths = ["--base_encoder", str(corpus.clip), "--output_dir", str(output), "--do_train", "1", "--epochs", "1"]
    return main_retrieval.main([*paths, *SIZES, "--batch_size", "2", *words])


def test_a_method_of_fifteen_lines_trains_and_evaluates(corpus, tmp_path):
    exec(EXAMPLES[0], {"__name__": "example"})
    try:
        data = ["--anno_path", str(corpus.annotations), "--video_path", str(corpus.videos)]
        metrics = train(corpus, tmp_path, *data, "--method", "mean")
        assert set(metrics["t2v"]) >= {"R1", "MedianR"}
        again = ["--init_model", str(next(tmp_path.glob("pytorch_model.bin.best.*"))), "--do_eval", "1"]
        evaluated = main_retrieval.main(
            [*data, *SIZES, *again, "--method", "mean", "--output_dir", str(tmp_path / "again")]
        )
        assert evaluated == metrics
    finally:
        del METHODS["mean"]


def test_a_data_set_of_one_function_trains_and_evaluates(corpus, tmp_path):
    exec(EXAMPLES[1], {"__name__": "example"})
    try:
        for split, count in (("train", 2), ("val", 2), ("test", 2)):
            rows = []
            for number in range(count):
                write_video(tmp_path / "videos" / f"{split}{number}.mp4", seconds=1, hue=number)
                rows.append(json.dumps({"video": f"{split}{number}", "caption": f"noise number {number}"}))
            (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
        data = ["--anno_path", str(tmp_path), "--video_path", str(tmp_path / "videos"), "--datatype", "lines"]
        assert train(corpus, tmp_path / "out", *data, "--teacher", "exact")["t2v"]
    finally:
        del DATASETS["lines"]
