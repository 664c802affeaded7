"""Puts small mistakes into the code, one at a time, and says which of them the tests do not notice.

mutmut makes the mistakes, called mutants, in a copy of the working tree. GROUPS names the test files for each file; of
their tests those run that pass through the changed function, or all, if it runs only in processes that tests start.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
LAYERS = ("models", "dataloaders", "utils")
GROUPS = (
    (
        "models/banzhaf models/coalitions models/estimator models/expectations models/ranked_estimator models/teacher",
        "banzhaf banzhaf_golden banzhaf_options ranked_estimator teacher",
    ),
    ("models/estimator_training", "estimator"),
    (
        "models/attended_head models/interaction models/reconstruction models/similarity models/temporal "
        "models/token_levels models/token_merge",
        "attended_head baselines_emcl hbi reconstruction similarity temporal token_merge",
    ),
    (
        "models/hbi models/hbi_vqa models/level models/losses",
        "golden hbi hbi_options hbi_vqa reconstruction similarity",
    ),
    (
        "models/caption_decoder models/clip models/decoding models/encoder models/shortlist models/tokenizer "
        "models/transformer models/two_stage",
        "baselines_clip4clip captioning_model clip decoding shortlist tokenizer",
    ),
    ("models/baselines/cdcr models/baselines/drl", "baselines_drl baselines_runs flags"),
    ("models/baselines/clip4clip models/baselines/cross", "baselines_clip4clip baselines_runs flags"),
    (
        "models/baselines/dicosa models/baselines/pooling",
        "baselines_dicosa baselines_diffusion_runs baselines_diffusionret flags",
    ),
    (
        "models/baselines/denoiser models/baselines/diffusion models/baselines/diffusionret "
        "models/baselines/diffusionret_options",
        "baselines_diffusion_runs baselines_diffusionret flags",
    ),
    ("models/baselines/em models/baselines/emcl models/baselines/emcl_qa", "baselines_emcl baselines_emcl_qa flags"),
    ("models/answering", "attended_head baselines_emcl_qa hbi_vqa vqa vqa_golden"),
    ("models/caption_options models/captioning", "caption_export captioning captioning_model flags"),
    ("models/card models/export", "caption_export card export hub"),
    (
        "models/__init__ models/hbi_options models/loading models/method models/pretrained models/recipe",
        "args bad_input captioning_model checkpoint clip config export extending flags hbi hbi_options pretrained "
        "vqa_args vqa_golden",
    ),
    ("models/released/__init__", "released"),
    (
        "utils/engine/average utils/engine/builders utils/engine/optim utils/engine/trainer",
        "builders optim trainer",
    ),
    ("utils/engine/engine utils/engine/training_state", "engine resume retrieval training_state"),
    ("utils/engine/options utils/engine/task", "args builders engine resume retrieval trainer"),
    ("utils/engine/ranking", "post_processing ranking retrieval"),
    (
        "dataloaders/augment dataloaders/base dataloaders/build dataloaders/clips dataloaders/files "
        "dataloaders/loading dataloaders/question_answering dataloaders/sampling",
        "augment build datasets formats frame_cache loading retrieval video vqa_data",
    ),
    (
        "dataloaders/__init__ dataloaders/captioning dataloaders/formats/activity dataloaders/formats/csv_pairs "
        "dataloaders/formats/didemo dataloaders/formats/lsmdc dataloaders/formats/msrvtt dataloaders/formats/msvd "
        "dataloaders/formats/questions dataloaders/formats/schema dataloaders/formats/vatex",
        "bad_input captioning check_data datasets formats retrieval_formats vqa_data",
    ),
    ("dataloaders/bad_videos dataloaders/isolation", "build isolation"),
    ("dataloaders/features", "estimator"),
    ("dataloaders/frame_shards", "frame_shards"),
    ("dataloaders/frame_cache", "frame_cache"),
)
"""Files, and the test files that are to notice a mistake in them."""
NOTICED = (1, 3)
"""Exit codes of pytest where tests fail; others are of mutants that no test notices, or that take long."""
UNREACHED, LATE = 33, 36
"""mutmut's codes of a mutant that no test passes through in its own process, and of one with which tests take long."""
PATIENCE = 300  # seconds
ELSEWHERE = "tests/test_hub.py::test_torch_hub_loads_from_a_clone"
"""A test that starts the code in another folder, where mutmut does not find its settings."""
UNUSED_PLUGINS = ("cacheprovider", "unraisableexception")
"""Of pytest; the second collects garbage after each run, which takes longer than most tests."""


