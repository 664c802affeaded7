"""CLIP's residual attention block.

B batch, N tokens, Q of them that attend, D width, H heads.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

HEAD_WIDTH = 64
QUICK_GELU_SLOPE = 1.702


def on_cpu(x: Tensor) -> bool:
    """Whether to save memory and avoid fused attention; `scripts/benchmarks/plan.py` replaces it to count for a GPU."""
    return x.device.type == "cpu"


def checkpointed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)` with activation checkpointing.

    On the CPU alone, where memory is short; on a GPU many small checkpoints would wait for Python. A matrix product
    at the end of a function is not recomputed.
    """
    if not torch.is_grad_enabled() or not on_cpu(x):
        return function(x)
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)


class SelfAttention(nn.Module):
    """Multi-head self-attention with the parameter names of `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int):
        super().__init__()
        if width % HEAD_WIDTH:
            raise ValueError(f"the width of a transformer must be a multiple of {HEAD_WIDTH}, not {width}")
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def qkv(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N 3*D"]:
        """Queries, keys and values of tokens, concatenated."""
        return F.linear(x, self.in_proj_weight, self.in_proj_bias)

    def forward(
        self, qkv: Float[Tensor, "B N D3"], mask: Bool[Tensor, "#B #H #Q N"] | None = None, queries: int | None = None
    ) -> Float[Tensor, "B Q D3//3"]:
        """Attend over the tokens of each sample, given the result of `qkv`.

        The mask is True where a row may attend to a column; the first `queries` tokens attend, or all.
        """
        # Plain matrix products beat PyTorch's fused attention in its backward pass in bfloat16 on the CPU.
        slow = on_cpu(qkv) and qkv.dtype is torch.bfloat16 and qkv.requires_grad

        def attend(qkv: Tensor) -> Tensor:
            query, key, value = qkv.unflatten(-1, (3, -1, HEAD_WIDTH)).transpose(1, 3).unbind(2)  # (B, H, N, 64)
            query = query if queries is None else query.narrow(2, 0, queries)
            with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
                out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # (B, H, queries, 64)
            return self.out_proj(out.transpose(1, 2).flatten(2))

        return checkpointed(attend, qkv) if slow else attend(qkv)  # the products of attention would keep much memory


class Perceptron(nn.Module):
    """Two linear layers, four times as wide between them, with QuickGELU (OpenAI's CLIP) or the exact GELU."""

    def __init__(self, width: int, *, quick_gelu: bool):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.quick_gelu = quick_gelu

    def widen(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N 4*D"]:
        """The first layer.

        QuickGELU, x * sigmoid(s x) with s = 1.702, is silu(s x) / s. Both factors are applied to the narrow tensors, to
        save passes over the widest ones.
        """
        if not self.quick_gelu:
            return self.c_fc(x)
        return F.linear(QUICK_GELU_SLOPE * x, self.c_fc.weight, QUICK_GELU_SLOPE * self.c_fc.bias)

    def narrow(self, hidden: Float[Tensor, "B N D4"]) -> Float[Tensor, "B N D4//4"]:
        """The activation and the second layer."""
        if not self.quick_gelu:
            return self.c_proj(F.gelu(hidden))
        bias = QUICK_GELU_SLOPE * self.c_proj.bias
        return F.linear(F.silu(hidden), self.c_proj.weight, bias) / QUICK_GELU_SLOPE


class ResidualAttentionBlock(nn.Module):
    """Pre-norm attention and a four times wider perceptron, each added to its input (CLIP, arXiv 2103.00020)."""

    def __init__(self, width: int, *, norm_eps: float, quick_gelu: bool):
        super().__init__()
        self.attn = SelfAttention(width)
        self.ln_1 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Perceptron(width, quick_gelu=quick_gelu)
        self.ln_2 = nn.LayerNorm(width, eps=norm_eps)

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "#B #H #Q N"] | None = None, queries: int | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Apply the block; `mask` and `queries` as in `SelfAttention.forward`."""
        attended = self.attn(checkpointed(lambda x: self.attn.qkv(self.ln_1(x)), x), mask, queries)
        x = x.narrow(1, 0, attended.shape[1]) + attended
        hidden = checkpointed(lambda x: self.mlp.widen(self.ln_2(x)), x)
        return x + checkpointed(self.mlp.narrow, hidden)


class Transformer(nn.Module):
    """A stack of residual attention blocks of width D."""

    def __init__(self, width: int, layers: int, *, norm_eps: float = 1e-5, quick_gelu: bool = True):
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, norm_eps=norm_eps, quick_gelu=quick_gelu) for _ in range(layers)
        )
        self.grad_checkpointing = False

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "#B #H #Q N"] | None = None, queries: int | None = None
    ) -> Float[Tensor, "B Q D"]:
        """Apply the blocks to the first `queries` tokens or all; the last block computes no others.

        With `grad_checkpointing` set, activations inside a block are recomputed in the backward pass instead of kept.
        """
        for left, block in zip(range(len(self.resblocks))[::-1], self.resblocks, strict=True):
            arguments = x, mask, None if left else queries
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x = block(*arguments)
        return x
