"""Every number that the released code was recorded to give: towers, merging, levels, losses, gradients, steps."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from models.clip import CLIP
from models.hbi import HBI
from models.recipe import RELEASED
from models.released.hbi import released_name
from models.temporal import build_temporal
from models.token_merge import Clusters, dpc_knn
from tests.golden_case import DEVICE, LENGTHS, assert_close, fill, filled_state, golden, inputs, norm
from utils.checkpoint import load_weights
from utils.engine.optim import BertAdam, parameter_groups
from utils.randomness import Undrawn

QUIET = replace(RELEASED, cluster_noise=0.0)
CASES = ("a1", "a2", "a5")
TINY = "state_dict_keys_tiny.json"


def clip_with(state):
    return CLIP.from_state_dict({name[5:]: x for name, x in state.items() if name.startswith("clip.")})


def build(**options) -> HBI:
    state = filled_state(TINY)
    with Undrawn():
        model = HBI(clip_with(state), recipe=QUIET, **options)
    load_weights(model, state, TINY)
    return model.eval().to(DEVICE)


@cache
def model():
    return build()


@cache
def tokens(case):
    ids, text_mask, frames, video_mask = inputs(case)
    with torch.no_grad():
        text, video = model().text_tokens(ids, text_mask), model().frame_tokens(frames, video_mask)
    return text, text_mask, video, video_mask


@pytest.mark.parametrize("case", CASES)
def test_clip_towers(case):
    ids, text_mask, frames, _ = inputs(case)
    reference = golden(f"clip_A_{case}")
    clip = model().clip
    with torch.no_grad():
        text = clip.encode_text(ids, text_mask)
        images = clip.encode_frames(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    assert_close(text, reference["text_hidden"])
    assert_close(clip.pooled_text(text, ids), reference["text_cls"])
    assert_close(images, reference["image_cls"])


@pytest.mark.slow
def test_clip_towers_of_vit_b32():
    clip = clip_with(filled_state("state_dict_keys.json")).to(DEVICE)
    ids, text_mask, frames, _ = inputs("b1", frames=3, resolution=224)
    reference = golden("clip_B_b1")
    with torch.no_grad():
        text = clip.encode_text(ids, text_mask)
        images = clip.encode_frames(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    assert_close(text, reference["text_hidden"])
    assert_close(clip.pooled_text(text, ids), reference["text_cls"])
    assert_close(images, reference["image_cls"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["seqTransf", "seqLSTM", "None"])
def test_temporal_encoders(case, name):
    _, _, frames, mask = inputs(case)
    encoder = build_temporal(name, 512, 4)
    encoder.load_state_dict(
        {key: fill(released_name(f"temporal.{key}"), x.shape) for key, x in encoder.state_dict().items()}
    )
    with torch.no_grad():
        images = model().clip.encode_frames(frames.flatten(0, 1)).unflatten(0, mask.shape)
        assert_close(encoder.to(DEVICE)(images, mask), golden(f"agg_A_{case}")[f"video_feat.{name}"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_frame_tokens_are_the_same_packed(case, packed):
    _, _, frames, mask = inputs(case)
    with torch.no_grad():
        video = model().frame_tokens(frames[mask.bool()] if packed else frames, mask)
    assert_close(video, golden(f"agg_A_{case}")["video_feat.seqTransf"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("side", ["t", "v"])
def test_token_merge(case, side):
    reference = golden(f"ctm_A_{case}")
    text, text_mask, video, video_mask = tokens(case)
    current, mask = (text, text_mask) if side == "t" else (video, video_mask)
    valid = mask.bool().cpu().numpy()
    clusters = Clusters.identity(current)
    for number, level in enumerate(model().levels[1:]):
        stage = level.text_merge if side == "t" else level.video_merge
        prefix = f"{side}{number}."
        with torch.no_grad():
            merged, convolved, score, clusters = stage.merge(current, mask, clusters)
            out = stage.attention(merged, convolved, score)
            assignment, centres = dpc_knn(convolved, merged.shape[1], mask)
        assert_close(convolved, reference[prefix + "ctm_x"])
        finite = np.isfinite(reference[prefix + "token_score"][..., 0])
        assert (np.isfinite(score.cpu().numpy()) == finite).all()
        assert_close(score.cpu().numpy()[finite], reference[prefix + "token_score"][..., 0][finite])
        assert_close(merged, reference[prefix + "merged_x"])
        assert_close(out, reference[prefix + "out_x"])
        kept = np.ones(assignment.shape, bool) if mask is None else valid
        assert (assignment.cpu().numpy() == reference[prefix + "idx_cluster"])[kept].all()
        ranks = np.arange(centres.shape[1]) < kept.sum(1, keepdims=True)
        assert (centres.cpu().numpy() == reference[prefix + "centers"])[ranks].all()
        assert (clusters.index.cpu().numpy() == reference[prefix + "idx_token"])[valid].all()
        assert_close(clusters.weight.cpu().numpy()[valid], reference[prefix + "agg_weight"][..., 0][valid])
        current, mask = out, None


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("interaction", ["wti", "mean"])
def test_levels(case, interaction):
    reference = golden(f"levels_A_{case}")
    chosen = model()
    if interaction == "mean":
        state = {name: x for name, x in filled_state(TINY).items() if "_weight_fc" not in name}
        chosen = HBI(model().clip, recipe=QUIET, interaction="mean").eval().to(DEVICE)
        load_weights(chosen, state, TINY)
    with torch.no_grad():
        outputs = chosen.level_outputs(*tokens(case))
    for output in outputs:
        assert_close(output.token_sim, reference[f"{output.name}.token_logits"])
        assert_close(output.sim, reference[f"{output.name}.logits.{interaction}"])


@pytest.mark.parametrize("rates", [(1, 0, 0), (0.4, 0.4, 0.2), (0, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize("memory", [2**28, 40_000, 1])
def test_similarity(rates, memory):
    text, text_mask, video, video_mask = similarity_tokens()
    mixed = HBI(model().clip, recipe=QUIET, rates=rates).eval().to(DEVICE)
    mixed.load_state_dict(model().state_dict())
    sim = mixed.similarity((text, text_mask), (video, video_mask), memory=memory)
    assert_close(sim, golden("similarity_A_s22")["sim.rate_" + "_".join(map(str, rates))])


def test_similarity_of_single_pairs():
    text, text_mask, video, video_mask = similarity_tokens()
    mixed = HBI(model().clip, recipe=QUIET, rates=(0.4, 0.4, 0.2)).eval().to(DEVICE)
    mixed.load_state_dict(model().state_dict())
    rows = [
        [mixed.similarity((text[a : a + 1], text_mask[a : a + 1]), (video[b : b + 1], video_mask[b : b + 1])).item()
         for b in range(len(video))]
        for a in range(len(text))
    ]  # fmt: skip
    assert_close(np.array(rows), golden("similarity_A_s22")["sim_pairwise.rate_0.4_0.4_0.2"])


@cache
def similarity_tokens():
    text_lengths, video_lengths = LENGTHS["s22"]
    ids, text_mask, frames, video_mask = inputs("s22")
    assert len(ids) == len(text_lengths) and len(frames) == len(video_lengths)
    with torch.no_grad():
        return model().text_tokens(ids, text_mask), text_mask, model().frame_tokens(frames, video_mask), video_mask


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_three_steps(case):
    """The recorded training: losses, gradients, and the weights after each of three steps on one batch."""
    reference = golden(f"train_A_{case}")
    trained = build(kl=float(reference["kl"]), skl=float(reference["skl"]))
    ids, text_mask, frames, video_mask = inputs(case)
    batch = ids, text_mask, frames, video_mask, torch.arange(len(ids), device=DEVICE)
    parameters = {released_name(name): x for name, x in trained.named_parameters()}
    names = [str(name) for name in reference["param_names"]]
    assert sorted(parameters) == sorted(names)
    initial = {name: x.detach().clone() for name, x in parameters.items()}
    groups = parameter_groups(parameters.items(), lr=1e-4, coef_lr=1e-3, weight_decay=0.2)
    optimizer = BertAdam(groups, lr=1e-4, total_steps=10, warmup=0.1)
    for step in range(4):
        terms = trained(*batch)
        loss = reference["losses"][step]
        levels = [level_loss(terms, name, float(reference["skl"])) for name in ("action", "event")]
        np.testing.assert_allclose([terms["loss"].item(), *levels], loss, rtol=3e-5)
        if step == 0:
            ours = [terms[str(name)].item() for name in reference["component_names"]]
            np.testing.assert_allclose(ours, reference["components"], rtol=1e-5, atol=1e-7)
        if step == 3:
            break
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        has_gradient = [parameters[name].grad is not None for name in names]
        assert has_gradient == reference["has_grad"].tolist()
        if step == 0:
            norms = [norm(parameters[name].grad) for name in names]
            np.testing.assert_allclose(norms, reference["grad_norm"], rtol=1e-4, atol=1e-6)
        total = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        np.testing.assert_allclose(total.item(), reference["grad_total_norm"][step], rtol=1e-4)
        optimizer.step()
        trained.after_step()
        moved = {name: norm(parameters[name] - initial[name]) for name in names}
        np.testing.assert_allclose(
            [norm(parameters[name]) for name in names], reference["param_norm"][step], rtol=1e-6, atol=1e-7
        )
        np.testing.assert_allclose(
            [moved[name] for name in names], reference["delta_norm"][step], rtol=2e-3, atol=1e-7
        )
        sums = np.array([parameters[name].detach().double().sum().item() for name in names])
        sizes = np.array([parameters[name].numel() for name in names])
        bound = 1e-4 + 1e-3 * np.sqrt(sizes) * reference["delta_norm"][step]
        assert (np.abs(sums - reference["param_sum"][step]) <= bound).all()


def level_loss(terms, name, skl):
    """One level's part of the loss."""
    banzhaf = terms[f"{name}.kl_banzhaf"] + terms[f"{name}.kl_banzhaf_reversed"]
    return ((terms[f"{name}.ce_t2v"] + terms[f"{name}.ce_v2t"]) / 2 + skl * banzhaf).item()
