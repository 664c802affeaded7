"""The table over several runs."""

import json

import pytest

from scripts.compare_runs import main
from utils.errors import InputError


def write_run(folder, r1, subsets, **more):
    figures = {"R1": r1, "R5": 50.0, "R10": 60.0, "R50": 90.0, "MedianR": 3.0, "MeanR": 7.0}
    metrics = {"t2v": figures, "v2t": figures | {"R1": r1 + 1}, "subsets": {name: figures for name in subsets}, **more}
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_one_row_a_run(tmp_path, capsys):
    write_run(tmp_path / "a", 10.0, ["action"])
    write_run(tmp_path / "b", 20.0, [], run={"captions": 4, "captions_left_out": 996, "checkpoint": None})
    main([f"first={tmp_path / 'a'}", f"second run={tmp_path / 'b'}", "--output", str(tmp_path / "table.json")])
    header, _, first, second = capsys.readouterr().out.splitlines()
    assert "R1 action negatives" in header
    assert first.split() == ["first", "-", "10.0", "50.0", "60.0", "3.0", "10.0", "11.0"]
    assert second.split()[2:] == ["4", "of", "1000", "captions", "20.0", "50.0", "60.0", "3.0", "-", "21.0"]
    assert json.loads((tmp_path / "table.json").read_text())["first"]["t2v"]["R1"] == 10.0


def test_metrics_with_a_byte_order_mark(tmp_path, capsys):
    write_run(tmp_path / "run", 10.0, [])
    metrics = tmp_path / "run" / "metrics.json"
    metrics.write_text(metrics.read_text(), encoding="utf-8-sig")
    main([f"name={tmp_path}/run"])
    assert "name" in capsys.readouterr().out


@pytest.mark.parametrize("run", ["no_name", "name=absent"])
def test_a_run_that_is_not_there(run):
    with pytest.raises(InputError):
        main([run])


def test_runs_of_question_answering_have_a_table_of_their_own(tmp_path, capsys):
    write_run(tmp_path / "retrieval", 10.0, [])
    figures = {"questions": 9, "top1": 70.0, "top5": 90.0, "majority": 30.0}
    for name, kinds in (("both", ("total", "what", "who")), ("one", ("total", "what"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({kind: {"all": figures} for kind in kinds}))
    main([f"{name}={tmp_path / name}" for name in ("retrieval", "both", "one")])
    retrieval, answers = capsys.readouterr().out.split("\n\n")
    assert retrieval.startswith("text to video") and "both" not in retrieval
    assert answers.splitlines()[-1].split() == ["one", "-", "70.0", "90.0", "70.0", "-", "30.0"]


def test_captioning_runs_have_a_table_with_what_the_captions_tell(tmp_path, capsys):
    for name in ("plain", "told"):
        (tmp_path / name).mkdir()
        metrics = {"captions": {"BLEU4": 30.0, "CIDEr": 90.0}, "videos": 8, "run": {"videos": 8, "videos_left_out": 0}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "told" / "stories.json").write_text(json.dumps({"things": 87.5}))
    main([f"{name}={tmp_path / name}" for name in ("plain", "told")])
    header, _, plain, told = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["captions", "used", "BLEU4", "CIDEr"] and "right things" in header
    assert plain.split() == ["plain", "8", "videos", "30.0", "90.0", "-"]
    assert told.split() == ["told", "8", "videos", "30.0", "90.0", "87.5"]
