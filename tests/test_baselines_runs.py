"""CLIP4Clip, DRL and EMCL from the command line, and on one process and two."""

import pytest
import torch

import main_retrieval
import main_vqa
from models import ANSWER_METHODS, CLIP, METHODS, Tokens, load_model
from models.two_stage import TwoStageSimilarity
from tests.conftest import SMALL
from tests.processes import run_together
from tests.retrieval_case import build_corpus
from utils import distributed
from utils.checkpoint import read_weights, released_state, save_weights
from utils.engine.training_state import read_state
from utils.errors import InputError
from utils.gather import gather_shards

SIZES = ["--max_words", "16", "--max_frames", "4", "--batch_size", "10", "--batch_size_val", "4", "--workers", "0"]
RUNS = {
    "clip4clip meanP": [],
    "clip4clip seqTransf": ["--sim_header", "seqTransf", "--loose_type", "--freeze_layer_num", "1"],
    "clip4clip tightTransf": ["--sim_header", "tightTransf", "--linear_patch", "3d", "--recipe", "corrected"],
    "drl wti": ["--cdcr_alpha1", "0.11", "--cdcr_alpha2", "0"],
    "drl ti": ["--interaction", "ti", "--cdcr", "1", "--wti_arch", "1"],
    "drl xti": ["--interaction", "xti", "--agg_module", "None", "--cdcr", "0"],
    "drl dp": ["--interaction", "dp", "--agg_module", "seqLSTM", "--recipe", "corrected"],
    "emcl released": ["--centerK", "8"],
    "emcl corrected": ["--centerK", "8", "--recipe", "corrected"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build_corpus(tmp_path_factory.mktemp("shapes"), train=4, test=4)


@pytest.mark.parametrize("name", RUNS)
def test_training_and_evaluation(name, corpus, tmp_path):
    method = name.partition(" ")[0]
    paths = ["--anno_path", corpus.annotations, "--video_path", corpus.videos]
    words = [*map(str, paths), *SIZES, "--method", method, *RUNS[name], "--save_similarity"]
    training = ["--do_train", "1", "--epochs", "1", "--base_encoder", str(corpus.clip)]
    metrics = main_retrieval.main([*words, *training, "--output_dir", str(tmp_path / "a")])
    weights = tmp_path / "a" / "pytorch_model.bin.0"
    assert 0 <= metrics["t2v"]["R1"] <= 100
    initial, final = read_weights(corpus.clip), read_weights(weights)
    assert not torch.equal(initial["text_projection"], final["clip.text_projection"])
    assert ("mu" in final) == (name == "emcl corrected")
    evaluation = ["--do_eval", "1", "--init_model", str(weights), "--output_dir", str(tmp_path / "b")]
    again = main_retrieval.main([*words, *evaluation])
    if name != "emcl released":  # whose bases are in no file
        assert again["t2v"] == metrics["t2v"] and again["v2t"] == metrics["v2t"]


def test_questions_by_emcl(corpus, tmp_path):
    qa = corpus.folder / "qa"
    files = {
        "train_csv": qa / "train.jsonl", "val_csv": qa / "test.jsonl", "data_path": qa / "train_ans2label.json",
        "features_path": corpus.videos,
    }  # fmt: skip
    words = [str(word) for name, path in files.items() for word in (f"--{name}", path)]
    words += ["--max_words", "16", "--max_frames", "4", "--batch_size", "24", "--workers", "0", "--method", "emcl"]
    training = ["--do_train", "--epochs", "1", "--base_encoder", str(corpus.clip), "--recipe", "corrected"]
    metrics = main_vqa.main([*words, *training, "--output_dir", str(tmp_path / "a")])
    weights = str(tmp_path / "a" / "pytorch_model.bin.0")
    evaluation = ["--do_eval", "--init_model", weights, "--recipe", "corrected", "--output_dir", str(tmp_path / "b")]
    assert main_vqa.main([*words, *evaluation]) == metrics


def test_resuming_keeps_the_bases(corpus, tmp_path):
    """Released checkpoints lack them, the state of a run has them."""
    paths = ["--anno_path", corpus.annotations, "--video_path", corpus.videos, "--base_encoder", corpus.clip]
    words = [*map(str, paths), *SIZES, "--method", "emcl", "--do_train", "1", "--epochs", "1", "--save_every", "1"]
    main_retrieval.main([*words, "--output_dir", str(tmp_path)])
    newest = max((tmp_path / "training_state").iterdir(), key=lambda path: int(path.name[5:]))
    state = read_state(newest)["model"]
    assert not torch.equal(state["mu"].abs(), torch.ones(1, 32))


@pytest.mark.parametrize(
    ("method", "options", "other", "reason"),
    [
        ("drl", {"cdcr": 0}, "clip4clip", r"of the method drl \(interaction wti, wti_arch 2\), not of clip4clip"),
        ("clip4clip", {"sim_header": "tightTransf"}, "emcl", r"of the method clip4clip \(.*sim_header tightTransf"),
        ("drl", {"interaction": "xti"}, "emcl", r"weights of the method drl \(interaction xti"),
        ("emcl", {"recipe": "corrected"}, "hbi", r"weights of the method emcl \(centerK 32\), not of hbi"),
    ],
)
def test_a_checkpoint_of_another_method_is_named(method, options, other, reason, tmp_path):
    save_weights(released_state(METHODS[method](CLIP(SMALL), **options)), tmp_path / "model.bin")
    assert type(load_model(tmp_path / "model.bin")) is METHODS[method]
    with pytest.raises(InputError, match=reason):
        load_model(tmp_path / "model.bin", method=other)


def test_a_method_without_answers_is_refused(corpus):
    with pytest.raises(InputError, match="method drl: choose one of hbi, emcl for questions"):
        load_model(base_encoder=corpus.clip, method="drl", answers=["yes"])


CASES = [
    ("clip4clip", {"sim_header": "meanP"}), ("clip4clip", {"sim_header": "tightTransf"}),
    ("drl", {"interaction": "wti", "cdcr": 3}), ("drl", {"interaction": "dp", "cdcr": 1}),
    ("drl", {"interaction": "xti", "cdcr": 0}), ("emcl", {"centerK": 6}), ("emcl", {"questions": True}),
]
RELEASED = [("emcl", {"recipe": "released", "block": 3})]  # whose gradients depend on the processes, as published
PAIRS, WORDS, FRAMES = 4, 6, 3


def build(method, options):
    torch.manual_seed(0)
    options = {"recipe": "corrected"} | options
    if options.pop("questions", False):
        model = ANSWER_METHODS[method](CLIP(SMALL), ["a", "b", "c"], **options)
    else:
        model = METHODS[method](CLIP(SMALL), **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.train()


def batch():
    torch.manual_seed(1)
    text_mask = (torch.arange(WORDS) < torch.tensor([6, 3, 5, 2])[:, None]).long()
    video_mask = (torch.arange(FRAMES) < torch.tensor([3, 1, 2, 3])[:, None]).long()
    ids = torch.randint(1, 1000, (PAIRS, WORDS)) * text_mask
    frames = torch.randn(PAIRS, FRAMES, 3, 32, 32)
    labels = torch.tensor([0, 1, 2, 0])
    return {"ids": ids, "text_mask": text_mask, "frames": frames, "video_mask": video_mask,
            "video_ids": torch.arange(PAIRS), "labels": labels}


def results(model, module, batch):
    module(**batch)["loss"].backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def similarity(model, batch):
    text = Tokens(model.text_tokens(batch["ids"], batch["text_mask"]), batch["text_mask"])
    video = Tokens(model.frame_tokens(batch["frames"], batch["video_mask"]), batch["video_mask"])
    own = Tokens(*(x.chunk(distributed.world_size())[distributed.rank()] for x in text))
    if hasattr(model, "answers"):
        return gather_shards(model.mixed_logits(text, video))[:PAIRS]
    sim = gather_shards(model.similarity(main_retrieval.own_blocks(own, model.block), video))
    if model.block:
        return sim
    return torch.stack([sim, gather_shards(TwoStageSimilarity(model, own, video, 2)[:])])


def check():
    """Compare two processes with what this one computed before it joined them."""
    with torch.no_grad():
        blocks = [similarity(build(*case).eval(), batch()) for case in RELEASED]
    alone = []
    for case in CASES:
        model = build(*case)
        found = results(model, model, batch())
        with torch.no_grad():
            alone.append((found, dict(model.named_buffers()), similarity(model.eval(), batch())))
    distributed.start("cpu")
    for case, (expected, buffers, sim) in zip(CASES, alone, strict=True):
        model = build(*case)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        own = {name: x.chunk(2)[distributed.rank()] for name, x in batch().items()}
        found = results(model, parallel, own)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=2e-6, msg=f"{case} {name}")
        for name, buffer in buffers.items():
            torch.testing.assert_close(dict(model.named_buffers())[name], buffer, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(similarity(model.eval(), batch()), sim, rtol=0, atol=1e-6)
    with torch.no_grad():
        for case, sim in zip(RELEASED, blocks, strict=True):
            torch.testing.assert_close(similarity(build(*case).eval(), batch()), sim, rtol=0, atol=1e-6)


def test_two_processes_have_the_similarity_and_gradients_of_one(tmp_path):
    run_together(tmp_path / "log.txt", 2, check)
