"""DiffusionRet: every number that the released code was recorded to give, and what its corrected recipe changes."""

import json
from functools import cache, partial

import numpy as np
import pytest
import torch

from models import Tokens
from models.baselines.denoiser import Denoiser
from models.baselines.diffusion import Diffusion, betas
from models.baselines.diffusionret import DiffusionRet
from models.baselines.pooling import pool_frames
from tests.baseline_case_diffusion import build, check_training, draw, recorded
from tests.golden_case import assert_close, generator, inputs
from utils.metrics import text_to_video_ranks

SIDES = {"t2v": "diffusion_model", "v2t": "diffusion_model_v"}
SCHEDULES = [("cosine", 50), ("linear", 50), ("cosine", 1000), ("linear", 1000)]


@cache
def model(stage="generation", **options) -> DiffusionRet:
    changes = ["generation"] if stage == "generation" else []
    return build(DiffusionRet, "diffret", *changes, stage=stage, **options)


def lengths_of(reference):
    return tuple(reference[f"{side}_lengths"].tolist() for side in ("text", "video"))


@torch.no_grad()
def tokens(case, lengths):
    ids, text_mask, frames, video_mask = inputs(case, lengths=lengths)
    text = Tokens(model().text_tokens(ids, text_mask), text_mask)
    return text, Tokens(model().frame_tokens(frames, video_mask), video_mask)


def remember(seen, side, _, given, output):
    """A forward hook that stores the input and the output of a side's denoiser."""
    seen[side] = given[0], output


@torch.no_grad()
def test_discriminative_similarity():
    reference = recorded("diffret_sim_f1")
    text, video = tokens("f1", lengths_of(reference))
    chosen = model(stage="discrimination")
    assert_close(text.last(), reference["cls"])
    assert_close(chosen.similarity(text, video), reference["sim"])
    each = [[chosen.similarity(text.select(torch.tensor([a])), video.select(torch.tensor([b]))).item()
             for b in range(5)] for a in range(6)]  # fmt: skip
    assert_close(np.array(each), reference["sim_pairwise"])


def test_discriminative_training():
    reference = recorded("diffret_train_disc_f2")
    chosen = build(DiffusionRet, "diffret", stage="discrimination")
    batch = *inputs("f2", lengths=lengths_of(reference)), torch.tensor(reference["idx"])
    terms = chosen(*batch)
    for name in ("ce_t2v", "ce_v2t"):
        np.testing.assert_allclose(terms[name].item(), reference[name], rtol=3e-5)
    check_training(chosen, lambda: chosen(*batch), lambda terms: [terms["loss"].item()] * 2 + [0.0], reference)


@pytest.mark.parametrize(("name", "steps"), SCHEDULES)
def test_schedule(name, steps):
    reference = {key: x for key, x in recorded("diffret_schedule_f3").items() if key.startswith(f"{name}{steps}.")}
    reference = {key.split(".")[1]: x for key, x in reference.items()}
    diffusion = Diffusion(name, steps)
    ours, signal = betas(name, steps), diffusion.signal
    np.testing.assert_allclose(ours, reference["betas"], rtol=1e-9)
    np.testing.assert_allclose(signal, reference["alphas_cumprod"], rtol=1e-9)
    before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    posterior = {
        "posterior_variance": ours * (1 - before) / (1 - signal),
        "posterior_mean_coef1": ours * before.sqrt() / (1 - signal),
        "posterior_mean_coef2": (1 - before) * (1 - ours).sqrt() / (1 - signal),
    }
    clipped = posterior["posterior_variance"].clone()
    clipped[0] = clipped[1]
    for key, table in (posterior | {"posterior_log_variance_clipped": clipped.log()}).items():
        if key in reference:
            np.testing.assert_allclose(table, reference[key], rtol=1e-7)

    x_start, x, pred, noise = (draw(f"input.f3.{key}", (4, 5)) for key in ("x_start", "x_t", "pred", "noise"))
    steps = torch.tensor(reference["t"])
    assert_close(diffusion.add_noise(x_start, steps, noise), reference["q_sample"])
    found = pred.clamp(-1, 1)
    back = torch.stack([diffusion.denoise(x[row], found[row], step) for row, step in enumerate(steps.tolist())])
    assert_close(found, reference["ddim_pred_xstart"])
    assert_close(back, reference["ddim_step"])
    # One step of DDPM, from the same tables.
    coef = [posterior[f"posterior_mean_coef{number}"][steps].float()[:, None] for number in (1, 2)]
    mean = coef[0] * x_start + coef[1] * x
    assert_close(mean, reference["posterior_mean"])
    assert_close(posterior["posterior_variance"][steps].float()[:, None].expand(4, 5), reference["posterior_var"])
    sampled = coef[0] * found + coef[1] * x + (steps > 0)[:, None] * clipped[steps].sqrt().float()[:, None] * noise
    assert_close(sampled, reference["p_step"])


