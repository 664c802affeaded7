import json
import logging
import sys
import types

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils import logger as logger_module
from utils.errors import InputError
from utils.logger import Scalars, make_logger, progress, table, write_metrics


@pytest.fixture
def second_process(monkeypatch):
    monkeypatch.setattr(logger_module, "is_main", lambda: False)


def test_log_goes_to_console_and_file_and_a_later_run_takes_over(tmp_path, capsys):
    make_logger(tmp_path / "first").info("one")
    make_logger(tmp_path / "second").info("two")
    assert (tmp_path / "first" / "log.txt").read_text().endswith(" one\n")
    assert (tmp_path / "second" / "log.txt").read_text().endswith(" two\n")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["one", "two"]


def test_the_log_of_an_earlier_run_is_kept(tmp_path):
    for word in ("one", "two"):
        make_logger(tmp_path).info(word)
    assert [line.split()[-1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]


def test_other_processes_say_and_write_nothing(tmp_path, capsys, second_process):
    logger = make_logger(tmp_path)
    logger.warning("one")
    assert list(progress(range(3), "count", logger, interval=0)) == [0, 1, 2]
    with Scalars(tmp_path / "events") as scalars:
        scalars.add({"loss": 1.0}, step=1)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_an_output_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/out: cannot be written .*--output_dir"):
        make_logger(tmp_path / "file" / "out")


def test_progress_logs_lines_with_the_time_left(tmp_path, capsys):
    logger = make_logger(tmp_path)
    assert list(progress([5, 6], "encoding", logger, interval=0)) == [5, 6]
    assert list(progress(iter("a"), "reading", logger, interval=0)) == ["a"]
    assert list(progress([7], "quick", logger)) == [7]
    lines = [line.split(maxsplit=2)[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["encoding: 1 of 2, 00:00 left", "encoding: 2 of 2, 00:00 left", "reading: 1 of ?, ? left"]


def test_progress_draws_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress([5, 6], "encoding", logging.getLogger("unused"))) == [5, 6]
    bar = capsys.readouterr().err
    assert "encoding:" in bar and "/2 [" in bar


def test_table_has_a_fixed_width():
    rows = [["zero-shot", 3.04, 12], ["HBI, exact teacher", 57.25, 1]]
    assert table(["model", "R@1", "MedianR"], rows).splitlines() == [
        "model                R@1  MedianR",
        "------------------  ----  -------",
        "zero-shot            3.0       12",
        "HBI, exact teacher  57.2        1",
    ]
    with pytest.raises(ValueError, match="zip"):
        table(["model", "R@1"], [["zero-shot"]])


def test_table_measures_letters_by_the_columns_they_take():
    rows = [["サッカー.mp4", "0:00"], ["cafe\u0301.mp4", "0:05"], ["plain.mp4", "0:10"]]
    lines = table(["video", "from"], rows).splitlines()
    assert lines[1] == "------------  ----"
    assert lines[2] == "サッカー.mp4  0:00" and lines[4] == "plain.mp4     0:10"


def test_metrics_are_strict_json_and_a_failure_keeps_the_former_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"t2v": {"R1": 50.0}})
    with pytest.raises(ValueError, match="JSON"):
        write_metrics(path, {"t2v": {"R1": float("nan")}})
    assert json.loads(path.read_text()) == {"t2v": {"R1": 50.0}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_scalars_can_be_read_back(tmp_path):
    with Scalars(tmp_path) as scalars:
        scalars.add({"loss": 2.0, "lr": 0.5}, step=1)
        scalars.add({"loss": 1.0}, step=2)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 1.0)]
    assert [(event.step, event.value) for event in events.Scalars("lr")] == [(1, 0.5)]


def test_scalars_go_to_a_client_as_well(tmp_path, monkeypatch):
    """A stand-in with the interface that wandb and trackio share."""
    calls = []
    client = types.ModuleType("wandb")
    client.init = lambda **options: calls.append(("init", options))
    client.log = lambda values, step: calls.append(("log", values, step))
    client.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, "wandb", client)
    with Scalars(tmp_path / "run" / "tensorboard", client="wandb") as scalars:
        scalars.add({"loss": 2.0}, step=3)
    assert calls == [("init", {"project": "hbi", "name": "run"}), ("log", {"loss": 2.0}, 3), ("finish",)]
