"""`--criterion kd_hybrid`: token level on the gold target and sentence level on the distilled one (arXiv 2404.14827).

    loss = Σ_sentences [ g · L_token(gold) + (1 - g) · L_sentence(distilled) ]

L_token is the objective of kd_word, and L_sentence is the label-smoothed cross-entropy. Each is summed over the tokens
of its own target, in nats; both ignore an ignored prefix. The weight g of a sentence is a constant, a schedule over the
updates or a learned gate.

fairseq's trainer divides by the sample size, the number of gold tokens (or of sentences), as in kd_word: with g = 1 the
two criterions are equal. The sum over the distilled tokens is not rescaled to the length of the gold target, so that a
sentence has the same weight in every batch. With g = 0 the loss is the sum of label_smoothed_cross_entropy on the
distilled data-bin, divided by another number of tokens.

Validation is the same as in kd_word: the student's own cross-entropy with the gold target.

The encoder runs once and the decoder twice, for the two targets of the same sources.
"""

import contextlib
import logging
import math

import torch
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.models.transformer import TransformerModelBase

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.hybrid_config import KDHybridConfig, LearnedGate, check_hybrid_options, scheduled
from fairseq_kd.criterions.kd_word import KDWordCriterion
from fairseq_kd.criterions.places import places_of, rows_at, scatter
from fairseq_kd.inference.supported import is_fully_sharded, unwrapped

STOCK = (FairseqEncoderDecoderModel.forward, TransformerModelBase.forward)


def two_passes(model, net_input, prev_output_tokens, **options):
    """(output for the target of net_input, output for the target of prev_output_tokens (B, T2), the encoder's output).

    options: keyword arguments of the model's forward pass, such as features_only. The first pass calls the model
    itself, because the wrapper of a distributed training must see a forward pass. The second pass calls the decoder
    with the encoder's output of the first. The gradients equal the gradients of two whole passes. If a model departs
    from fairseq's encoder-decoder, or is fully sharded, both passes are whole.
    """
    with _encoder_outputs(model) as outputs:
        first = model(**net_input, **options)
        if not _shares_encoder(model):
            second = model(**net_input | {"prev_output_tokens": prev_output_tokens}, **options)
    encoder_out = outputs[0] if outputs else None
    if _shares_encoder(model):
        second = unwrapped(model).decoder(prev_output_tokens, encoder_out=encoder_out, **options)
    return first, second, encoder_out


def _shares_encoder(model) -> bool:
    """Whether the forward pass is encoder, then decoder with its output, and each can be called by itself."""
    return not is_fully_sharded(model) and type(unwrapped(model)).forward in STOCK


@contextlib.contextmanager
def _encoder_outputs(model):
    """A list that receives the encoder's outputs during the block; it stays empty if the model has no encoder."""
    encoder, outputs = getattr(unwrapped(model), "encoder", None), []
    if encoder is None:
        yield outputs
        return
    handle = encoder.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


logger = logging.getLogger(__name__)
NEEDS_DISTILLED = (
    "kd_hybrid needs a distilled target and a gold target: give --task kd_translation --distilled DATA_BIN"
)


