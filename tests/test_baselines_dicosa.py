"""DiCoSA: every number that the released code was recorded to give, and what its corrected recipe changes."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from models import Tokens
from models.baselines.dicosa import DiCoSA
from models.baselines.pooling import pool_frames
from scripts.benchmarks.methods import released_way
from tests.baseline_case_diffusion import build, check_gradients, check_training, draw, recorded
from tests.golden_case import assert_close, inputs
from utils.metrics import text_to_video_ranks, video_to_text_ranks
from utils.post_processing import query_bank_norm


@cache
def model(*changes, **options) -> DiCoSA:
    return build(DiCoSA, "dicosa", *changes, **options)


def lengths_of(reference, prefix=""):
    return tuple(reference[f"{prefix}{side}_lengths"].tolist() for side in ("text", "video"))


@torch.no_grad()
def tokens(chosen, case, lengths, **sizes):
    ids, text_mask, frames, video_mask = inputs(case, lengths=lengths, **sizes)
    text = Tokens(chosen.text_tokens(ids, text_mask), text_mask)
    return text, Tokens(chosen.frame_tokens(frames, video_mask), video_mask)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ("", {}),
        ("temp5", {"temp": 5.0}),
        ("center4", {"center": 4}),
        ("center16", {"center": 16}),
        ("seqLSTM", {"temporal": "seqLSTM"}),
        ("None", {"temporal": None}),
    ],
)
@pytest.mark.parametrize("memory", [2**28, 100_000, 1])
@torch.no_grad()
def test_similarity(change, options, memory):
    reference = recorded("dicosa_sim_d1")
    chosen = model(*([] if change == "temp5" else [change]), **options)
    text, video = tokens(chosen, "d1", lengths_of(reference))
    assert_close(text.last(), reference["cls"])
    assert_close(chosen.similarity(text, video, memory=memory), reference[f"{change}.sim".removeprefix(".")])


@torch.no_grad()
def test_similarity_of_single_pairs():
    reference = recorded("dicosa_sim_d1")
    text, video = tokens(model(), "d1", lengths_of(reference))
    rows = [
        [model().similarity(text.select(torch.tensor([a])), video.select(torch.tensor([b]))).item() for b in range(5)]
        for a in range(6)
    ]
    assert_close(np.array(rows), reference["sim_pairwise"])


@pytest.mark.parametrize(("case", "sizes"), [("d2", {}), ("d3", {"words": 32, "frames": 16})])
def test_losses_gradients_and_three_steps(case, sizes):
    reference = recorded(f"dicosa_train_{case}")
    options = {name: reference[name].item() for name in ("temp", "center", "alpha", "beta")}
    chosen = build(DiCoSA, "dicosa", **options)
    batch = inputs(case, lengths=lengths_of(reference), **sizes)
    terms = chosen(*batch, torch.arange(len(batch[0])))
    for name in ("ce_t2v", "ce_v2t", "on_diag", "off_diag"):
        np.testing.assert_allclose(terms[name].item(), reference[name], rtol=3e-5)
    text, video = tokens(chosen, case, lengths_of(reference), **sizes)
    with torch.no_grad():
        assert_close(chosen.similarity(text, video), reference["sim"])
        assert_close(chosen.correlation(text, video), reference["correlation"])
    for name in ("on_diag", "off_diag"):
        chosen.zero_grad(set_to_none=True)
        terms[name].backward(retain_graph=True)
        check_gradients(chosen, reference["param_names"], reference[f"{name}.grad_norm"])
    chosen.zero_grad(set_to_none=True)

    def parts(terms):
        regulariser = options["alpha"] * terms["on_diag"] + options["beta"] * terms["off_diag"]
        return terms["loss"].item(), ((terms["ce_t2v"] + terms["ce_v2t"]) / 2).item(), regulariser.item()

    check_training(chosen, lambda: chosen(*batch, torch.arange(len(batch[0]))), parts, reference)


def normalised(sim, bank, *, k=1, beta=70.0, theta):
    """The released form: normalised rows are not logarithms; which rows are."""
    ours = query_bank_norm(sim, bank, k=k, beta=beta, theta=theta)
    changed = (ours != sim).any(dim=1)
    return torch.where(changed[:, None], ours.double().exp(), ours.double()), changed


def directions(sim, bank_test, test_bank, settings):
    options = {"t2v_theta": 3, "v2t_theta": 5} | settings
    for side, matrix, bank in (("t2v", sim, bank_test), ("v2t", sim.T, test_bank.T)):
        own = {name.removeprefix(f"{side}_"): x for name, x in options.items() if name.startswith(side)}
        yield side, normalised(matrix, bank, **own)


@torch.no_grad()
def test_qb_norm_from_the_towers():
    reference = recorded("dicosa_qbnorm_d4")
    text, video = tokens(model(), "d4", lengths_of(reference))
    bank_text, bank_video = tokens(model(), "d4.bank", lengths_of(reference, "bank_"))
    sims = {"sim": (text, video), "bank_test": (bank_text, video), "test_bank": (text, bank_video)}
    sims = {name: model().similarity(*pair) for name, pair in sims.items()}
    for name, sim in sims.items():
        assert_close(sim, reference[name])
    settings = json.loads(reference["settings"].item())
    for side, (ours, _) in directions(**sims, settings=settings):
        np.testing.assert_allclose(ours, reference[side], rtol=1e-4)


@pytest.mark.parametrize("setting", ["published", "activity", "other"])
def test_qb_norm_of_tables(setting):
    reference = recorded("dicosa_qbnorm_d5")
    case = "d5"
    tables = {
        name: draw(f"input.{case}.{name}", shape, 0.15)
        for name, shape in {"test_test": (36, 36), "bank_test": (60, 36), "test_bank": (36, 50)}.items()
    }
    tables["test_test"] += 0.25 * torch.eye(36)
    hubs = draw(f"input.{case}.hub_videos", (1, 36), 0.2), draw(f"input.{case}.hub_texts", (36, 1), 0.2)
    tables["test_test"] += hubs[0]
    tables["bank_test"] += hubs[0]
    tables["test_test"] += hubs[1]
    tables["test_bank"] += hubs[1]
    sim, bank_test, test_bank = tables.values()
    assert text_to_video_ranks(sim).tolist() == reference["ranks_t2v_raw"].tolist()
    assert video_to_text_ranks(sim).tolist() == reference["ranks_v2t_raw"].tolist()
    settings = json.loads(reference[f"{setting}.settings"].item())
    for side, (ours, changed) in directions(sim, bank_test, test_bank, settings):
        assert changed.tolist() == reference[f"{setting}.{side}_changed"].tolist()
        np.testing.assert_allclose(ours, reference[f"{setting}.{side}"], rtol=1e-4)
        assert text_to_video_ranks(ours).tolist() == reference[f"{setting}.ranks_{side}"].tolist()


@torch.no_grad()
def test_corrected_pooling_does_not_depend_on_padding():
    reference = recorded("dicosa_sim_d1")
    text_lengths, video_lengths = lengths_of(reference)
    lengths = text_lengths, [min(length, 3) for length in video_lengths]
    found = {}
    for recipe in ("released", "corrected"):
        chosen = model(recipe=recipe)
        text, video = tokens(chosen, "d1", lengths)
        sims = chosen.similarity(text, video), chosen.similarity(text, Tokens(video.tokens[:, :3], video.mask[:, :3]))
        found[recipe] = torch.allclose(*sims, rtol=1e-4, atol=1e-5)
    assert found == {"released": False, "corrected": True}


@torch.no_grad()
def test_corrected_correlation_of_equal_concepts_is_1():
    torch.manual_seed(0)
    sentence = torch.randn(6, 1, 512)
    one = Tokens(sentence, torch.ones(6, 1, dtype=torch.long))
    correlation = model(recipe="corrected").correlation(one, one)
    assert_close(correlation.diagonal(), np.ones(8))


def test_gradients_do_not_depend_on_the_blocks():
    found = []
    for memory in (2**28, 30_000):
        chosen = model(center=8)
        text, video = tokens(chosen, "d2", ((7, 24, 12, 18), (5, 12, 9, 12)))
        leaves = [x.tokens.clone().requires_grad_() for x in (text, video)]
        chosen.zero_grad(set_to_none=True)
        sim = chosen.similarity(Tokens(leaves[0], text.mask), Tokens(leaves[1], video.mask), memory=memory)
        (sim * torch.arange(16).view(4, 4)).sum().backward()
        found.append([*(leaf.grad for leaf in leaves), *(x.grad for x in chosen.concept_weight.parameters())])
    for whole, blocks in zip(*found, strict=True):
        assert_close(blocks, whole.numpy())


@torch.no_grad()
def test_similarity_in_half_precision():
    text, video = tokens(model(), "d1", lengths_of(recorded("dicosa_sim_d1")))
    sim = model().similarity(text, video, dtype=torch.bfloat16)
    assert sim.dtype is torch.float32
    assert_close(sim, recorded("dicosa_sim_d1")["sim"], tolerance=0.03)


@torch.no_grad()
def test_a_text_that_pools_no_frame():
    """A padded frame takes nearly all weight, so that the pooled video is shorter than the eps of a cosine."""
    torch.manual_seed(0)
    chosen = model()
    sentences = torch.randn(4, 1, chosen.clip.config.embed_dim)
    text = Tokens(sentences, torch.ones(4, 1, dtype=torch.long))
    frames = -23 * chosen.options.temp * sentences / sentences.square().sum(dim=2, keepdim=True)  # scores of -23 temp
    mask = torch.tensor([[1, 1, 0]] * 4)
    video = Tokens(frames * mask.unsqueeze(2), mask)
    pooled = pool_frames(text.tokens, *video, chosen.options.temp, padding=True).norm(dim=2)
    assert ((pooled > 1e-11) & (pooled < 1e-8)).all()
    expected = released_way(chosen)(chosen, text, video)
    torch.testing.assert_close(chosen.similarity(text, video), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_no_texts_and_no_videos():
    text, video = tokens(model(), "d1", lengths_of(recorded("dicosa_sim_d1")))
    nothing = torch.arange(0)
    assert model().similarity(text.select(nothing), video).shape == (0, 5)
    assert model().similarity(text, video.select(nothing)).shape == (6, 0)
