"""The figures show the model's results, and nothing overlaps."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.transforms import Bbox

from dataloaders.clips import read_clip
from models import CLIP, METHODS
from models.tokenizer import Tokenizer
from scripts.figures.curves import curves_figure, panels, read_scalars
from scripts.figures.heatmap import frame_ranges, heatmap_figure
from scripts.figures.hierarchy import hierarchy_figure
from scripts.figures.view import look
from scripts.figures.words import join_words, split_pieces
from scripts.plot_run import main as plot_run
from scripts.visualize import main as visualize
from tests.conftest import SMALL, write_video
from utils.errors import InputError
from utils.logger import Scalars
from utils.video.transforms import ClipTransform

SHORT = "a skateboarder photoshops $5 and costs $6"
LONG = " ".join([SHORT, "while", *["the", "extraordinarily", "long", "road", "of", "a", "handrail"] * 9])
SIZES = {"short": (SHORT, 32, 12, 4), "long": (LONG, 64, 64, 10)}


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "long.mp4", seconds=7)


def view_of(model, video, size="short", **options):
    caption, max_words, max_frames, framerate = SIZES[size]
    return look(model, caption, video, max_words=max_words, max_frames=max_frames, framerate=framerate, **options)


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def lines_of(axes, name):
    return next(lines for lines in axes.collections if lines.get_gid() == f"interaction {name}")


@pytest.mark.parametrize("exact", [False, True])
def test_lines_carry_the_interactions_of_the_model(model, video_file, exact):
    view = view_of(model, video_file, exact=exact)
    text = model.encode_text([SHORT], max_words=32)
    video = model.encode_video([video_file], max_frames=12, framerate=4)
    levels = model.interactions(text, video, exact=exact)
    figure = drawn(hierarchy_figure(view))
    for axes, band, level in zip(figure.axes, view.bands, levels, strict=True):
        assert (axes.get_label(), band.sim) == (level.name, pytest.approx(level.sim.item(), abs=1e-6))
        lines = lines_of(axes, level.name)
        segments, values = np.array(lines.get_segments()), np.array(lines.get_array())
        xs, ys = (np.unique(segments[:, end, 0].round(6)) for end in (0, 1))
        # The leftmost player is the one with the first token, and so on.
        text_index, video_index = level.text.index[0].tolist(), level.video.index[0].tolist()
        words = list(dict.fromkeys(text_index[: int(text[1].sum())]))
        frames = list(dict.fromkeys(video_index[: int(video[1].sum())]))
        assert len(xs) == len(words) and len(ys) == len(frames) and len(values) == len(words) * len(frames)
        for (start, end), value, colour in zip(segments, values, lines.get_edgecolor(), strict=True):
            word, frame = words[np.abs(xs - start[0]).argmin()], frames[np.abs(ys - end[0]).argmin()]
            assert value == pytest.approx(level.interaction[0, word, frame].item(), abs=1e-6)
            assert colour == pytest.approx(to_rgba(lines.cmap(lines.norm(value))))
        strength = np.abs(values) if exact else values
        assert (np.diff(strength) >= 0).all() and (np.diff(lines.get_linewidth()) >= 0).all()
        assert lines.get_linewidth()[-1] > lines.get_linewidth()[0]
        assert lines.colorbar.norm is lines.norm and lines.colorbar.cmap is lines.cmap


@pytest.mark.parametrize("max_frames", [12, 20])
def test_clusters_partition_words_and_frames(model, video_file, max_frames):
    view = look(model, SHORT, video_file, max_frames=max_frames, framerate=4)
    assert len(view.frames) == min(max_frames, 15)
    for number, band in enumerate(view.bands):
        assert sorted(token for player in band.words for token in player) == list(range(len(view.pieces)))
        assert sorted(frame for player in band.frames for frame in player) == list(range(len(view.frames)))
        assert band.interaction.shape == (len(band.words), len(band.frames))
        assert [player[0] for player in band.words] == sorted(player[0] for player in band.words)
        if number:
            assert len(band.words) <= len(view.bands[number - 1].words)


@pytest.mark.parametrize("exact", [False, True])
def test_heat_maps_hold_the_interactions(model, video_file, exact):
    view = view_of(model, video_file, exact=exact)
    for axes, band in zip(drawn(heatmap_figure(view)).axes, view.bands, strict=True):
        (image,) = axes.images
        assert np.array_equal(image.get_array(), band.interaction)
        assert len(axes.get_yticklabels()) == len(band.words) and len(axes.get_xticklabels()) == len(band.frames)


@pytest.mark.parametrize("size", SIZES)
def test_thumbnails_are_the_frames_the_model_saw_in_order(model, long_video, size):
    view = view_of(model, long_video, size)
    _, _, max_frames, framerate = SIZES[size]
    frames = read_clip(long_video, ClipTransform(SMALL.resolution), max_frames=max_frames, framerate=framerate)
    assert len(frames) == max_frames
    axes = hierarchy_figure(view).axes
    by_place = sorted(axes[0].images, key=lambda image: sum(image.get_extent()[:2]))
    for image, frame in zip(by_place, frames, strict=True):
        assert np.array_equal(image.get_array(), frame.permute(1, 2, 0))
    for level in axes:
        for image in level.images:
            number = int(image.get_label().removeprefix("frame ")) - 1
            assert np.array_equal(image.get_array(), frames[number].permute(1, 2, 0))


def overlaps(extents):
    """Pairs of extents that share more than half a pixel each way."""
    low, high = np.array([box.min for box in extents]), np.array([box.max for box in extents])
    shared = np.minimum(high[:, None], high).astype(float) - np.maximum(low[:, None], low)
    return np.argwhere(np.triu(shared.min(axis=-1) > 0.5, k=1)).tolist()


@pytest.mark.parametrize("size", SIZES)
def test_no_label_covers_another_or_leaves_the_figure(model, long_video, size):
    figure = drawn(hierarchy_figure(view_of(model, long_video, size)))
    page = figure.bbox.padded(1)
    for axes in figure.axes:
        scale_labels = [label for child in axes.child_axes for label in child.get_xticklabels()]
        artists = [*axes.texts, *axes.images, *scale_labels]
        extents = [artist.get_window_extent() for artist in artists]
        assert len(axes.images) == SIZES[size][2]
        assert all(page.containsx(x) and page.containsy(y) for box in extents for x, y in box.corners())
        assert not overlaps(extents)


@pytest.mark.parametrize("size", SIZES)
def test_labels_of_heat_maps_do_not_overlap(model, long_video, size):
    for axes in drawn(heatmap_figure(view_of(model, long_video, size))).axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert not overlaps([label.get_window_extent() for label in labels])


def test_overlaps_are_found():
    assert overlaps([Bbox([[0, 0], [2, 2]]), Bbox([[2, 0], [3, 2]]), Bbox([[1, 1], [4, 4]])]) == [[0, 2], [1, 2]]


def test_pieces_join_to_words():
    tokenizer = Tokenizer()
    ids, mask = tokenizer(["Skateboarders 🤸 photoshop"], 32)
    pieces = split_pieces(tokenizer, ids[mask.bool()].tolist())
    everything = join_words(pieces, range(len(pieces)))
    assert [word.label for word in everything] == ["start", "skateboarders", "🤸", "photoshop", "end"]
    assert [word.special for word in everything] == [True, False, False, False, True]
    assert [token for word in everything for token in word.tokens] == list(range(len(pieces)))
    first, *inner, last = everything[1].tokens
    assert [word.label for word in join_words(pieces, [0, first])] == ["start", "skate-"]
    assert join_words(pieces, [last])[0].label.startswith("-")


def test_a_cut_word_says_so():
    tokenizer = Tokenizer()
    ids, mask = tokenizer(["skateboarders"], 3)
    words = join_words(split_pieces(tokenizer, ids[mask.bool()].tolist()), range(3))
    assert [word.label for word in words] == ["start", "skate-", "end"]


def test_frame_ranges():
    assert frame_ranges((0, 1, 2, 5, 7, 8)) == "1-3, 6, 8-9"


def test_command_line_writes_every_format(checkpoint, video_file, tmp_path):
    heads = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for ending, head in heads.items():
        figure, heat = tmp_path / f"figure.{ending}", tmp_path / f"heat.{ending}"
        argv = ["--video", video_file, "--caption", SHORT, "--checkpoint", checkpoint, "--output", figure]
        argv += ["--heatmap", heat, "--device", "cpu", "--interaction", "exact", "--max_words", "12"]
        visualize(list(map(str, argv)))
        assert figure.read_bytes().startswith(head) and heat.read_bytes().startswith(head)
    assert {path.suffix for path in tmp_path.iterdir()} == {f".{ending}" for ending in heads}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--output", "figure.bmp"], "no format"),
        (["--max_words", "78"], "77 positions"),
        (["--max_frames", "78"], "77 positions"),
        (["--max_words", "1"], "give 2 to 77"),
        (["--video", "missing.mp4"], "missing.mp4"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_wrong_input_is_refused_in_one_line(checkpoint, video_file, tmp_path, flags, says):
    argv = ["--video", video_file, "--caption", SHORT, "--checkpoint", checkpoint, "--output", tmp_path / "figure.png"]
    with pytest.raises(InputError, match=says) as error:
        visualize([*map(str, argv), *flags])
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("method", "options"), [("drl", {"interaction": "wti"}), ("diffusionret", {})])
def test_words_and_frames_of_other_methods_are_one_level(method, options, video_file, tmp_path):
    torch.manual_seed(0)
    model = METHODS[method](CLIP(SMALL), temporal_layers=1, **options).eval()
    view = view_of(model, video_file, exact=True)
    text = model.encode_text([SHORT], max_words=32)
    video = model.encode_video([video_file], max_frames=12, framerate=4)
    (band,) = view.bands
    assert band.name == "tokens" and band.sim == pytest.approx(model.similarity(text, video).item(), abs=1e-5)
    assert band.interaction.shape == (int(text[1].sum()), int(video[1].sum()))
    (axes,) = (axes for axes in drawn(hierarchy_figure(view)).axes if axes.get_label() == "tokens")
    assert len(lines_of(axes, "tokens").get_segments()) == band.interaction.size
    with pytest.raises(InputError, match="has no estimator of the interaction; give --interaction exact"):
        view_of(model, video_file)


@pytest.mark.parametrize(
    ("method", "options"), [("clip4clip", {}), ("drl", {"interaction": "dp"}), ("emcl", {}), ("dicosa", {"center": 4})]
)
def test_methods_without_words_and_frames_have_no_figure(method, options, video_file, tmp_path):
    METHODS[method](CLIP(SMALL), temporal_layers=1, **options).save_pretrained(tmp_path / "model")
    argv = ["--video", video_file, "--caption", SHORT, "--checkpoint", tmp_path / "model"]
    with pytest.raises(InputError, match="compares pooled features or whole pairs, not words with frames"):
        visualize([*map(str, argv), "--output", str(tmp_path / "a.png"), "--interaction", "exact"])


@pytest.fixture
def training_run(tmp_path):
    with Scalars(tmp_path / "tensorboard") as scalars:
        for step in (1, 2, 5):
            scalars.add({"loss": 3 / step, "entity.ce_t2v": 2 / step, "kl_t2v_action_entity": 1 / step}, step)
        scalars.add({"score": 40.0}, 5)
    return tmp_path


def test_curves_show_the_scalars_of_a_run(training_run):
    curves = read_scalars(training_run)
    assert list(panels(curves)) == ["loss", "score", "entity", "between levels"]
    figure = drawn(curves_figure(curves))
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(panels(curves))
    for axes, value in zip(figure.axes, (3, None, 2, 1), strict=True):
        (line,) = axes.lines
        steps = [5] if value is None else [1, 2, 5]
        assert line.get_xdata() == pytest.approx(steps)
        assert line.get_ydata() == pytest.approx([40] if value is None else [value / step for step in steps])


def test_curves_have_no_empty_panels_and_named_axes():
    curves = {"loss": [(1, 3.0), (2, 2.0)], "score": [(2, 40.0)], "entity.ce_t2v": [(1, 2.0), (2, 1.0)]}
    figure = drawn(curves_figure(curves))
    assert len(figure.axes) == len(curves) and all(axes.lines for axes in figure.axes)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "score", "loss term"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}


def test_a_letter_that_the_font_lacks_is_no_page_of_warnings(checkpoint, video_file, tmp_path):
    words = ["--video", video_file, "--caption", "サッカー", "--checkpoint", checkpoint, "--output", tmp_path / "a.png"]
    words += ["--device", "cpu", "--interaction", "exact"]
    command = [sys.executable, Path(__file__).parents[1] / "scripts" / "visualize.py", *words]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert len(result.stderr.splitlines()) <= 1


def test_curves_on_the_command_line(training_run, tmp_path):
    plot_run([str(training_run), "--output", str(tmp_path / "curves.svg")])
    assert (tmp_path / "curves.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(InputError, match="no such folder"):
        plot_run([str(training_run / "tensorboard"), "--output", str(tmp_path / "curves.svg")])
    (tmp_path / "empty" / "tensorboard").mkdir(parents=True)
    with pytest.raises(InputError, match="no scalars"):
        plot_run([str(tmp_path / "empty"), "--output", str(tmp_path / "curves.svg")])