def denoiser(side):
    net = Denoiser(512)
    keys = model().state_dict()
    state = {name.removeprefix(f"denoisers.{side}."): x for name, x in keys.items() if f"denoisers.{side}." in name}
    net.load_state_dict(state)
    return net


def features(case, reference, side, temp):
    """Queries and candidates of a case without towers."""
    lengths = torch.tensor(reference[f"lengths_{side}"])
    mask = (torch.arange(6) < lengths.unsqueeze(-1)).long()
    if side == "t2v":
        text = draw(f"input.{case}.t2v.text", (4, 512), 0.45)
        video = draw(f"input.{case}.t2v.video", (4, 5, 6, 512), 0.4)
        each = text[:, None].expand(4, 5, 512).flatten(0, 1)[:, None]
        pooled = pool_frames(each, video.flatten(0, 1), mask.flatten(0, 1), temp, padding=True).view(4, 5, 512)
        softmax = (torch.einsum("nd,nkfd->nkf", text, video) / temp).softmax(dim=2)
        return text[:, None], pooled, softmax, video
    text, video = draw(f"input.{case}.v2t.text", (4, 5, 512), 0.45), draw(f"input.{case}.v2t.video", (4, 6, 512), 0.4)
    softmax = (text @ video.mT / temp).softmax(dim=2)
    return pool_frames(text, video, mask, temp, padding=True), text, softmax, video


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("temp", [1, 5])
@torch.no_grad()
def test_denoiser(side, temp):
    reference = recorded("diffret_denoiser_f4")
    ours, prefix = denoiser(side), f"temp{temp}.{side}."
    query, candidates, softmax, _ = features("f4", reference, side, temp)
    steps, x = torch.tensor(reference["timesteps"]), draw(f"input.f4.{side}.x", (4, 5))
    seen = {}
    ours.decoder[2].register_forward_hook(lambda _, __, output: seen.update(decoder=output.squeeze(2)))
    ours.project.register_forward_hook(lambda _, __, output: seen.update(proj=output))
    output = ours(x, steps, ours.condition(query, candidates))
    time = ours.time(steps)
    seen |= {"output": output, "attention": output - seen["decoder"], "frame_softmax": softmax, "time_embedding": time}
    whole = {"q_proj": ours.query(query + time[:, None]), "k_proj": ours.key(candidates + time[:, None]),
             "v_proj": ours.value(candidates + time[:, None])}  # fmt: skip
    seen |= {f"{name}.norm": x.norm(dim=2) for name, x in whole.items()} | {"q_proj": whole["q_proj"][:, 0]}
    seen["q_proj.norm"] = seen["q_proj.norm"].squeeze(1)
    compared = [name for name in seen if prefix + name in reference]
    assert {"output", "attention", "frame_softmax", "decoder"} <= set(compared)
    for name in compared:
        assert_close(seen[name], reference[prefix + name])


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("name", "steps"), [("cosine", 50), ("linear", 25), ("cosine", 1000)])
@torch.no_grad()
def test_sampling(side, name, steps):
    reference = recorded("diffret_sampling_f7")
    ours, prefix = denoiser(side), f"{name}{steps}.{side}."
    query, candidates, _, _ = features("f7", reference, side, 1)
    diffusion, predictions, samples = Diffusion(name, steps), [], []
    predict = partial(ours, conditions=ours.condition(query, candidates))

    def watched(x, step):
        samples.append(x)
        predictions.append(predict(x, step))
        return predictions[-1]

    final = diffusion.sample(watched, draw(f"input.f7.noise_{side}", (4, 5)))
    assert_close(final, reference[prefix + "final"])
    assert_close(final.softmax(dim=1), reference[prefix + "softmax"])
    if prefix + "samples" in reference:
        assert_close(torch.stack([*samples[1:], final]), reference[prefix + "samples"])
        assert_close(torch.stack(predictions).clamp(-1, 1), reference[prefix + "pred_xstart"])


@pytest.mark.parametrize("case", ["f5", "f6"])
def test_generative_training(case):
    reference = recorded(f"diffret_train_gen_{case}")
    pairs, num = len(reference["idx"]), reference["num"].item()
    chosen = build(
        DiffusionRet, "diffret", "generation", num=num, noise_schedule=reference["schedule"].item(),
        diffusion_steps=reference["steps"].item(),
        **{name: reference[name].item() for name in ("neg", "temp", "d_temp")},
    )  # fmt: skip
    noise = {side: draw(f"input.{case}.noise_{side}", (pairs, num + 1)) for side in SIDES}
    chosen.draw = lambda batch, width: (torch.tensor(reference["t"]), noise)
    seen = {}
    for side in SIDES:
        chosen.denoisers[side].register_forward_hook(partial(remember, seen, side))
    batch = *inputs(case, lengths=lengths_of(reference)), torch.tensor(reference["idx"])
    terms = chosen(*batch)
    for side in SIDES:
        np.testing.assert_allclose(terms[f"generation_{side}"].item(), reference[f"gen_loss_{side}"], rtol=3e-5)
        assert_close(seen[side][0], reference[f"{side}.x_t"])
        assert_close(seen[side][1], reference[f"{side}.output"])

    def parts(terms):
        found = {name: term.item() for name, term in terms.items()}
        return (
            found["loss"], (found["ce_t2v"] + found["ce_v2t"]) / 2, found["generation_t2v"] + found["generation_v2t"]
        )  # fmt: skip

    check_training(chosen, lambda: chosen(*batch), parts, reference)


