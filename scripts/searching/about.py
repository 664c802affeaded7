"""Description of an index; nothing in it grants trust, so that a foreign index runs no code."""

import json
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import torch
from pydantic import Field, JsonValue

from models import METHODS, RetrievalMethod, load_model
from scripts.searching.spans import CUTS
from utils.errors import InputError, printable
from utils.schema import Settings, validated
from utils.video.checks import VIDEO_SUFFIXES
from utils.video.decode import DECODER

FORMAT = 3
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern="^[^\\x00]+$")]


class IndexedModel(Settings):
    """The model of an index.

    Attributes:
        checkpoint: path of its file.
        method: a key of `models.METHODS`.
        base_encoder: name of CLIP's weights, which determines the activation of the towers.
        options: keywords of the method.
    """

    checkpoint: Text
    method: Literal[tuple(METHODS)] = "hbi"
    base_encoder: Text | None = None
    options: dict[str, JsonValue] = {}

    @classmethod
    def of(cls, model: RetrievalMethod, checkpoint: str, base_encoder: str | None) -> "IndexedModel":
        """Describe a model that was loaded from a file."""
        method = next(name for name, kind in METHODS.items() if isinstance(model, kind))
        options = {field.name: getattr(model.options, field.name) for field in fields(METHODS[method].Options)}
        file = str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint  # or a name on the Hub
        where = {"checkpoint": file, "method": method, "base_encoder": base_encoder}
        return cls.model_validate_json(json.dumps({**where, "options": options}, default=asdict))

    def load(self, device: str | torch.device, checkpoint: str | None, address: str) -> RetrievalMethod:
        """Load the model, from the file `checkpoint` if given.

        Raises:
            InputError: the file cannot be read, or the options are none of the method's.
        """
        kind, remedy = METHODS[self.method].Options, "run scripts/search.py index with --rebuild"
        if unknown := self.options.keys() - {field.name for field in fields(kind)}:
            raise InputError(f"{address}: options.{printable(min(unknown))}: unknown; {remedy}")
        options = validated(kind, self.options, f"{address}: options", remedy)
        options = {name: getattr(options, name) for name in self.options}
        where = {"base_encoder": self.base_encoder, "method": self.method, "device": device}
        return load_model(checkpoint or self.checkpoint, **where, **options)


class Sampling(Settings):
    """Segments and frames of an index.

    Attributes:
        max_frames: of a segment.
        framerate: frames taken from a second of video.
        cut: "windows" or "shots", see `scripts.searching.spans`.
        segment: maximum length of a segment, seconds.
        overlap: of neighbouring windows, seconds.
        group: segments that a long one covers; below 2 there are no long ones.
    """

    max_frames: Annotated[int, Field(ge=1, le=1024)]
    framerate: Annotated[int, Field(ge=1, le=1000)]
    cut: Literal[CUTS] = "windows"
    segment: Annotated[int, Field(ge=1, le=10**6)]
    overlap: Annotated[int, Field(ge=0, le=10**6)]
    group: Annotated[int, Field(ge=0, le=1000)] = 0

    def of_frames(self) -> dict[str, int]:
        """Keywords of `utils.video.decode.decode_clip`."""
        return self.model_dump(include={"max_frames", "framerate"})


class Manifest(Settings):
    """Sources and settings of an index.

    Attributes:
        folder: of the videos, at the last update.
        model: see `IndexedModel`.
        digest: `models.export.model_digest` of the model.
        sampling: see `Sampling`.
        max_words: tokens of a query.
        bits: of a number of a token, see `scripts.searching.compression`.
        captions: digest of the model that wrote the `description` of each segment; None: there is no such column.
        decoder: version of the decoder.
        skipped: number of unusable videos in the folder.
        format: version of this layout.
    """

    folder: Text
    model: IndexedModel
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    sampling: Sampling
    max_words: Annotated[int, Field(ge=2, le=1024)]
    bits: Literal[4, 8, 16] = 16
    captions: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    decoder: Text = DECODER
    skipped: Annotated[int, Field(ge=0)] = 0
    format: Literal[3] = FORMAT

    def check_same(self, other: "Manifest", address: str) -> None:
        """Refuse to update an index with other options than those of `self`.

        Raises:
            InputError: names the first that differs; the paths of videos and model may differ.
        """
        earlier, wanted = ({**manifest.model_dump(), **manifest.model_dump()["model"]} for manifest in (self, other))
        for name in earlier.keys() - {"folder", "checkpoint", "model", "skipped"}:
            if earlier[name] != wanted[name]:
                raise InputError(
                    f"{address}: was made with {name} {earlier[name]}, not {wanted[name]}; give --rebuild to make it "
                    "again, or another --index"
                )


def check_inside(file: str) -> str:
    """Return a path if it names a video within its folder.

    Raises:
        ValueError: it does not.
    """
    path = PurePosixPath(file)
    if path.suffix.lower() not in VIDEO_SUFFIXES or path.is_absolute() or ".." in path.parts or "\0" in file:
        raise ValueError("names no video in the folder")
    return file
