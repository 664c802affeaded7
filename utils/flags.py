"""The flags of the entry scripts, in groups."""

import argparse
import os

from utils.arguments import AMOUNT, COUNT, SHARE, WORKERS, add_switch, number_type
from utils.devices import PRECISIONS
from utils.logger import CLIENTS

INEFFECTIVE_FOR_QUESTIONS = (
    "--cache_dir", "--cross_model", "--do_lower_case", "--do_pretrain", "--eval_frame_order",
    "--expand_msrvtt_sentences", "--fp16", "--fp16_opt_level", "--hard_negative_rate", "--linear_patch",
    "--loose_type", "--loss", "--lr_decay", "--margin", "--n_gpu", "--n_pair",
    "--negative_weighting", "--num_labels", "--rank", "--sampled_use_mil", "--sim_header", "--task_type",
    "--text_num_hidden_layers", "--train_frame_order", "--use_mil", "--video_dim", "--visual_num_hidden_layers",
)  # fmt: skip
VIDEOS = "folder of the videos, or of their frames by scripts/shard_frames.py"


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the task and its output, common to all entry scripts."""
    group = parser.add_argument_group("task")
    add_switch(group, "--do_train", "train")
    add_switch(group, "--do_eval", "evaluate")
    group.add_argument("--output_dir", required=True, help="folder for the log, the metrics and the checkpoints")
    group.add_argument("--init_model", help="checkpoint to start from")
    group.add_argument("--trust_checkpoint", action="store_true",
                       help="accept CLIP weights whose SHA-256 is not a published one")
    group.add_argument("--seed", type=number_type(int, 0), default=42, help="seed of all random draws")
    group.add_argument("--deterministic", action="store_true",
                       help="the same bits each time on CUDA too, with slower kernels")
    group.add_argument("--n_display", type=COUNT, default=50, help="steps from one line of the log to the next")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error in the input")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of captions and clips."""
    group = parser.add_argument_group("data")
    group.add_argument("--msrvtt_split", choices=("9k", "7k", "full", "1kB"), default="9k",
                       help="split of MSR-VTT: 1k-A with 9,000 or 7,010 training videos, the official one, or 1k-B")
    group.add_argument("--anno_path", required=True, help="folder of the annotation files")
    group.add_argument("--video_path", required=True, help=VIDEOS)
    group.add_argument("--video_framerate", type=COUNT, default=1, help="frames taken from a second of video")
    add_token_arguments(group)


