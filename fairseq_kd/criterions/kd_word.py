"""`--criterion kd_word`: label-smoothed cross-entropy and the divergence from a teacher, token by token.

    loss = (1 - α) · CE_ε(gold, student) + α · λ · D(teacher at τt, student at τs)

summed over tokens, in nats; fairseq's trainer divides by the sample size. Validation is the student's own
cross-entropy. It needs no teacher, and its nll_loss is comparable between runs with different α, temperatures and
teachers.
"""

import functools
import logging
from dataclasses import replace

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion

from fairseq_kd.core.errors import KDError, exit_on_user_error
from fairseq_kd.core.hydra_paths import resolve_paths
from fairseq_kd.criterions.config import PATHS, SCHEDULE, KDWordConfig
from fairseq_kd.criterions.logged import log_words, of_gold_tokens, word_output
from fairseq_kd.criterions.mixed import around_update, loss_dtype, training_precision
from fairseq_kd.criterions.on_policy import mixed_result, on_policy, samples_logged
from fairseq_kd.criterions.on_policy_part import sampled_part
from fairseq_kd.criterions.places import places_of, rows_at, scatter
from fairseq_kd.criterions.proximal import ProximalConfig, ProximalTerm, check_proximal_options, log_proximal
from fairseq_kd.criterions.source import choose_implementation, online_source, prepare_training, training_source
from fairseq_kd.criterions.task_calls import TaskCalls
from fairseq_kd.criterions.teacher_log import reduce_teacher_log, teacher_log
from fairseq_kd.inference.supported import check_training_task, output_projection
from fairseq_kd.loss.divergences import DIVERGENCES
from fairseq_kd.loss.fused import fused_loss, token_nll
from fairseq_kd.loss.objective import Losses, Objective, RecentTokens, hardest, reference_losses, temperature_scale
from fairseq_kd.loss.rows import weighted

logger = logging.getLogger(__name__)


