"""The command lines of the entry scripts."""

import argparse
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from utils.config import CONFIG, RunConfig, config_path, find_config
from utils.devices import PRECISIONS
from utils.logger import CLIENTS
from utils.presets import PRESETS
from utils.run import complain


class ArgumentParser(argparse.ArgumentParser):
    """An argparse.ArgumentParser whose errors are one line, and that does not accept abbreviated flags.

    Attributes:
        source: file that the words of a command line come from, for messages; "" where they were typed.
        of_model: names of the flags that say how a model was trained and what it is given.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.source = ""
        self.of_model: set[str] = set()

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line."""
        complain(f"{self.prog}: error: {self.source}{message} (--help lists the flags)")
        sys.exit(2)

    def names(self) -> set[str]:
        """Names of all values that flags give."""
        return {action.dest for action in self._actions if action.default != argparse.SUPPRESS}

    def words(self, values: Mapping[str, Any]) -> Iterator[str]:
        """Write values of flags as words of a command line; those that are None or False are left out."""
        for action in self._actions:
            value = values.get(action.dest)
            if action.default == argparse.SUPPRESS or value is None or value is False:
                continue
            if action.nargs == 0:
                yield action.option_strings[0]
            elif action.nargs and isinstance(value, list) and not any(str(part).startswith("--") for part in value):
                yield from (action.option_strings[0], *map(str, value))
            else:
                yield f"{action.option_strings[0]}={value}"


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a flag's default where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class _NoEffect(argparse.Action):
    """Accepts a flag, with or without values, and only notes its name."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs="*", default=argparse.SUPPRESS, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str = ""
    ) -> None:
        namespace.ineffective_flags = (*namespace.ineffective_flags, option_string)


def _number(convert: type[int] | type[float], low: float, high: float = math.inf) -> Callable[[str], float]:
    """The argparse type of a finite number from `low` to `high`, both included."""
    kind = "a whole number" if convert is int else "a number"
    bounds = f"{low} or more" if high == math.inf else f"{low} to {high}"

    def parse_number(text: str) -> float:
        try:
            number = convert(text)
        except ValueError:
            number = math.nan
        if not (low <= number <= high and math.isfinite(number)):
            raise argparse.ArgumentTypeError(f"{kind} is needed, {bounds}, not {text!r}")
        return number

    return parse_number


INEFFECTIVE_FOR_QUESTIONS = (
    "--cache_dir", "--cross_model", "--do_lower_case", "--do_pretrain", "--eval_frame_order",
    "--expand_msrvtt_sentences", "--fp16", "--fp16_opt_level", "--hard_negative_rate", "--linear_patch",
    "--loose_type", "--loss", "--lr_decay", "--margin", "--n_gpu", "--n_pair",
    "--negative_weighting", "--num_labels", "--rank", "--sampled_use_mil", "--sim_header", "--task_type",
    "--text_num_hidden_layers", "--train_frame_order", "--use_mil", "--video_dim", "--visual_num_hidden_layers",
)  # fmt: skip
OF_MODEL = {
    "base_encoder", "recipe", "datatype", "msrvtt_split", "max_words", "max_frames", "video_framerate", "frame_rule",
    "slice_framepos", "exact_resize",
}  # fmt: skip
"""Flags that describe a trained model, on top of its method's."""
NOT_OF_MODEL = {"estimator"}
"""Those of methods that its checkpoint makes needless."""
COUNT = _number(int, 1)
AMOUNT = _number(float, 0)
SHARE = _number(float, 0, 1)
WORKERS = _number(int, 0)
"""The argparse type of a number of worker processes, 0 for none."""


