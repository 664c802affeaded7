"""The caption decoder on HBI's hierarchy: masks, cache, loss, and the result of `describe`."""

import math
from dataclasses import replace

import pytest
import torch

from dataloaders import build_split
from models import CLIP, HBICaptioning, Tokens, load_model
from models.recipe import CORRECTED
from models.tokenizer import Tokenizer
from scripts.make_shapes import make_corpus
from tests.conftest import SMALL
from utils.caption_metrics import caption_metrics
from utils.checkpoint import released_state, save_weights
from utils.errors import InputError

FRAMES, WORDS = 8, 12
STEPS = 500


@pytest.fixture(scope="module")
def captioner():
    torch.manual_seed(0)
    model = HBICaptioning(CLIP(SMALL), temporal_layers=1, recipe=CORRECTED).eval()
    # Embeddings with distinct words; with CLIP's random ones the same word is always the most likely.
    torch.nn.init.normal_(model.decoder.embedding.weight, std=0.3)
    return model


def random_batch(videos, captions=None, seed=0):
    draw = torch.Generator().manual_seed(seed)
    captions = captions or videos
    lengths = torch.randint(4, WORDS + 1, (captions, 1), generator=draw)
    text_mask = (torch.arange(WORDS) < lengths).long()
    video_mask = (torch.arange(FRAMES) < torch.randint(2, FRAMES + 1, (videos, 1), generator=draw)).long()
    return {
        "ids": torch.randint(1, 49406, (captions, WORDS), generator=draw) * text_mask,
        "text_mask": text_mask,
        "frames": torch.randint(256, (videos, FRAMES, 3, 32, 32), generator=draw, dtype=torch.uint8),
        "video_mask": video_mask,
        "video_ids": torch.arange(videos),
    }


@pytest.fixture(scope="module")
def video(captioner):
    batch = random_batch(3)
    with torch.no_grad():
        return Tokens(captioner.frame_tokens(batch["frames"], batch["video_mask"]), batch["video_mask"])


@pytest.fixture(scope="module")
def cache(captioner, video):
    with torch.no_grad():
        return captioner.decoder.read(captioner.memory_sets(video))


def all_logits(model, ids, cache):
    with torch.no_grad():
        return model.decoder.logits(model.decoder(ids, cache).hidden)


def test_logits_do_not_depend_on_later_words(captioner, cache):
    ids = torch.randint(49406, (3, WORDS))
    expected = all_logits(captioner, ids, cache)
    for known in (1, 5, 11):
        changed = torch.cat([ids[:, :known], torch.randint(49406, (3, WORDS - known))], dim=1)
        found = all_logits(captioner, changed, cache)
        assert torch.allclose(found[:, :known], expected[:, :known], atol=1e-5)
        assert not torch.allclose(found[:, known:], expected[:, known:], atol=1e-2)


def test_one_word_at_a_time_gives_the_logits_of_all_at_once(captioner, cache):
    ids = torch.randint(49406, (3, WORDS))
    expected, found, state = all_logits(captioner, ids, cache), [], cache
    with torch.no_grad():
        for place in range(WORDS):
            decoded = captioner.decoder(ids[:, place : place + 1], state)
            state = decoded.cache
            found.append(captioner.decoder.logits(decoded.hidden))
    assert (torch.cat(found, dim=1) - expected).abs().max() < 1e-5


def test_the_memory_is_every_level_and_no_padding(captioner, video, cache):
    assert captioner.decoder.level_vectors.shape == (3, 64)
    assert cache.mask.shape == (3, 1, 1, FRAMES + 2 + 1)  # 8 frames, merged to 2 and 1
    changed = video.tokens + 10 * (1 - video.mask).unsqueeze(-1)
    sets = captioner.memory_sets(Tokens(changed, video.mask))
    ids = torch.randint(49406, (3, WORDS))
    with torch.no_grad():
        decoded, entity = captioner.decoder(ids, captioner.decoder.read(sets)), slice(0, FRAMES)
    # Padded frames get no attention, and their content has no influence from the entity level.
    padding = video.mask.unsqueeze(1).expand(-1, WORDS, -1) == 0
    assert (decoded.attention[..., entity][padding] == 0).all()
    assert torch.allclose(decoded.attention.sum(dim=-1), torch.ones(3, WORDS), atol=1e-5)