def main(words: list[str] | None = None) -> None:
    """Try mutants of the files, and print the unnoticed ones and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="such as models/banzhaf.py; without any, all that have tests here")
    parser.add_argument("--most", type=int, default=20, help="mutants of each file, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants tried at the same time")
    args = parser.parse_args(words)
    table = [([f"{file}.py" for file in files.split()], tests.split()) for files, tests in GROUPS]
    if unknown := set(args.files).difference(*(files for files, _ in table)):
        parser.error(f"{' '.join(sorted(unknown))}: give tests for it in {Path(__file__).name}")
    rows = []
    for files, tests in table:
        if chosen := [file for file in files if file in args.files or not args.files]:
            with TemporaryDirectory() as folder:
                copy = Copy(Path(folder), chosen, tests)
                copy.run(copy.sample(args.most, args.seed), args.jobs)
                rows += copy.report()
    print("| file | mutants | tried | noticed |\n| --- | --- | --- | --- |", *rows, sep="\n")


class Copy:
    """A copy of the working tree in which mutants of some files are tried."""

    def __init__(self, folder: Path, files: list[str], tests: list[str]):
        """Copy what git tracks or would add, and make the mutants."""
        self.folder, self.files = folder, files
        self.tests = [f"tests/test_{name}.py" for name in tests]
        self.words = ["-m", "not slow and not gpu", "--deselect", ELSEWHERE]
        self.words += [f"-pno:{name}" for name in UNUSED_PLUGINS]
        self.codes: dict[str, int] = {}
        listed = self._output("git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(lambda name: (ROOT / name).is_file(), listed.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        settings = {
            "source_paths": LAYERS,
            "only_mutate": files,
            "also_copy": [path.name for path in folder.iterdir() if path.name not in LAYERS],
            "pytest_add_cli_args": self.words,
            "pytest_add_cli_args_test_selection": self.tests,
        }
        # torch must not be used before a fork; a busy machine takes seconds for a test of milliseconds.
        lines = ["[mutmut]", "process_isolation = forkserver", "timeout_constant = 20", "timeout_multiplier = 3"]
        lines += [f"{name} =\n    " + "\n    ".join(values) for name, values in settings.items()]
        (folder / "setup.cfg").write_text("\n".join(lines))
        self._output(sys.executable, "-c", "import mutmut.__main__; mutmut.__main__.create_mutants(1)")

    def sample(self, most: int, seed: int) -> list[str]:
        """Names of at most `most` mutants of each file."""
        draw = random.Random(seed)
        names = map(list, map(self._exit_codes, self.files))
        return [name for all_names in names for name in draw.sample(all_names, min(most, len(all_names)))]

    def run(self, names: list[str], jobs: int) -> None:
        """Try these mutants; progress goes to standard error."""
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs), *names]
        subprocess.run(command, cwd=self.folder, check=True, stdout=sys.stderr)
        codes = {name: code for file in self.files for name, code in self._exit_codes(file).items()}
        unreached = [name for name in names if codes[name] == UNREACHED]
        with ThreadPoolExecutor(jobs) as pool:
            self.codes |= zip(unreached, pool.map(self._try_all_tests, unreached), strict=True)

    def report(self) -> list[str]:
        """Print the changes that no test noticed, and return a line of numbers for each file."""
        rows = []
        for file in self.files:
            codes = self._exit_codes(file)
            tried = {name: code for name, code in codes.items() if code is not None}
            alive = [name for name, code in tried.items() if code not in NOTICED]
            rows.append(f"| {file} | {len(codes)} | {len(tried)} | {len(tried) - len(alive)} |")
            for name in alive:
                print(self._output(sys.executable, "-m", "mutmut", "show", name))
        return rows

    def _try_all_tests(self, name: str) -> int:
        """The exit code of all tests with a mutant, which processes that they start have, too."""
        command = [sys.executable, "-m", "pytest", "--quiet", "--exitfirst", "-n", "0", *self.words, *self.tests]
        environment = {**os.environ, "MUTANT_UNDER_TEST": name}
        try:
            place: dict[str, Any] = {"cwd": self.folder / "mutants", "env": environment, "stdout": subprocess.DEVNULL}
            return subprocess.run(command, **place, timeout=PATIENCE).returncode
        except subprocess.TimeoutExpired:
            return LATE

    def _exit_codes(self, file: str) -> dict[str, int | None]:
        """By name of a mutant; None if it was not tried."""
        codes = json.loads((self.folder / "mutants" / f"{file}.meta").read_text())["exit_code_by_key"]
        return {name: self.codes.get(name, code) for name, code in codes.items()}

    def _output(self, *command: str) -> str:
        return subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
