"""The named places where the released code departs from its paper."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Switches between what the published numbers come from and what the paper says.

    Attributes:
        reversed_kl_over_batch: second term of the Banzhaf KL with all three axes reversed, so that its softmax runs
            over the batch; otherwise over words, per frame.
        masked_logits_in_kl: padding in the Banzhaf KL multiplied by the masks (zeros inside the softmax); otherwise
            masked out before the softmax.
        cluster_noise: upper end of the uniform noise added to cluster densities; 0 breaks ties by index.
        distance_fill_over_batch: distance of padded tokens from the maximum over the whole batch; otherwise over the
            sample, so that a result does not depend on its batch mates.
        same_video_negatives: captions of one video in a batch count as negatives of each other; otherwise as positives.
        schedule_epochs: learning-rate horizon in epochs; None for the requested epochs.
        exact_gather: gradients of gathered features summed over ranks, so that N processes give the gradient of one;
            otherwise each rank keeps its own slice.
        label_game: game of the estimator's labels, "released" or "standard".
        answerable_only: VQA accuracy over the questions whose answer is in the vocabulary; otherwise over all.
        padding_in_pooling: padded frames take part in the softmax that pools frames by a text (EMCL, DiCoSA,
            DiffusionRet), padded tokens in that of EMCL's answer head, so that a result depends on the number of tokens
            a clip or question is padded to; otherwise masked out.
        correlation_over_words: DiCoSA's correlation divided by the padded length of the texts; otherwise by the
            degrees of freedom of a concept, so that a perfect one is 1.
        unit_frames_in_mean: the mean of a clip's frames is that of their unit vectors (CLIP4Clip, DRL dp); otherwise of
            the frames, as the paper says.
        own_negatives_in_tight: CLIP4Clip's tightTransf compares the pairs of a process alone; otherwise of all.
        nothing_frozen_with_3d: CLIP4Clip's 3d patches turn off its freezing; otherwise they are exempt from it.
        padding_in_maxima: padding takes part in the maxima of the token-wise interaction with similarity 0, so that a
            result depends on the number of tokens a caption or clip is padded to; otherwise valid tokens alone.
        padding_in_cdcr: DRL's best match of a token may be padding of the other side, which then enters the
            correlation; otherwise valid tokens alone.
        cdcr_over_samples: DRL's correlation divided by the number of samples, so that a perfect one stays below 1;
            otherwise by the degrees of freedom.
        em_in_evaluation: EMCL reconstructs features in evaluation, too, 32 texts and videos at a time, so that a score
            depends on the others of its block; otherwise in training alone.
        teacher_of_checkpoint: of --init_model and --estimator, the teacher is that of the checkpoint; otherwise the
            estimator.
        later_of_equals: of evaluations with equal scores the later one is the best; otherwise the earlier one.
        even_frames_in_answers: HBI takes evenly spread frames for question answering, whatever --slice_framepos says.
        em_state_unsaved: checkpoints lack the bases that EMCL starts from; otherwise they have them, as "mu".
    """

    reversed_kl_over_batch: bool
    masked_logits_in_kl: bool
    cluster_noise: float
    distance_fill_over_batch: bool
    same_video_negatives: bool
    schedule_epochs: int | None
    exact_gather: bool
    label_game: str
    answerable_only: bool
    padding_in_pooling: bool
    correlation_over_words: bool
    unit_frames_in_mean: bool
    own_negatives_in_tight: bool
    nothing_frozen_with_3d: bool
    padding_in_maxima: bool
    padding_in_cdcr: bool
    cdcr_over_samples: bool
    em_in_evaluation: bool
    teacher_of_checkpoint: bool
    later_of_equals: bool
    even_frames_in_answers: bool
    em_state_unsaved: bool


RELEASED = Recipe(
    reversed_kl_over_batch=True,
    masked_logits_in_kl=True,
    cluster_noise=1e-6,
    distance_fill_over_batch=True,
    same_video_negatives=True,
    schedule_epochs=5,
    exact_gather=False,
    label_game="released",
    answerable_only=True,
    padding_in_pooling=True,
    correlation_over_words=True,
    unit_frames_in_mean=True,
    own_negatives_in_tight=True,
    nothing_frozen_with_3d=True,
    padding_in_maxima=True,
    padding_in_cdcr=True,
    cdcr_over_samples=True,
    em_in_evaluation=True,
    teacher_of_checkpoint=True,
    later_of_equals=True,
    even_frames_in_answers=True,
    em_state_unsaved=True,
)
CORRECTED = Recipe(
    reversed_kl_over_batch=False,
    masked_logits_in_kl=False,
    cluster_noise=0.0,
    distance_fill_over_batch=False,
    same_video_negatives=False,
    schedule_epochs=None,
    exact_gather=True,
    label_game="standard",
    answerable_only=False,
    padding_in_pooling=False,
    correlation_over_words=False,
    unit_frames_in_mean=False,
    own_negatives_in_tight=False,
    nothing_frozen_with_3d=False,
    padding_in_maxima=False,
    padding_in_cdcr=False,
    cdcr_over_samples=False,
    em_in_evaluation=False,
    teacher_of_checkpoint=False,
    later_of_equals=False,
    even_frames_in_answers=False,
    em_state_unsaved=False,
)
PRESETS = {"released": RELEASED, "corrected": CORRECTED}


def as_recipe(recipe: str | Recipe) -> Recipe:
    """Return the preset called `recipe`, or `recipe` itself where it is one.

    Raises:
        ValueError: unknown name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in PRESETS:
        raise ValueError(f"unknown recipe {recipe!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[recipe]
