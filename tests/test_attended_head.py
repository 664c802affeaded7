"""The answer head whose words attend to frames: padding, what it can distinguish, and its checkpoints."""

import pytest
import torch
import torch.nn.functional as F

from models import CLIP, HBIVQA, load_model
from models.answering import AnswerHead
from models.attended_head import AttendedHead
from models.level import TokenSet
from tests.conftest import SMALL
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError

WIDTH = 16


def token_set(tokens, valid):
    mask = (torch.arange(tokens.shape[1]) < torch.tensor(valid).unsqueeze(1)).long()
    return TokenSet.original(tokens, mask)


def test_padding_does_not_matter():
    torch.manual_seed(0)
    head = AttendedHead(WIDTH, 5, 0.1).eval()
    words, frames = torch.randn(2, 6, WIDTH), torch.randn(2, 4, WIDTH)
    found = head(token_set(words, [6, 3]), token_set(frames, [2, 4]))
    words[1, 3:], frames[0, 2:] = 100 * torch.randn(3, WIDTH), 100 * torch.randn(2, WIDTH)
    assert torch.allclose(head(token_set(words, [6, 3]), token_set(frames, [2, 4])), found, atol=1e-5)
    short = head(token_set(words[1:, :3], [3]), token_set(frames[1:], [4]))
    assert torch.allclose(short, found[1:], atol=1e-5)


def two_things(count):
    """Videos of two frames, each of a thing (4) with a colour (4); questions name a thing and ask for its colour."""
    things = torch.stack([torch.randperm(4)[:2] for _ in range(count)])
    colours = torch.randint(0, 4, (count, 2))
    frames = torch.cat([F.one_hot(things, 4), F.one_hot(colours, 4), torch.zeros(count, 2, 8)], dim=2).float()
    named = torch.randint(0, 2, (count,))
    words = F.pad(F.one_hot(things[torch.arange(count), named], 4), (0, WIDTH - 4)).float().unsqueeze(1)
    return token_set(words, [1] * count), token_set(frames, [2] * count), colours[torch.arange(count), named]


@pytest.mark.parametrize(("kind", "least", "most"), [(AttendedHead, 0.95, 1.0), (AnswerHead, 0.0, 0.9)])
def test_it_distinguishes_which_of_two_things_a_question_names(kind, least, most):
    torch.manual_seed(0)
    head = kind(WIDTH, 4, 0.0)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-3)
    for _ in range(150):
        *sets, labels = two_things(64)
        optimizer.zero_grad()
        F.cross_entropy(head(*sets), labels).backward()
        optimizer.step()
    *sets, labels = two_things(1000)
    accuracy = (head(*sets).argmax(dim=1) == labels).float().mean().item()
    assert least <= accuracy <= most


def test_a_checkpoint_says_its_head(tmp_path):
    torch.manual_seed(0)
    model = HBIVQA(CLIP(SMALL), ["yes", "no"], temporal_layers=1, answer_head="attended").eval()
    state = released_state(model)
    save_weights(state, tmp_path / "model.bin")
    again = load_model(tmp_path / "model.bin", answers=["yes", "no"])
    assert isinstance(again.answer_heads[2], AttendedHead) and released_state(again).keys() == state.keys()
    text = again.encode_text(["what is red?", "a"], 8)
    video = torch.randn(2, 3, SMALL.embed_dim), torch.ones(2, 3, dtype=torch.long)
    assert torch.equal(again.mixed_logits(text, video), model.mixed_logits(text, video))
    with pytest.raises(InputError, match="keys differ"):
        load_model(tmp_path / "model.bin", answers=["yes", "no"], answer_head="pooled")
