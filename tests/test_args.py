import subprocess
import sys
from functools import partial

import pytest
import torch

from models import HBI, METHODS
from models.hbi_options import add_estimator_arguments
from utils import args
from utils.errors import InputError
from utils.run import run

retrieval_parser = partial(args.retrieval_parser, METHODS, HBI.add_arguments)
estimator_parser = partial(args.estimator_parser, ["hbi"], add_estimator_arguments)

PATHS = ["--anno_path", "anns", "--video_path", "videos", "--output_dir", "out"]

RETRIEVAL_DEFAULTS = {
    "do_train": 0, "do_eval": 0, "datatype": "msrvtt", "seed": 42, "workers": 4, "lr": 1e-4, "coef_lr": 1e-3,
    "warmup_proportion": 0.1, "weight_decay": 0.2, "epochs": 5, "batch_size": 128, "batch_size_val": 128,
    "max_words": 32, "max_frames": 12, "video_framerate": 1, "device": None, "local_rank": 0, "n_display": 50,
    "base_encoder": "ViT-B/32", "agg_module": "seqTransf", "interaction": "wti", "num_hidden_layers": 4,
    "init_model": None,
}
LEVEL_DEFAULTS = {
    "estimator": None, "kl": 0.2, "skl": 1, "v_rate0": 0.25, "v_rate1": 0.5, "t_rate0": 0.25, "t_rate1": 0.5,
    "rate": [1, 0, 0],
}

PUBLISHED_COMMANDS = {
    "estimator": (
        estimator_parser,
        "--do_train 1 --workers 8 --n_display 1 --epochs 10 --lr 1e-2 --coef_lr 1e-3 --batch_size 128"
        " --batch_size_val 128 --anno_path data/MSR-VTT/anns --video_path MSRVTT_Videos --datatype msrvtt"
        " --max_words 24 --max_frames 12 --video_framerate 1 --output_dir out",
    ),
    "evaluate msrvtt": (
        retrieval_parser,
        "--do_eval 1 --workers 8 --n_display 50 --batch_size_val 128 --anno_path data/MSR-VTT/anns"
        " --video_path MSRVTT_Videos --datatype msrvtt --max_words 24 --max_frames 12 --video_framerate 1"
        " --init_model checkpoint --output_dir out",
    ),
    "train activity": (
        retrieval_parser,
        "--do_train 1 --workers 8 --n_display 10 --epochs 10 --lr 1e-4 --coef_lr 1e-3 --batch_size 128"
        " --batch_size_val 128 --anno_path ActivityNet --video_path Activity_Videos --datatype activity"
        " --max_words 64 --max_frames 64 --video_framerate 1 --output_dir out --estimator estimator --kl 2 --skl 1",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED_COMMANDS)
def test_published_commands_parse_word_for_word(name):
    make_parser, command = PUBLISHED_COMMANDS[name]
    parsed = vars(args.parse(make_parser(), command.split()))
    words = command.split()
    for flag, word in zip(words[::2], words[1::2], strict=True):
        value = parsed[flag.removeprefix("--")]
        assert value == type(value)(word), flag


@pytest.mark.parametrize(
    ("make_parser", "expected"),
    [(retrieval_parser, RETRIEVAL_DEFAULTS | LEVEL_DEFAULTS), (estimator_parser, RETRIEVAL_DEFAULTS)],
)
def test_defaults_are_the_published_ones(make_parser, expected, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    parsed = vars(make_parser().parse_args(PATHS))
    assert {name: parsed[name] for name in expected} == expected
    if make_parser is estimator_parser:
        assert not LEVEL_DEFAULTS.keys() & parsed.keys()


@pytest.mark.parametrize("name", RETRIEVAL_DEFAULTS | LEVEL_DEFAULTS)
def test_every_published_flag_takes_its_default_as_words(name):
    default = (RETRIEVAL_DEFAULTS | LEVEL_DEFAULTS)[name]
    words = [str(value) for value in (default if isinstance(default, list) else [default])]
    parsed = retrieval_parser().parse_args([*PATHS, f"--{name}", *words])
    assert getattr(parsed, name) == ("None" if default is None else default)


def test_switches_work_with_and_without_a_value():
    for words, expected in ((["--do_train"], 1), (["--do_train", "1"], 1), (["--do_train", "0", "--do_eval"], 0)):
        assert args.parse(retrieval_parser(), [*PATHS, *words]).do_train == expected


def test_local_rank_comes_from_either_spelling_or_the_launcher(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert retrieval_parser().parse_args(PATHS).local_rank == 3
    for flag in ("--local_rank=1", "--local-rank=1"):
        assert retrieval_parser().parse_args([*PATHS, flag]).local_rank == 1


def test_flags_without_effect_are_grouped_and_named_once():
    parser = retrieval_parser()
    parsed = args.parse(parser, [*PATHS, "--do_eval", "--world_size", "2", "--distributed", "--world_size", "4"])
    assert parsed.notes == ["accepted, without effect: --world_size --distributed"]
    assert args.parse(parser, [*PATHS, "--do_eval"]).notes == []
    compatibility = parser.format_help().split("accepted for compatibility, no effect")[1]
    assert "--world_size" in compatibility and "--distributed" in compatibility


def test_help_is_in_groups_and_shows_defaults():
    text = retrieval_parser().format_help()
    words = " ".join(text.split())
    for group in ("task:", "data:", "model:", "levels:", "merging:", "training and evaluation:", "machine:"):
        assert f"\n{group}\n" in text
    assert "(default: 0.001)" in words and "default: None" not in words


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "nothing to do: give --do_train 1 or --do_eval 1"),
        ("--do_eval 2", "argument --do_eval: invalid choice: 2"),
        ("--do_eval --epochs 0", "argument --epochs: a whole number is needed, 1 or more, not '0'"),
        ("--do_eval --epochs 1.5", "argument --epochs: a whole number is needed, 1 or more, not '1.5'"),
        ("--do_eval --lr -1", "argument --lr: a number is needed, 0 or more, not '-1'"),
        ("--do_eval --lr nan", "argument --lr: a number is needed, 0 or more, not 'nan'"),
        ("--do_eval --lr inf", "argument --lr: a number is needed, 0 or more, not 'inf'"),
        ("--do_eval --t_rate1 1.5", "argument --t_rate1: a number is needed, 0 to 1, not '1.5'"),
        ("--do_eval --rate 1 0", "argument --rate: expected 3 arguments"),
        ("--do_eval --rate 0 0 0", "argument --rate: one level at least must have a weight above 0"),
        ("--do_eval --recipe fixed", "argument --recipe: invalid choice: 'fixed'"),
        ("--do_train --teacher exact --estimator e.bin", "--teacher exact needs no estimator"),
        ("--do_eval --shortlist 0", "argument --shortlist: a whole number is needed, 1 or more, not '0'"),
        ("--do_eval --shortlist 9 --post_process dsl", "--post_process needs all similarities"),
        ("--do_train --report_to trackio", "--report_to trackio: not installed; pip install trackio, or leave it out"),
        ("--do_eval --epoch 3", "unrecognized arguments: --epoch 3"),
    ],
)
def test_impossible_command_lines_end_with_one_line_and_code_2(words, reason, capsys):
    with pytest.raises(SystemExit) as exit_:
        args.parse(retrieval_parser(), [*PATHS, *words.split()])
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert reason in message and message.count("\n") == 1


