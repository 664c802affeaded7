"""Data sets by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataloaders.base import Clip, Question, Split
from dataloaders.formats.activity import read_activity, read_activity_qa
from dataloaders.formats.csv_pairs import find_pairs, read_csv_pairs
from dataloaders.formats.didemo import read_didemo
from dataloaders.formats.lsmdc import read_lsmdc
from dataloaders.formats.msrvtt import read_msrvtt, read_msrvtt_qa
from dataloaders.formats.msvd import read_msvd, read_msvd_qa
from dataloaders.formats.vatex import read_vatex
from utils.errors import InputError

__all__ = ["DATASETS", "Clip", "DatasetSpec", "Question", "Split", "build_split", "find_dataset", "has_validation"]


@dataclass(frozen=True)
class DatasetSpec:
    """A data set with its published settings.

    Attributes:
        read: folder of annotations and "train", "val" or "test" -> split; takes `options` by name.
        frame_rule: which frames are taken, a rule of `utils.video.positions.Sampling`.
        augmentation: of training frames, a value of --augment.
        whole_seconds: whether windows of clips are cut to whole seconds, as published.
        has_validation: whether `read` takes "val", or a function of the arguments of `read` without the split.
        bank_split: split that gives the banks of a method that always evaluates after QB-Norm (DiCoSA).
        options: names of the flags that `read` takes.
        read_questions: file of questions -> questions, if there are any.
        min_answers: how often a training answer must occur to be in a vocabulary that is made of them.
    """

    read: Callable[..., Split]
    frame_rule: str
    augmentation: str = "none"
    whole_seconds: bool = True
    has_validation: bool | Callable[..., bool] = True
    bank_split: str = "train"
    options: tuple[str, ...] = ()
    read_questions: Callable[[Path], list[Question]] | None = None
    min_answers: int = 1


DATASETS = {
    "msrvtt": DatasetSpec(
        read_msrvtt,
        frame_rule="stepped",
        augmentation="rand-m7-n4-mstd0.5-inc1",
        has_validation=lambda anno_path, msrvtt_split="9k": msrvtt_split == "full",
        options=("msrvtt_split",),
        read_questions=read_msrvtt_qa,
    ),
    "msvd": DatasetSpec(read_msvd, frame_rule="stepped", read_questions=read_msvd_qa),
    "activity": DatasetSpec(
        read_activity,
        frame_rule="by_second",
        has_validation=False,
        read_questions=read_activity_qa,
        min_answers=2,
    ),
    "didemo": DatasetSpec(read_didemo, frame_rule="by_second"),
    "lsmdc": DatasetSpec(read_lsmdc, frame_rule="stepped", bank_split="val"),
    "vatex": DatasetSpec(read_vatex, frame_rule="stepped"),
    "csv": DatasetSpec(
        read_csv_pairs,
        frame_rule="stepped",
        whole_seconds=False,
        has_validation=lambda anno_path: find_pairs(anno_path, "val") is not None,
    ),
}


def find_dataset(datatype: str, *, with_questions: bool = False) -> DatasetSpec:
    """Look a data set up, `with_questions` among those that have some; an unknown one is an InputError."""
    known = {name: spec for name, spec in DATASETS.items() if spec.read_questions or not with_questions}
    if datatype not in known:
        raise InputError(f"--datatype {datatype}: unknown; choose one of {', '.join(known)}")
    return known[datatype]


def has_validation(datatype: str, anno_path: str | Path, **options: str) -> bool:
    """Whether a data set has a "val" split that does not repeat the test split; arguments as for `build_split`."""
    val, test = (build_split(datatype, anno_path, split, **options) for split in ("val", "test"))
    return val != test


def build_split(datatype: str, anno_path: str | Path, split: str, **options: str) -> Split:
    """Read the annotations of a split.

    `split` is "train", "val" or "test"; "val" is the test split where there are no validation videos. `options` are
    those of `DatasetSpec.options`.
    """
    spec = find_dataset(datatype)
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be train, val or test, got {split!r}")
    if not Path(anno_path).is_dir():
        raise InputError(f"{anno_path}: no such folder of annotations; check --anno_path")
    has_val = spec.has_validation
    if split == "val" and not (has_val(Path(anno_path), **options) if callable(has_val) else has_val):
        split = "test"
    return spec.read(Path(anno_path), split, **options)
