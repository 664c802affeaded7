"""Count code and docstring lines, and list functions and files over the project's limits.

python scripts/count_lines.py [PATH ...]      default: the entry scripts, models, dataloaders and utils
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
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


def python_files(paths: list[str]) -> list[Path]:
    """The Python files at or below paths relative to the project."""
    roots = [ROOT / name for name in paths]
    return sorted(file for root in roots for file in ([root] if root.is_file() else root.rglob("*.py")))


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


def count(paths: list[str]) -> tuple[int, int, list[str]]:
    """Code lines, docstring lines and what exceeds a limit."""
    code = docstring = 0
    excess: list[str] = []
    for path in python_files(paths):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        lines = read_lines(source, tree)
        code, docstring = code + len(lines.code), docstring + len(lines.docstring)
        excess += over_limits(path.relative_to(ROOT), source, tree, lines)
    return code, docstring, excess


if __name__ == "__main__":
    code, docstring, excess = count(sys.argv[1:] or list(CORE))
    print(f"{code} code lines, {docstring} docstring lines: {docstring / code:.2f} per code line")
    print("\n".join(excess))
