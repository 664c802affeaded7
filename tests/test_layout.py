"""The whole tree: imports between layers, requirements, and set-up."""

import argparse
import ast
import re
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from importlib.metadata import distributions
from pathlib import Path

import pytest

from dataloaders import DATASETS
from models import ANSWER_METHODS, CAPTION_METHODS, METHODS
from models.baselines.dicosa import DiCoSAOptions
from models.baselines.diffusionret_options import DiffusionRetOptions
from models.hbi_options import add_estimator_arguments
from scripts.mutation import GROUPS
from utils.args import caption_parser, estimator_parser, question_parser, retrieval_parser
from utils.engine.options import TrainingOptions

ROOT = Path(__file__).parents[1]
CORE = sorted(path for folder in ("models", "dataloaders", "utils") for path in (ROOT / folder).glob("**/*.py"))
SOURCES = [*CORE, *ROOT.glob("*.py"), *(ROOT / "scripts").glob("**/*.py")]
DEMO = [*(ROOT / "scripts").glob("**/demo.py"), *(ROOT / "scripts" / "webdemo").glob("*.py")]
TESTS = sorted((ROOT / "tests").glob("**/*.py"))
OURS = {"models", "dataloaders", "utils", "scripts", "tests"} | {path.stem for path in (*ROOT.glob("*.py"), *TESTS)}

# Which of our modules a layer may import: entry scripts -> utils.engine -> models, dataloaders -> the rest of utils.
LEAVES = r"utils\.(?!engine)"
ALLOWED = {
    "utils.engine": r"utils\.|models|dataloaders",
    "utils": LEAVES,
    "models": rf"{LEAVES}|models",
    "dataloaders": rf"{LEAVES}|dataloaders",
}
DECODERS = ("av", "cv2", "decord", "open_clip", "timm", "torchvision")


def imported_modules(path):
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            # "from utils import args" imports utils.args, "from utils.args import run" imports utils.args.
            inner = (ROOT / node.module.replace(".", "/")).is_dir()
            yield from (f"{node.module}.{name.name}" if inner else node.module for name in node.names)


def required_packages(*files):
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    return {comparable(re.split(r"[=<>~! ]", line)[0]) for line in lines}


def importable(*files):
    """Top-level modules that the packages in requirement files bring."""
    required = required_packages(*files)
    packages = (package for package in distributions() if comparable(package.metadata["Name"]) in required)
    return {file.parts[0].partition(".")[0] for package in packages for file in package.files}


def comparable(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", CORE, ids=lambda path: ".".join(path.relative_to(ROOT).with_suffix("").parts))
def test_imports_run_one_way(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    layer = next(layer for layer in ALLOWED if f"{module}.".startswith(f"{layer}."))
    for name in imported_modules(path):
        if name.partition(".")[0] in OURS:
            assert re.match(ALLOWED[layer], name), f"{module} imports {name}"


def test_models_load_no_decoder():
    code = f"import sys, models; print([name for name in {DECODERS} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_import_is_a_requirement():
    always, demo, dev = "requirements.txt", "requirements-demo.txt", "requirements-dev.txt"
    without_demo = [path for path in SOURCES if path not in DEMO]
    for paths, files in ((without_demo, [always]), (DEMO, [always, demo]), (TESTS, [always, demo, dev])):
        known = OURS | sys.stdlib_module_names | importable(*files)
        for path in paths:
            imported = {name.partition(".")[0] for name in imported_modules(path)}
            assert imported <= known, f"{path.relative_to(ROOT)} imports {imported - known}, which {files} do not name"


def test_constraints_name_every_requirement():
    lists = (file.name for file in ROOT.glob("requirements*.txt"))
    assert required_packages(*lists) <= required_packages("constraints.txt")


def test_mutation_testing_names_every_file_with_a_function_and_tests_that_exist():
    files, tests = (" ".join(column).split() for column in zip(*GROUPS, strict=True))
    assert sorted(files) == sorted(
        path.relative_to(ROOT).with_suffix("").as_posix()
        for folder in ("models", "dataloaders", "utils/engine")
        for path in (ROOT / folder).rglob("*.py")
        if any(isinstance(node, ast.FunctionDef) for node in ast.walk(ast.parse(path.read_text())))
    )
    assert not [name for name in tests if not (ROOT / "tests" / f"test_{name}.py").is_file()]


def test_every_flag_is_read_and_every_argument_read_is_a_flag():
    read = {
        node.attr
        for path in (*CORE, *ROOT.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and re.fullmatch(r"(self\.)?args", ast.unparse(node.value))
    }
    by_field = TrainingOptions, DiCoSAOptions, DiffusionRetOptions
    read |= {field.name for options in by_field for field in fields(options)}
    read |= {name for dataset in DATASETS.values() for name in dataset.options}
    parsers = (
        *(retrieval_parser(METHODS, method.add_arguments) for method in METHODS.values()),
        estimator_parser(["hbi"], add_estimator_arguments),
        *(question_parser(ANSWER_METHODS, method.add_arguments) for method in ANSWER_METHODS.values()),
        *(caption_parser(CAPTION_METHODS, method.add_arguments) for method in CAPTION_METHODS.values()),
    )
    actions = [action for parser in parsers for action in parser._actions]
    effective = {action.dest for action in actions if action.default != argparse.SUPPRESS}
    methods = (*METHODS.values(), *ANSWER_METHODS.values(), *CAPTION_METHODS.values())
    options = {field.name for method in methods for field in fields(method.Options)}
    assert effective - {"debug"} <= read | options  # --debug is looked for before anything is parsed
    assert read - {"command", "ineffective_flags", "notes"} <= effective  # those are not from flags


@pytest.fixture
def installed_copy(tmp_path):
    """A copy of the set-up files whose .venv says that all is installed."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    for folder in (tmp_path, tmp_path / ".venv"):
        for file in ("requirements.txt", "requirements-dev.txt"):
            shutil.copy(ROOT / file, folder)
    return tmp_path


def run_setup(folder, **environment):
    command = ["bash", str(folder / "scripts" / "setup.sh"), "dev"]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment})


def test_set_up_returns_at_once_when_all_is_installed(installed_copy):
    started = time.monotonic()
    result = run_setup(installed_copy, PYTHON="no-such-python")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.monotonic() - started < 2


def test_set_up_starts_again_when_a_requirement_changed(installed_copy):
    with (installed_copy / "requirements.txt").open("a") as file:
        file.write("another\n")
    result = run_setup(installed_copy, PYTHON="false")
    assert result.returncode == 2
    assert "Python 3.10 to 3.13 is needed, and false is not" in result.stderr
