"""`--criterion kd_mutual` with `--arch kd_mutual`: several models that learn from the gold target and from each other.

    loss = Σ_i [ (1 - α) · CE_ε(gold, q_i) + α · λ · mean over the others k of KL(p_k at τt || q_i at τs) ]

summed over tokens, in nats. p_k is the distribution of peer k on the same prefix. It is a constant in the loss of the
others: no gradient reaches peer k through it. So the gradient of each peer is that of a training by itself with its
own loss (Zhang et al. 2018, arXiv 1706.00384, there with their average and one loss after the other). All peers are
updated at once.

The logged loss and nll_loss are means over the peers, so --best-checkpoint-metric compares these. Validation is the
peers' own cross-entropy.
"""

import logging
import math

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.logging import metrics

from fairseq_kd.core.errors import KDError, exit_on_user_error
from fairseq_kd.criterions.kd_word import KDWordCriterion
from fairseq_kd.criterions.logged import word_output
from fairseq_kd.criterions.mixed import around_update, loss_dtype
from fairseq_kd.criterions.mutual_config import KDMutualConfig, check_mutual_options
from fairseq_kd.criterions.places import places_of, rows_at, scatter
from fairseq_kd.criterions.source import choose_implementation, prepare_training
from fairseq_kd.criterions.task_calls import TaskCalls
from fairseq_kd.inference.supported import check_training_task, output_projection, unwrapped
from fairseq_kd.loss.fused import fused_loss, natural_dtype
from fairseq_kd.loss.mutual import signal_of_others, with_spread
from fairseq_kd.loss.objective import Losses, Objective, reference_losses, temperature_scale
from fairseq_kd.loss.signal import DenseSignal
from fairseq_kd.models.peers import KDMutualModel

logger = logging.getLogger(__name__)


