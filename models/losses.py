"""The terms of HBI's objective: contrastive, Banzhaf KL, distillation between levels.

Dimension letters: B pairs, N_t words, N_v frames.
Source: HBI, arXiv 2303.14369, in the form of the released code (see `models.recipe`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(sim: Tensor, scale: Tensor, positives: Tensor | None = None) -> dict[str, Tensor]:
    """Cross-entropy of the true pairs in both directions.

    Args:
        sim: (B, B), texts by videos.
        scale: scalar that multiplies the similarities, exp(logit_scale).
        positives: boolean (B, B), further pairs that are true; the target is uniform over them. None: the diagonal.

    Returns:
        "ce_t2v" and "ce_v2t", scalars.
    """
    logits = sim * scale
    target = torch.arange(len(sim), device=sim.device)
    if positives is not None:
        target = positives.to(logits.dtype) / positives.sum(dim=1, keepdim=True)  # symmetric: serves both directions
    return {"ce_t2v": F.cross_entropy(logits, target), "ce_v2t": F.cross_entropy(logits.T, target)}


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all elements of softmax(teacher) (log softmax(teacher) - log softmax(student)), over the last axis.

    Averaging over elements rather than rows is the released code's, so the size of the term depends on the last axis.
    """
    return F.kl_div(student.log_softmax(dim=-1), teacher.log_softmax(dim=-1), log_target=True, reduction="none").mean()


def masked_kl_divergence(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """`kl_divergence` over the valid cells alone: padding is left out of the softmax and of the mean.

    Args:
        student, teacher: (B, N, M) logits.
        valid: boolean (B, N, M).
    """
    fill = torch.finfo(student.dtype).min
    log_student = student.masked_fill(~valid, fill).log_softmax(dim=-1)
    log_teacher = teacher.masked_fill(~valid, fill).log_softmax(dim=-1)
    cells = (log_teacher.exp() * (log_teacher - log_student)).masked_fill(~valid, 0)
    return cells.sum() / valid.sum()


def banzhaf_alignment(
    student: Tensor,
    teacher: Tensor,
    text_mask: Tensor | None,
    video_mask: Tensor | None,
    *,
    masked_logits: bool = True,
    reversed_over_batch: bool = True,
) -> dict[str, Tensor]:
    """Draw the student's interaction to the teacher's, by words and by frames.

    Args:
        student, teacher: (B, N_t, N_v) interactions of the true pairs.
        text_mask: (B, N_t); video_mask: (B, N_v); None: no padding.
        masked_logits: multiply both by the masks, otherwise leave padding out of the softmax.
        reversed_over_batch: the second term's softmax runs over the batch (all axes reversed), otherwise over words.

    Returns:
        "kl_banzhaf" (softmax over frames) and "kl_banzhaf_reversed", scalars.
    """
    valid = None
    if text_mask is not None:
        valid = (text_mask[:, :, None] * video_mask[:, None, :]).bool()  # (B, N_t, N_v)
        if masked_logits:
            student, teacher, valid = student * valid, teacher * valid, None
    axes = (2, 1, 0) if reversed_over_batch else (0, 2, 1)
    terms = {}
    for name, order in (("kl_banzhaf", (0, 1, 2)), ("kl_banzhaf_reversed", axes)):
        logits = student.permute(order), teacher.permute(order)
        terms[name] = kl_divergence(*logits) if valid is None else masked_kl_divergence(*logits, valid.permute(order))
    return terms


def distillation(sims: dict[str, Tensor]) -> dict[str, Tensor]:
    """Draw the coarser levels' similarities to the finest one's, in both directions.

    Args:
        sims: unscaled similarities (B, B) by level name, the finest first.

    Returns:
        "kl_v2t_<level>_<finest>" and "kl_t2v_<level>_<finest>" for each coarser level; the gradient reaches both sides.
    """
    (finest, target), *coarser = sims.items()
    terms = {f"kl_v2t_{name}_{finest}": kl_divergence(sim.T, target.T) for name, sim in coarser}
    return terms | {f"kl_t2v_{name}_{finest}": kl_divergence(sim, target) for name, sim in coarser}


def same_video(video_ids: Tensor) -> Tensor:
    """Which pairs of a batch share their video: (B,) -> boolean (B, B)."""
    return video_ids[:, None] == video_ids[None, :]
