"""The scripts that start training: the published runs, and any run under Slurm."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from models import ANSWER_METHODS, METHODS
from tests.test_commands import commands
from utils.args import parse, question_parser, retrieval_parser

ROOT = Path(__file__).parents[1]


def words_from(script, text):
    """The words of the command in `text` that starts the Python script, from its name on."""
    words = shlex.split(text.replace("\\\n", " "), comments=True)
    return words[words.index(script) :]


@pytest.mark.parametrize(
    ("name", "heading", "script"),
    [
        ("msrvtt", "Train on MSR-VTT", "main_retrieval.py"),
        ("activity", "Train on ActivityNet Captions", "main_retrieval.py"),
        ("estimator", "Train the estimator", "banzhaf_estimator.py"),
        ("msrvtt_qa", "Train on MSRVTT-QA", "main_vqa.py"),
    ],
)
def test_the_scripts_run_the_documented_commands(name, heading, script):
    text = (ROOT / "scripts" / f"train_{name}.sh").read_text()
    (documented,) = commands(heading)
    assert words_from(script, text) == [*words_from(script, documented), "$@"]
    processes = re.search(r"--nproc_per_node=(\d)", documented)[1]
    assert f'--nproc_per_node="${{PROCESSES:-{processes}}}"' in text
    for variable in set(re.findall(r"\$\{([A-Z_]+)\}", text)):
        assert variable in text.partition("Needs ")[2].splitlines()[0]


STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then printf "first\\nsecond\\n"; else echo "$@" >> "$CALLS"; fi',
    "srun": 'echo "srun $1 $2 $3" >> "$CALLS"\n'
            'for number in 0 1; do\n'
            '    SLURM_PROCID=$number SLURM_LOCALID=$number SLURM_NTASKS=2 "${@:4}" || code=$?\n'
            'done\n'
            'exit "${code:-0}"',
    "python": '[ "$LOCAL_WORLD_SIZE" = 2 ] || exit 99\n'
              'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT: $*" >> "$CALLS"; exit "$CODE"',
}  # fmt: skip


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (2, False), (75, True), (138, True)])
def test_a_preempted_slurm_job_goes_back_into_the_queue(code, requeued, tmp_path):
    """Stand-ins take the place of Slurm's programs and of Python."""
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "CODE": str(code),
        "SLURM_JOB_ID": "70123", "SLURM_CPUS_PER_TASK": "5", "SLURM_NTASKS_PER_NODE": "2(x2)",
        "SLURM_JOB_NODELIST": "[first,second]",
    }
    script = ["bash", str(ROOT / "scripts" / "slurm_train.sh"), "main_retrieval.py", "--output_dir", "two words"]
    assert subprocess.run(script, env=environment).returncode == code
    calls = (tmp_path / "calls").read_text().splitlines()
    said = "first 30123: main_retrieval.py --output_dir two words --resume auto"
    assert calls[0] == "srun --kill-on-bad-exit=1 --cpus-per-task=5 --cpu-bind=cores"
    assert calls[1:3] == [f"{rank} {rank} 2 {said}" for rank in (0, 1)]
    assert calls[3:] == (["requeue 70123"] if requeued else [])


METHOD_SCRIPTS = sorted(path for name in METHODS for path in (ROOT / "scripts").glob(f"train_{name}_*.sh"))


@pytest.mark.parametrize("path", METHOD_SCRIPTS, ids=lambda path: path.stem)
def test_the_scripts_of_the_methods_are_command_lines(path):
    method = path.stem.split("_")[1]
    text, questions = path.read_text(), path.stem.endswith("_qa")
    *words, rest = words_from("main_vqa.py" if questions else "main_retrieval.py", text)[1:]
    assert rest == "$@" and os.access(path, os.X_OK)
    make, methods = (question_parser, ANSWER_METHODS) if questions else (retrieval_parser, METHODS)
    args = parse(make(methods, methods[method].add_arguments), words)
    stage = "_generation" * (vars(args).get("stage") == "generation")
    assert path.stem == f"train_{args.method}{stage}_{args.datatype}" + "_qa" * questions
    assert args.do_train
    assert f"bash scripts/{path.name}" in text
    for variable in set(re.findall(r"\$\{([A-Z_]+)\}", text)):
        assert variable in text.partition("Needs ")[2].splitlines()[0]
