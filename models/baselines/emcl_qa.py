"""EMCL for question answering: an answer head, and a contrastive loss of reconstructed questions and videos.

Dimension letters: A questions, N tokens, D width, C answers.
Source: arXiv 2211.11427, in the form of the released code, there called EMCL-QA.
"""

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.answering import AnswerHead, AnswerMethod, add_freeze_argument
from models.baselines.em import EMMethod, EMOptions, add_em_arguments
from models.encoder import Tokens, TokensLike, init_normal
from models.level import TokenSet
from models.losses import contrastive
from models.method import full_precision
from models.temporal import SequenceTransformer
from utils.errors import InputError


@dataclass(frozen=True)
class EMCLQAOptions(EMOptions):
    """Keywords of `EMCLQA`.

    Attributes:
        dropout: probability, before the classifier.
        freeze_layer_num: see `models.clip.CLIP.freeze`.
    """

    centerK: int = 16
    stage_num: int = 5
    beta: float = 1.0
    dropout: float = 0.1
    freeze_layer_num: int = 0


class EMCLQA(AnswerMethod, EMMethod):
    """Open-ended video question answering as classification over a vocabulary of answers."""

    Options = EMCLQAOptions
    options: EMCLQAOptions
    weights = {"answer_ce": 1.0, "ce_t2v": 0.25, "ce_v2t": 0.25}

    def build(self) -> None:
        """Make the answer head, and a linear layer after the temporal encoder."""
        super().build()
        width = self.clip.config.embed_dim
        if not isinstance(self.temporal, SequenceTransformer):
            raise InputError("EMCL answers questions with the temporal encoder seqTransf; leave out --agg_module")
        self.temporal.project = nn.Linear(width, width)
        self.head = AnswerHead(width, len(self.answers), self.options.dropout)

    def reset_parameters(self) -> None:
        """Initialise the head and the temporal encoder."""
        self.head.apply(init_normal)
        super().reset_parameters()

    def freeze(self) -> None:
        """Freeze the lower layers of both towers."""
        self.clip.freeze(self.options.freeze_layer_num)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of EMCL's question answering; frames are those of the cv2 rule."""
        parser.set_defaults(frame_rule="cv2")
        add_freeze_argument(parser)
        add_em_arguments(parser, EMCLQAOptions())

    def text_tokens(self, ids: Tensor, text_mask: Tensor) -> Tensor:
        """See `TokenEncoder.text_tokens`; the recipe may let padding attend to padding, and be scored by the head."""
        visible = torch.ones_like(text_mask) if self.recipe.padding_in_pooling else text_mask
        return super().text_tokens(ids, visible)

    def project(self, text: Tokens, video: Tokens) -> tuple[Tensor, Tensor]:
        """Pooled videos and questions, (A, 4 D) each."""
        sets = TokenSet.original(*text), TokenSet.original(*video)
        return self.head.project(*sets, padding=self.recipe.padding_in_pooling)

    def losses(self, text: Tokens, video: Tokens, video_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the answers (A,), and contrastive terms of reconstructed questions and videos.

        Features are gathered once; the released code gathers them twice, and counts a pair once for each process.
        """
        scene, question = self.project(text, video)
        scenes, questions = F.normalize(self.reconstruct(torch.cat([scene, question])), dim=1).chunk(2)
        terms = contrastive(questions @ scenes.mT, self.scale, self.positives(video_ids))
        return terms | {"answer_ce": F.cross_entropy(self.head.classify(scene, question), labels)}

    @full_precision
    def mixed_logits(self, text: TokensLike, video: TokensLike) -> Tensor:
        """Logits of the answers (A, C)."""
        return self.head.classify(*self.project(Tokens(*text), Tokens(*video)))
