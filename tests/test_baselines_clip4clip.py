"""Every number that the released CLIP4Clip was recorded to give, its files, and what it refuses."""

import pytest
import torch

from models import load_model
from models.baselines.clip4clip import CLIP4Clip, mean_frame
from models.baselines.cross import PairEncoder
from models.encoder import Tokens
from tests.baseline_case import (
    assert_gradients,
    assert_training,
    batch,
    build,
    filled,
    keys,
    recorded,
    recorded_json,
    tokens,
)
from tests.golden_case import assert_close, generator
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError
from utils.metrics import retrieval_metrics, text_to_video_ranks, video_to_text_ranks
from utils.video.positions import Sampling, frame_positions

FILE = "c4c_state_dict_tiny"
HEADERS = ("meanP", "seqLSTM", "seqTransf", "tightTransf", "meanP_3d")
EVALUATED = [(name, case) for name in HEADERS for case in ("p1", "p2") if (name, case) != ("meanP_3d", "p2")]
TRAINED = [(name, "t1") for name in HEADERS] + [(name, "t2") for name in HEADERS[:3]]


def golden_model(name, **options):
    header, _, patch = name.partition("_")
    shapes = keys(FILE, *() if name == "meanP" else (name,))
    return build(CLIP4Clip, shapes, sim_header=header, linear_patch=patch or "2d", **options)


@pytest.mark.parametrize(("name", "case"), EVALUATED)
def test_similarity(name, case):
    model, reference = golden_model(name), recorded(f"c4c_eval_{name}_{case}")
    text, video = tokens(model, case)
    with torch.no_grad():
        sim, split = (model.similarity(text, video, memory=memory) for memory in (2**28, 1))
    scale = 1 if model.pairs is not None else model.scale.detach()  # the released scores have it in evaluation, too
    assert_close(scale * sim, reference["sim_logits"])
    assert_close(scale * split, reference["sim_logits_split"])
    if "text_cls" in reference:
        assert_close(Tokens(*text).last(), reference["text_cls"])
    if "frame_feat_64" in reference:
        assert_close(video[0][..., :64], reference["frame_feat_64"])
        assert_close(video[0].norm(dim=-1), reference["frame_feat_norm"])
    if "video_unit" in reference:
        units = torch.nn.functional.normalize(video[0], dim=-1)
        assert_close(units[..., :64], reference["frames_unit_64"])
        units = units * video[1].unsqueeze(2)
        assert_close(units.sum(dim=1) / video[1].sum(dim=1, keepdim=True), reference["video_pooled"])
        assert_close(mean_frame(Tokens(*video), unit_frames=True), reference["video_unit"])


@pytest.mark.parametrize("case", ["p1", "p2"])
def test_pooled_pairs(case):
    model, reference = golden_model("tightTransf"), recorded(f"c4c_eval_tightTransf_{case}")
    pooled, hidden, encoder = [], [], model.pairs.transformer
    model.pairs.score.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    encode = encoder.forward
    encoder.forward = lambda x, mask, count: hidden.append(encode(x, mask)) or hidden[0][:, :count]
    text, video = (Tokens(*x) for x in tokens(model, case))
    with torch.no_grad():
        model.pairs(text.sentences(), video)
    pairs = len(text.mask), len(video.mask)
    assert_close(pooled[0].unflatten(0, pairs)[..., :64], reference["cross_pooled_64"])
    assert_close(hidden[0][0, :, :256], reference["cross_hidden_pair00"])
    assert_close(hidden[0].norm(dim=-1).unflatten(0, pairs), reference["cross_hidden_norm"])


@pytest.mark.parametrize(("name", "case"), TRAINED)
def test_losses_gradients_and_steps(name, case):
    model, reference = golden_model(name), recorded(f"c4c_train_{name}_{case}")
    inputs = batch(case)
    with torch.no_grad():
        sim = model.similarity(*tokens(model, case)) * (1 if model.pairs is not None else model.scale)
    assert_close(sim, reference["component.sim_logits"])
    assert_training(model, lambda: model(*inputs, torch.arange(len(inputs[0]))), reference)


