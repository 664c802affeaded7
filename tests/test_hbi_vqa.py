"""HBI for questions: influences on its answers and its gradients."""

import pytest
import torch

from models import CLIP, HBIVQA, Tokens
from tests.conftest import SMALL
from tests.test_hbi import batch
from utils.checkpoint import released_state

WIDTH = SMALL.embed_dim


def build(**options) -> HBIVQA:
    torch.manual_seed(0)
    return HBIVQA(CLIP(SMALL), ["yes", "no", "red"], temporal_layers=1, **options)


def questions() -> dict[str, torch.Tensor]:
    return batch() | {"labels": torch.tensor([0, 2, 1, 0])}


def ragged(seed: int, tokens: int, lengths: list[int]) -> Tokens:
    draw = torch.Generator().manual_seed(seed)
    mask = (torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)).long()
    return Tokens(torch.randn(len(lengths), tokens, WIDTH, generator=draw), mask)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_every_trainable_parameter_gets_a_gradient(levels):
    model = build(trained_levels=levels)
    model(**questions())["loss"].backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == reached
    heads = {name.split(".")[1] for name in trained if name.startswith("answer_heads.")}
    assert heads == {str(level) for level in range(levels)}


@pytest.mark.parametrize("head", ["pooled", "attended"])
def test_a_checkpoint_determines_its_answer_head(head):
    assert HBIVQA.options_of_state(released_state(build(answer_head=head)))["answer_head"] == head


def test_the_answers_are_mixed_by_the_rates():
    model, (text, video) = build(rates=(0.5, 0.3, 0.2)).eval(), (ragged(0, 6, [6, 3]), ragged(1, 4, [4, 2]))
    entity, action, event = model.answer_logits(text, video).values()
    torch.testing.assert_close(model.mixed_logits(text, video), 0.5 * entity + 0.3 * action + 0.2 * event)


def test_dropout_is_for_training_alone():
    model, (text, video) = build(dropout=0.5), (ragged(0, 6, [6, 3]), ragged(1, 4, [4, 2]))
    model.train()
    assert not torch.equal(model.mixed_logits(text, video), model.mixed_logits(text, video))
    model.eval()
    assert torch.equal(model.mixed_logits(text, video), model.mixed_logits(text, video))


@pytest.mark.parametrize("recipe", ["released", "corrected"])
def test_the_alignment_masks_padding_only_if_corrected(recipe):
    text, video = ragged(0, 6, [6, 3]), ragged(1, 4, [4, 2])
    model, padding = build(recipe=recipe), (text.mask.unsqueeze(2) * video.mask.unsqueeze(1)) == 0
    given = text, video, torch.arange(2), torch.tensor([0, 2])
    before = model.losses(*given)
    model.levels[0].student.register_forward_hook(lambda module, inputs, output: output + 5 * padding)
    after = model.losses(*given)
    for name in ("entity.kl_banzhaf", "entity.kl_banzhaf_reversed"):
        assert torch.allclose(before[name], after[name], rtol=1e-3) == (recipe == "corrected")
