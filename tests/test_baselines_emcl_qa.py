"""Every number that the released EMCL was recorded to give for question answering, and its files."""

import pytest
import torch

from models import CLIP, load_model
from models.baselines.emcl_qa import EMCLQA
from models.encoder import Tokens
from tests.baseline_case import assert_training, batch, build, filled, keys, recorded, tokens
from tests.conftest import SMALL
from tests.golden_case import assert_close
from tests.test_baselines_emcl import state
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError

FILE = "emclqa_state_dict_tiny"


def golden_model(start, **options):
    model = build(EMCLQA, keys(FILE), [str(label) for label in range(50)], **options)
    model.mu.copy_(state(start, 16))
    return model


@pytest.mark.parametrize(("start", "case"), [("initial", "t1"), ("moved", "t1"), ("moved", "t2")])
def test_answers_losses_gradients_and_states(start, case):
    model, reference, inputs = golden_model(start), recorded(f"emclqa_train_{start}_{case}"), batch(case)
    text, video = (Tokens(*x) for x in tokens(model, case))
    with torch.no_grad():
        assert_close(model.mixed_logits(text, video), reference["eval_logits"])
    assert_close(video.tokens[..., :64], reference["frames_64"])
    labels, states, rows = torch.from_numpy(reference["labels"]), [model.mu.clone()], []
    reconstruct = model.reconstruct
    model.reconstruct = lambda x: rows.append((x, reconstruct(x))) or rows[-1][1]

    def loss():
        terms = model(*inputs, torch.arange(len(labels)), labels=labels)
        states.append(model.mu.clone())
        return terms

    assert_training(model, loss, reference)
    assert_close(torch.cat(states), reference["mu_states"])
    for ours, name in zip(rows[0], ("em_input_64", "em_output_64"), strict=True):
        assert_close(ours[:, :64], reference[f"component.{name}"])


def test_files_load_strictly_and_save_the_same_keys(tmp_path):
    shapes = keys(FILE)
    save_weights(filled(shapes), tmp_path / "pytorch_model.bin.0")
    model = load_model(tmp_path / "pytorch_model.bin.0")
    assert isinstance(model, EMCLQA) and len(model.answers) == 50
    assert {key: list(x.shape) for key, x in released_state(model).items()} == shapes


def test_the_corrected_recipe_does_not_see_padding():
    model = golden_model("moved", recipe="corrected")
    ids, text_mask, frames, video_mask = batch("t2")
    with torch.no_grad():
        whole, shorter = (
            model.mixed_logits(
                Tokens(model.text_tokens(ids[2:3, :words], text_mask[2:3, :words]), text_mask[2:3, :words]),
                Tokens(model.frame_tokens(frames[:1, :number], video_mask[:1, :number]), video_mask[:1, :number]),
            )
            for words, number in ((12, 6), (7, 2))
        )
    torch.testing.assert_close(whole, shorter)


@torch.no_grad()
def test_questions_on_one_video_are_no_negatives_in_the_corrected_recipe():
    inputs, labels = batch("t1"), torch.zeros(len(batch("t1")[0]), dtype=torch.long)
    for recipe, equal in (("released", True), ("corrected", False)):
        losses = []
        for ids in (torch.arange(len(labels)), torch.zeros_like(labels)):
            model = golden_model("moved", recipe=recipe)
            losses.append(model(*inputs, ids, labels=labels)["ce_t2v"].item())
        assert (losses[0] == pytest.approx(losses[1])) is equal


@pytest.mark.parametrize("temporal", [None, "seqLSTM"])
def test_another_temporal_encoder_is_refused(temporal):
    with pytest.raises(InputError, match="^EMCL answers questions with the temporal encoder seqTransf; leave out"):
        EMCLQA(CLIP(SMALL), ["yes", "no"], temporal=temporal)
