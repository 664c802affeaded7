"""The shortlist against the full similarity."""

import pytest
import torch
import torch.nn.functional as F

from models import CLIP, HBI, METHODS, level, shortlist
from models.shortlist import Gallery, Shortlist, check_shortlist, pooled, vectors
from models.two_stage import TwoStageSimilarity
from tests.allocations import Allocations
from tests.conftest import SMALL
from utils import metrics
from utils.errors import InputError


def ragged(seed, count, tokens, width=8):
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (count, 1), generator=draw)
    return torch.randn(count, tokens, width, generator=draw), mask.long()


@pytest.mark.parametrize("weighted", [False, True])
def test_inner_products_are_the_average_cosines_of_valid_tokens(weighted):
    (text, text_mask), (video, video_mask) = ragged(0, 3, 5), ragged(1, 4, 6)
    weights = [torch.rand(mask.shape) for mask in (text_mask, video_mask)] if weighted else [None, None]
    found = pooled(text, text_mask, weights[0]) @ pooled(video, video_mask, weights[1]).T
    for a, b in [(0, 0), (2, 3), (1, 2)]:
        cosines = F.cosine_similarity(text[a, :, None], video[b, None], dim=-1)
        counted = [
            mask[row] * (1 if weight is None else weight[row])
            for mask, row, weight in ((text_mask, a, weights[0]), (video_mask, b, weights[1]))
        ]
        average = counted[0].float() @ cosines @ counted[1].float()
        lengths = [
            (counted[side][:, None] * F.normalize(tokens, dim=-1)).sum(dim=0).norm()
            for side, tokens in enumerate((text[a], video[b]))
        ]
        assert found[a, b].item() == pytest.approx((average / lengths[0] / lengths[1]).item(), abs=1e-6)


def test_the_nearest_come_first():
    draw = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(300, 16, generator=draw), dim=-1)
    queries = torch.randn(20, 16, generator=draw)
    shortlist = Shortlist(vectors)
    assert len(shortlist) == 300
    assert torch.equal(shortlist.search(queries, 7), (queries @ vectors.T).topk(7).indices)
    assert torch.equal(shortlist.search(queries, 1000), (queries @ vectors.T).argsort(descending=True))


def test_vectors_of_a_model_are_pooled_by_the_weights_of_its_entity_level():
    torch.manual_seed(0)
    model = HBI(CLIP(SMALL), temporal_layers=1).eval()
    tokens, mask = ragged(2, 4, 6, width=SMALL.embed_dim)
    for side, head in (("text", model.levels[0].text_weight), ("video", model.levels[0].video_weight)):
        head.apply(lambda layer: [torch.nn.init.normal_(weight) for weight in layer.parameters(recurse=False)])
        weight = head(tokens, mask).softmax(dim=-1)
        given = model, tokens, mask
        found = vectors(*given, "text") if side == "text" else Gallery(*given).shortlist.vectors
        assert torch.allclose(found, pooled(tokens, mask, weight), atol=1e-6)
        assert not torch.allclose(found, pooled(tokens, mask), atol=1e-2)


@pytest.fixture(scope="module", params=[("wti", "released"), ("mean", "released"), ("wti", "corrected")])
def three_levels(request):
    interaction, recipe = request.param
    torch.manual_seed(0)
    options = {"temporal_layers": 1, "rates": (0.4, 0.3, 0.3), "interaction": interaction, "recipe": recipe}
    return HBI(CLIP(SMALL), **options).eval()


def test_two_stages_rank_the_shortlist_by_the_interaction_and_the_rest_behind_it(three_levels):
    text, video = ragged(3, 9, 6, width=SMALL.embed_dim), ragged(4, 20, 5, width=SMALL.embed_dim)
    whole = three_levels.similarity(text, video)
    coarse = vectors(three_levels, *text, "text") @ Gallery(three_levels, *video).shortlist.vectors.T
    for memory in (1, 2**30):
        found = TwoStageSimilarity(three_levels, text, video, 7, memory=memory)[:]
        near = coarse.topk(7).indices
        assert torch.allclose(found.gather(1, near), whole.gather(1, near), atol=1e-5)
        order = found.argsort(descending=True)
        assert torch.equal(order[:, :7].sort().values, near.sort().values)
        assert torch.equal(order[:, 7:], coarse.argsort(descending=True)[:, 7:])


