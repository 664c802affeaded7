"""docs/flags.md: every flag of every entry script, with its default."""

import argparse
from pathlib import Path

import pytest

from models import ANSWER_METHODS, CAPTION_METHODS, EMCLQA, HBI, HBIVQA, METHODS
from models.hbi_options import add_estimator_arguments
from utils.args import caption_parser, estimator_parser, question_parser, retrieval_parser

PAGE = Path(__file__).parents[1] / "docs" / "flags.md"
PARSERS = {
    "main_retrieval.py": lambda: retrieval_parser(METHODS, HBI.add_arguments),
    "main_vqa.py": lambda: question_parser(ANSWER_METHODS, HBIVQA.add_arguments),
    "main_captioning.py": lambda: caption_parser(CAPTION_METHODS, CAPTION_METHODS["hbi"].add_arguments),
    "banzhaf_estimator.py": lambda: estimator_parser(["hbi"], add_estimator_arguments),
    **{
        f"main_retrieval.py --method {name}": lambda method=method: retrieval_parser(METHODS, method.add_arguments)
        for name, method in METHODS.items()
        if name != "hbi"
    },
    "main_vqa.py --method emcl": lambda: question_parser(ANSWER_METHODS, EMCLQA.add_arguments),
}


def documented():
    """The rows of the page's table: flag -> script -> default as words, "" where a script has no such flag."""
    lines = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    return {row[0].strip("`"): dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def defaults(parser):
    """Flag -> default as the page writes it."""
    found = {}
    for action in parser._actions:
        if action.dest in ("help", "local_rank") or action.default == argparse.SUPPRESS:
            continue
        value = action.default
        words = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        shown = "required" if action.required else {"None": "-", "False": "off", "": "-"}.get(words, words)
        found[action.option_strings[0]] = shown
    return found


@pytest.mark.parametrize("script", PARSERS)
def test_every_default_is_the_documented_one_and_every_flag_is_listed(script, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    rows = documented()
    column = script.partition(" ")[0]
    found = defaults(PARSERS[script]())
    if column != script:  # only what HBI lacks, or has with another default, has a row of its own
        usual = defaults(PARSERS[column]())
        name = script.rpartition(" ")[2]
        own = {flag: value for flag, value in found.items() if usual.get(flag) != value}
        listed = ((flag.partition(" ")[0], row[column]) for flag, row in rows.items() if flag.endswith(f" ({name})"))
        assert {flag: value for flag, value in listed if value} == own
    else:
        assert {flag: row[column] for flag, row in rows.items() if "(" not in flag and row[column]} == found


def test_every_flag_of_the_page_is_one_of_some_script():
    known = {flag for make in PARSERS.values() for flag in defaults(make())}
    assert {flag.partition(" ")[0] for flag in documented()} == known


@pytest.mark.parametrize("script", PARSERS)
def test_every_flag_says_what_it_is(script):
    explained = (action for action in PARSERS[script]()._actions if action.default != argparse.SUPPRESS)
    assert not [action.option_strings for action in explained if not action.help]
