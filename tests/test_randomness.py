"""What is drawn at random, and what is not: weights that a file replaces."""

import torch
from torch import nn

from models import load_model
from utils.randomness import Undrawn

LAYERS = {
    "linear": lambda: nn.Linear(400, 400),
    "convolution": lambda: nn.Conv2d(20, 400, 5),
    "attention": lambda: nn.MultiheadAttention(400, 4),
    "recurrent": lambda: nn.LSTM(400, 400),
    "embedding": lambda: nn.Embedding(400, 400),
}


def test_nothing_is_drawn_for_weights_to_be_loaded():
    before = torch.get_rng_state()
    for build in LAYERS.values():
        with Undrawn():
            layer = build()
        assert torch.equal(torch.get_rng_state(), before)
        shapes = {name: tensor.shape for name, tensor in build().state_dict().items()}
        assert {name: tensor.shape for name, tensor in layer.state_dict().items()} == shapes
        torch.set_rng_state(before)


def test_a_whole_checkpoint_is_loaded_without_draws(checkpoint, model):
    before = torch.get_rng_state()
    loaded = load_model(checkpoint)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_what_a_checkpoint_lacks_is_drawn(checkpoint, model):
    loaded = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        loaded.append(load_model(checkpoint, captions=True).state_dict())
    first, again, other = loaded
    assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    drawn = {name for name, tensor in first.items() if not torch.equal(tensor, other[name])}
    assert any("attention" in name for name in drawn) and all(name.startswith("decoder.") for name in drawn)
    assert all(0.005 < first[name].std() < 0.2 for name in drawn)
