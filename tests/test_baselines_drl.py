"""Every number that the released DRL was recorded to give, its files, and what it refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import CLIP, load_model
from models.baselines import cdcr as cdcr_terms
from models.baselines.drl import DRL, DRLOptions
from models.encoder import Tokens
from models.interaction import token_similarity, unit
from models.level import TokenSet
from tests.baseline_case import assert_gradients, assert_training, batch, build, filled, keys, recorded, tokens
from tests.conftest import SMALL
from tests.golden_case import assert_close
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError

FILE = "drl_state_dict_tiny"
BASE = "wti_arch2+None"
EVALUATED = ("dp+seqTransf", "ti+seqTransf", "wti1+seqTransf", "wti2+seqTransf", "wti3+seqTransf", "xti+seqTransf",
             "dp+None", "xti+None", "wti2+seqLSTM")  # fmt: skip
TRAINED = (
    "dp_None_cdcr0_t1", "dp_seqTransf_cdcr0_t1", "dp_seqTransf_cdcr1_t1", "dp_seqTransf_cdcr1_t2",
    "ti_seqTransf_cdcr0_t1", "ti_seqTransf_cdcr1_t1", "ti_seqTransf_cdcr2_t1", "ti_seqTransf_cdcr2_t2",
    "wti1_seqTransf_cdcr3_t1", "wti2_seqTransf_cdcr0_t1", "wti2_seqTransf_cdcr1_t1", "wti2_seqTransf_cdcr2_t1",
    "wti2_seqTransf_cdcr3_t1", "wti2_seqTransf_cdcr3_t2", "wti3_seqTransf_cdcr3_t1", "xti_seqTransf_cdcr0_t1",
)  # fmt: skip
PUBLISHED = {"dp": 0.14, "ti": 0.16, "wti": 0.11}


def shapes_of(interaction, temporal):
    """Keys of a file; those of no temporal encoder are not recorded for all interactions."""
    name = interaction.replace("wti", "wti_arch")
    found = keys(FILE, f"{name}+seqTransf")
    if temporal == "seqTransf":
        return found
    found = {key: shape for key, shape in found.items() if not key.startswith(("transformerClip", "frame_pos"))}
    return found if temporal == "None" else found | keys(FILE, "wti_arch2+seqLSTM")


def golden_model(interaction, temporal, **options):
    kind, arch = (interaction[:-1], int(interaction[-1])) if interaction[-1].isdigit() else (interaction, 2)
    options = {"cdcr": 0} | options
    shapes = shapes_of(interaction, temporal)
    return build(DRL, shapes, interaction=kind, wti_arch=arch, temporal=temporal, **options)


@pytest.mark.parametrize("case", ["p1", "p2"])
@pytest.mark.parametrize("name", EVALUATED)
def test_similarity(name, case):
    interaction, _, temporal = name.partition("+")
    model, reference = golden_model(interaction, temporal), recorded(f"drl_eval_{case}")
    text, video = (Tokens(*x) for x in tokens(model, case))
    with torch.no_grad():
        for memory in (2**28, 1):
            assert_close(model.similarity(text, video, memory=memory), reference[f"sim.{name}"])
    if interaction == "xti":
        assert_close(model.similarity(text, video).mT, reference[f"sim_v2t.{name}"])
    assert_close(video.tokens[..., :64], reference[f"video_feat_64.{temporal}"])
    assert_close(video.tokens.norm(dim=-1), reference[f"video_feat_norm.{temporal}"])
    valid = text.tokens * text.mask.unsqueeze(2)
    assert_close(valid[..., :64], reference["text_feat_valid_64"])
    assert_close(valid.norm(dim=-1), reference["text_feat_valid_norm"])
    if interaction[0] == "w":
        for side, given in (("text", text), ("video", video)):
            _, weight = model.tokens.token_weights(TokenSet.original(*given), side)
            assert_close(weight, reference[f"{side}_weight.{name}"])
    if name == "wti1+seqTransf":
        assert_close(token_similarity(unit(*text), unit(*video)), reference["token_sim.seqTransf"])


@pytest.mark.parametrize("name", TRAINED)
def test_losses_gradients_and_steps(name, monkeypatch):
    interaction, temporal, cdcr, case = name.split("_")
    reference, inputs = recorded(f"drl_train_{name}"), batch(case)
    if "component.cdcr_text_draw" in reference:
        drawn = [torch.from_numpy(reference[f"component.cdcr_{side}_draw"]) for side in ("text", "video")]
        order = iter(range(100))
        monkeypatch.setattr(cdcr_terms, "draw", lambda lengths: drawn[next(order) % 2] % lengths)
    model = golden_model(interaction, temporal, cdcr=int(cdcr[-1]))
    ids = torch.arange(len(inputs[0]))
    with torch.no_grad():
        sim = model.similarity(*tokens(model, case)) * model.scale
    assert_close(sim, reference["component.sim_logits"])
    if interaction == "xti":
        assert_close(sim.mT, reference["component.sim_logits_v2t"])
    if cdcr != "cdcr0":
        check_decorrelation(model, inputs, ids, reference)
        kind = interaction.rstrip("123")
        for key, alphas in (("published", (PUBLISHED[kind], 0.0)), ("offdiagonal", (0.0, 1.0))):
            weights = dict(zip(("cdcr_alpha1", "cdcr_alpha2"), alphas, strict=True))
            alone = golden_model(interaction, temporal, cdcr=int(cdcr[-1]), **weights)
            term = alone(*inputs, ids)["cdcr"]
            np.testing.assert_allclose(term.item(), reference[f"cdcr_{key}"], rtol=3e-5)
            term.backward()
            assert_gradients(alone, reference, f"cdcr_{key}_grad_norm")
    assert_training(model, lambda: model(*inputs, ids), reference)


def check_decorrelation(model, inputs, ids, reference):
    """The correlation matrix and the terms made of it."""
    found = []
    model.channel_loss, loss = lambda matrix: found.append(matrix) or loss(matrix), model.channel_loss
    with torch.no_grad():
        terms = model(*inputs, ids)
    del model.channel_loss
    diagonal = found[0].diagonal()
    assert_close(diagonal, reference["component.cdcr_diag"])
    assert_close(found[0][:16, :16], reference["component.cdcr_corner"])
    np.testing.assert_allclose(terms["cdcr"].item(), reference["component.cdcr"], rtol=3e-5)
    np.testing.assert_allclose((1 - diagonal).square().sum().item(), reference["component.cdcr_on"], rtol=3e-5)


@pytest.mark.parametrize("name", ["wti_arch1+seqTransf", "wti_arch2+seqTransf", "wti_arch3+seqTransf", "xti+seqTransf",
                                  "wti_arch2+seqLSTM", BASE, "dp+seqTransf", "ti+seqTransf"])  # fmt: skip
def test_files_load_strictly_and_save_the_same_keys(name, tmp_path):
    shapes = keys(FILE, *() if name == BASE else (name,))
    save_weights(filled(shapes), tmp_path / "pytorch_model.bin.0")
    interaction = name.partition("_")[0].partition("+")[0]
    known = interaction in ("wti", "xti")
    options = {} if known else {"method": "drl", "interaction": interaction, "cdcr": 1}
    model = load_model(tmp_path / "pytorch_model.bin.0", **options)
    assert isinstance(model, DRL) and model.options.interaction == interaction
    assert {key: list(x.shape) for key, x in released_state(model).items()} == shapes


@pytest.mark.parametrize(("recipe", "valid"), [("released", False), ("corrected", True)])
def test_a_word_far_from_all_frames_matches_a_padded_one_in_the_released_recipe_alone(recipe, valid):
    torch.manual_seed(0)
    model = DRL(CLIP(SMALL), temporal=None, interaction="ti", cdcr=2, recipe=recipe)
    frames = torch.randn(3, 4, 64).abs()  # all cosines with the words are negative
    text = Tokens(-torch.rand(3, 5, 64), torch.ones(3, 5))
    video = Tokens(frames, torch.tensor([[1, 1, 1, 0]] * 3))
    (_, best, _), _ = model.matches(text, video, (torch.ones(3, 5), torch.ones(3, 4)))
    known = F.normalize(frames[:, :3], dim=-1).flatten(0, 1)
    assert ((best @ known.mT).amax(dim=1) > 1 - 1e-5).all() == valid


@pytest.mark.parametrize(("recipe", "largest"), [("released", 4 / 5), ("corrected", 1.0)])
def test_a_channel_correlates_with_itself(recipe, largest):
    x = torch.randn(5, 3)
    matrix = cdcr_terms.correlation(x, x, 1 / 5, over_samples=recipe == "released")
    torch.testing.assert_close(matrix.diagonal(), torch.full((3,), largest))


@pytest.mark.parametrize(("options", "reason"), [({"interaction": "hi"}, "alone"), ({"interaction": "ti"}, "cdcr 3"),
                                                 ({"wti_arch": 4}, "wti_arch 4")])  # fmt: skip
def test_options_that_cannot_be_are_refused(options, reason):
    with pytest.raises(InputError, match=reason):
        DRLOptions(**options)