def add_token_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the flags of words and frames, common to all entry scripts."""
    group.add_argument("--datatype", default="msrvtt", help="name of the data set")
    group.add_argument("--max_words", type=number_type(int, 2), default=32, help="tokens of a text, its ends included")
    group.add_argument("--max_frames", type=COUNT, default=12, help="frames of a video")
    group.add_argument("--frame_rule", choices=("decord", "cv2"),
                       help="which frames are taken; left out: as published for the data set")
    group.add_argument("--slice_framepos", type=int, choices=(0, 1, 2), default=2,
                       help="of too many frames take the first, the last or evenly spread ones")
    group.add_argument("--augment", metavar="CONFIG",
                       help="RandAugment of training clips, as in rand-m7-n4-mstd0.5-inc1, or none; "
                            "left out: as published for the data set")
    group.add_argument("--exact_resize", action="store_true",
                       help="resize frames with PIL, bit by bit as published: slower; frames of the model's size are "
                            "equal in any case")
    group.add_argument("--skip_missing_videos", action="store_true", help="leave out pairs whose video is not found")
    group.add_argument("--skip_list", metavar="FILE",
                       help="ids of videos to leave out, one per line, as scripts/check_data.py writes them")
    group.add_argument("--max_bad_videos", type=SHARE, default=0.01, metavar="SHARE",
                       help="share of the training videos that may be broken and skipped; more stop the run")
    group.add_argument("--isolate_decoder", type=COUNT, nargs="?", const=60, metavar="SECONDS",
                       help="decode in separate processes, where a file that crashes the decoder, or takes longer than "
                            "this (60 if left out), counts as a broken video")
    group.add_argument("--frame_cache", metavar="DIR", help="folder that keeps sampled frames, to decode a video once")
    group.add_argument("--frame_cache_gb", type=AMOUNT, default=50.0, help="10^9 bytes that the kept frames may take")
    group.add_argument("--frame_cache_form", choices=("lossless", "compact"), default="lossless",
                       help="keep frames bit by bit, or as JPEG in about a fifth of the space")


def add_question_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of questions and videos."""
    group = parser.add_argument_group("data")
    group.add_argument("--train_csv", help="file of the training questions")
    group.add_argument("--val_csv", required=True, help="file of the evaluation questions")
    group.add_argument("--data_path", help="file of the answer vocabulary, answer to label; left out: made of the "
                                           "training answers and written to --output_dir")
    group.add_argument("--features_path", dest="video_path", required=True, help=VIDEOS)
    group.add_argument("--feature_framerate", dest="video_framerate", type=COUNT, default=1,
                       help="frames taken from a second of video")
    group.add_argument("--questions_per_clip", type=COUNT, default=1,
                       help="questions about each video in a training batch; with more a step encodes fewer videos")
    group.add_argument("--num_thread_reader", dest="workers", type=WORKERS, default=argparse.SUPPRESS,
                       help="published name of --workers")
    group.add_argument("--cross_num_hidden_layers", dest="num_hidden_layers", type=COUNT, default=argparse.SUPPRESS,
                       help="published name of --num_hidden_layers")
    add_token_arguments(group)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the encoders and the recipe, common to all entry scripts."""
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
    """Add the flags of batches and the optimiser, common to all entry scripts."""
    group = parser.add_argument_group("training and evaluation")
    group.add_argument("--epochs", type=COUNT, default=5, help="passes over the training pairs")
    group.add_argument("--batch_size", type=COUNT, default=128, help="training pairs, over all processes")
    group.add_argument("--batch_size_val", type=COUNT, default=128, help="evaluation items, over all processes")
    group.add_argument("--lr", type=AMOUNT, default=1e-4, help="learning rate outside CLIP")
    group.add_argument("--coef_lr", type=AMOUNT, default=1e-3, help="CLIP's learning rate as a multiple of --lr")
    group.add_argument("--warmup_proportion", type=SHARE, default=0.1, help="share of the steps with a rising rate")
    group.add_argument("--weight_decay", type=AMOUNT, default=0.2, help="decay of all parameters but biases")
    group.add_argument("--gradient_accumulation_steps", type=COUNT, default=1, help="batches of an optimiser step")
    group.add_argument("--grad_checkpointing", action="store_true", help="less memory for more time in training")
    group.add_argument("--max_bad_steps", type=COUNT, default=20,
                       help="the run ends after as many steps in a row without a finite loss and gradient, which are "
                            "skipped")
    group.add_argument("--report_to", choices=CLIENTS,
                       help="send losses and scores to Weights & Biases or trackio, too, if its package is installed")


def add_resume_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of stopping and resuming, common to all entry scripts."""
    group = parser.add_argument_group("resuming")
    group.add_argument("--resume", metavar="auto|PATH",
                       help="resume from the newest state in --output_dir, if there is one, or from this step_N folder")
    group.add_argument("--save_every", type=COUNT, metavar="STEPS",
                       help="steps between states, in addition to those at the ends of epochs; left out: a state is "
                            "saved only on SIGTERM or SIGUSR1")
    group.add_argument("--keep", type=COUNT, default=2, help="states that are kept, the newest")


def add_similarity_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the similarity matrix of retrieval."""
    group = parser.add_argument_group("similarity")
    group.add_argument("--save_similarity", action="store_true", help="write the similarity matrix, similarity.npy")
    group.add_argument("--similarity_memory", type=COUNT, default=512, metavar="MIB",
                       help="memory that a chunk of the similarity matrix may take")
    group.add_argument("--shortlist", type=COUNT, metavar="K",
                       help="for large galleries: compare a caption only with the K clips of nearest pooled features; "
                            "in both directions other pairs rank behind those that are compared, in the order of "
                            "their pooled features; left out: compare all")
    group.add_argument("--post_process", nargs="+", choices=("dsl", "qbnorm"), default=[],
                       help="print further figures, after dual softmax or QB-Norm")
    group.add_argument("--query_bank", type=COUNT, default=5000, metavar="CAPTIONS",
                       help="maximum number of training captions for QB-Norm")


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the estimator's labels."""
    group = parser.add_argument_group("labels")
    group.add_argument("--labels", choices=("exact", "sampled"), default="exact",
                       help="interactions by the closed form, or averages over sampled coalitions as published")
    group.add_argument("--num_samples", type=COUNT, default=100, help="coalitions for each cell of sampled labels")
    group.add_argument("--game", choices=("released", "standard"),
                       help="coalition game of the labels; left out: the one of the recipe")
    group.add_argument("--no_feature_cache", action="store_true",
                       help="encode the training pairs again in each epoch, with new augmentation")


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of devices and processes, common to all entry scripts."""
    group = parser.add_argument_group("machine")
    group.add_argument("--workers", type=WORKERS, default=4, help="decoding processes of each process")
    group.add_argument("--device", help="as PyTorch names it; left out: CUDA where there is one, else the CPU")
    group.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32",
                       help="of the forward pass: IEEE float32; float32 with TF32 products on a GPU; bfloat16, for "
                            "recent GPUs; float16 with loss scaling")
    group.add_argument("--compile", action="store_true",
                       help="compile the blocks of CLIP's towers, for long runs; a resumed run may then differ in the "
                            "last bits")
    group.add_argument("--local_rank", "--local-rank", type=number_type(int, 0),
                       default=os.environ.get("LOCAL_RANK", "0"),
                       help="which of the machine's processes this is; launchers set it")