@register_criterion("kd_hybrid", dataclass=KDHybridConfig)
class KDHybridCriterion(KDWordCriterion):
    """Token-level and sentence-level distillation in one loss, with a weight per sentence (Wei et al. 2024)."""

    check_options = staticmethod(check_hybrid_options)
    reads_distilled = True

    def __init__(self, cfg: KDHybridConfig, task):
        """Raises KDError for an option out of range or without effect, and for a task without distilled targets.

        The parameters of a learned gate are created here, because fairseq's trainer gives the optimizer only the
        parameters that a criterion has after its construction. The task knows the width: it has built the student.
        """
        if getattr(task.cfg, "distilled", None) is None:
            raise KDError(NEEDS_DISTILLED)
        super().__init__(cfg, task)
        self.gate = None
        if str(cfg.hybrid_gate) == "learned":
            if task.encoder_width is None:
                raise KDError(
                    "--hybrid-gate learned needs the encoder of one of fairseq's transformers; the student has none: "
                    "use --hybrid-gate constant or schedule"
                )
            self.gate = LearnedGate(task.encoder_width, cfg.hybrid_weight)

    def _forward(self, model, sample, reduce):
        """With reduce=False in training, the loss has gold positions, then distilled positions, (B * T + B * T2, 1)."""
        if not model.training:
            return super()._forward(model, sample, reduce)
        distilled = self._distilled(sample)
        fused = self.implementation(model) == "fused" and reduce
        keep, keep_distilled = self.kept(sample), self.kept(distilled)  # (B, T), (B, T2)
        places, places_distilled = places_of(keep), places_of(keep_distilled)
        request = self.teacher_signal(model, sample, keep)
        options = {"features_only": True} if fused else {}
        outputs = two_passes(model, sample["net_input"], distilled["prev_output_tokens"], **options)
        g = self.sentence_weights(sample, outputs[2])  # (B,)
        weight = rows_at(g.unsqueeze(1).expand(keep.shape), places)
        token = self.losses(model, outputs[0], sample["target"], places, request(), fused, weight)
        weight = rows_at((1 - g).unsqueeze(1).expand(keep_distilled.shape), places_distilled)
        sentence = self.losses(model, outputs[1], distilled["target"], places_distilled, None, fused, weight)
        sums, distilled_sums = self.logged(token.sum()), sentence.sum()
        if reduce:
            loss = sums.loss + distilled_sums.loss
        else:
            loss = torch.cat([scatter(token.loss, keep), scatter(sentence.loss, keep_distilled)])
        loss, sample_size, logging_output = self.result(model, sample, len(places), loss, sums)
        logging_output |= {
            "gate": g.detach().sum(),
            "gated_sentences": len(g),
            "sentence_loss": distilled_sums.nll.data,
            "distilled_tokens": len(places_distilled),
        }
        return loss, sample_size, logging_output

    def _distilled(self, sample) -> dict:
        """The distilled target and its decoder input; the gold ones for a dummy batch, which may be a validation batch.

        Raises KDError for any other batch without a distilled target.
        """
        if "distilled" in sample:
            return sample["distilled"]
        if not self.calls.is_dummy:
            raise KDError(NEEDS_DISTILLED)
        return {"target": sample["target"], "prev_output_tokens": sample["net_input"]["prev_output_tokens"]}

    def sentence_weights(self, sample, encoder_out) -> torch.Tensor:
        """The weight g (B,) of the token level for each sentence of the batch."""
        if self.gate is not None:
            padding = encoder_out["encoder_padding_mask"]
            return self.gate(encoder_out["encoder_out"][0], padding[0] if padding else None)
        cfg, g = self.cfg, self.cfg.hybrid_weight
        if str(cfg.hybrid_gate) == "schedule":
            g = scheduled(g, cfg.hybrid_weight_end, cfg.hybrid_schedule_updates, self.task.update_num)
        return torch.full((sample["target"].size(0),), g, device=sample["target"].device)

    def load_state_dict(self, state_dict, strict=True):
        """Restore gate and recent tokens. A gate that the checkpoint does not have starts with --hybrid-weight."""
        if self.gate is not None and "gate.weight" not in (state_dict or {}):
            logger.warning(
                "the checkpoint has no learned gate: the gate starts with --hybrid-weight. The saved state of the "
                "optimizer does not fit either: start with --finetune-from-model, or continue with --reset-optimizer"
            )
            state_dict = self.state_dict() | (state_dict or {})
        return super().load_state_dict(state_dict, strict)

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Log the values of kd_word, gate (mean g of the sentences) and sentence_loss (bits per distilled token).

        sentence_loss is without label smoothing, like nll_loss.
        """
        super().reduce_metrics(logging_outputs)
        sentences = sum(log.get("gated_sentences", 0) for log in logging_outputs)
        tokens = sum(log.get("distilled_tokens", 0) for log in logging_outputs)
        if sentences > 0:
            metrics.log_scalar(
                "gate", sum(log.get("gate", 0) for log in logging_outputs) / sentences, sentences, round=3
            )
        if tokens > 0:
            loss = sum(log.get("sentence_loss", 0) for log in logging_outputs)
            metrics.log_scalar("sentence_loss", loss / tokens / math.log(2), tokens, round=3)
