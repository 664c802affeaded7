"""Every number that the released EMCL was recorded to give for retrieval, its files, and its state."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models import CLIP, load_model
from models.baselines.em import expectation_maximization
from models.baselines.emcl import EMCL
from models.encoder import Tokens
from models.recipe import RELEASED
from tests.baseline_case import assert_training, batch, build, filled, keys, recorded, tokens
from tests.conftest import SMALL
from tests.golden_case import assert_close, generator
from utils.checkpoint import released_state, save_weights

FILE = "emcl_state_dict_tiny"
TEMPORAL = ("None", "seqTransf", "seqLSTM")
EVALUATED = [("seqTransf", "initial", case) for case in ("p1", "p2")] + [
    (temporal, "moved", case) for temporal in TEMPORAL for case in ("p1", "p2") if (temporal, case) not in
    (("None", "p2"), ("seqLSTM", "p2"))
]  # fmt: skip


def state(kind: str, count: int = 32) -> torch.Tensor:
    """What the bases of a case start from."""
    x = (generator(f"emcl.mu.{kind}").standard_normal((1, count)) * np.sqrt(2 / count)).astype(np.float32)
    return torch.tensor(x / (1e-6 + np.abs(x)) if kind == "initial" else x)


def golden_model(temporal, start, **options):
    model = build(EMCL, keys(FILE, *() if temporal == "None" else (temporal,)), temporal=temporal, **options)
    model.mu.copy_(state(start))
    return model


@pytest.mark.parametrize("name", ["m1", "m2", "m3", "m4"])
def test_expectation_maximization(name):
    reference = {key[3:]: x for key, x in recorded("emcl_module").items() if key.startswith(name)}
    rows, width, count, stages, lamd, beta, _, train, scale = reference["settings"]
    x = generator(f"input.{name}.embds").standard_normal((int(rows), int(width)))
    model = golden_module(int(count), int(stages), lamd, beta)
    model.mu = torch.from_numpy(reference["mu_before"])
    model.train(bool(train))
    features = torch.tensor((x * scale).astype(np.float32))
    for stage, key in ((1, "mu_stage1"), (int(stages), "mu_last")):
        bases, assignment = expectation_maximization(features, model.mu, stages=stage, lamd=lamd)
        assert_close(bases, reference[key])
    assert_close(assignment, reference["z_last"], 5e-5)
    assert_close(model.reconstruct(features), reference["output"])
    assert_close(model.mu, reference["mu_after"])


def golden_module(count, stages, lamd, beta):
    return EMCL(CLIP(SMALL), temporal=None, centerK=count, stage_num=stages, lamd=lamd, beta=beta)


@pytest.mark.parametrize(("temporal", "start", "case"), EVALUATED)
def test_similarity(temporal, start, case):
    reference, key = recorded(f"emcl_eval_{case}"), f"{temporal}.{start}"
    models = {kind: golden_model(temporal, start, **options) for kind, options in (
        ("sim", {}), ("sim_minibatch2", {"block": 2}), ("sim_without_em", {"recipe": without_em()}))}  # fmt: skip
    text, video = (Tokens(*x) for x in tokens(models["sim"], case))
    for kind, model in models.items():
        for memory in (2**28, 1):
            with torch.no_grad():
                assert_close(model.similarity(text, video, memory=memory), reference[f"{kind}.{key}"])
        assert_close(model.mu, state(start).numpy())
    if temporal != "seqTransf":
        return
    model, sentence = models["sim"], text.last()
    _, weight = model.frame_weights(sentence, *video)
    rows = torch.cat([torch.einsum("abn,bnd->abd", weight, video.tokens).flatten(0, 1), sentence])
    bases, assignment = expectation_maximization(rows, model.mu, stages=9, lamd=1.0)
    output = model.reconstruct(rows)
    first, _ = expectation_maximization(rows, model.mu, stages=1, lamd=1.0)
    assert_close(first, reference[f"mu_stage1.{key}"])
    for ours, name in ((bases, "mu_last"), (output[:, :64], "em_output_64"), (output.norm(dim=1), "em_output_norm")):
        assert_close(ours, reference[f"{name}.{key}"])
    assert_close(assignment[:32], reference[f"z_last_32.{key}"], 5e-5)
    for ours, name in ((rows[:, :64], "em_input_64"), (rows.norm(dim=1), "em_input_norm"), (weight, "frame_weight"),
                       (sentence, "text_cls"), (video.tokens[..., :64], "frame_feat_64")):  # fmt: skip
        assert_close(ours, reference[name])


def without_em():
    return replace(RELEASED, em_in_evaluation=False)


@pytest.mark.parametrize(("start", "case"), [("initial", "t1"), ("moved", "t1"), ("moved", "t2")])
def test_losses_gradients_steps_and_states(start, case):
    model, inputs = golden_model("seqTransf", start), batch(case)
    reference = recorded(f"emcl_train_seqTransf_{start}_{case}")
    sim = model.similarity(*tokens(model, case)) * model.scale.detach()
    assert_close(sim, reference["component.sim_logits"])
    states = [model.mu.clone()]

    def loss():
        terms = model(*inputs, torch.arange(len(inputs[0])))
        states.append(model.mu.clone())
        return terms

    assert_training(model, loss, reference)
    assert_close(torch.cat(states), reference["mu_states"])


@pytest.mark.parametrize("temporal", TEMPORAL)
def test_files_load_strictly_and_save_the_same_keys(temporal, tmp_path):
    shapes = keys(FILE, *() if temporal == "None" else (temporal,))
    save_weights(filled(shapes), tmp_path / "pytorch_model.bin.0")
    model = load_model(tmp_path / "pytorch_model.bin.0", method="emcl")
    assert isinstance(model, EMCL)
    assert {key: list(x.shape) for key, x in released_state(model).items()} == shapes


def test_the_corrected_recipe_saves_the_state(tmp_path):
    shapes = keys(FILE)
    model = build(EMCL, shapes, temporal=None, recipe="corrected", centerK=16)
    model.mu.fill_(0.25)
    save_weights(released_state(model), tmp_path / "model.bin")
    again = load_model(tmp_path / "model.bin", recipe="corrected")
    assert isinstance(again, EMCL) and torch.equal(again.mu, model.mu)


def test_a_batch_that_is_not_finite_leaves_the_state():
    model = golden_module(4, 2, 1.0, 1.0).train()
    before = model.mu.clone()
    model.reconstruct(torch.full((3, 64), torch.nan))
    assert torch.equal(model.mu, before)


@torch.no_grad()
def test_the_similarity_without_reconstruction_is_a_cosine_of_short_vectors_too():
    model = golden_model("None", "initial", recipe=without_em())
    text, video = (Tokens(*x) for x in tokens(model, "p1"))
    text, video = (Tokens(x.tokens * 0.01, x.mask) for x in (text, video))
    sentence = text.last()
    _, weight = model.frame_weights(sentence, *video)
    pooled = torch.einsum("abn,bnd->abd", weight, video.tokens)
    expected = torch.cosine_similarity(sentence.unsqueeze(1), pooled, dim=2)
    assert_close(model.similarity(text, video), expected.numpy())