def test_missing_paths_are_named(capsys):
    with pytest.raises(SystemExit):
        args.parse(retrieval_parser(), ["--do_eval"])
    assert "required: --output_dir, --anno_path, --video_path" in capsys.readouterr().err


class BrokenVideos(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InputError("video7.mp4: truncated; fetch it again")


def read_in_worker(_):
    next(iter(torch.utils.data.DataLoader(BrokenVideos(), num_workers=1)))


def read_here(_):
    BrokenVideos()[0]


@pytest.mark.parametrize("main", [read_here, read_in_worker])
def test_input_errors_end_with_their_one_line_and_code_2(main, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scripts/main.py", "--do_eval"])
    with pytest.raises(SystemExit) as exit_:
        run(main)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "main.py: error: video7.mp4: truncated; fetch it again\n"


def test_terminal_codes_do_not_reach_the_terminal(monkeypatch, capsys):
    def fail(_):
        raise InputError("\x1b]0;title\x07a\x1b[1;31mb\x1b[0m.mp4\x1b(B\r\x08: caf\u00e9 is missing\x9b2J; fetch it")

    monkeypatch.setattr(sys, "argv", ["main.py"])
    with pytest.raises(SystemExit):
        run(fail)
    assert capsys.readouterr().err == "main.py: error: ab.mp4: caf\u00e9 is missing2J; fetch it\n"


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main.py", "--debug"])
    with pytest.raises(InputError):
        run(read_here)


def test_run_hands_the_command_line_over_and_returns(monkeypatch):
    given = []
    monkeypatch.setattr(sys, "argv", ["main.py", "--do_eval", "1"])
    run(given.extend)
    assert given == ["--do_eval", "1"]


def test_a_script_exits_with_code_2():
    script = (
        "from utils.run import run; from utils.errors import InputError\n"
        "def main(words): raise InputError('list.csv, line 3: no video_id; add it')\n"
        "run(main)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "-c: error: list.csv, line 3: no video_id; add it\n")


def test_rate_takes_three_numbers():
    parsed = args.parse(retrieval_parser(), [*PATHS, "--do_eval", "1", "--rate", "0.4", "0.4", "0.2"])
    assert parsed.rate == [0.4, 0.4, 0.2]


def test_a_full_gpu_is_one_line(capsys, monkeypatch):
    def main(argv):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("sys.argv", ["main_retrieval.py"])
    with pytest.raises(SystemExit) as ended:
        run(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("main_retrieval.py: error: the memory of the GPU is full; give")
    assert "--grad_checkpointing" in line