def test_two_stages_are_read_in_parts_and_never_held_whole(three_levels, monkeypatch):
    captions, clips = 97, 131
    text, video = ragged(3, captions, 6, width=SMALL.embed_dim), ragged(4, clips, 5, width=SMALL.embed_dim)
    whole = TwoStageSimilarity(three_levels, text, video, 7)[:]
    owner = torch.randint(0, clips, (captions,), generator=torch.Generator().manual_seed(0))
    ranks = metrics.sharded_ranks(whole, whole, owner)
    monkeypatch.setattr(metrics, "_CHUNK_CELLS", 1)
    monkeypatch.setattr(metrics, "_CHUNK_LINES", 16)
    monkeypatch.setattr(shortlist, "SIMILARITY_MEMORY", 4 * 16 * clips)
    with Allocations() as made:
        sim = TwoStageSimilarity(three_levels, text, video, 7, memory=1)
        found = metrics.sharded_ranks(sim, sim, owner)
    assert captions * clips not in made.numbers
    assert all(torch.equal(found[side], ranks[side]) for side in ranks)
    assert torch.allclose(sim[[4, 80]], whole[[4, 80]]) and torch.allclose(sim[3:9], whole[3:9])
    columns = torch.tensor([100, 0, 31])
    assert torch.allclose(sim[:, columns], whole[:, columns])


def test_the_nearest_are_found_where_the_vectors_are():
    vectors, queries = (torch.empty(count, 4, device="meta") for count in (9, 3))
    assert Shortlist(vectors).search(queries, 2).device.type == "meta"


def test_a_gallery_holds_its_tokens_and_unit_tokens_alone(monkeypatch):
    monkeypatch.setattr(shortlist, "PREPARED", 8)
    monkeypatch.setattr(level, "scored_at_once", lambda device: 64)
    tokens, mask = ragged(4, 200, 5, width=SMALL.embed_dim)
    model = build("hbi", {})
    with Allocations() as made:
        Gallery(model, tokens, mask)
    assert sum(numbers >= tokens.numel() for numbers in made.numbers) == 1


def test_a_shortlist_of_all_is_the_whole_ranking_and_no_text_has_none(three_levels):
    text, video = ragged(5, 4, 6, width=SMALL.embed_dim), ragged(6, 8, 5, width=SMALL.embed_dim)
    found = TwoStageSimilarity(three_levels, text, video, 100)[:]
    assert torch.allclose(found, three_levels.similarity(text, video), atol=1e-5)
    assert TwoStageSimilarity(three_levels, tuple(part[:0] for part in text), video, 100)[:].shape == (0, 8)


METHODS_AND_OPTIONS = [
    ("clip4clip", {"sim_header": "meanP"}),
    ("clip4clip", {"sim_header": "tightTransf", "cross_num_hidden_layers": 1}),
    ("drl", {"interaction": "wti"}),
    ("drl", {"interaction": "ti", "cdcr": 0}),
    ("drl", {"interaction": "dp"}),
    ("drl", {"interaction": "xti", "cross_num_hidden_layers": 1}),
    ("emcl", {"recipe": "corrected"}),
    ("dicosa", {}),
    ("diffusionret", {"stage": "discrimination"}),
]


def build(method, options):
    torch.manual_seed(0)
    model = METHODS[method](CLIP(SMALL), temporal_layers=1, **options).eval()
    for name, parameter in model.named_parameters():  # scores that differ, some of them far outside of -1 to 1
        if "weight_fc" in model.released_name(name) or "similarity_dense" in model.released_name(name):
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize(("method", "options"), METHODS_AND_OPTIONS)
def test_every_method_compares_a_shortlist_as_it_compares_all(method, options):
    model = build(method, options)
    text, video = ragged(3, 9, 6, width=SMALL.embed_dim), ragged(4, 20, 5, width=SMALL.embed_dim)
    with torch.no_grad():
        whole = model.similarity(text, video)
    near = Gallery(model, *video).nearest(text, 7)
    for memory in (1, 2**30):
        found = TwoStageSimilarity(model, text, video, 7, memory=memory)[:]
        assert torch.allclose(found.gather(1, near), whole.gather(1, near), atol=1e-4, rtol=1e-5)
        others = found.scatter(1, near, -torch.inf).amax()
        assert others < found.gather(1, near).amin()
    assert torch.allclose(TwoStageSimilarity(model, text, video, 20)[:], whole, atol=1e-4, rtol=1e-5)


def test_the_nearest_frames_on_average_are_those_of_clip4clip():
    model = build("clip4clip", {"sim_header": "meanP"})
    text, video = ragged(3, 9, 6, width=SMALL.embed_dim), ragged(4, 20, 5, width=SMALL.embed_dim)
    assert torch.equal(Gallery(model, *video).nearest(text, 20), model.similarity(text, video).argsort(descending=True))


def test_a_score_that_depends_on_its_block_has_no_shortlist():
    model = build("emcl", {})
    tokens = ragged(3, 4, 5, width=SMALL.embed_dim)
    with pytest.raises(InputError, match="EMCL: a score of the released recipe depends on the other captions"):
        TwoStageSimilarity(model, tokens, tokens, 2)[:]


def test_tokens_of_each_pair_have_no_shortlist():
    clip = CLIP(SMALL)
    model = HBI(clip, temporal_layers=1, reconstruct="score")
    with pytest.raises(InputError, match="--reconstruct score: every pair has tokens of its own, so there is no"):
        check_shortlist(model)
    check_shortlist(HBI(clip, temporal_layers=1, reconstruct="game"))
