"""Exported models: equal results from the folder and from ONNX graphs."""

import importlib
import json
import sys
from dataclasses import replace

import onnxruntime
import pytest
import torch

from models import ANSWER_METHODS, CLIP, HBI, HBIVQA, METHODS, CLIPConfig, load_model
from models.export import model_digest
from models.recipe import RELEASED
from scripts.export import main
from scripts.graphs import TOLERANCE, Similarity, example_inputs, write_graph
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError
from utils.files import MARKER
from utils.run import run

WORDS, FRAMES = 12, 8
SMALL = CLIPConfig(
    resolution=16, patch=8, vision_width=64, vision_layers=1, text_width=64, text_layers=1, embed_dim=64, vocabulary=99
)
ANSWERS = ("a ball", "a dog", "two")


def build(**options) -> HBI:
    torch.manual_seed(0)
    return HBI(CLIP(SMALL), temporal_layers=1, **options).eval()


def ask(**options) -> HBIVQA:
    torch.manual_seed(0)
    return HBIVQA(CLIP(SMALL), ANSWERS, temporal_layers=1, **options).eval()


def tokens(count, length, seed):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(length // 2, length + 1, (count, 1), generator=draw)
    return torch.randn(count, length, 64, generator=draw), (torch.arange(length) < lengths).long()


@pytest.mark.parametrize(
    "options",
    [
        {"rates": (0.5, 0.25, 0.25), "text_rates": (0.5, 0.5), "recipe": "corrected", "teacher": "exact"},
        {"rates": (0, 0, 1), "video_rates": (0.75, 0.3), "interaction": "mean", "temporal": None, "trained_levels": 2},
        {"rates": (1, 1, 1), "recipe": replace(RELEASED, cluster_noise=0.0), "temporal": "seqLSTM", "kl": 2},
    ],
)
def test_a_folder_gives_back_the_model(options, tmp_path):
    model = build(**options)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    text, video = tokens(3, WORDS, seed=0), tokens(4, FRAMES, seed=1)
    assert torch.equal(loaded.similarity(text, video), model.similarity(text, video))
    settings = ("kl", "skl", "teacher", "trained_levels")
    assert all(getattr(loaded.options, name) == getattr(model.options, name) for name in settings)
    assert (loaded.recipe, loaded.rates) == (model.recipe, model.rates)
    assert load_model(str(tmp_path), rates=(0, 1, 0)).rates == (0, 1, 0)


def test_a_folder_gives_back_a_model_that_answers(tmp_path):
    model = ask(rates=(0.2, 0.3, 0.5))
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    pairs = tokens(3, WORDS, seed=0), tokens(3, FRAMES, seed=1)
    assert loaded.answers == ANSWERS and torch.equal(loaded.mixed_logits(*pairs), model.mixed_logits(*pairs))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config["options"].pop("kl"), "config.json: options.kl: Field required; "),
        (lambda config: config["options"].update(rates=[1, 0]), "options: rates.2: Field required"),
        (lambda config: config["options"].update(recipe="mine"), "options: recipe"),
        (lambda config: config["options"].update(recipe={"mine": 1}), "options: recipe"),
        (lambda config: config.update(answers=["a"]), "has 1 answers"),
        (lambda config: config["options"].update(rates=[1, 0, 10**9]), "options: rates.2: Input should be less"),
        (lambda config: config["options"].update(size=1), "options.size: unknown"),
        (lambda config: config.update(method="clip"), "method clip: choose one of hbi, emcl for questions"),
        (lambda config: config.update(model_type="clip"), "model_type: Extra inputs are not permitted"),
        (lambda config: config.update(kind="other"), "kind: Input should be 'export'; give the folder of an export"),
        (lambda config: config.clear(), "method: Field required; give the folder of an export"),
    ],
)
def test_a_damaged_config_is_refused(change, reason, tmp_path):
    ask().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=reason):
        load_model(tmp_path)


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path):
    build(kl=3).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text(), encoding="utf-8-sig")
    assert load_model(tmp_path).options.kl == 3


def test_a_folder_is_distinguished_from_another_by_its_digest(tmp_path):
    build().save_pretrained(tmp_path / "one")
    build().save_pretrained(tmp_path / "same")
    build(kl=3).save_pretrained(tmp_path / "other")
    digests = {name: model_digest(tmp_path / name) for name in ("one", "same", "other")}
    assert digests["one"] == digests["same"] != digests["other"]
    assert model_digest(tmp_path / "one" / "model.safetensors") != digests["one"]


def test_an_incomplete_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="config.json: cannot be read"):
        load_model(tmp_path)
    build().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors: no such file"):
        load_model(tmp_path)


