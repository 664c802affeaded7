"""Every number that the released question answering was recorded to give, and its checkpoint."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from models import load_model
from models.hbi_vqa import HBIVQA
from models.released.hbi import released_name
from tests.golden_case import GOLDEN, assert_close, fill, filled_state, golden, inputs
from tests.test_golden import QUIET, TINY, clip_with, norm
from utils.checkpoint import load_weights, released_state, save_weights

ANSWERS = [f"answer {label}" for label in range(50)]


@cache
def case():
    """The model, the reference and the tokens of the recorded questions."""
    reference = golden("vqa_A_q2")
    state = filled_state(TINY, "vqa_num_labels_50")
    options = {"kl": float(reference["kl"]), "skl": float(reference["skl"])}
    model = HBIVQA(clip_with(state), ANSWERS, recipe=QUIET, **options)
    load_weights(model, state, TINY)
    return model.eval(), reference


def test_answers():
    model, reference = case()
    ids, text_mask, frames, video_mask = inputs("q2")
    with torch.no_grad():
        text = model.text_tokens(ids, text_mask), text_mask
        video = model.frame_tokens(frames, video_mask), video_mask
        for name, logits in model.answer_logits(text, video).items():
            assert_close(logits, reference[f"logits.{name}"])
        assert_close(model.mixed_logits(text, video), reference["logits.rate_0.4_0.4_0.2"])


def test_losses_and_gradients():
    model, reference = case()
    ids, text_mask, frames, video_mask = inputs("q2")
    order = torch.tensor([2, 0, 3, 1])  # the videos come in another order than the questions
    lengths = video_mask.sum(dim=1).tolist()
    packed = torch.cat([frames[row, : lengths[row]] for row in order])
    terms = model(
        ids, text_mask, packed, video_mask[order], order, order.argsort(), torch.from_numpy(reference["labels"])
    )
    np.testing.assert_allclose(terms["loss"].item(), reference["loss"], rtol=3e-5)
    names = [str(name) for name in reference["component_names"]]
    assert {*names, "loss"} == set(terms)
    np.testing.assert_allclose([terms[name].item() for name in names], reference["components"], rtol=1e-5, atol=1e-7)
    terms["loss"].backward()
    parameters = {released_name(name): parameter for name, parameter in model.named_parameters()}
    names = [str(name) for name in reference["param_names"]]
    assert sorted(parameters) == sorted(names)
    assert [parameters[name].grad is not None for name in names] == reference["has_grad"].tolist()
    ours = [norm(parameters[name].grad) for name in names]
    np.testing.assert_allclose(ours, reference["grad_norm"], rtol=1e-4, atol=1e-6)
    model.zero_grad(set_to_none=True)


@pytest.mark.slow
def test_a_released_vit_b16_checkpoint_loads_strictly_and_saves_the_same_keys(tmp_path):
    keys = json.loads((GOLDEN / "state_dict_keys.json").read_text())
    shapes = keys["vqa"] | keys["vqa_vit_b16.difference_from_vqa"]
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    name = "classifier1.2.bias"
    state[name] = fill(name, shapes[name])
    save_weights(state, tmp_path / "pytorch_model.bin.4")
    model = load_model(tmp_path / "pytorch_model.bin.4")
    assert isinstance(model, HBIVQA) and len(model.answers) == 1500
    assert (model.clip.config.patch, model.clip.config.resolution) == (16, 224)
    saved = released_state(model)
    assert {name: list(tensor.shape) for name, tensor in saved.items()} == shapes
    assert torch.equal(saved[name], state[name])
