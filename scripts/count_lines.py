r"""Count code and docstring lines, and list functions and files over the project's limits.

`python scripts/count_lines.py` counts the entry scripts, models, dataloaders and utils. Without captions and baselines:

    python scripts/count_lines.py --exclude models/baselines models/released/{dicosa,diffusionret,emcl}.py \
        models/caption*.py models/decoding.py dataloaders/captioning.py utils/caption_metrics.py
"""

import argparse
import ast
import io
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
ENTRY_SCRIPTS = ("main_retrieval.py", "main_vqa.py", "main_captioning.py", "banzhaf_estimator.py")
CORE = (*ENTRY_SCRIPTS, "models", "dataloaders", "utils")
MAX_FUNCTION, MAX_PARAMETERS, MAX_FILE = 40, 8, 300
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Lines(NamedTuple):
    """Line numbers of one file: code (no blank, comment or docstring line) and docstrings."""

    code: set[int]
    docstring: set[int]


def python_files(paths: Sequence[Path]) -> set[Path]:
    """The Python files at or below some paths."""
    return {file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))}


def read_lines(source: str, tree: ast.Module) -> Lines:
    """Sort the lines of a file."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    occupied = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in skipped
        for line in range(token.start[0], token.end[0] + 1)
    }
    docstring = {
        line
        for node in ast.walk(tree)
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    return Lines(occupied - docstring, docstring)


def over_limits(path: Path, source: str, tree: ast.Module, lines: Lines) -> Iterator[str]:
    """Describe what exceeds a limit, one line each."""
    total = len(source.splitlines())
    if total > MAX_FILE:
        yield f"{path}: {total} lines, more than {MAX_FILE}"
    for node in ast.walk(tree):
        if not isinstance(node, FUNCTIONS):
            continue
        length = len(lines.code & set(range(node.lineno, node.end_lineno + 1)))
        if length > MAX_FUNCTION:
            yield f"{path}:{node.lineno}: {node.name} has {length} code lines, more than {MAX_FUNCTION}"
        arguments = node.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        parameters = len([name for name in names if name not in ("self", "cls")])
        if parameters > MAX_PARAMETERS:
            yield f"{path}:{node.lineno}: {node.name} has {parameters} parameters, more than {MAX_PARAMETERS}"


def count(paths: Sequence[Path], exclude: Sequence[Path]) -> tuple[int, int, list[str]]:
    """Code lines, docstring lines and what exceeds a limit in all files but those to `exclude`."""
    code = docstring = 0
    excess: list[str] = []
    for path in sorted(python_files(paths) - python_files(exclude)):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        lines = read_lines(source, tree)
        code, docstring = code + len(lines.code), docstring + len(lines.docstring)
        excess += over_limits(path.relative_to(ROOT), source, tree, lines)
    return code, docstring, excess


def existing(name: str) -> Path:
    """A path relative to the project, which must exist."""
    path = ROOT / name
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{name}: no such file or folder in {ROOT}; check the name")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = [ROOT / name for name in CORE]
    parser.add_argument("paths", nargs="*", type=existing, default=default, help="files and folders, relative to here")
    parser.add_argument("--exclude", nargs="+", type=existing, default=[], help="files and folders to leave out")
    arguments = parser.parse_args()
    code, docstring, excess = count(arguments.paths, arguments.exclude)
    print(f"{code} code lines, {docstring} docstring lines: {docstring / max(code, 1):.2f} per code line")
    print("\n".join(excess))