def evaluated(case, texts, videos, setting, reference, text, video):
    settings = json.loads(reference[f"{setting}.settings"].item())
    chosen = build_with(settings)
    noise = {"t2v": (texts, settings["t2v_num"]), "v2t": (videos, settings["v2t_num"])}
    chosen.start_noise = lambda side, queries, num: draw(f"input.{case}.noise_{side}", noise[side])
    sim = chosen.similarity(text, video)
    assert_close(sim, reference["sim"])
    for memory in (2**28, 1):
        yield sim, chosen.rerank(sim, text, video, memory=memory)


def build_with(settings):
    chosen = DiffusionRet(model().clip, **settings)
    chosen.load_state_dict(model().state_dict())
    return chosen.eval()


def without_towers(case, texts, videos):
    random = generator(f"input.{case}.lengths")
    lengths = random.randint(3, 9, texts), random.randint(1, 7, videos)
    text = draw(f"input.{case}.text_feat", (texts, 8, 512), 0.45)
    video = draw(f"input.{case}.video_feat", (videos, 6, 512), 0.4)
    masks = ((torch.arange(x.shape[1]) < torch.tensor(length)[:, None]).long()
             for x, length in zip((text, video), lengths, strict=True))  # fmt: skip
    return tuple(map(Tokens, (text, video), masks))


@pytest.mark.parametrize(
    ("file", "texts", "videos", "setting"),
    [("f8", 6, 5, "default"), ("f8", 6, 5, "scaled"), ("f9_34", 8, 34, "default"), ("f10_58", 10, 10, "default"),
     ("f10_58", 10, 10, "scaled")],
)  # fmt: skip
@torch.no_grad()
def test_evaluation(file, texts, videos, setting, monkeypatch):
    reference, case = recorded(f"diffret_eval_{file}"), file
    if case == "f8":
        text, video = tokens("f8", ((24, 9, 5, 15, 12, 20), (12, 7, 12, 3, 9)))
    else:
        text, video = without_towers(case, texts, videos)
        cls = draw(f"input.{case}.cls", (texts, 512), 0.45)
        # The recorded sentence vectors are no words, so they cannot be the last one.
        monkeypatch.setattr(Tokens, "last", lambda self: cls)
    for sim, (t2v, v2t) in evaluated(case, texts, videos, setting, reference, text, video):
        assert_close(t2v, reference[f"{setting}.t2v"])
        assert_close(v2t.T, reference[f"{setting}.v2t"])
        for side, scores, plain in (("t2v", t2v, sim), ("v2t", v2t.T, sim.T)):
            ids = torch.tensor(reference[f"{setting}.ids_{side}"])
            assert torch.equal(plain.topk(ids.shape[1], dim=1).indices, ids)
            if f"{setting}.ranks_{side}" in reference:
                assert text_to_video_ranks(scores).tolist() == reference[f"{setting}.ranks_{side}"].tolist()


@pytest.mark.parametrize("recipe", ["released", "corrected"])
def test_captions_of_one_video_are_no_negatives_in_the_corrected_recipe(recipe):
    """With num = batch - 1 the top-k comes to the sample's own video, which the corrected recipe leaves out."""
    chosen = DiffusionRet(model().clip, recipe=recipe, num=4, diffusion_steps=10)
    chosen.load_state_dict(model().state_dict())
    text, video = tokens("f6", ((11, 6, 24, 20, 14), (4, 12, 8, 10, 12)))
    noise = {side: draw(f"input.f6.noise_{side}", (5, 5)) for side in SIDES}
    chosen.draw = lambda batch, width: (torch.tensor([0, 9, 4, 7, 6]), noise)
    seen = {}
    for side in SIDES:
        chosen.denoisers[side].register_forward_hook(partial(remember, seen, side))
    terms = chosen.losses(text, video, torch.tensor([0, 1, 1, 3, 4]))
    for side in SIDES:
        left_out = seen[side][0].isinf()
        assert left_out.sum(dim=1).tolist() == ([0, 1, 1, 0, 0] if recipe == "corrected" else [0] * 5)
        assert not left_out[:, 0].any() and terms[f"generation_{side}"].isfinite()
        # No softmax is left to a candidate that is left out.
        kept = (100 * seen[side][1]).masked_fill(left_out, -torch.inf)
        expected = (kept.logsumexp(dim=1) - kept[:, 0]).mean()
        assert_close(terms[f"generation_{side}"], expected.detach().numpy())
