"""The estimator of ranks: its gains against the exact ones, its symmetries, and what it learns."""

import pytest
import torch

from models import CLIP, HBI, load_model
from models.banzhaf import LABEL_SCALE, BanzhafModule, exact_interaction
from models.coalitions import Pairs
from models.estimator_training import EstimatorTraining
from models.expectations import expected_maxima
from models.ranked_estimator import RankedEstimator, expected_gains
from tests.conftest import SMALL
from utils.checkpoint import released_state, save_weights
from utils.metrics import correlation


def maps(count, words, frames, seed=0):
    """Cosines of ragged pairs as of a trained model, and the masks."""
    draw = torch.Generator().manual_seed(seed)
    text_mask, video_mask = (
        torch.arange(size) < torch.randint(2, size + 1, (count, 1), generator=draw) for size in (words, frames)
    )
    sim = 0.3 + 0.1 * torch.randn(count, words, frames, generator=draw)
    sim += 0.05 * torch.randn(count, words, 1, generator=draw) + 0.05 * torch.randn(count, 1, frames, generator=draw)
    return sim * text_mask.unsqueeze(2) * video_mask.unsqueeze(1), text_mask.long(), video_mask.long()


def test_gains_of_a_half_are_the_exact_expectations():
    sim, _, video_mask = maps(30, 6, 5)
    low, high = expected_maxima(sim, video_mask.bool())
    found = expected_gains(sim, video_mask.bool(), torch.tensor([0.5, 0.3]))[..., 0]
    valid = video_mask.bool().unsqueeze(1).expand_as(sim)
    assert torch.allclose(found[valid], (high - low)[valid], atol=1e-6)


def test_order_and_padding_do_not_matter():
    torch.manual_seed(0)
    network = RankedEstimator()
    sim = torch.rand(3, 7, 5) + 0.1
    words, frames = torch.randperm(7), torch.randperm(5)
    found = network(sim)
    assert torch.allclose(network(sim[:, words][:, :, frames]), found[:, words][:, :, frames], atol=1e-5)
    padded = torch.zeros(3, 9, 8)
    padded[:, :7, :5] = sim
    assert torch.allclose(network(padded)[:, :7, :5], found, atol=1e-5)
    assert not network(padded)[:, 7:].any() and not network(padded)[:, :, 5:].any()
    assert network(torch.zeros(2, 4, 3)).isfinite().all()


def train(network, steps):
    training = EstimatorTraining(network, game="standard")
    optimizer = torch.optim.Adam([x for x in training.parameters() if x.requires_grad], lr=1e-2)
    for step in range(steps):
        sim, text_mask, video_mask = maps(32, 24, 12, seed=step)
        scores = torch.zeros(text_mask.shape), torch.zeros(video_mask.shape)
        pairs = Pairs(sim, text_mask, video_mask, *scores)
        exact = exact_interaction(LABEL_SCALE * sim, *pairs[1:])
        optimizer.zero_grad()
        training(exact, **pairs._asdict())["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        valid = (text_mask.unsqueeze(2) & video_mask.unsqueeze(1)).bool()
        return correlation(training.predict(sim, text_mask, video_mask)[valid], exact[valid])


def test_at_full_size_it_learns_what_the_released_network_cannot():
    torch.manual_seed(0)
    ranked = RankedEstimator()
    assert sum(x.numel() for x in ranked.parameters()) < sum(x.numel() for x in BanzhafModule().parameters())
    assert train(ranked, 120) > 0.95
    assert train(BanzhafModule(), 30) < 0.8


@pytest.mark.parametrize("recipe", ["released", "corrected"])
def test_models_know_their_estimator_by_its_keys(recipe, tmp_path):
    torch.manual_seed(0)
    ranked = RankedEstimator()
    save_weights(ranked.state_dict(), tmp_path / "ranked.bin")
    save_weights(BanzhafModule().state_dict(), tmp_path / "released.bin")
    save_weights(CLIP(SMALL).state_dict(), tmp_path / "clip.pt")
    options = {"recipe": recipe, "temporal_layers": 1}
    model = load_model(base_encoder=tmp_path / "clip.pt", estimator=tmp_path / "ranked.bin", **options)
    assert not any(x.requires_grad for x in model.teacher.parameters())
    state = released_state(model)
    assert "banzhafteacher.decay" in state and HBI.recognises(state)
    assert model.options.network == "ranked"
    model.save_pretrained(tmp_path / "exported")
    assert isinstance(load_model(tmp_path / "exported").teacher, RankedEstimator)
    save_weights(state, tmp_path / "model.bin")
    again = load_model(tmp_path / "model.bin")
    sim = torch.rand(2, 5, 4) + 0.1
    assert isinstance(again, HBI) and torch.equal(again.teacher(sim), ranked(sim))
    given = load_model(tmp_path / "model.bin", estimator=tmp_path / "released.bin", recipe=recipe)
    assert isinstance(given.teacher, RankedEstimator if recipe == "released" else BanzhafModule)
