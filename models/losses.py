"""The terms of HBI's objective: contrastive, Banzhaf KL, distillation between levels.

B pairs, N_t words, N_v frames, C answers.
Source: HBI, arXiv 2303.14369, in the form of the released code (see `models.recipe`).
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Scalar = Float[Tensor, ""]


def contrastive(
    sim: Float[Tensor, "B B"], scale: Scalar, positives: Bool[Tensor, "B B"] | None = None
) -> dict[str, Scalar]:
    """Cross-entropy of the true pairs (`positives`, or the diagonal) in both directions; rows are texts."""
    logits = sim * scale
    t2v, v2t = logits.log_softmax(dim=1), logits.log_softmax(dim=0)
    if positives is None:
        return {"ce_t2v": -t2v.diagonal().mean(), "ce_v2t": -v2t.diagonal().mean()}
    target = positives / positives.sum(dim=1, keepdim=True)  # symmetric: serves both directions
    return {"ce_t2v": -(target * t2v).sum(dim=1).mean(), "ce_v2t": -(target * v2t).sum(dim=0).mean()}


def kl_divergence(
    student: Float[Tensor, "*logits"],
    teacher: Float[Tensor, "*logits"],
    dim: int,
    valid: Bool[Tensor, "*logits"] | None = None,
) -> Scalar:
    """Mean over all elements of softmax(teacher) (log softmax(teacher) - log softmax(student)), softmax over `dim`.

    As released, the mean is over elements, not distributions: the term shrinks with the length of `dim`. Elements that
    are not `valid` are left out of softmax and mean.
    """
    if valid is None:
        log_student, log_teacher = student.log_softmax(dim), teacher.log_softmax(dim)
        return (log_teacher.exp() * (log_teacher - log_student)).mean()
    padding, fill = valid.logical_not(), torch.finfo(student.dtype).min
    log_student, log_teacher = (logits.masked_fill(padding, fill).log_softmax(dim) for logits in (student, teacher))
    return (log_teacher.exp() * (log_teacher - log_student)).masked_fill(padding, 0).sum() / valid.sum()


def banzhaf_alignment(
    student: Float[Tensor, "B N_t N_v"],
    teacher: Float[Tensor, "B N_t N_v"],
    text_mask: Shaped[Tensor, "B N_t"] | None,
    video_mask: Shaped[Tensor, "B N_v"] | None,
    *,
    masked_logits: bool = True,
    reversed_over_batch: bool = True,
) -> dict[str, Scalar]:
    """KL of student and teacher, softmax over frames ("kl_banzhaf") and over words ("kl_banzhaf_reversed").

    `masked_logits` multiplies both by the masks; otherwise padding is left out of the softmax. `reversed_over_batch`:
    the released code reverses all three axes for the second term, so that its softmax runs over the batch.
    """
    valid = None
    if text_mask is not None and video_mask is not None:
        valid = (text_mask.unsqueeze(2) * video_mask.unsqueeze(1)).bool()  # (B, N_t, N_v)
        if masked_logits:
            student, teacher, valid = student * valid, teacher * valid, None
    return {
        "kl_banzhaf": kl_divergence(student, teacher, 2, valid),
        "kl_banzhaf_reversed": kl_divergence(student, teacher, 0 if reversed_over_batch else 1, valid),
    }


def distillation(sims: dict[str, Float[Tensor, "B B"]]) -> dict[str, Scalar]:
    """KL of each coarser level's unscaled similarities and those of the first, finest one; with gradient in both."""
    (finest, target), *coarser = sims.items()
    return {
        f"kl_{direction}_{name}_{finest}": kl_divergence(sim, target, dim)
        for direction, dim in (("v2t", 0), ("t2v", 1))
        for name, sim in coarser
    }


def answer_distillation(logits: dict[str, Float[Tensor, "B C"]]) -> dict[str, Scalar]:
    """KL of each coarser level's answers and those of the first, finest one; with gradient in both."""
    (finest, target), *coarser = logits.items()
    return {f"kl_answer_{name}_{finest}": kl_divergence(logit, target, 1) for name, logit in coarser}


def same_video(video_ids: Int[Tensor, " B"]) -> Bool[Tensor, "B B"]:
    """Which pairs of a batch share their video."""
    return video_ids.unsqueeze(1) == video_ids
