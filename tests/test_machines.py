"""Two machines, as network namespaces with an address and a host name each, that train together."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import main_retrieval
from tests.chaos.training import command_line
from tests.processes import finish, script, start
from tests.retrieval_case import build_corpus

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "torchrun_train.sh"
ADDRESSES = ("10.213.77.1", "10.213.77.2")
HEAD = ADDRESSES[0]


def can_make_namespaces() -> bool:
    if not shutil.which("ip") or os.geteuid():
        return False
    return not ip("netns", "add", "hbi-trial") and not ip("netns", "del", "hbi-trial")


def ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True).returncode


@pytest.fixture(scope="module")
def machines():
    """Names of two namespaces joined by one wire; the host name of each resolves to 127.0.1.1, as Debian sets it."""
    names = [f"hbi-{os.getpid()}-{number}" for number in range(2)]
    wire = [f"hbi{os.getpid() % 10**6}{end}" for end in "ab"]
    try:
        for name in names:
            assert not ip("netns", "add", name)
            hosts = Path("/etc/netns") / name / "hosts"
            hosts.parent.mkdir(parents=True)
            hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {os.uname().nodename}\n")
        assert not ip("link", "add", wire[0], "type", "veth", "peer", "name", wire[1])
        for name, end, address in zip(names, wire, ADDRESSES, strict=True):
            assert not ip("link", "set", end, "netns", name)
            inside = ("-n", name)
            assert not ip(*inside, "address", "add", f"{address}/24", "dev", end)
            assert not ip(*inside, "link", "set", end, "up") and not ip(*inside, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def launch(machine: str, words: list[str], log: Path) -> subprocess.Popen:
    """The line of torchrun_train.sh on one machine, in a separate session, with two processes."""
    environment = {**os.environ, "PROCESSES": "2", "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    line = ["ip", "netns", "exec", machine, "bash", str(SCRIPT), HEAD, "2", str(ROOT / "main_retrieval.py"), *words]
    with open(log, "a") as file:
        return subprocess.Popen(line, env=environment, stdout=file, stderr=file, cwd=ROOT, start_new_session=True)


def kill(machine: str) -> None:
    """Kill every process of a machine at once, like a power failure."""
    found = subprocess.run(["ip", "netns", "pids", machine], capture_output=True, text=True, check=True).stdout
    for process in map(int, found.split()):
        os.kill(process, signal.SIGKILL)


def wait_for(text: str, log: Path, launchers: list[subprocess.Popen], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while text not in log.read_text():
        assert time.monotonic() < until and launchers[0].poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(not can_make_namespaces(), reason="needs root, and iproute2 with network namespaces")
def test_two_machines_train_lose_one_and_resume(machines, tmp_path):
    corpus, run = build_corpus(tmp_path / "corpus", train=8, test=4), tmp_path / "run"
    words = command_line(corpus, "--device", "cpu", "--batch_size", 4, "--save_every", 2, "--output_dir", run)
    logs = [tmp_path / f"log_{machine}" for machine in machines]
    launchers = [launch(machine, words, log) for machine, log in zip(machines, logs, strict=True)]
    try:
        wait_for("epoch 1, step 6 of 10", logs[0], launchers)
        kill(machines[1])
        launchers[1].wait(30)
        launchers[1] = launch(machines[1], words, logs[1])
        assert [launcher.wait(300) for launcher in launchers] == [0, 0], [log.read_text()[-3000:] for log in logs]
    finally:
        for machine in machines:
            kill(machine)
    text = logs[0].read_text()
    assert "resumed" in text
    losses = re.findall(r"epoch (\d), step (\d+) of 10: loss ([\d.]+)", text)
    steps = [(int(epoch), int(step)) for epoch, step, _ in losses]
    assert {(epoch, step) for epoch in (1, 2) for step in range(1, 11)} == set(steps)
    assert len(set(losses)) == len(set(steps)), "a step that was repeated had another loss"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["t2v"]["R10"] == 100


@pytest.mark.parametrize(
    ("words", "line"),
    [(["nohost.invalid", "2", "main_retrieval.py"], "nohost.invalid: no IPv4 address"),
     ([HEAD, "two", "main_retrieval.py"], "two is no number of machines"), ([HEAD, "2"], "give the address")],
)  # fmt: skip
def test_a_wrong_line_is_refused(words, line):
    result = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True)
    assert result.returncode == 2 and line in result.stderr and len(result.stderr.splitlines()) == 1


def train_in(folders: list[Path], words: list[str]) -> None:
    """Train in the folder of this process."""
    os.chdir(folders[int(os.environ["RANK"])])
    script(main_retrieval.main, *words)


@pytest.mark.parametrize("second", ["another state", "no state"])
def test_processes_that_see_different_states_end_in_one_line(second, tmp_path, monkeypatch):
    """Two processes that start in folders of their own, where the same path leads to other files."""
    corpus = build_corpus(tmp_path / "corpus", train=4, test=4)
    folders = [tmp_path / name for name in ("first", "second")]
    options = "--device", "cpu", "--workers", 0, "--epochs", 1, "--save_every", 1, "--output_dir", "run"
    words = command_line(corpus, *options, "--seed")
    for seed, folder in enumerate(folders):
        folder.mkdir()
        if seed == 0 or second == "another state":
            monkeypatch.chdir(folder)
            main_retrieval.main([*words, str(seed)])
    log = tmp_path / "log.txt"
    processes = start(log, 2, train_in, folders, [*words, "0", "--resume", "auto"])
    assert finish(processes) == [2, 2], log.read_text()
    errors = [text for text in log.read_text().splitlines() if text.startswith("main_retrieval.py: error")]
    assert len(errors) == 1 and "must share --output_dir" in errors[0], log.read_text()