@pytest.mark.slow
def test_the_script_writes_graphs_that_agree_with_the_model(tmp_path, capsys):
    save_weights(released_state(build()), tmp_path / "model.bin.0")
    folder = tmp_path / "exported"
    words = f"--checkpoint {tmp_path}/model.bin.0 --output {folder} --max_words {WORDS} --max_frames {FRAMES}"
    main([*words.split(), "--rate", "1", "0.5", "0.25"])
    assert capsys.readouterr().out.count("differs from PyTorch by") == 3
    model = load_model(folder)

    def compute(name, **inputs):
        session = onnxruntime.InferenceSession(folder / name)
        return [torch.from_numpy(x) for x in session.run(None, {key: x.numpy() for key, x in inputs.items()})]

    text_mask, video_mask = tokens(5, WORDS, seed=0)[1], tokens(3, FRAMES, seed=1)[1]
    ids = torch.randint(1, 99, (5, WORDS)) * text_mask
    frames = torch.randint(256, (3, FRAMES, 3, 16, 16), dtype=torch.uint8)
    (text,) = compute("text.onnx", ids=ids, text_mask=text_mask)
    (video,) = compute("frames.onnx", frames=frames, video_mask=video_mask)
    sides = {"text": text, "text_mask": text_mask, "video": video, "video_mask": video_mask}
    *levels, mixed = compute("similarity.onnx", **sides)
    with torch.no_grad():
        text, video = model.text_tokens(ids, text_mask), model.frame_tokens(frames, video_mask)
        outputs = model.level_outputs(text, text_mask, video, video_mask)
    for ours, output in zip(levels, outputs, strict=True):
        assert torch.allclose(ours, output.sim, atol=TOLERANCE)
    assert torch.allclose(mixed, model.similarity((text, text_mask), (video, video_mask)), atol=TOLERANCE)


def test_answers_become_a_graph(tmp_path):
    model = ask()
    module, path = Similarity(model), tmp_path / "answers.onnx"
    inputs = example_inputs(module, 3, 3, WORDS, FRAMES)
    batch = torch.export.Dim("questions")
    names = ["entity", "action", "event", "answers"]
    write_graph(module, inputs, {name: {0: batch} for name in inputs}, names, path)
    inputs = example_inputs(module, 5, 5, WORDS, FRAMES)
    feed = {name: tensor.numpy() for name, tensor in inputs.items()}
    logits = torch.from_numpy(onnxruntime.InferenceSession(path).run(["answers"], feed)[0])
    text, text_mask, video, video_mask = inputs.values()
    assert torch.allclose(logits, model.mixed_logits((text, text_mask), (video, video_mask)), atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("clip4clip", {"sim_header": "meanP"}),
        ("clip4clip", {"sim_header": "tightTransf", "cross_num_hidden_layers": 1}),
        ("drl", {"interaction": "wti"}),
        ("drl", {"interaction": "dp"}),
        ("drl", {"interaction": "xti", "cross_num_hidden_layers": 1}),
        ("emcl", {"recipe": "corrected"}),
        ("dicosa", {"center": 4}),
        ("diffusionret", {"stage": "discrimination"}),
    ],
)
def test_the_similarity_of_every_method_becomes_a_graph(method, options, tmp_path):
    torch.manual_seed(0)
    model = METHODS[method](CLIP(SMALL), temporal_layers=1, **options).eval()
    found = write_graph_of(Similarity(model), tmp_path / "similarity.onnx")
    text, video = tokens(5, WORDS, seed=0), tokens(3, FRAMES, seed=1)
    computed = found(text=text[0], text_mask=text[1], video=video[0], video_mask=video[1])[-1]
    with torch.no_grad():
        assert torch.allclose(computed, model.similarity(text, video), atol=TOLERANCE)


def write_graph_of(module, path):
    """Write a graph of texts and videos, and return what runs it."""
    inputs = example_inputs(module, 2, 2, WORDS, FRAMES)
    texts, videos = (torch.export.Dim(name, min=1) for name in ("texts", "videos"))
    shapes = {name: {0: batch} for name, batch in zip(inputs, (texts, texts, videos, videos), strict=True)}
    write_graph(module, inputs, shapes, module.outputs, path)
    session = onnxruntime.InferenceSession(path)
    return lambda **feed: [torch.from_numpy(x) for x in session.run(None, {key: x.numpy() for key, x in feed.items()})]


def test_a_score_that_depends_on_its_block_has_no_graph(tmp_path):
    METHODS["emcl"](CLIP(SMALL), temporal_layers=1).save_pretrained(tmp_path / "model")
    words = ["--checkpoint", f"{tmp_path}/model", "--output", f"{tmp_path}/out", "--max_words", str(WORDS)]
    with pytest.raises(InputError, match="EMCL: a score of the released recipe depends on the other captions"):
        main(words)
    assert not (tmp_path / "out").exists()
    main([*words, "--without_onnx"])
    assert load_model(tmp_path / "out").method == "emcl"


def test_answers_of_emcl_are_the_only_output():
    model = ANSWER_METHODS["emcl"](CLIP(SMALL), ANSWERS, temporal_layers=1).eval()
    inputs = example_inputs(Similarity(model), 3, 3, WORDS, FRAMES)
    (logits,) = Similarity(model)(**inputs)
    assert Similarity(model).outputs == ["answers"] and logits.shape == (3, len(ANSWERS))


@pytest.mark.parametrize("flag", ["--max_words", "--max_frames"])
def test_more_words_or_frames_than_positions(flag, tmp_path):
    build().save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=f"{flag} 78: the model has 77 positions"):
        main(["--checkpoint", f"{tmp_path}/model", "--output", f"{tmp_path}/out", flag, "78"])
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named_in_one_line(tmp_path, monkeypatch, capsys):
    build().save_pretrained(tmp_path / "model")

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    monkeypatch.setattr(sys, "argv", ["export.py", "--checkpoint", f"{tmp_path}/model", "--output", f"{tmp_path}/out"])
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install onnx onnxscript onnxruntime" in line and "--without_onnx" in line
    main(["--checkpoint", f"{tmp_path}/model", "--output", f"{tmp_path}/out", "--without_onnx"])
    files = {MARKER, "README.md", "config.json", "model.safetensors"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files