@register_criterion("kd_mutual", dataclass=KDMutualConfig)
class KDMutualCriterion(LabelSmoothedCrossEntropyCriterion):
    """Deep mutual learning (Zhang et al. 2018; for translation: arXiv 2402.14922)."""

    def __init__(self, cfg: KDMutualConfig, task):
        """Raises KDError for an option out of range or without effect, and for a task that cannot be used."""
        check_training_task(task, cfg._name)
        super().__init__(task, cfg.sentence_avg, cfg.label_smoothing, cfg.ignore_prefix_size, cfg.report_accuracy)
        check_mutual_options(cfg)
        self.cfg = cfg
        self.objective = Objective(
            kd_weight=cfg.kd_weight,
            scale=temperature_scale(cfg.kd_scale, cfg.teacher_temperature, cfg.student_temperature),
            label_smoothing=cfg.label_smoothing,
            student_temperature=cfg.student_temperature,
        )
        self.calls = TaskCalls(
            task,
            before_training_data=self._begin_training,
            around_update=lambda model: around_update(model, str(cfg.autocast)),
        )
        self._implementations = None  # of each peer, chosen at the first call with the model

    @classmethod
    def build_criterion(cls, cfg, task):
        """fairseq calls this. A user error ends the process with status 2."""
        with exit_on_user_error():
            return cls(cfg, task)

    kept = KDWordCriterion.kept
    forward = KDWordCriterion.forward

    def _begin_training(self, split: str) -> None:
        with exit_on_user_error():
            prepare_training(self.task, split, str(self.cfg.autocast))

    def _forward(self, model, sample, reduce):
        """With reduce=False the loss has the target positions of peer 1, then those of peer 2 ..., (K * B * T, 1)."""
        fused = tuple(found == "fused" and reduce for found in self.implementations(model))
        keep = self.kept(sample)  # (B, T)
        places, target = places_of(keep), sample["target"]
        outputs = model(**sample["net_input"], features_of=fused)
        features = [
            self._features(model, *each, places) for each in zip(self.peers(model), outputs, fused, strict=True)
        ]
        taught = model.training and self.cfg.kd_weight > 0
        signals = [self._signal(model, *each) for each in features] if taught else None
        found = []
        for number, each in enumerate(features):
            signal = signal_of_others(signals, number) if taught else None
            losses = self._losses(model, *each, rows_at(target, places), signal)
            found.append(with_spread(losses, signal, self.objective))
        sums = [losses.sum() for losses in found]
        loss = sum(each.loss for each in sums) if reduce else torch.cat([scatter(each.loss, keep) for each in found])
        sample_size = target.size(0) if self.sentence_avg else sample["ntokens"]
        return loss, sample_size, self._logging_output(sample, sample_size, len(places), sums)

    def peers(self, model) -> list:
        """The peers in the model. Raises KDError for another model."""
        composite = unwrapped(model)
        if not isinstance(composite, KDMutualModel):
            raise KDError(
                f"--criterion kd_mutual trains several models, and this is one {type(composite).__name__}: give --arch "
                "kd_mutual, with --peers or --peer-archs"
            )
        return list(composite.peers)

    def implementations(self, model) -> list[str]:
        """ "fused" or "reference" for each peer. Raises KDError as `choose_implementation` does."""
        if self._implementations is None:
            peers = enumerate(self.peers(model), 1)
            self._implementations = [choose_implementation(model, self.cfg, peer, f"peer {n}") for n, peer in peers]
            logger.info(f"kd_mutual computes the losses of the peers by: {', '.join(self._implementations)}")
        return self._implementations

    @staticmethod
    def _features(model, peer, output, fused: bool, places):
        """(features (N, d), output projection (V, d)) of a peer, or (log-probabilities (N, V), None)."""
        if fused:
            return rows_at(output[0], places), output_projection(model, peer)
        return rows_at(peer.get_normalized_probs(output, log_probs=True), places), None

    def _product_dtype(self, model, features, projection) -> torch.dtype:
        return loss_dtype(model, str(self.cfg.autocast), features, projection) or natural_dtype(features)

    def _signal(self, model, features, projection) -> DenseSignal:
        """The distributions of a peer for the others, in the type in which its own loss multiplies. No gradient."""
        if projection is None:
            return DenseSignal(features.detach(), None, self.cfg.teacher_temperature)
        dtype = self._product_dtype(model, features, projection)
        values = (features.detach().to(dtype), projection.detach().to(dtype))
        return DenseSignal(*values, self.cfg.teacher_temperature)

    def _losses(self, model, features, projection, target, signal) -> Losses:
        """Losses of N tokens by target (N,); their sums if there is a projection."""
        if projection is None:
            return reference_losses(features, target, signal, self.objective)
        dtype = self._product_dtype(model, features, projection)
        return fused_loss(features, projection, target, signal, self.objective, dtype)

    def _logging_output(self, sample, sample_size, tokens: int, sums: list[Losses]) -> dict:
        """Means over the peers, and the nll of each peer."""
        each = [{name: value for name, value in vars(losses).items() if value is not None} for losses in sums]
        mean = Losses(**{name: sum(values[name].detach() for values in each) / len(each) for name in each[0]})
        logging_output = word_output(sample, sample_size, tokens, mean.loss, mean, self.report_accuracy)
        return logging_output | {f"{PEER}{number}": losses.nll.detach() for number, losses in enumerate(sums, 1)}

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Log the values of kd_word, as means over the peers, and nll_loss_peer1 and so on, in bits per token."""
        KDWordCriterion.reduce_metrics(logging_outputs)
        tokens = sum(log.get("ntokens", 0) for log in logging_outputs)
        names = dict.fromkeys(name for log in logging_outputs for name in log if name.startswith(PEER))
        for name in names:
            nll = sum(log.get(name, 0) for log in logging_outputs)
            metrics.log_scalar(name, nll / tokens / math.log(2), tokens, round=3)


PEER = "nll_loss_peer"
