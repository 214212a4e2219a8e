"""`--criterion kd_word`: label-smoothed cross-entropy and the divergence from a teacher, token by token.

    loss = (1 - α) · CE_ε(gold, student) + α · λ · KL(teacher at τt || student at τs)

summed over tokens in nats; fairseq's trainer divides by the sample size. Validation is the student's own
cross-entropy: its nll_loss is comparable between runs, whatever α, temperatures and teacher, and needs no teacher.
"""

import math
from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
    label_smoothed_nll_loss,
)
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics

from fairseq_kd.criterions.options import check_options
from fairseq_kd.errors import KDError, exit_on_user_error
from fairseq_kd.loss.divergence import forward_kl, temper, temperature_scale
from fairseq_kd.teacher.loading import DTYPES
from fairseq_kd.teacher.signal import OnlineSignalSource


@dataclass
class KDWordConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of kd_word, beside those of label_smoothed_cross_entropy."""

    teacher: Optional[str] = field(default=None, metadata={"help": "checkpoint of the teacher, made by fairseq-train"})
    teacher_data: Optional[str] = field(
        default=None,
        metadata={"help": "folder with the teacher's dictionaries, if it is no longer where the teacher was trained"},
    )
    trust_checkpoint: Optional[str] = field(
        default=None,
        metadata={"help": "load this checkpoint (the teacher's) even if it holds objects that can run code"},
    )
    teacher_dtype: ChoiceEnum(tuple(DTYPES)) = field(
        default="float32", metadata={"help": "precision in which the teacher runs"}
    )
    kd_weight: float = field(
        default=0.5, metadata={"help": "weight α of the teacher's term, 0 to 1; the gold tokens weigh 1 - α"}
    )
    teacher_temperature: float = field(default=1.0, metadata={"help": "divides the teacher's logits, above 0"})
    student_temperature: float = field(
        default=1.0, metadata={"help": "divides the student's logits in the teacher's term, above 0"}
    )
    kd_scale: str = field(
        default="auto",
        metadata={
            "help": "factor λ of the teacher's term: auto (T² when both temperatures are T, else 1), none, or a number"
        },
    )
    kd_valid: bool = field(
        default=False,
        metadata={"help": "log kd_loss and agreement on validation sets too (the teacher is then needed)"},
    )


@register_criterion("kd_word", dataclass=KDWordConfig)
class KDWordCriterion(LabelSmoothedCrossEntropyCriterion):
    """Word-level knowledge distillation (Hinton et al. 2015; for translation: Kim & Rush 2016, section 3.1)."""

    def __init__(self, cfg: KDWordConfig, task):
        """Raises KDError for an option out of range and for one that would have no effect."""
        super().__init__(task, cfg.sentence_avg, cfg.label_smoothing, cfg.ignore_prefix_size, cfg.report_accuracy)
        check_options(cfg)
        self.cfg = cfg
        self.scale = temperature_scale(cfg.kd_scale, cfg.teacher_temperature, cfg.student_temperature)
        self.source = None  # a plain object, so that the teacher is never part of a state dict
        if cfg.teacher is not None:
            self.source = OnlineSignalSource(
                cfg.teacher,
                task,
                data=cfg.teacher_data,
                dtype=str(cfg.teacher_dtype),
                trust=cfg.trust_checkpoint is not None,
            )

    @classmethod
    def build_criterion(cls, cfg, task):
        """What fairseq calls. A user error ends the process with status 2."""
        with exit_on_user_error():
            return cls(cfg, task)

    def forward(self, model, sample, reduce=True):
        """Loss of a batch: (loss in nats, sample size, logging output). See the module's formula."""
        with exit_on_user_error():
            _refuse_adaptive_softmax(model)
            return self._forward(model, sample, reduce)

    def _forward(self, model, sample, reduce):
        net_output = model(**sample["net_input"])
        lprobs, target = self.get_lprobs_and_target(model, net_output, sample)  # (B * T, V), (B * T,)
        loss, nll_loss = label_smoothed_nll_loss(lprobs, target, self.eps, self.padding_idx, reduce)
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "nll_loss": nll_loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        if self.source is not None and (model.training or self.cfg.kd_valid):
            kd_loss, agreed, tokens = self.compute_kd(lprobs, target, sample, reduce)
            if model.training:
                loss = (1 - self.cfg.kd_weight) * loss + self.cfg.kd_weight * self.scale * kd_loss
            logging_output |= {"kd_loss": kd_loss.data, "n_agreed": agreed, "kd_tokens": tokens}
        logging_output["loss"] = loss.data
        if self.report_accuracy:
            mask = target.ne(self.padding_idx)
            logging_output["n_correct"] = lprobs.argmax(-1).eq(target).logical_and(mask).sum().data
            logging_output["total"] = mask.sum().data
        return loss, sample_size, logging_output

    def compute_kd(self, lprobs, target, sample, reduce):
        """The teacher's term, unweighted and unscaled: (kd_loss in nats, argmaxes that agree, tokens counted).

        lprobs (B * T, V) and target (B * T,) are the student's. kd_loss is the sum, or (B * T, 1) if not `reduce`,
        0 at padding.
        """
        mask = target.ne(self.padding_idx)  # (B * T,)
        signal = self.source.signal(sample)
        # (B, T), the same prefix cut off as in the student's rows
        positions = sample["target"].ne(self.padding_idx)
        positions[:, : self.ignore_prefix_size] = False
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.cfg.kd_weight > 0):
            student = temper(lprobs[mask], self.cfg.student_temperature)  # (N, V)
            teacher = signal.rows(positions, self.cfg.teacher_temperature)  # (N, V)
            tokens = forward_kl(student, teacher)  # (N,)
            kd_loss = tokens.sum() if reduce else _scatter(tokens, mask).unsqueeze(-1)
        agreed = student.argmax(-1).eq(teacher.argmax(-1)).sum()
        return kd_loss, agreed.data, mask.sum().data

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Log kd_loss (bits a token) and agreement (percent of tokens) beside what fairseq logs."""
        super().reduce_metrics(logging_outputs)
        tokens = sum(log.get("kd_tokens", 0) for log in logging_outputs)
        if tokens > 0:
            kd_loss = sum(log.get("kd_loss", 0) for log in logging_outputs)
            agreed = sum(log.get("n_agreed", 0) for log in logging_outputs)
            metrics.log_scalar("kd_loss", kd_loss / tokens / math.log(2), tokens, round=3)
            metrics.log_scalar("agreement", 100 * agreed / tokens, tokens, round=2)


def _scatter(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`values` (N,) at the N places where `mask` is true, 0 elsewhere; the shape is that of `mask`."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _refuse_adaptive_softmax(model) -> None:
    if getattr(getattr(model, "decoder", None), "adaptive_softmax", None) is not None:
        raise KDError(
            "the student has an adaptive softmax (--adaptive-softmax-cutoff), which gives no distribution over the "
            "whole vocabulary to compare with the teacher's; train it without"
        )