def test_neither_memory_nor_loss_see_the_text_of_other_losses(captioner):
    batch = random_batch(4)
    with torch.no_grad():
        video = Tokens(captioner.frame_tokens(batch["frames"], batch["video_mask"]), batch["video_mask"])
        text = Tokens(captioner.text_tokens(batch["ids"], batch["text_mask"]), batch["text_mask"])
        other = Tokens(torch.randn_like(text.tokens), text.mask)
        terms = [captioner.losses(given, video, batch["video_ids"], batch["ids"]) for given in (text, other)]
    assert terms[0]["caption_ce"] == terms[1]["caption_ce"]
    assert terms[0]["entity.ce_t2v"] != terms[1]["entity.ce_t2v"]


def test_the_loss_is_the_smoothed_cross_entropy_of_words_and_end(captioner, video):
    batch = random_batch(3)
    ids, mask = batch["ids"], batch["text_mask"]
    sets = captioner.memory_sets(video)
    with torch.no_grad():
        found = captioner.caption_loss(ids, mask, sets).item()
    log = all_logits(captioner, ids[:, :-1], captioner.decoder.read(sets)).log_softmax(dim=-1)
    terms = [
        -0.9 * log[row, place, ids[row, place + 1]] - 0.1 * log[row, place].mean()
        for row in range(3)
        for place in range(int(mask[row].sum()) - 1)
    ]
    assert found == pytest.approx((sum(terms) / len(terms)).item(), rel=1e-5)


