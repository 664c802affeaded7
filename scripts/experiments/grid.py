"""The grid of an experiment: named variants of a command line, and their comparisons."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from scripts.experiments.runs import Run
from utils.schema import Settings, validated
from utils.texts import read_json

Script = Literal["main_retrieval.py", "main_vqa.py", "main_captioning.py", "banzhaf_estimator.py"]


class Variant(Settings):
    """One row of the grid.

    Attributes:
        flags: in addition to those of the grid and of the command line.
        script: entry script, if not the grid's; such a variant is not summarised.
        needs: flags that take the best checkpoint of an earlier variant, with the same seed.
    """

    flags: str = ""
    script: Script | None = None
    needs: dict[str, str] = {}


class Grid(Settings):
    """A grid file.

    Attributes:
        script: of all variants that do not name another.
        flags: of all variants.
        variants: by name; the first ones run first.
        comparisons: pairs of variants, whose effect is that of the first against the second.
    """

    script: Script = "main_retrieval.py"
    flags: str = ""
    variants: dict[str, Variant]
    comparisons: list[tuple[str, str]] = []

    @model_validator(mode="after")
    def _names_exist(self) -> "Grid":
        known: list[str] = []
        for name, variant in self.variants.items():
            if missing := set(variant.needs.values()) - set(known):
                raise ValueError(f"{name} needs {min(missing)}, which no variant before it is called")
            known.append(name)
        if missing := {name for pair in self.comparisons for name in pair} - set(known):
            raise ValueError(f"a comparison names {min(missing)}, which no variant is called")
        return self

    def folder(self, output: Path, name: str, seed: int) -> Path:
        """Output folder of a run."""
        return output / "".join(letter if letter.isalnum() else "_" for letter in name) / f"seed_{seed}"

    def runs(self, output: Path, seeds: Sequence[int], common: Sequence[str]) -> Iterator[Run]:
        """All runs, one seed after another; `common` are flags of the command line."""
        for seed in seeds:
            for name, variant in self.variants.items():
                words = ["--seed", str(seed), *shlex.split(self.flags), *common, *shlex.split(variant.flags)]
                needs = {flag: self.folder(output, need, seed) for flag, need in variant.needs.items()}
                yield Run(self.folder(output, name, seed), tuple(words), variant.script or self.script, needs)


def read_grid(path: Path) -> Grid:
    """Read a grid file.

    Raises:
        InputError: it is no JSON, or not a grid.
    """
    return validated(Grid, read_json(path), path, "see scripts/experiments/retrieval.json")
