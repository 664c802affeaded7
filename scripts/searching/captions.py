"""Captions of the segments of an index.

S segments, N_v frames of a segment, M frames of all, R CLIP's resolution.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models import HBICaptioning, RetrievalMethod, Tokens, load_model
from models.export import model_digest
from scripts.searching.about import Manifest
from utils.errors import InputError


@dataclass(frozen=True)
class Captioner:
    """A captioning model, and `models.export.model_digest` of its file."""

    model: HBICaptioning
    digest: str

    @classmethod
    def load(cls, checkpoint: str, device: str | torch.device) -> "Captioner":
        """Load a model; errors as for `load_captioner`."""
        return cls(load_captioner(checkpoint, device), model_digest(checkpoint))

    def captions(self, frames: Tensor, mask: Tensor) -> list[str]:
        """Captions of S segments with concatenated frames, uint8 (M, 3, R, R), and mask (S, N_v)."""
        mask = mask.to(self.model.device)
        video = Tokens(self.model.frame_tokens(frames.to(self.model.device), mask), mask)
        return self.model.sentences(self.model.generate(video).best().ids)


def load_captioner(checkpoint: str, device: str | torch.device) -> HBICaptioning:
    """Load a captioning model.

    Raises:
        InputError: the checkpoint cannot be read or has no decoder.
    """
    model = load_model(checkpoint, device=device)
    if not isinstance(model, HBICaptioning):
        raise InputError(f"{checkpoint}: has no caption decoder; give a checkpoint of main_captioning.py")
    return model


def check_captioner(captioner: Captioner | None, model: RetrievalMethod, manifest: Manifest) -> None:
    """Raise an InputError for another captioner than an index's, or one that cannot read the frames of its model."""
    if manifest.captions != (captioner and captioner.digest):
        raise InputError("the index has captions of another model; give by --captions the one it was made with")
    if captioner is None:
        return
    ours, wanted = captioner.model.clip.config.resolution, model.clip.config.resolution
    if ours != wanted:
        raise InputError(f"--captions: reads frames of {ours} pixels, the index has {wanted}; give another checkpoint")
    if manifest.sampling.max_frames > captioner.model.max_frames:
        raise InputError(f"--captions: has positions for {captioner.model.max_frames} frames; lower --max_frames")