@register_criterion("kd_word", dataclass=ProximalConfig)
class KDWordCriterion(LabelSmoothedCrossEntropyCriterion):
    """Word-level knowledge distillation (Hinton et al. 2015; for translation: Kim & Rush 2016, section 3.1)."""

    check_options = staticmethod(check_proximal_options)

    def __init__(self, cfg: KDWordConfig, task):
        """Raises KDError for an option out of range or without effect, and for a task that cannot be used."""
        check_training_task(task, cfg._name, language_tokens=True)
        super().__init__(task, cfg.sentence_avg, cfg.label_smoothing, cfg.ignore_prefix_size, cfg.report_accuracy)
        self.check_options(cfg)
        self.cfg = cfg
        divergence = DIVERGENCES[str(cfg.kd_divergence)].from_options(cfg)
        temperatures = cfg.teacher_temperature, cfg.student_temperature
        self.objective = Objective(
            kd_weight=cfg.kd_weight,
            scale=temperature_scale(cfg.kd_scale, *temperatures, divergence.temperature_power),
            label_smoothing=cfg.label_smoothing,
            student_temperature=cfg.student_temperature,
            divergence=divergence,
        )
        self.on_policy = on_policy(cfg, task)
        self.calls = TaskCalls(
            task,
            before_training_data=self._begin_training,
            around_update=lambda model: around_update(model, str(cfg.autocast)),
        )
        self.online = online_source(cfg, task, self._updates)  # not a module: the teacher is never in a state dict
        self.recent = RecentTokens(cfg.kd_queue_size) if str(cfg.kd_select) == "global" else None
        self.proximal = ProximalTerm.of(cfg)
        self._implementation = None  # chosen at the first call with the student

    @classmethod
    def build_criterion(cls, cfg, task):
        """fairseq calls this. A user error ends the process with status 2."""
        with exit_on_user_error():
            resolve_paths(cfg, PATHS)
            resolve_paths(cfg, (SCHEDULE,), separators=":,")
            return cls(cfg, task)

    @functools.cached_property
    def source(self):
        """The source of the teacher's signal in training; None if the options name no teacher. It is not a module.

        It is opened and checked at first use, when a training begins, so a student can be validated on a machine that
        has neither the teacher nor the cache. Raises KDError when it cannot be used.
        """
        return training_source(self.cfg, self.task, self.online, self._updates)

    def _updates(self) -> int:
        return self.calls.update_num

    @functools.cached_property
    def part(self):
        """The training sentences whose targets are samples (--on-policy-part), or None. It is opened as `source` is."""
        return sampled_part(self.cfg, self.task)

    def _begin_training(self, split: str) -> None:
        with exit_on_user_error():
            prepare_training(self.task, split, str(self.cfg.autocast))
            _ = self.source, self.part

    def load_state_dict(self, state_dict, strict=True):
        """Restore the recent tokens of --kd-select global; a checkpoint of a training without it has none."""
        if state_dict is None:
            logger.warning(
                "the checkpoint has no recent tokens for --kd-select global: the training begins without them"
            )
            return None
        with exit_on_user_error():
            saved = len(state_dict.get("recent.values", ()))
            if self.recent is not None and saved != self.cfg.kd_queue_size:
                raise KDError(
                    f"--kd-queue-size {self.cfg.kd_queue_size}: the checkpoint has {saved} recent tokens; use "
                    f"--kd-queue-size {saved}"
                )
        return super().load_state_dict(state_dict, strict)

    def forward(self, model, sample, reduce=True):
        """Loss of a batch: (loss in nats, sample size, logging output). The formula is at the top of this module.

        With reduce=False the loss has one value per target position, (B * T, 1), and is 0 at padding.
        """
        with exit_on_user_error(), training_precision(model, str(self.cfg.autocast)):
            return self._forward(model, sample, reduce)

    def _forward(self, model, sample, reduce):
        fused = self.implementation(model) == "fused" and reduce
        mixed = self._with_samples(model, sample)
        sample = sample if mixed is None else mixed.sample
        keep = self.kept(sample)  # (B, T)
        places, request = places_of(keep), self.teacher_signal(model, sample, keep)
        net_output = model(**sample["net_input"], **({"features_only": True} if fused else {}))
        signal = request()
        if mixed is not None:
            return mixed_result(self, model, mixed, net_output, places, signal, fused, reduce)
        losses = self.losses(model, net_output, sample["target"], places, signal, fused)
        sums = self.logged(losses.sum())
        return self.result(model, sample, len(places), sums.loss if reduce else scatter(losses.loss, keep), sums)

    def _with_samples(self, model, sample):
        """The batch with targets that are samples of the student (--on-policy-...), or None for gold targets only."""
        if not model.training or self.calls.is_dummy:
            return None
        if self.part is not None or self.on_policy is None:
            return self.part and self.part.batch(sample)
        self.online.choose_dtype(model, str(self.cfg.autocast))
        return self.on_policy.batch(model, sample, self.calls.update_num, self.online.max_target_positions)

    def result(self, model, sample, tokens: int, loss, sums: Losses):
        """The result of `forward`, for a reduced or an unreduced loss. tokens: number of positions that count."""
        if self.recent is not None and model.training:
            loss = loss + 0.0 * self.recent.anchor.sum()  # see RecentTokens
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        loss, logged = (loss, {}) if self.proximal is None else self.proximal.add_to(model, loss, sample_size)
        logging_output = word_output(sample, sample_size, tokens, loss, sums, self.report_accuracy) | logged
        if sums.kd is not None:
            logging_output |= teacher_log(self._source_for(model), sums.nll.data)
        if model.training and (self.on_policy or self.part):  # the same names in the same order in each rank
            logging_output |= samples_logged(torch.zeros_like(sums.nll))
        return loss, sample_size, logging_output

    def _source_for(self, model):
        return self.source if model.training else self.online if self.cfg.kd_valid else None

    def teacher_signal(self, model, sample, keep):
        """A function that returns the teacher's signal for the gold target where `keep` (B, T) is true.

        It returns None if no signal is needed. A dummy batch gets no signal, because it may come from another subset
        than the training set.
        """
        source = self._source_for(model)
        if self.calls.is_dummy or source is None:
            return lambda: None
        if source is self.online:
            source.choose_dtype(model, str(self.cfg.autocast))
        return source.request(sample, keep, self.cfg.teacher_temperature)

    def logged(self, sums: Losses) -> Losses:
        """`sums`; for a dummy batch with zeros for the values of a signal: all ranks must log the same names."""
        if not self.calls.is_dummy or self.source is None:
            return sums
        return replace(sums, kd=torch.zeros_like(sums.nll), agreed=torch.zeros_like(sums.correct))

    def kept(self, sample) -> torch.Tensor:
        """The target positions (B, T) that count: neither padding nor ignored prefix."""
        keep = sample["target"].ne(self.padding_idx)
        if self.ignore_prefix_size > 0:
            keep[:, : self.ignore_prefix_size] = False
        return keep

    def implementation(self, model) -> str:
        """ "fused" or "reference": the implementation that the student allows and --kd-implementation selects.

        Raises KDError as `choose_implementation` does.
        """
        if self._implementation is None:
            self._implementation = choose_implementation(model, self.cfg)
            logger.info(f"{self.cfg._name} computes its loss by the {self._implementation} implementation")
        return self._implementation

    def losses(self, model, net_output, target, places, signal, fused: bool, weight=None, objective=None) -> Losses:
        """Losses of N positions of target (B, T); with fused=True only their sums. places (N,): see `places_of`.

        net_output: the student's output; features only if fused. weight (N,) multiplies each token's loss.
        objective: None means the objective of gold tokens.
        """
        target = rows_at(target, places)
        if not fused:
            lprobs = rows_at(model.get_normalized_probs(net_output, log_probs=True), places)  # (N, V)

            def nll():
                return -lprobs.detach().gather(-1, target.unsqueeze(-1)).squeeze(-1)

            losses = reference_losses(lprobs, target, signal, objective or self._weighted(model, signal, nll))
            return losses if weight is None else replace(losses, loss=weighted(weight, losses.loss))
        features, projection = rows_at(net_output[0], places), output_projection(model)  # (N, d), (V, d)

        def nll():
            return token_nll(features, projection, target)

        objective = objective or self._weighted(model, signal, nll)
        matmul_dtype = loss_dtype(model, str(self.cfg.autocast), features, projection)
        return fused_loss(features, projection, target, signal, objective, matmul_dtype, weight)

    def _weighted(self, model, signal, nll) -> Objective:
        """The objective, with α = 0 in validation and for the tokens that --kd-select does not select.

        nll(): the negative log-likelihood of each token, (N,).
        """
        if not model.training:
            return replace(self.objective, kd_weight=0.0)
        if str(self.cfg.kd_select) == "all" or signal is None:
            return self.objective
        values = nll()
        if self.recent is None:
            chosen = hardest(values, self.cfg.kd_select_rate)
        else:
            self.recent.push(values)
            chosen = self.recent.hardest(values, self.cfg.kd_select_rate)
        return replace(self.objective, kd_weight=chosen * self.cfg.kd_weight)

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Log the values that fairseq logs, those of `log_words` and those of `teacher_log`."""
        if gold := of_gold_tokens(logging_outputs):
            super().reduce_metrics(gold)
        log_words(logging_outputs)
        log_proximal(logging_outputs)
        reduce_teacher_log(logging_outputs)
