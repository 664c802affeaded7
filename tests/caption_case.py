"""A small captioning model with random weights, whose words differ."""

import torch

from models import CLIP, HBICaptioning
from tests.conftest import SMALL
from utils.checkpoint import released_state, save_weights


def save_captioner(path, seed=0):
    """Write the checkpoint of a captioning model, and return the model."""
    torch.manual_seed(seed)
    model = HBICaptioning(CLIP(SMALL), temporal_layers=1).eval()
    torch.nn.init.normal_(model.decoder.embedding.weight, std=0.3)
    save_weights(released_state(model), path)
    return model