def add_switch(group: argparse._ArgumentGroup, name: str, help: str, default: int = 0) -> None:
    """Add a published 0/1 flag; given without a value it is on."""
    group.add_argument(name, type=int, choices=(0, 1), nargs="?", const=1, default=default, help=help)


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do and where to write: common to all entry scripts."""
    group = parser.add_argument_group("task")
    add_switch(group, "--do_train", "train")
    add_switch(group, "--do_eval", "evaluate")
    group.add_argument("--output_dir", required=True, help="folder for the log, the metrics and the checkpoints")
    group.add_argument("--init_model", help="checkpoint to start from")
    group.add_argument("--trust_checkpoint", action="store_true",
                       help="accept CLIP weights whose SHA-256 is not a published one")
    group.add_argument("--seed", type=_number(int, 0), default=42, help="seed of all random draws")
    group.add_argument("--deterministic", action="store_true",
                       help="the same bits each time on CUDA too, with slower kernels")
    group.add_argument("--n_display", type=COUNT, default=50, help="steps from one line of the log to the next")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Captions and clips, as retrieval and the estimator name them."""
    group = parser.add_argument_group("data")
    group.add_argument("--msrvtt_split", choices=("9k", "7k", "full", "1kB"), default="9k",
                       help="split of MSR-VTT: 1k-A with 9,000 or 7,010 training videos, the official one, or 1k-B")
    group.add_argument("--anno_path", required=True, help="folder of the annotation files")
    group.add_argument("--video_path", required=True, help="folder of the videos")
    group.add_argument("--video_framerate", type=COUNT, default=1, help="frames taken from a second of video")
    add_token_arguments(group)


def add_token_arguments(group: argparse._ArgumentGroup) -> None:
    """How texts become words and videos become frames: common to all entry scripts."""
    group.add_argument("--datatype", default="msrvtt", help="name of the data set")
    group.add_argument("--max_words", type=_number(int, 2), default=32, help="tokens of a text, its ends included")
    group.add_argument("--max_frames", type=COUNT, default=12, help="frames of a video")
    group.add_argument("--frame_rule", choices=("decord", "cv2"),
                       help="which frames are taken; left out: as published for the data set")
    group.add_argument("--slice_framepos", type=int, choices=(0, 1, 2), default=2,
                       help="of too many frames take the first, the last or evenly spread ones")
    group.add_argument("--augment", metavar="CONFIG",
                       help="RandAugment of training clips, as in rand-m7-n4-mstd0.5-inc1, or none; "
                            "left out: as published for the data set")
    group.add_argument("--exact_resize", action="store_true",
                       help="resize frames with PIL, as published, to the last bit: slower, and equal for frames of "
                            "the model's size")
    group.add_argument("--skip_missing_videos", action="store_true", help="leave out pairs whose video is not found")
    group.add_argument("--skip_list", metavar="FILE",
                       help="ids of videos to leave out, one a line, as scripts/check_data.py writes them")
    group.add_argument("--max_bad_videos", type=SHARE, default=0.01, metavar="SHARE",
                       help="share of the training videos that may be broken; such are skipped, more stop the run")
    group.add_argument("--isolate_decoder", type=COUNT, nargs="?", const=60, metavar="SECONDS",
                       help="decode in processes apart, where a file that crashes the decoder, or takes longer than "
                            "this (60 if left out), is a broken video like any other")
    group.add_argument("--frame_cache", metavar="DIR", help="folder that keeps sampled frames, to decode a video once")
    group.add_argument("--frame_cache_gb", type=AMOUNT, default=50.0, help="10^9 bytes that the kept frames may take")
    group.add_argument("--frame_cache_form", choices=("lossless", "compact"), default="lossless",
                       help="keep frames bit by bit, or as JPEG in about a fifth of the space")