@pytest.mark.parametrize(("name", "case"), TRAINED)
def test_gradients_with_nothing_frozen(name, case):
    model, reference = golden_model(name, freeze_layer_num=-1), recorded(f"c4c_train_{name}_{case}")
    inputs = batch(case)
    model(*inputs, torch.arange(len(inputs[0])))["loss"].backward()
    assert_gradients(model, reference, "grad_norm_nothing_frozen")


@pytest.mark.parametrize("name", HEADERS)
def test_files_load_strictly_and_save_the_same_keys(name, tmp_path):
    shapes = keys(FILE, *() if name == "meanP" else (name,))
    save_weights(filled(shapes), tmp_path / "pytorch_model.bin.0")
    model = load_model(tmp_path / "pytorch_model.bin.0")
    assert isinstance(model, CLIP4Clip)
    assert (model.options.sim_header, model.options.linear_patch) == (name[: len(name) - 3 * name.endswith("_3d")],
                                                                      "3d" if name.endswith("_3d") else "2d")
    assert {key: list(x.shape) for key, x in released_state(model).items()} == shapes


def test_packed_clips_of_3d_patches_are_the_same():
    model = golden_model("meanP_3d")
    _, _, frames, mask = batch("p1")
    with torch.no_grad():
        assert torch.equal(model.frame_tokens(frames, mask), model.frame_tokens(frames[mask.bool()], mask))


def test_new_3d_patches_give_what_2d_patches_give():
    _, _, frames, mask = batch("p2")
    flat = golden_model("meanP")
    deep = CLIP4Clip(flat.clip, linear_patch="3d")
    with torch.no_grad():
        expected = flat.frame_tokens(frames, mask)
        torch.testing.assert_close(deep.frame_tokens(frames, mask), expected)


def test_a_header_of_another_temporal_encoder_is_refused(tmp_path):
    save_weights(filled(keys(FILE, "seqTransf")), tmp_path / "model.bin")
    with pytest.raises(InputError, match="sim_header"):
        load_model(tmp_path / "model.bin", method="clip4clip", sim_header="seqLSTM")


def test_frame_positions():
    for case in recorded_json("c4c_frame_positions"):
        expected, order = case.pop("positions"), case.pop("frame_order")
        options = {"framerate": case.pop("feature_framerate"), "rule": "by_second"}
        ours = frame_positions(case.pop("fps"), case.pop("frames"), Sampling(**case, **options, whole_seconds=True))
        assert ours == expected[:: -1 if order else 1]  # the order is published as a flag that no command sets


def test_metrics_with_several_captions_of_a_video():
    for case in recorded_json("c4c_metrics_many_captions"):
        counts = torch.tensor(case["captions_per_video"])
        owner = torch.arange(len(counts)).repeat_interleave(counts)
        x = generator(f"input.{case['name']}.sim").standard_normal((len(owner), len(counts)))
        sim = torch.tensor(x + case["diagonal_bonus"] * torch.nn.functional.one_hot(owner).numpy()).float()
        metrics = retrieval_metrics(sim, owner)
        for name in ("R1", "R5", "R10", "MeanR"):
            for way in ("t2v", "v2t"):
                assert metrics[way][name] == pytest.approx(case[way][name], rel=1e-6)
        assert metrics["v2t"]["MedianR"] == case["v2t"]["MedianR"]
        lower = text_to_video_ranks(sim, owner).median().item() + 1  # the released code takes the lower of two
        assert lower == case["t2v"]["MedianR"] <= metrics["t2v"]["MedianR"]
        assert video_to_text_ranks(sim, owner).tolist() == case["v2t"]["cols"]


@torch.no_grad()
def test_more_frames_than_positions_are_refused():
    pairs = PairEncoder(128, layers=1, positions=4)
    text, short, long = (Tokens(torch.randn(2, n, 128), torch.ones(2, n, dtype=torch.long)) for n in (5, 3, 4))
    assert pairs.similarity(text, short, 2**20).shape == (2, 2)
    with pytest.raises(ValueError, match="^4 frames, but position embeddings for 3$"):
        pairs.similarity(text, long, None)
