"""CLIP's towers against open_clip's own model, on the same random weights."""

import open_clip
import pytest
import torch

from models.clip import CLIP, CLIPConfig
from models.pretrained import uses_quick_gelu
from models.tokenizer import Tokenizer
from tests.conftest import SMALL


def pooled(clip, images, captions):
    """Pooled image and text features, and ids, of our towers."""
    ids, mask = Tokenizer()(captions, clip.config.context_length)
    return clip.encode_frames(images), clip.pooled_text(clip.encode_text(ids, mask), ids), ids


@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-B-16", "ViT-L-14"])
def test_pooled_features_equal_those_of_open_clip(name):
    """Two blocks a tower: the others are equal to them."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(name)
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 2
    theirs = open_clip.CLIP(**config).eval()
    quick_gelu = uses_quick_gelu(name)
    ours = CLIP.from_state_dict(theirs.state_dict(), quick_gelu=quick_gelu).eval()
    images = torch.randn(1, 3, 224, 224)
    captions = ["a dog runs across a field", "two people talk"]
    with torch.no_grad():
        image, text, _ = pooled(ours, images, captions)
        assert (image - theirs.encode_image(images)).abs().max() < 1e-5
        theirs_text = theirs.encode_text(open_clip.tokenize(captions))
        assert (text - theirs_text).abs().max() < 1e-5


def test_sizes_are_read_off_the_weights():
    state = CLIP(SMALL).state_dict()
    assert CLIPConfig.from_state_dict(state) == SMALL


def test_uint8_frames_are_normalised_as_clip_does():
    clip = CLIP(SMALL)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    assert torch.allclose(clip.normalize(pixels), (pixels.float() / 255 - mean) / std, atol=1e-6)
    assert torch.equal(clip.encode_frames(pixels), clip.encode_frames(clip.normalize(pixels)))


def test_word_tokens_do_not_depend_on_what_stands_in_the_padding():
    clip = CLIP(SMALL).eval()
    ids, mask = Tokenizer()(["a red circle"], 12)
    changed = torch.where(mask.bool(), ids, 7)
    valid = mask.bool()
    assert torch.allclose(clip.encode_text(ids, mask)[valid], clip.encode_text(changed, mask)[valid], atol=1e-6)


def test_checkpointed_gradients_are_the_same():
    clip = CLIP(SMALL)
    frames = torch.randn(2, 3, 32, 32)
    gradients = []
    for enabled in (False, True):
        clip.set_grad_checkpointing(enabled)
        clip.zero_grad()
        clip.encode_frames(frames).square().sum().backward()
        gradients.append(clip.visual.proj.grad.clone())
    assert torch.equal(*gradients)


def test_the_last_block_computes_the_requested_queries_alone():
    tower = CLIP(SMALL).visual.transformer
    x = torch.randn(3, 17, 128)
    with torch.no_grad():
        assert torch.allclose(tower(x, queries=2), tower(x)[:, :2], atol=1e-5)


def test_gradients_in_bfloat16_are_those_in_float32():
    tower = CLIP(SMALL).visual.transformer
    frames, gradients = torch.randn(3, 17, 128), []
    for enabled in (False, True):
        tower.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = tower(frames)
        out.float().square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in tower.parameters()]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.999


@pytest.mark.parametrize(("layers", "blocks"), [(-1, []), (0, []), (1, ["0"]), (2, ["0", "1"])])
def test_embeddings_and_lower_blocks_are_frozen(layers, blocks):
    clip = CLIP(SMALL)
    clip.freeze(layers)
    frozen = {name for name, parameter in clip.named_parameters() if not parameter.requires_grad}
    for block in ("0", "1"):
        for tower in ("", "visual."):
            assert (f"{tower}transformer.resblocks.{block}.ln_1.weight" in frozen) == (block in blocks)
    embeddings = {"token_embedding.weight", "positional_embedding", "visual.class_embedding", "visual.conv1.weight"}
    assert embeddings & frozen == (embeddings if layers >= 0 else set())
    assert not {"text_projection", "visual.proj", "logit_scale"} & frozen


def test_floats_are_taken_as_they_are_and_zeros_appended():
    clip, frames = CLIP(SMALL), torch.randn(3, 3, 32, 32)
    assert clip.normalize(frames) is frames
    padded = clip.normalize(frames, zeros=2)
    assert torch.equal(padded[:3], frames) and padded.shape[0] == 5 and not padded[3:].any()


def test_the_class_embedding_starts_at_clip_s_scale():
    torch.manual_seed(0)
    clip = CLIP(SMALL)
    assert clip.visual.class_embedding.std().item() == pytest.approx(SMALL.vision_width**-0.5, rel=0.3)