def add_question_arguments(parser: argparse.ArgumentParser) -> None:
    """Questions and videos, as question answering names them."""
    group = parser.add_argument_group("data")
    group.add_argument("--train_csv", help="file of the training questions")
    group.add_argument("--val_csv", required=True, help="file of the evaluation questions")
    group.add_argument("--data_path", help="file of the answer vocabulary, answer to label; left out: made of the "
                                           "training answers and written to --output_dir")
    group.add_argument("--features_path", dest="video_path", required=True, help="folder of the videos")
    group.add_argument("--feature_framerate", dest="video_framerate", type=COUNT, default=1,
                       help="frames taken from a second of video")
    group.add_argument("--questions_per_clip", type=COUNT, default=1,
                       help="questions about one video that a training batch asks together; more of them encode fewer "
                            "videos a step")
    group.add_argument("--num_thread_reader", dest="workers", type=WORKERS, default=argparse.SUPPRESS,
                       help="published name of --workers")
    group.add_argument("--cross_num_hidden_layers", dest="num_hidden_layers", type=COUNT, default=argparse.SUPPRESS,
                       help="published name of --num_hidden_layers")
    add_token_arguments(group)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The encoders and the recipe: common to all entry scripts."""
    group = parser.add_argument_group("model")
    group.add_argument("--base_encoder", default="ViT-B/32",
                       help="CLIP weights: ViT-B/32, ViT-B/16 or ViT-L/14 (read from models/), "
                            "a file, or an open_clip model")
    group.add_argument("--agg_module", choices=("None", "seqLSTM", "seqTransf"), default="seqTransf",
                       help="temporal encoder over the frames")
    group.add_argument("--num_hidden_layers", type=COUNT, default=4, help="layers of the temporal encoder seqTransf")
    group.add_argument("--recipe", choices=("released", "corrected"), default="released",
                       help="follow the released code where it departs from the paper, or fix it")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Batches and the optimiser: common to all entry scripts."""
    group = parser.add_argument_group("training and evaluation")
    group.add_argument("--epochs", type=COUNT, default=5, help="passes over the training pairs")
    group.add_argument("--batch_size", type=COUNT, default=128, help="training pairs, over all processes")
    group.add_argument("--batch_size_val", type=COUNT, default=128, help="evaluation items, over all processes")
    group.add_argument("--lr", type=AMOUNT, default=1e-4, help="learning rate outside CLIP")
    group.add_argument("--coef_lr", type=AMOUNT, default=1e-3, help="CLIP's learning rate as a multiple of --lr")
    group.add_argument("--warmup_proportion", type=SHARE, default=0.1, help="share of the steps with a rising rate")
    group.add_argument("--weight_decay", type=AMOUNT, default=0.2, help="decay of all parameters but biases")
    group.add_argument("--gradient_accumulation_steps", type=COUNT, default=1, help="batches summed up to a step")
    group.add_argument("--grad_checkpointing", action="store_true", help="less memory for more time in training")
    group.add_argument("--max_bad_steps", type=COUNT, default=20,
                       help="steps in a row without a finite loss and gradient that end the run; each is skipped")
    group.add_argument("--report_to", choices=CLIENTS,
                       help="send losses and scores to Weights & Biases or trackio, too, if its package is installed")


def add_resume_arguments(parser: argparse.ArgumentParser) -> None:
    """Stopping and resuming: common to all entry scripts."""
    group = parser.add_argument_group("resuming")
    group.add_argument("--resume", metavar="auto|PATH",
                       help="resume from the newest state in --output_dir, if there is one, or from this step_N folder")
    group.add_argument("--save_every", type=COUNT, metavar="STEPS",
                       help="steps from one state to the next, on top of those at the ends of epochs; left out: one is "
                            "saved only when SIGTERM or SIGUSR1 asks to stop")
    group.add_argument("--keep", type=COUNT, default=2, help="states that are kept, the newest")


