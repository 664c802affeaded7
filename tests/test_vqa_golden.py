"""Every number that the released question answering was recorded to give, and its checkpoint."""

import json
from functools import cache

import numpy as np
import pytest
import torch

from models import load_model
from models.hbi_vqa import HBIVQA
from models.released.hbi import released_name
from tests.golden_case import GOLDEN, assert_close, fill, filled_state, golden, inputs, norm
from tests.test_golden import QUIET, TINY, clip_with
from utils.checkpoint import load_weights, released_state, save_weights
from utils.engine.builders import build_optimizer
from utils.engine.options import TrainingOptions
from utils.engine.trainer import Trainer
from utils.randomness import Undrawn

ANSWERS = [f"answer {label}" for label in range(50)]


@cache
def case():
    """The model, the reference and the tokens of the recorded questions."""
    reference = golden("vqa_A_q2")
    state = filled_state(TINY, "vqa_num_labels_50")
    options = {"kl": float(reference["kl"]), "skl": float(reference["skl"]), "freeze_layer_num": -1}
    with Undrawn():
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


@pytest.fixture
def five_steps():
    """Losses of five steps on the recorded questions, the trained model and its start, by the layers frozen."""
    state = filled_state(TINY, "vqa_num_labels_50")

    def train(layers: int) -> tuple[list[float], HBIVQA, dict[str, torch.Tensor]]:
        reference = golden("vqa_A_q2")
        options = {"kl": float(reference["kl"]), "skl": float(reference["skl"]), "dropout": 0.0}
        with Undrawn():
            model = HBIVQA(clip_with(state), ANSWERS, recipe=QUIET, freeze_layer_num=layers, **options)
        load_weights(model, state, TINY)
        options = TrainingOptions(lr=1e-4, coef_lr=1.0)
        optimizer = build_optimizer(model, options, 5)
        trainer = Trainer(model.train(), optimizer, device=torch.device("cpu"), options=options)
        ids, text_mask, frames, video_mask = inputs("q2")
        names = ("ids", "text_mask", "frames", "video_mask", "video_ids", "labels")
        labels = torch.from_numpy(reference["labels"])
        batch = dict(zip(names, (ids, text_mask, frames, video_mask, torch.arange(4), labels), strict=True))
        losses = [trainer.step(batch, number, update=True)["loss"].item() for number in range(5)]
        return losses, model, state

    return train


BELOW = {
    "clip.token_embedding.weight", "clip.positional_embedding", "clip.visual.class_embedding",
    "clip.visual.positional_embedding", "clip.visual.conv1.weight", "clip.visual.ln_pre.weight",
    "clip.visual.ln_pre.bias",
}  # fmt: skip


@pytest.mark.slow
def test_freezing_is_that_of_the_released_training(five_steps):
    reference = golden("vqa_A_q2")
    without, _, _ = five_steps(-1)
    losses, model, start = five_steps(0)
    np.testing.assert_allclose(losses[:2], [reference["loss"]] * 2, rtol=3e-5)  # the rate of the first step is 0
    assert losses[:2] == pytest.approx(without[:2], rel=1e-6)
    assert all(abs(x - y) > 1e-4 * y for x, y in zip(losses[2:], without[2:], strict=True))
    moved = {name for name, tensor in released_state(model).items() if not torch.equal(tensor, start[name])}
    assert not moved & BELOW
    assert {"clip.visual.transformer.resblocks.0.ln_1.weight", "clip.ln_final.weight"} <= moved
    frozen = {released_name(name) for name, value in model.named_parameters() if not value.requires_grad}
    assert {name for name in frozen if name.startswith("clip.")} == BELOW
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad or parameter.grad is None, name


def test_blocks_are_frozen_in_both_towers():
    state = filled_state(TINY, "vqa_num_labels_50")
    with Undrawn():
        model = HBIVQA(clip_with(state), ANSWERS, freeze_layer_num=1)
    frozen = {name for name, value in model.clip.named_parameters() if not value.requires_grad}
    blocks = {name for name, _ in model.clip.named_parameters() if ".resblocks.0." in f".{name}"}
    assert frozen == {name.removeprefix("clip.") for name in BELOW} | blocks
    assert {name.partition(".")[0] for name in blocks} == {"visual", "transformer"}
