"""The terms of HBI's objective: contrastive, Banzhaf KL, distillation between levels.

Dimension letters: B pairs, N_t words, N_v frames.
Source: HBI, arXiv 2303.14369, in the form of the released code (see `models.recipe`).
"""

import torch
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
    t2v, v2t = logits.log_softmax(dim=1), logits.log_softmax(dim=0)
    if positives is None:
        return {"ce_t2v": -t2v.diagonal().mean(), "ce_v2t": -v2t.diagonal().mean()}
    target = positives / positives.sum(dim=1, keepdim=True)  # symmetric: serves both directions
    return {"ce_t2v": -(target * t2v).sum(dim=1).mean(), "ce_v2t": -(target * v2t).sum(dim=0).mean()}


def kl_divergence(student: Tensor, teacher: Tensor, dim: int, valid: Tensor | None = None) -> Tensor:
    """Mean over all elements of softmax(teacher) (log softmax(teacher) - log softmax(student)), softmax over `dim`.

    Averaging over elements rather than distributions is the released code's: the term shrinks with the length of `dim`.

    Args:
        student: logits.
        teacher: logits of the same shape.
        dim: axis of the softmax.
        valid: boolean, broadcastable to the logits; what is not valid is left out of the softmax and of the mean.
    """
    if valid is None:
        log_student, log_teacher = student.log_softmax(dim), teacher.log_softmax(dim)
        return (log_teacher.exp() * (log_teacher - log_student)).mean()
    padding, fill = valid.logical_not(), torch.finfo(student.dtype).min
    log_student, log_teacher = (logits.masked_fill(padding, fill).log_softmax(dim) for logits in (student, teacher))
    return (log_teacher.exp() * (log_teacher - log_student)).masked_fill(padding, 0).sum() / valid.sum()


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
        student: (B, N_t, N_v), interactions of the true pairs.
        teacher: (B, N_t, N_v), what they should be.
        text_mask: (B, N_t), 1 for valid words; None: no padding.
        video_mask: (B, N_v), in the same form.
        masked_logits: multiply both by the masks, otherwise leave padding out of the softmax.
        reversed_over_batch: the second term's softmax runs over the batch, as it does where all three axes are reversed
            to turn words into columns; otherwise over words, per frame.

    Returns:
        "kl_banzhaf" (softmax over frames) and "kl_banzhaf_reversed", scalars.
    """
    valid = None
    if text_mask is not None:
        valid = (text_mask.unsqueeze(2) * video_mask.unsqueeze(1)).bool()  # (B, N_t, N_v)
        if masked_logits:
            student, teacher, valid = student * valid, teacher * valid, None
    return {
        "kl_banzhaf": kl_divergence(student, teacher, 2, valid),
        "kl_banzhaf_reversed": kl_divergence(student, teacher, 0 if reversed_over_batch else 1, valid),
    }


def distillation(sims: dict[str, Tensor]) -> dict[str, Tensor]:
    """Draw the coarser levels' similarities to the finest one's, in both directions.

    Args:
        sims: unscaled similarities (B, B), texts by videos, by level name, the finest first.

    Returns:
        "kl_v2t_<level>_<finest>" and "kl_t2v_<level>_<finest>" for each coarser level; the gradient reaches both sides.
    """
    (finest, target), *coarser = sims.items()
    directions = {"v2t": 0, "t2v": 1}
    return {
        f"kl_{direction}_{name}_{finest}": kl_divergence(sim, target, dim)
        for direction, dim in directions.items()
        for name, sim in coarser
    }


def answer_distillation(logits: dict[str, Tensor]) -> dict[str, Tensor]:
    """Draw the coarser levels' answers to the finest one's.

    Args:
        logits: (B, answers) by level name, the finest first.

    Returns:
        "kl_answer_<level>_<finest>" for each coarser level; the gradient reaches both sides.
    """
    (finest, target), *coarser = logits.items()
    return {f"kl_answer_{name}_{finest}": kl_divergence(logit, target, 1) for name, logit in coarser}


def same_video(video_ids: Tensor) -> Tensor:
    """Which pairs of a batch share their video: (B,) -> boolean (B, B)."""
    return video_ids.unsqueeze(1) == video_ids
