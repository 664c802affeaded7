"""The command lines of the entry scripts."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from utils.arguments import ArgumentParser, HelpFormatter, add_ineffective_arguments
from utils.config import CONFIG, RunConfig, config_path, find_config
from utils.flags import (
    INEFFECTIVE_FOR_QUESTIONS,
    add_data_arguments,
    add_label_arguments,
    add_machine_arguments,
    add_model_arguments,
    add_question_arguments,
    add_resume_arguments,
    add_similarity_arguments,
    add_task_arguments,
    add_training_arguments,
)
from utils.presets import PRESETS

OF_MODEL = {
    "base_encoder", "recipe", "datatype", "msrvtt_split", "max_words", "max_frames", "video_framerate", "frame_rule",
    "slice_framepos", "exact_resize",
}  # fmt: skip
"""Flags that describe a trained model, in addition to those of its method."""
NOT_OF_MODEL = {"estimator"}
"""Flags of methods that are not needed with its checkpoint."""


AddArguments = Callable[[argparse.ArgumentParser], None]


def read_command(
    methods: Mapping[str, AddArguments],
    make_parser: Callable[..., ArgumentParser],
    argv: Sequence[str] | None = None,
    *,
    frozen: bool = False,
) -> argparse.Namespace:
    """Parse a command line with the flags of the method that it, or the run of --init_model, names.

    Args:
        methods: functions that add the flags of each, the default first.
        make_parser: called with `methods` and one of the functions.
        argv: as for `parse`.
        frozen: whether the model of --init_model stays fixed even in training.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--method", nargs="?")
    early.add_argument("--init_model", nargs="?")
    given = early.parse_known_args(argv)[0]
    config = find_config(given.init_model)
    name = given.method or (config.method if config else None)
    return parse(make_parser(methods, methods.get(name, next(iter(methods.values())))), argv, config, frozen=frozen)


def retrieval_parser(methods: Collection[str], add_method_arguments: AddArguments) -> ArgumentParser:
    """The command line of main_retrieval.py, with the flags of a method."""
    method = partial(_add_method, methods), add_method_arguments
    groups = (add_data_arguments, add_model_arguments, *method, add_similarity_arguments)
    parser = _parser("Trains and evaluates text-video retrieval.", groups, method)
    parser.add_argument("--preset", choices=tuple(PRESETS), help="other defaults; small: for some hundred pairs")
    return parser


