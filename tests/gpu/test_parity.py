"""Results on a GPU agree with those on the CPU."""

import pytest
import torch

from models import Tokens, load_model
from models.banzhaf import GameOptions, exact_interaction, sampled_interaction
from models.shortlist import Gallery
from tests.gpu.conftest import DEVICE, ON_CUDA, batch, build, trainer
from utils.checkpoint import released_state, save_weights
from utils.devices import PRECISIONS, autocast, set_precision, to_device

CPU = torch.device("cpu")
MODELS = {
    "released": {}, "corrected": {"recipe": "corrected"}, "exact teacher": {"teacher": "exact"},
    "corrected, exact teacher": {"recipe": "corrected", "teacher": "exact"}, "LSTM": {"temporal": "seqLSTM"},
}  # fmt: skip


def loss_and_gradients(model, data, device, precision="fp32"):
    model.to(device).train().zero_grad(set_to_none=True)
    torch.manual_seed(1)
    with autocast(device, precision):
        terms = model(**to_device(data, device))
    terms["loss"].backward()
    gradients = {name: p.grad.float().cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {name: term.detach() for name, term in terms.items()}, gradients


@pytest.fixture(scope="module")
def tokens():
    """Random tokens of 300 ragged texts and videos, on the CPU."""
    draw = torch.Generator().manual_seed(3)
    width = build().clip.config.embed_dim

    def make(positions):
        lengths = torch.randint(1, positions + 1, (300, 1), generator=draw)
        return Tokens(torch.randn(300, positions, width, generator=draw), (torch.arange(positions) < lengths).long())

    return make(24), make(12)


def on_device(tokens):
    return Tokens(*(tensor.to(DEVICE) for tensor in tokens))


@pytest.mark.parametrize("sizes", [(24, 12), (64, 64)], ids=["24 x 12", "64 x 64"])
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_loss_and_gradients(options, sizes):
    words, frames = sizes if ON_CUDA else (24, 12)
    data, model = batch(8 if ON_CUDA else 4, words, frames), build(**options)
    expected, gradients = loss_and_gradients(model, data, CPU)
    terms, found = loss_and_gradients(model, data, DEVICE)
    torch.testing.assert_close(terms["loss"].cpu(), expected["loss"], rtol=1e-5, atol=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


def test_a_run_in_tf32_leaves_fp32_alone():
    data, model = batch(4), build()
    exact, _ = loss_and_gradients(model, data, DEVICE)
    set_precision("tf32", DEVICE)
    rounded, _ = loss_and_gradients(model, data, DEVICE)
    set_precision("fp32", DEVICE)
    again, _ = loss_and_gradients(model, data, DEVICE)
    torch.testing.assert_close(rounded["loss"], exact["loss"], rtol=2e-3, atol=0)
    assert torch.equal(again["loss"], exact["loss"])


def test_bf16_follows_fp32():
    data, model = batch(8), build(teacher="exact")
    exact, gradients = loss_and_gradients(model, data, DEVICE)
    rounded, found = loss_and_gradients(model, data, DEVICE, "bf16")
    torch.testing.assert_close(rounded["loss"], exact["loss"], rtol=1e-2, atol=0)
    assert {term.dtype for term in rounded.values()} == {torch.float32}
    whole = [torch.cat([part[name].flatten() for name in gradients]) for part in (gradients, found)]
    assert torch.nn.functional.cosine_similarity(*whole, dim=0) >= 0.99


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_similarity(tokens, precision):
    model = build(rates=(0.4, 0.3, 0.3)).eval()
    with torch.no_grad():
        expected = model.similarity(*tokens)
        found = model.to(DEVICE).similarity(*map(on_device, tokens), dtype=PRECISIONS[precision]).cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if precision == "fp32" else 3e-2)
    same = (found.argmax(1) == expected.argmax(1)).float().mean()
    assert same >= (0.995 if precision == "fp32" else 0.9)


def test_shortlist(tokens):
    model = build().eval()
    text, video = tokens
    with torch.no_grad():
        gallery = Gallery(model, *video)
        near = gallery.nearest(text, 20)
        expected = gallery.similarity(text, near)
        model.to(DEVICE)
        moved = Gallery(model, *on_device(video))
        found = moved.similarity(on_device(text), near.to(DEVICE)).cpu()
        agree = (moved.nearest(on_device(text), 20).cpu().sort(1).values == near.sort(1).values).float().mean()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert agree >= 0.99


@pytest.mark.parametrize("game", ["standard", "released"])
def test_exact_labels(game):
    draw = torch.Generator().manual_seed(5)
    sim, word, frame = (torch.rand(shape, generator=draw) for shape in ((16, 12, 10), (16, 12), (16, 10)))
    text_mask = (torch.arange(12) < torch.randint(2, 13, (16, 1), generator=draw)).long()
    video_mask = (torch.arange(10) < torch.randint(2, 11, (16, 1), generator=draw)).long()
    if game == "released":
        word, frame = word * text_mask, frame * video_mask
        word, frame = word / word.sum(1, keepdim=True), frame / frame.sum(1, keepdim=True)
    players = sim, text_mask, video_mask, word, frame
    expected = exact_interaction(*players, game)
    found = exact_interaction(*(tensor.to(DEVICE) for tensor in players), game).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    coalitions = [torch.randint(0, 2, (12, 10, 20, 16, size), generator=draw) for size in (12, 10)]
    given = [GameOptions(coalitions=tuple(side.to(device) for side in coalitions)) for device in (CPU, DEVICE)]
    expected = sampled_interaction(*players, game, options=given[0])
    found = sampled_interaction(*(tensor.to(DEVICE) for tensor in players), game, options=given[1]).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_twenty_optimiser_steps():
    weights = []
    for device in (CPU, DEVICE):
        training = trainer(build(teacher="exact"), device, lr=1e-3)
        for _ in range(20 if ON_CUDA else 4):
            for parameter in training.model.parameters():
                parameter.grad = torch.full_like(parameter, 1e-3) if parameter.requires_grad else None
            training.optimizer.step()
        weights.append({name: p.detach().cpu() for name, p in training.model.named_parameters()})
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-6, atol=1e-7, msg=name)


def test_a_checkpoint_written_on_the_device_is_read_on_the_cpu(tmp_path, tokens):
    model = build().eval().to(DEVICE)
    path = tmp_path / "pytorch_model.bin.0"
    save_weights(released_state(model), path)
    assert {tensor.device for tensor in torch.load(path, weights_only=True).values()} == {CPU}
    with torch.no_grad():
        found = model.similarity(*map(on_device, tokens)).cpu()
        torch.testing.assert_close(load_model(path, device="cpu").similarity(*tokens), found, rtol=0, atol=1e-5)
