"""The residual attention block of CLIP, the only one in the project.

Dimension letters: B batch, N tokens, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

HEAD_WIDTH = 64


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation that OpenAI's CLIP weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation element by element."""
        return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    """Multi-head self-attention with packed input weights, spelled as `torch.nn.MultiheadAttention` spells them."""

    def __init__(self, width: int):
        """Args: width: token width D, a multiple of 64 (each head is 64 wide)."""
        super().__init__()
        if width % HEAD_WIDTH:
            raise ValueError(f"the width of a transformer must be a multiple of {HEAD_WIDTH}, not {width}")
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend over the tokens of each sample.

        Args:
            x: (B, N, D).
            mask: boolean, broadcastable to (B, H, N, N); True where a row may attend to a column. None: everywhere.

        Returns:
            (B, N, D).
        """
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, N, 3D)
        packed = packed.unflatten(-1, (3, -1, HEAD_WIDTH)).transpose(1, 3)  # (B, H, 3, N, 64)
        query, key, value = packed.unbind(2)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B, H, N, 64)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class ResidualAttentionBlock(nn.Module):
    """Pre-norm attention and a four times wider perceptron, each added to its input (CLIP, arXiv 2103.00020)."""

    def __init__(self, width: int, *, norm_eps: float = 1e-5, quick_gelu: bool = True):
        """Args: width: D; norm_eps: of both layer norms; quick_gelu: False for weights trained with exact GELU."""
        super().__init__()
        self.attn = SelfAttention(width)
        self.ln_1 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU() if quick_gelu else nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D); `mask` as in `SelfAttention.forward`."""
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of residual attention blocks."""

    def __init__(self, width: int, layers: int, *, norm_eps: float = 1e-5, quick_gelu: bool = True):
        """Args: width: D; layers: number of blocks; norm_eps, quick_gelu: see `ResidualAttentionBlock`."""
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, norm_eps=norm_eps, quick_gelu=quick_gelu) for _ in range(layers)
        )
        self.grad_checkpointing = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D).

        With `grad_checkpointing` set, activations inside a block are recomputed in the backward pass instead of kept.
        """
        for block in self.resblocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x
