"""HBI as a whole: the Python API, recipes, processes, and the CUDA path on fake tensors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode

from models import CLIP, HBI, CLIPConfig, Tokens, load_model
from models.recipe import CORRECTED, RELEASED
from models.tokenizer import Tokenizer
from tests.allocations import Allocations
from tests.conftest import SMALL
from tests.processes import run_together
from utils.checkpoint import released_state, save_weights

FRAMES = 9
WORDS = 12
CAPTIONS = [
    "a red circle moves left",
    "a blue star spins",
    "the green square grows and then it leaves",
    "a heart",
]


def build(seed=0, **options) -> HBI:
    torch.manual_seed(seed)
    return HBI(CLIP(SMALL), temporal_layers=1, **options)


def batch(seed=0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    ids, text_mask = Tokenizer()(CAPTIONS, WORDS)
    video_mask = (torch.arange(FRAMES) < torch.tensor([9, 4, 5, 3])[:, None]).long()
    frames = torch.randint(0, 256, (int(video_mask.sum()), 3, 32, 32), dtype=torch.uint8)
    video_ids = torch.tensor([0, 1, 2, 1])
    return {"ids": ids, "text_mask": text_mask, "frames": frames, "video_mask": video_mask, "video_ids": video_ids}


def test_the_python_api(video_file, tmp_path):
    save_weights(released_state(build()), tmp_path / "pytorch_model.bin.0")
    model = load_model(tmp_path / "pytorch_model.bin.0")
    text = model.encode_text(CAPTIONS[:2], max_words=WORDS)
    video = model.encode_video([video_file, video_file], max_frames=FRAMES)
    for one in (str(video_file), video_file):
        torch.testing.assert_close(model.encode_video(one, max_frames=FRAMES).tokens, video.tokens[:1])
    assert text[0].shape == (2, WORDS, 64) and video[0].shape == (2, FRAMES, 64)
    sim = model.similarity(text, video)
    assert sim.shape == (2, 2) and torch.allclose(sim[:, 0], sim[:, 1], atol=1e-6)
    for exact in (False, True):
        levels = model.interactions(text, video, exact=exact)
        assert [level.name for level in levels] == ["entity", "action", "event"]
        assert [tuple(level.interaction.shape) for level in levels] == [(2, 12, 9), (2, 3, 3), (2, 2, 2)]
        assert torch.allclose(levels[0].sim, sim.diagonal(), atol=1e-6)
        for level in levels:
            assert level.text.index.shape == (2, WORDS) and level.video.index.shape == (2, FRAMES)
            assert level.interaction.isfinite().all()


def test_a_sentence_finds_a_video_among_real_ones():
    folder = Path(__file__).parents[2] / "shared" / "data" / "videos"
    if not folder.is_dir():
        pytest.skip("the folder shared/data/videos is not next to the checkout")
    videos = [folder / f"{name}.mp4" for name in ("bigbuckbunny", "bikes", "carphone_pristine", "video7500")]
    model = build().eval()
    text = model.encode_text(["a soccer team walking out on the field"])
    tokens, mask = model.encode_video(videos)
    sim = model.similarity(text, (tokens, mask))
    assert sim.shape == (1, 4) and sim.isfinite().all() and sim.unique().numel() == 4
    assert mask.sum(dim=1).min() > 1


def test_levels_of_rate_zero_are_not_computed(monkeypatch):
    model = build(rates=(1.0, 0.0, 0.0)).eval()
    monkeypatch.setattr(model.levels[1], "text_merge", None)
    tokens = torch.randn(2, WORDS, 64), torch.ones(2, WORDS)
    assert model.similarity(tokens, tokens).shape == (2, 2)


def test_similarity_mixes_the_levels_by_their_rates():
    model = build(rates=(0.5, 0.2, 0.3)).eval()
    text, video = torch.randn(3, WORDS, 64), torch.randn(4, FRAMES, 64)
    text_mask = (torch.arange(WORDS) < torch.tensor([12, 5, 7])[:, None]).long()
    video_mask = (torch.arange(FRAMES) < torch.tensor([9, 5, 4, 6])[:, None]).long()
    with torch.no_grad():
        outputs = model.level_outputs(text, text_mask, video, video_mask)
    expected = sum(rate * output.sim for rate, output in zip(model.rates, outputs, strict=True))
    assert torch.allclose(model.similarity((text, text_mask), (video, video_mask)), expected, atol=1e-6)


def test_packed_and_padded_frames_give_the_same_tokens():
    model, data = build().eval(), batch()
    padded = torch.zeros(*data["video_mask"].shape, 3, 32, 32, dtype=torch.uint8)
    padded[data["video_mask"].bool()] = data["frames"]
    with torch.no_grad():
        packed = model.frame_tokens(data["frames"], data["video_mask"])
        assert torch.allclose(packed, model.frame_tokens(padded, data["video_mask"]), atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_pixels_are_converted_once_and_then_changed_in_place(packed):
    model, data = build().eval(), batch()
    frames, mask = data["frames"], data["video_mask"]
    assert 0 < mask.sum() < mask.numel()
    padded = torch.zeros(*mask.shape, *frames.shape[1:], dtype=torch.uint8).index_put_((mask.bool(),), frames)
    frames = frames if packed else padded
    before, large = frames.clone(), []
    convolution = model.clip.visual.conv1
    convolution.register_forward_pre_hook(lambda *_: large.extend(x for x in made.numbers if x >= frames.numel()))
    with torch.no_grad(), Allocations() as made:
        model.frame_tokens(frames, mask)
    assert torch.equal(frames, before)
    assert len(large) == 1


def test_corrected_results_do_not_depend_on_batch_mates():
    model = build(recipe="corrected", rates=(0.2, 0.4, 0.4)).eval()
    text, video = torch.randn(4, WORDS, 64), torch.randn(4, FRAMES, 64)
    text_mask = (torch.arange(WORDS) < torch.tensor([12, 2, 3, 9])[:, None]).long()
    video_mask = (torch.arange(FRAMES) < torch.tensor([9, 1, 2, 4])[:, None]).long()
    whole = model.similarity((text, text_mask), (video, video_mask))
    single = model.similarity((text[1:2], text_mask[1:2]), (video[1:2], video_mask[1:2]))
    assert torch.allclose(whole[1, 1], single[0, 0], atol=1e-6)


def test_captions_of_one_video_are_positives_only_in_the_corrected_recipe():
    text, video = torch.randn(4, WORDS, 64), torch.randn(4, FRAMES, 64)
    masks = torch.ones(4, WORDS).long(), torch.ones(4, FRAMES).long()
    terms = []
    for positives in (True, False):
        recipe = replace(CORRECTED, same_video_negatives=positives)
        model = build(recipe=recipe)
        outputs = model.level_outputs(text, masks[0], video, masks[1])
        pairs = Tokens(text, masks[0]), Tokens(video, masks[1])
        terms.append(model.losses(*pairs, torch.tensor([0, 1, 2, 1]))["entity.ce_t2v"])
        probability = (outputs[0].sim * model.clip.logit_scale.exp()).log_softmax(dim=1)
    # The target of both captions of video 1 is spread over its two places in the batch.
    expected = -(probability[0, 0] + probability[2, 2] + probability[[1, 1, 3, 3], [1, 3, 1, 3]].sum() / 2) / 4
    assert torch.allclose(terms[1], expected) and not torch.allclose(terms[0], terms[1])


def test_padding_of_the_corrected_banzhaf_kl_has_no_weight():
    from models.losses import banzhaf_alignment

    student, teacher = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    text_mask, video_mask = torch.tensor([[1, 1, 1, 0, 0], [1] * 5]), torch.tensor([[1, 1, 0, 0], [1] * 4])
    options = {"masked_logits": False, "reversed_over_batch": False}
    terms = banzhaf_alignment(student, teacher, text_mask, video_mask, **options)
    student[0, 3:], teacher[0, :, 2:] = 1e3, -1e3
    changed = banzhaf_alignment(student, teacher, text_mask, video_mask, **options)
    for name, value in terms.items():
        assert torch.allclose(value, changed[name])
    p, q = student[1].log_softmax(-1), teacher[1].log_softmax(-1)
    first_p, first_q = student[0, :3, :2].log_softmax(-1), teacher[0, :3, :2].log_softmax(-1)
    cells = (q.exp() * (q - p)).sum() + (first_q.exp() * (first_q - first_p)).sum()
    assert torch.allclose(terms["kl_banzhaf"], cells / (20 + 6))


def test_the_logit_scale_stays_at_100_or_below():
    model = build()
    model.clip.logit_scale.data.fill_(7.0)
    model.after_step()
    assert model.scale.item() == pytest.approx(100)
    model.clip.logit_scale.data.fill_(3.0)
    model.after_step()
    assert model.clip.logit_scale.item() == 3.0


def test_a_token_of_zeros_is_similar_to_none():
    text, video = torch.randn(2, WORDS, 64), torch.randn(2, FRAMES, 64)
    text[0, 1], video[1, 2] = 0, 0
    masks = torch.ones(2, WORDS).long(), torch.ones(2, FRAMES).long()
    outputs = build(recipe="corrected").level_outputs(text, masks[0], video, masks[1])
    assert all(output.sim.isfinite().all() for output in outputs)
    assert not outputs[0].token_sim[0, :, 1].any() and not outputs[0].token_sim[:, 1, :, 2].any()


@pytest.mark.parametrize(
    "options",
    [
        {"trained_levels": 1},
        {"trained_levels": 2},
        {"trained_levels": 1, "skl": 0.0},
        {"teacher": "exact"},
        {"teacher": "shuffled"},
        {"temporal": "seqLSTM"},
        {"temporal": None, "interaction": "mean", "kl": 0.0},
    ],
)
def test_every_trainable_parameter_gets_a_gradient(options):
    """Parameters that the loss does not reach are frozen, so that all processes average the same ones."""
    model = build(**options)
    terms = model(**batch())
    terms["loss"].backward()
    assert terms["loss"].isfinite()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == reached
    assert not any(name.startswith("teacher") for name in trained)


@pytest.mark.parametrize("recipe", ["released", "corrected"])
def test_an_exact_teacher_of_levels_that_keep_one_token(recipe):
    model = build(teacher="exact", recipe=recipe, text_rates=(0.25, 0.1), video_rates=(0.1, 1.0))
    terms = model(**batch())
    terms["loss"].backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def process(folder: str, recipe) -> None:
    """One of several processes: its shard of the batch, and DDP."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = build(recipe=recipe)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    data = batch()
    share = slice(rank * 2, rank * 2 + 2)
    bounds = data["video_mask"].sum(dim=1).cumsum(dim=0).tolist()
    frames = data["frames"][: bounds[1]] if rank == 0 else data["frames"][bounds[1] :]
    parallel(**{name: frames if name == "frames" else x[share] for name, x in data.items()})["loss"].backward()
    if rank == 0:
        torch.save(gradients(model), f"{folder}/gradients.pt")