def test_padding_of_a_caption_counts_for_nothing(captioner, video):
    batch = random_batch(3)
    sets = captioner.memory_sets(video)
    junk = batch["ids"] + 7 * (1 - batch["text_mask"])
    with torch.no_grad():
        losses = [captioner.caption_loss(ids, batch["text_mask"], sets).item() for ids in (batch["ids"], junk)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_captions_of_one_video_are_no_negatives(captioner):
    ids = torch.tensor([5, 5, 6])
    assert captioner.positives(ids).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    released = HBICaptioning(CLIP(SMALL), temporal_layers=1, recipe="released")
    assert torch.equal(released.positives(ids), captioner.positives(ids))


@pytest.mark.parametrize(("retrieval_weight", "levels"), [(0.5, 3), (0.0, 3), (0.0, 1), (0.5, 1)])
def test_every_trained_weight_gets_a_gradient(retrieval_weight, levels):
    torch.manual_seed(1)
    options = {"retrieval_weight": retrieval_weight, "trained_levels": levels, "recipe": CORRECTED}
    model = HBICaptioning(CLIP(SMALL), temporal_layers=1, teacher="exact", **options).train()
    batch = random_batch(3)
    terms = model(**batch, labels=batch["ids"])
    terms["loss"].backward()
    weighted = sum(model.weights[name] * term.item() for name, term in terms.items() if name != "loss")
    assert terms["loss"].item() == pytest.approx(weighted)
    assert not [name for name, x in model.named_parameters() if x.requires_grad and x.grad is None]
    assert (terms.keys() == {"caption_ce", "loss"}) == (retrieval_weight == 0)
    assert len(model.decoder.level_vectors) == levels


def test_a_checkpoint_determines_the_decoder(captioner, tmp_path, model):
    path = tmp_path / "pytorch_model.bin.0"
    save_weights(released_state(captioner), path)
    loaded = load_model(path, recipe="corrected")
    assert isinstance(loaded, HBICaptioning)
    assert all(torch.equal(x, loaded.state_dict()[name]) for name, x in captioner.state_dict().items())
    retrieval = tmp_path / "retrieval.bin"
    save_weights(released_state(model), retrieval)
    begun = load_model(retrieval, captions=True, trained_levels=1)
    assert isinstance(begun, HBICaptioning) and len(begun.decoder.level_vectors) == 1
    assert torch.equal(begun.decoder.embedding.weight, begun.clip.token_embedding.weight)
    assert not isinstance(load_model(retrieval), HBICaptioning)


def test_generation_agrees_with_the_decoder(captioner, video):
    found = captioner.generate(video, beams=4, max_words=9)
    assert found.ids.shape == (3, 4, 8) and not (found.ids == captioner.decoder.start).any()
    best = found.best()
    start = torch.full((3, 1), captioner.decoder.start)
    cache = captioner.decoder.read(captioner.memory_sets(video))
    logits = all_logits(captioner, torch.cat([start, best.ids[:, :-1]], dim=1), cache)
    logits[..., captioner.decoder.start] = -math.inf
    expected = logits.log_softmax(dim=-1).gather(-1, best.ids.unsqueeze(-1)).squeeze(-1)
    inside = torch.arange(8) < best.lengths.unsqueeze(1)
    assert torch.allclose(best.log_probs[inside], expected[inside], atol=1e-4)
    assert torch.allclose(best.scores, (expected * inside).sum(dim=1) / best.lengths, atol=1e-4)


def test_more_tokens_than_positions_are_refused(captioner, video):
    with pytest.raises(InputError, match="captions of 78 tokens: the decoder has 77 positions"):
        captioner.generate(video, max_words=78)


def test_describe_says_what_each_word_attended_to(captioner, video_file):
    said = captioner.describe(video_file, beams=2, max_words=8, max_frames=4)
    assert said.caption == " ".join(word.word for word in said.words) and said.words
    assert said.frames["entity"] == [[0], [1], [2], []]  # 3 s of video, one frame a second
    assert sorted(sum(said.frames["action"], [])) == [0, 1, 2] == sorted(sum(said.frames["event"], []))
    for word in said.words:
        assert 0 < word.probability <= 1
        assert [len(word.attention[level]) for level in said.frames] == [4, 1, 1]
        assert sum(sum(shares) for shares in word.attention.values()) == pytest.approx(1, abs=1e-5)
        assert word.attention["entity"][3] == 0


@torch.no_grad()
def test_a_word_of_several_tokens_has_their_product_and_mean(captioner, video):
    tokens = Tokenizer()(["a supercalifragilistic dog"], 20)[0][0]
    ids = tokens[1 : 1 + tokens.argmax()]  # without start, with end
    log_probs = -torch.rand(len(ids), generator=torch.Generator().manual_seed(0))
    videos = captioner.memory_sets(Tokens(*(x[:1] for x in video)))
    said = captioner.explain(ids, log_probs, videos)
    assert [word.word for word in said.words] == ["a", "supercalifragilistic", "dog"]
    inner = slice(1, len(ids) - 2)
    assert inner.stop > 3
    whole = [log_probs[0], log_probs[inner].sum(), log_probs[inner.stop]]
    assert [word.probability for word in said.words] == pytest.approx([x.exp().item() for x in whole])
    attention = captioner.decoder(tokens[None, : len(ids)], captioner.decoder.read(videos)).attention[0]
    expected = torch.stack([attention[0], attention[inner].mean(dim=0), attention[inner.stop]])
    found = torch.tensor([sum(word.attention.values(), []) for word in said.words])
    assert torch.allclose(found, expected, atol=1e-6) and not torch.allclose(found[0], found[1], atol=1e-4)


@pytest.mark.slow
def test_eight_videos_are_learnt_by_heart(tmp_path):
    """Of CLIP's vocabulary only the tokens that occur, so that a step is short."""
    make_corpus(tmp_path, train=8, test=1, captions=1, workers=0)
    split = build_split("csv", tmp_path / "captions", "train")
    known, ids = Tokenizer()(split.captions, 26)[0].unique(return_inverse=True)
    mask = (known[ids] > 0).long()
    torch.manual_seed(0)
    clip = CLIP(replace(SMALL, vocabulary=len(known)))
    model = HBICaptioning(clip, temporal_layers=1, recipe=CORRECTED, retrieval_weight=0.0, dropout=0.0)
    files = [tmp_path / "MSRVTT_Videos" / f"{clip.video_id}.mp4" for clip in split.clips]
    video = model.encode_video(files, max_frames=FRAMES)
    optimizer = torch.optim.Adam((x for x in model.parameters() if x.requires_grad), lr=3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model.losses(Tokens(ids, mask), video, torch.arange(8), ids)["caption_ce"].backward()
        optimizer.step()
    best = model.eval().generate(video, beams=5, max_words=26).best()
    words = [Tokenizer().words(known[row[row != model.decoder.end]].tolist()) for row in best.ids]
    captions = [" ".join(word for word, _ in caption) for caption in words]
    references = [[caption] for caption in split.captions]
    found, identical = (caption_metrics(given, references)["CIDEr"] for given in (captions, split.captions))
    assert found > 0.9 * identical