def add_similarity_arguments(parser: argparse.ArgumentParser) -> None:
    """The similarity matrix of retrieval."""
    group = parser.add_argument_group("similarity")
    group.add_argument("--save_similarity", action="store_true", help="write the similarity matrix, similarity.npy")
    group.add_argument("--similarity_memory", type=COUNT, default=512, metavar="MIB",
                       help="memory that a chunk of the similarity matrix may take")
    group.add_argument("--shortlist", type=COUNT, metavar="K",
                       help="for large galleries: compare a caption with the K clips of nearest pooled features alone; "
                            "in both directions, pairs that are not compared rank behind those that are, in the order "
                            "of their pooled features, so the clip of a caption that its shortlist lacks has a rank "
                            "beyond K; left out: compare all")
    group.add_argument("--post_process", nargs="+", choices=("dsl", "qbnorm"), default=[],
                       help="figures to print apart from the raw ones: dual softmax, QB-Norm")
    group.add_argument("--query_bank", type=COUNT, default=5000, metavar="CAPTIONS",
                       help="maximum number of training captions for QB-Norm")


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """What the estimator learns from."""
    group = parser.add_argument_group("labels")
    group.add_argument("--labels", choices=("exact", "sampled"), default="exact",
                       help="interactions by the closed form, or averages over sampled coalitions as published")
    group.add_argument("--num_samples", type=COUNT, default=100, help="coalitions for each cell of sampled labels")
    group.add_argument("--game", choices=("released", "standard"),
                       help="coalition game of the labels; left out: the one of the recipe")
    group.add_argument("--no_feature_cache", action="store_true",
                       help="encode the training pairs again in each epoch, with new augmentation")


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Devices and processes: common to all entry scripts."""
    group = parser.add_argument_group("machine")
    group.add_argument("--workers", type=WORKERS, default=4, help="decoding processes of each process")
    group.add_argument("--device", help="as PyTorch names it; left out: CUDA where there is one, else the CPU")
    group.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32",
                       help="of the forward pass: IEEE float32; float32 with TF32 products on a GPU; bfloat16, for "
                            "recent GPUs; float16 with loss scaling")
    group.add_argument("--compile", action="store_true",
                       help="compile the blocks of CLIP's towers, for long runs; a resumed run may then differ in the "
                            "last bits")
    group.add_argument("--local_rank", "--local-rank", type=_number(int, 0), default=os.environ.get("LOCAL_RANK", "0"),
                       help="which of the machine's processes this is; launchers set it")


def add_ineffective_arguments(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Accept published flags that have no effect here; `log_ineffective_flags` names those that were given."""
    group = parser.add_argument_group("accepted for compatibility, no effect")
    for flag in flags:
        group.add_argument(flag, action=_NoEffect)


AddArguments = Callable[[argparse.ArgumentParser], None]


def read_command(
    methods: Mapping[str, AddArguments],
    make_parser: Callable[..., ArgumentParser],
    argv: Sequence[str] | None = None,
    *,
    frozen: bool = False,
) -> argparse.Namespace:
    """Parse a command line, which may have the flags of the method that it, or the run of --init_model, names.

    Args:
        methods: what adds the flags of each, the default first.
        make_parser: called with the methods and one of their functions.
        argv: as for `parse`.
        frozen: whether training, too, leaves the model of --init_model as it is.
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
    parser.add_argument("--preset", choices=tuple(PRESETS), help="other defaults: small for some hundred pairs or less")
    return parser


def _add_method(methods: Collection[str], parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument("--method", choices=tuple(methods), default=next(iter(methods)), help="which of the methods")


def estimator_parser(methods: Collection[str], add_method_arguments: AddArguments) -> ArgumentParser:
    """The command line of banzhaf_estimator.py: retrieval's by one method, without what concerns the levels."""
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
    """A parser of `groups`, some of them `of_method`, and of those that all entry scripts share."""
    parser = ArgumentParser(description=description, formatter_class=_HelpFormatter)
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
    """Parse a command line and refuse what contradicts itself.

    Args:
        parser: one of this module's.
        argv: the words after the script's name; None reads the process's own.
        config: of the run that wrote --init_model; in evaluation the flags that describe its model hold unless given.
        frozen: as for `read_command`.

    Returns:
        The flags' values by name, further "command", the words, and "notes", lines for the log.

    Raises:
        SystemExit: code 2 and one line on standard error.
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
    """The arguments, where they are left out as in the run of --init_model, and what is to be said about them."""
    path = config_path(args.init_model)
    if config is None:
        assumed = {name: value for name, value in vars(args).items() if name in parser.of_model}
        words = " ".join(parser.words(assumed))
        return args, [f"{args.init_model}: no {CONFIG} of its run is there; it is taken as trained with {words}"]
    # A file of CLIP's weights may be gone, and the names that are defaults have OpenAI's activation, too.
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