@pytest.mark.parametrize("recipe", ["corrected", "released"])
def test_two_processes_give_the_gradients_of_one(tmp_path, recipe):
    """Exactly so with the corrected recipe; the released one keeps its own slice and gives half of the encoders'."""
    chosen = replace(RELEASED, cluster_noise=0.0) if recipe == "released" else CORRECTED
    run_together(tmp_path / "log.txt", 2, process, str(tmp_path), chosen)
    ours = torch.load(tmp_path / "gradients.pt", weights_only=True)
    model = build(recipe=chosen)
    model(**batch())["loss"].backward()
    whole = gradients(model)
    assert ours.keys() == whole.keys()
    scale = max(gradient.abs().max() for gradient in whole.values())
    for name, gradient in whole.items():
        encoder = name.startswith(("clip.", "temporal.")) and name != "clip.logit_scale"
        expected = gradient / 2 if recipe == "released" and encoder else gradient
        assert (ours[name] - expected).abs().max() <= 1e-5 * scale, name


def on_fake_cuda(build, forward) -> dict[str, torch.Tensor]:
    """Give the model that `build()` makes a batch of four on fake CUDA tensors, under autocast to bfloat16."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    with FakeTensorMode():
        model = build()
        for module in model.modules():  # .to("cuda") and autograd ask for a real device
            for name, x in module._parameters.items():
                if x is not None:
                    x = torch.empty(x.shape, device="cuda")
                    module._parameters[name] = torch.nn.Parameter(x, requires_grad=False)
            for name, x in module._buffers.items():
                module._buffers[name] = torch.empty(x.shape, dtype=x.dtype, device="cuda")
        whole = {"dtype": torch.long, "device": "cuda"}
        ids, text_mask, video_mask = torch.zeros(4, 24, **whole), torch.ones(4, 24, **whole), torch.ones(4, 12, **whole)
        frames = torch.zeros(30, 3, 224, 224, dtype=torch.uint8, device="cuda")
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            assert model.clip.encode_frames(frames).dtype == torch.bfloat16
            return forward(model, ids, text_mask, frames, video_mask)
        finally:
            torch.set_autocast_enabled("cuda", enabled)
            torch.set_autocast_dtype("cuda", dtype)


@pytest.mark.parametrize("recipe", ["released", "corrected"])
@pytest.mark.parametrize("teacher", ["estimator", "exact"])
def test_forward_and_loss_on_fake_cuda_with_bf16_autocast(recipe, teacher):
    config = CLIPConfig(224, 32, 768, 2, 512, 2, 512)
    terms = on_fake_cuda(
        lambda: HBI(CLIP(config), temporal_layers=1, recipe=recipe, teacher=teacher),
        lambda model, *batch: model(*batch, torch.arange(4, device="cuda")),
    )
    assert all(value.device.type == "cuda" and value.dtype == torch.float32 for value in terms.values())
