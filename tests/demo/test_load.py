"""The demo as a process, used by several clients at once."""

import json

import pytest

from scripts.benchmark import main
from tests.demo.conftest import make_site
from utils.errors import InputError


@pytest.mark.slow
def test_clients_at_once_get_answers(tmp_path):
    make_site(tmp_path, seconds=2)
    file = tmp_path / "rows.json"
    main(["demo", "--index", str(tmp_path / "index"), "--clients", "3", "--seconds", "2", "--json", str(file)])
    search, interaction, both = json.loads(file.read_text())["rows"]
    assert search["requests"] >= 3 and interaction["requests"] >= 3
    assert both["requests"] == search["requests"] + interaction["requests"]
    assert both["errors"] == 0 and 0 < both["p50 s"] <= both["p99 s"]


@pytest.mark.slow
def test_a_demo_that_does_not_start_is_named(tmp_path):
    with pytest.raises(InputError, match="the demo did not start"):
        main(["demo", "--index", str(tmp_path / "nothing"), "--seconds", "1"])
