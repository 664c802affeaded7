"""Labels and estimator outputs against numbers recorded from the published code."""

import json

import numpy as np
import pytest
import torch

from models.banzhaf import LABEL_SCALE, BanzhafInteraction, BanzhafModule, exact_interaction
from tests.golden_case import GOLDEN, LENGTHS, assert_close, fill, generator, golden

INPUTS = ("logits", "text_mask", "video_mask", "text_weight", "video_weight")


def estimator(prefix):
    """The estimator with the weights of the recorded runs."""
    model = BanzhafModule()
    state = {key: fill(f"{prefix}.{key}", value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model


def label_case():
    """Recorded labels, and their inputs in the published order."""
    case = golden("banzhaf_labels_g1")
    return case, [torch.from_numpy(case[key]) for key in INPUTS]


def test_sampled_labels():
    case, players = label_case()
    coalitions = torch.from_numpy(case["s_t"]), torch.from_numpy(case["s_j"])
    assert_close(BanzhafInteraction(5, 4, 16)(*players, *coalitions), case["labels_recorded"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_labels(dtype):
    case, (logits, *others) = label_case()
    labels = exact_interaction(LABEL_SCALE * logits.to(dtype), *others, game="released")
    assert_close(labels, case["labels_exact"])


def test_drawn_labels_spread_as_recorded():
    case, players = label_case()
    labels = BanzhafInteraction(5, 4, 400)(*players, generator=torch.Generator().manual_seed(0))
    valid = case["text_mask"].astype(bool)[:, :, None] & case["video_mask"].astype(bool)[:, None]
    deviation = (labels.numpy() - case["labels_exact"])[valid] / (case["sample_std"][valid] / 20)
    assert np.abs(deviation).max() < 5
    assert np.square(deviation).mean() == pytest.approx(1, abs=0.5)


def test_labels_and_predictions_of_estimator_training():
    case = golden("estimator_e1")
    logits, text_weight, video_weight = (
        torch.from_numpy(case[key]) for key in ("logits", "text_weight", "video_weight")
    )
    pairs, words, frames = logits.shape
    text_mask, video_mask = (
        torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)
        for tokens, lengths in zip((words, frames), LENGTHS["e1"], strict=True)
    )
    num = int(case["num"])
    coalitions = (
        torch.from_numpy(np.unpackbits(case[key]).reshape(words, frames, num, pairs, tokens))
        for key, tokens in (("s_t_packed", words), ("s_j_packed", frames))
    )
    interaction = BanzhafInteraction(words, frames, num)
    labels = interaction(logits, text_mask, video_mask, text_weight, video_weight, *coalitions)
    assert_close(labels, case["labels"])
    with torch.no_grad():
        predicted = estimator("banzhafteacher")(logits) * text_mask.unsqueeze(2) * video_mask.unsqueeze(1)
    assert_close(predicted, case["pred"])
    assert (labels - predicted).square().mean().item() == pytest.approx(case["loss"].item(), rel=3e-5)


@pytest.mark.parametrize("name", ["bz1", "bz2"])
@pytest.mark.parametrize("prefix", ["banzhafteacher", "banzhafmodel"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_estimator_outputs(name, prefix, mode):
    expected = golden(f"banzhaf_module_{name}")[f"{prefix}.out_{mode}"]
    drawn = 0.1 * generator(f"input.{name}.logits").standard_normal(expected.shape)
    model = estimator(prefix).train(mode == "train")
    before = model.bn.num_batches_tracked.clone()
    assert_close(model(torch.from_numpy(drawn.astype(np.float32)).squeeze(1)), expected.squeeze(1))
    assert torch.equal(model.bn.num_batches_tracked, before)


def test_estimator_state_dict_is_the_released_one():
    recorded = json.loads((GOLDEN / "state_dict_keys.json").read_text(encoding="utf-8"))["estimator_file"]
    model = BanzhafModule()
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == recorded
    assert list(model.state_dict()) == list(recorded)
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert trained == {"Q", "K", "V", "cnn1.weight", "cnn1.bias", "cnn2.weight", "cnn2.bias"}


def test_estimator_refuses_a_map_without_a_batch():
    with pytest.raises(ValueError, match="token_sim"):
        BanzhafModule()(torch.zeros(24, 12))