def _add_method(methods: Collection[str], parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument("--method", choices=tuple(methods), default=next(iter(methods)), help="the model's method")


def estimator_parser(methods: Collection[str], add_method_arguments: AddArguments) -> ArgumentParser:
    """The command line of banzhaf_estimator.py: retrieval's, without the flags of the levels."""
    groups = (add_data_arguments, add_model_arguments, add_method_arguments, add_label_arguments)
    description = "Trains the estimator of the Banzhaf interaction between words and frames."
    return _parser(description, groups, (add_method_arguments,))


def caption_parser(methods: Collection[str], add_method_arguments: AddArguments) -> ArgumentParser:
    """The command line of main_captioning.py, with the flags of a method."""
    method = partial(_add_method, methods), add_method_arguments
    groups = add_data_arguments, add_model_arguments, *method
    parser = _parser("Trains and evaluates video captioning.", groups, method)
    parser.set_defaults(msrvtt_split="full", epochs=20, batch_size=64, coef_lr=1e-2, weight_decay=0.01, kl=2.0)
    return parser


def question_parser(methods: Collection[str], add_method_arguments: AddArguments) -> ArgumentParser:
    """The command line of main_vqa.py, with the flags of a method."""
    method = partial(_add_method, methods), _set_question_defaults, add_method_arguments
    groups = add_question_arguments, add_model_arguments, *method
    description = "Trains and evaluates video question answering."
    parser = _parser(description, groups, method, INEFFECTIVE_FOR_QUESTIONS)
    parser.set_defaults(batch_size=32, batch_size_val=16)
    return parser


def _set_question_defaults(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(base_encoder="ViT-B/16", frame_rule="decord", augment="none")


def _parser(
    description: str, groups: Sequence[AddArguments], of_method: Sequence[AddArguments], ineffective: Sequence[str] = ()
) -> ArgumentParser:
    """A parser of `groups`, of which `of_method` belong to the method, and of the groups of all entry scripts."""
    parser = ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.set_defaults(ineffective_flags=())
    for add_group in (add_task_arguments, *groups, add_training_arguments, add_resume_arguments, add_machine_arguments):
        before = parser.names()
        add_group(parser)
        parser.of_model |= parser.names() - before if add_group in of_method else set()
    parser.of_model = (parser.of_model - NOT_OF_MODEL) | (OF_MODEL & parser.names())
    add_ineffective_arguments(parser, "--world_size", "--distributed", *ineffective)
    return parser


def parse(
    parser: ArgumentParser,
    argv: Sequence[str] | None = None,
    config: RunConfig | None = None,
    *,
    frozen: bool = False,
) -> argparse.Namespace:
    """Parse a command line and refuse contradictions.

    Args:
        parser: one of this module's.
        argv: the words after the script's name; None: those of the process.
        config: of the run that wrote --init_model; in evaluation its flags of the model are the defaults.
        frozen: as for `read_command`.

    Returns:
        The flags' values by name, "command" (the words) and "notes" (lines for the log).

    Raises:
        SystemExit: code 2, with one line on standard error.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args, notes = parser.parse_args(argv), []
    if getattr(args, "preset", None):
        defaults = {name: value for name, value in PRESETS[args.preset].items() if name in args}
        notes.append(f"--preset {args.preset}: {' '.join(parser.words(defaults))}, where no flag says otherwise")
        parser.set_defaults(**defaults)
        args = parser.parse_args(argv)
    if args.ineffective_flags:
        notes.append(f"accepted, without effect: {' '.join(dict.fromkeys(args.ineffective_flags))}")
    if args.init_model and (frozen or not args.do_train):
        args, more = _with_config(parser, args, argv, config)
        notes += more
    del args.ineffective_flags
    args.command, args.notes = [parser.prog, *argv], notes
    _check(parser, args)
    return args


def _with_config(
    parser: ArgumentParser, args: argparse.Namespace, argv: list[str], config: RunConfig | None
) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, with defaults from the run of --init_model, and lines for the log."""
    path = config_path(args.init_model)
    if config is None:
        assumed = {name: value for name, value in vars(args).items() if name in parser.of_model}
        words = " ".join(parser.words(assumed))
        return args, [f"{args.init_model}: no {CONFIG} of its run; assumed to be trained with {words}"]
    # A file of CLIP's weights may be gone; the default names have OpenAI's activation, too.
    of_run = parser.of_model - ({"base_encoder"} if config.quick_gelu else set())
    values = {name: value for name, value in config.flags.items() if name in of_run}
    parser.source = f"{path}: "
    args = parser.parse_args([*parser.words(values), *argv])
    parser.source = ""
    other = {name: value for name, value in values.items() if getattr(args, name) != value}
    if not other:
        return args, []
    given = " ".join(parser.words({name: getattr(args, name) for name in other}))
    return args, [f"{path}: {' '.join(parser.words(other))}; given, and taken: {given}"]


def _check(parser: ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other."""
    if not (args.do_train or args.do_eval):
        parser.error("nothing to do: give --do_train 1 or --do_eval 1")
    if args.report_to and importlib.util.find_spec(args.report_to) is None:
        parser.error(f"--report_to {args.report_to}: not installed; pip install {args.report_to}, or leave it out")
    if "rate" in args and not any(args.rate):
        parser.error("argument --rate: one level at least must have a weight above 0")
    if args.do_train and "num_levels" in args and any(args.rate[args.num_levels :]):
        parser.error("argument --rate: gives weight to levels that --num_levels leaves untrained")
    if "train_csv" in args and args.train_csv is None and (args.do_train or args.data_path is None):
        parser.error("argument --train_csv: needed to train, and to make an answer vocabulary without --data_path")
    if "shortlist" in args and args.shortlist and args.post_process:
        parser.error("--post_process needs all similarities: leave out one of --shortlist and --post_process")
    if "teacher" in args and args.teacher != "estimator" and args.estimator:
        parser.error(f"--teacher {args.teacher} needs no estimator: leave out one of --teacher and --estimator")
