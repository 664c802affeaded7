"""CLIP's two towers, returning every token; all sizes come from the weights they are given.

A texts, B clips, M frames, N_t words, N_v frames of a clip, D width of the shared embedding, R resolution in pixels,
W width of the image tower.
Source: CLIP, arXiv 2103.00020; keys and shapes are those of OpenAI's released state dicts.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor, nn

from models.transformer import Transformer

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_LOGIT_SCALE = math.log(100)
EMBEDDINGS = r"token_embedding|positional_embedding|visual\.(positional_embedding|class_embedding|conv1|ln_pre)"


@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of the two towers; heads are 64 wide in each, as in every released CLIP ViT."""

    resolution: int
    patch: int
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    embed_dim: int
    context_length: int = 77
    vocabulary: int = 49408
    quick_gelu: bool = True
    tubes: bool = False  # see `VisionTransformer.add_tubes`

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, quick_gelu: bool = True) -> "CLIPConfig":
        """Read the sizes from a state dict with OpenAI's key names; a missing key is a KeyError.

        The weights do not show the activation: `quick_gelu` is True for OpenAI's.
        """
        patches = state["visual.positional_embedding"].shape[0] - 1
        patch = state["visual.conv1.weight"].shape[-1]
        return cls(
            resolution=round(patches**0.5) * patch,
            patch=patch,
            vision_width=state["visual.conv1.weight"].shape[0],
            vision_layers=_count_blocks(state, "visual.transformer.resblocks."),
            text_width=state["ln_final.weight"].shape[0],
            text_layers=_count_blocks(state, "transformer.resblocks."),
            embed_dim=state["text_projection"].shape[1],
            context_length=state["positional_embedding"].shape[0],
            vocabulary=state["token_embedding.weight"].shape[0],
            quick_gelu=quick_gelu,
            tubes="visual.conv2.weight" in state,
        )


class VisionTransformer(nn.Module):
    """CLIP's image tower."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        width, scale = config.vision_width, config.vision_width**-0.5
        patches = (config.resolution // config.patch) ** 2
        self.conv1 = nn.Conv2d(3, width, kernel_size=config.patch, stride=config.patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers, quick_gelu=config.quick_gelu)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, config.embed_dim))
        self.conv2: nn.Conv3d | None = None
        if config.tubes:
            self.add_tubes()

    @torch.no_grad()
    def add_tubes(self) -> None:
        """Add CLIP4Clip's 3d patches: a convolution over a frame and its neighbours, initialised as the 2d one."""
        width, patch = self.conv1.out_channels, self.conv1.kernel_size[0]
        sizes: dict[str, Any] = {"kernel_size": (3, patch, patch), "stride": (1, patch, patch), "padding": (1, 0, 0)}
        self.conv2 = nn.Conv3d(3, width, **sizes, bias=False, device=self.conv1.weight.device)
        self.conv2.weight.zero_().select(2, 1).copy_(self.conv1.weight)

    def forward(self, images: Float[Tensor, "M 3 R R"]) -> Float[Tensor, "M D"]:
        """Encode normalised images to projected class tokens."""
        return self.encode_patches(self.conv1(images))

    def encode_clips(self, clips: Float[Tensor, "B N_v 3 R R"]) -> Float[Tensor, "B N_v D"]:
        """Encode normalised clips by patches that reach over three frames."""
        assert self.conv2 is not None
        patches = self.conv2(clips.transpose(1, 2)).transpose(1, 2)  # (B, N_v, W, rows, columns)
        return self.encode_patches(patches.flatten(0, 1)).unflatten(0, clips.shape[:2])

    def encode_patches(self, patches: Float[Tensor, "M W rows columns"]) -> Float[Tensor, "M D"]:
        """Encode embedded patches."""
        x = patches.flatten(2).transpose(1, 2)  # (M, rows columns, W)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positional_embedding)
        x = self.transformer(x, queries=1)  # the class token alone is used
        return self.ln_post(x.select(1, 0)) @ self.proj


class CLIP(nn.Module):
    """Image and text towers that share an embedding space of width D."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: CLIPConfig):
        super().__init__()
        self.config = config
        width = config.text_width
        self.visual = VisionTransformer(config)
        self.transformer = Transformer(width, config.text_layers, quick_gelu=config.quick_gelu)
        self.token_embedding = nn.Embedding(config.vocabulary, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, quick_gelu: bool = True) -> "CLIP":
        """Build the towers from weights, loaded strictly, as float32."""
        try:
            clip = cls(CLIPConfig.from_state_dict(state, quick_gelu=quick_gelu))
        except (IndexError, ValueError, ZeroDivisionError) as error:
            raise RuntimeError(f"shapes of no CLIP ViT: {error}") from error
        clip.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        return clip

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Trade time for memory in both towers, see `Transformer.forward`."""
        self.visual.transformer.grad_checkpointing = self.transformer.grad_checkpointing = enabled

    def freeze(self, layers: int) -> None:
        """Freeze the embeddings and the first `layers` blocks of both towers; -1 freezes nothing."""
        if layers < 0:
            return
        for name, parameter in self.named_parameters():
            block = re.match(r"(?:visual\.)?transformer\.resblocks\.(\d+)", name)
            if re.match(EMBEDDINGS, name) or (block and int(block[1]) < layers):
                parameter.requires_grad_(False)

    def normalize(self, frames: Num[Tensor, "B ..."], zeros: int = 0) -> Float[Tensor, "B+{zeros} ..."]:
        """Map uint8 pixels (*B, 3, R, R) to CLIP's normalised floats on their device, and append frames of zeros.

        Floats are taken as they are. Frames are large, so they are converted once and then changed in place.
        """
        if frames.dtype != torch.uint8:
            return torch.cat([frames, frames.new_zeros(zeros, *frames.shape[1:])]) if zeros else frames
        if zeros:
            pixels = self.image_mean.new_zeros(len(frames) + zeros, *frames.shape[1:])
            given = pixels[: len(frames)].copy_(frames)
        else:
            pixels = given = frames.to(self.image_mean.dtype)
        given.div_(255).sub_(self.image_mean).div_(self.image_std)
        return pixels

    def encode_frames(self, frames: Num[Tensor, "M 3 R R"]) -> Float[Tensor, "M D"]:
        """Encode uint8 or normalised frames to frame tokens."""
        return self.visual(self.normalize(frames))

    def encode_text(self, ids: Int[Tensor, "A N_t"], mask: Shaped[Tensor, "A N_t"]) -> Float[Tensor, "A N_t D"]:
        """Encode captions of at most the context length to word tokens, padding positions included.

        Attention is causal and masks padding (HBI's change to CLIP's text tower).
        """
        words = ids.shape[1]
        causal = torch.ones(words, words, dtype=torch.bool, device=ids.device).tril()
        visible = causal & mask.bool().unsqueeze(1).unsqueeze(1)  # (A, 1, N_t, N_t)
        x = self.token_embedding(ids) + self.positional_embedding.narrow(0, 0, words)
        x = self.transformer(x, visible)
        return self.ln_final(x) @ self.text_projection

    @staticmethod
    def pooled_text(tokens: Float[Tensor, "A N_t D"], ids: Int[Tensor, "A N_t"]) -> Float[Tensor, "A D"]:
        """Pick each caption's end-of-text token, the one with the largest id."""
        return tokens[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})
