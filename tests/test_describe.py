"""scripts/describe.py prints and draws the model's results."""

import json

import pytest

from scripts.describe import main, most_attended
from scripts.figures.caption import caption_figure
from scripts.search import main as search
from tests.caption_case import save_captioner
from utils.errors import InputError

SIZES = ["--max_words", "8", "--max_frames", "4", "--beams", "2"]


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    path = tmp_path_factory.mktemp("captioner") / "pytorch_model.bin.0"
    return save_captioner(path), path


def test_words_are_printed_with_probability_and_frames(captioner, video_file, tmp_path, capsys):
    model, path = captioner
    words = [str(video_file), "--checkpoint", str(path), *SIZES]
    main([*words, "--figure", f"{tmp_path}/caption.png", "--json", f"{tmp_path}/caption.json"])
    said = model.describe(video_file, beams=2, max_words=8, max_frames=4)
    printed = capsys.readouterr().out
    search(["describe", *words])
    assert capsys.readouterr().out + f"{tmp_path}/caption.png\n" == printed
    lines = printed.splitlines()
    assert lines[0] == said.caption and len(lines) == len(said.words) + 4
    assert f"{said.words[0].probability:.3f}" in lines[3] and most_attended(said.words[0], said) in lines[3]
    written = json.loads((tmp_path / "caption.json").read_text())
    assert written["caption"] == said.caption and written["frames"] == said.frames
    assert (tmp_path / "caption.png").stat().st_size > 1000


def test_the_figure_has_a_map_a_level(captioner, video_file):
    said = captioner[0].describe(video_file, beams=2, max_words=8, max_frames=4)
    figure = caption_figure(said)
    maps = {axes.get_title(): axes.images[0].get_array() for axes in figure.axes if axes.get_title()}
    assert [values.shape for values in maps.values()] == [(len(said.words), tokens) for tokens in (3, 1, 1)]
    for level, values in maps.items():
        assert values[0, 0] == said.words[0].attention[level][0]


def test_a_checkpoint_without_decoder(checkpoint, video_file):
    with pytest.raises(InputError, match=r"bin\.0: has no caption decoder; give a checkpoint of main_captioning\.py"):
        main([str(video_file), "--checkpoint", str(checkpoint)])
