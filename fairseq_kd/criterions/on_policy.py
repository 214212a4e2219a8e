"""On-policy distillation: the teacher's term on targets that the student has sampled (GKD, arXiv 2306.13649).

A target of a training batch is replaced by a sample with the probability `sampled_share`; one random decision is for
the whole batch (GKD) or for each sentence (ImitKD, arXiv 2009.07253). Teacher and student then run on the new batch.
The loss of a token, in nats:

    of a gold target:    (1 - α) · CE + α · λ · D(teacher, student)       as in kd_word
    of a sample:                        α · λ · D(teacher, student)

No gradient goes through the sampling. The sample size is the number of tokens of the new batch (with --sentence-avg the
number of sentences), so every token of an update has the same weight, gold or sampled. These weights are our choice:
with α = 1 and one decision per batch, the expected loss is (1 - rate) · D on gold + rate · D on samples, as in GKD.

The random decision is the first random number of a batch. The number of collective operations of an update does not
depend on it: each rank runs its student's wrapper once per batch, with gold targets or with samples.
"""

from dataclasses import dataclass, replace

import torch
from fairseq.data.data_utils import collate_tokens

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.on_policy_config import SAMPLED, sampled_share
from fairseq_kd.criterions.places import rows_at
from fairseq_kd.inference.multilingual import PLAIN, configuration, layout_of
from fairseq_kd.inference.sampling import SamplingOptions, sample_targets
from fairseq_kd.inference.supported import is_fully_sharded, unwrapped
from fairseq_kd.loss.objective import Losses


@dataclass(frozen=True)
class MixedBatch:
    """A fairseq batch in which some targets are samples. is_sampled (B,): which sentences, on the batch's device."""

    sample: dict
    is_sampled: torch.Tensor

    @property
    def sentences(self) -> int:
        """The number of sampled targets."""
        return int(self.is_sampled.sum())


class OnPolicy:
    """Samples targets for batches of a training, as the options --on-policy-... say."""

    def __init__(self, cfg, task):
        """Raises KDError when --on-policy-topk is not smaller than the vocabulary."""
        self.cfg, self.dictionary, self.source_pad = cfg, task.target_dictionary, task.source_dictionary.pad()
        self.left_pad = bool(getattr(task.cfg, "left_pad_target", False))
        self.options = SamplingOptions(cfg.on_policy_topk, cfg.on_policy_max_len_a, cfg.on_policy_max_len_b)
        if cfg.on_policy_topk >= len(self.dictionary):
            raise KDError(
                f"--on-policy-topk {cfg.on_policy_topk}: the target dictionary has only {len(self.dictionary)} tokens; "
                "give a smaller number, or 0 to sample from all"
            )

    def chosen(self, sentences: int, update: int) -> torch.Tensor:
        """Which targets of a batch are sampled, bool (sentences,), on the CPU. update: the number of updates so far."""
        share = sampled_share(self.cfg, update)
        decisions = torch.rand(1 if str(self.cfg.on_policy_coin) == "batch" else sentences) < share
        return decisions.expand(sentences)

    def batch(self, model, sample: dict, update: int, max_positions) -> MixedBatch | None:
        """The batch with new samples in it; None if no target is sampled. `sample` is not changed.

        max_positions(): the largest length of a sample, with EOS, that the teacher accepts.
        Raises KDError for a fully sharded student.
        """
        chosen = self.chosen(len(sample["target"]), update)
        if not chosen.any():
            return None
        if is_fully_sharded(model):
            raise KDError(
                "--on-policy-rate needs the whole student in each process, and --ddp-backend fully_sharded divides it: "
                "give another --ddp-backend"
            )
        rows = chosen.nonzero().squeeze(1).to(sample["target"].device)
        sources = (
            sample["net_input"] if len(rows) == len(chosen) else _sources(sample["net_input"], rows, self.source_pad)
        )
        samples = sample_targets(unwrapped(model), self.dictionary, sources, self.options, max_positions())
        return MixedBatch(self._with_samples(sample, rows, samples), chosen.to(rows.device))

    def _with_samples(self, sample: dict, rows: torch.Tensor, samples: list[torch.Tensor]) -> dict:
        """The batch with these targets in the given rows. Its width is that of its longest target."""
        pad, eos = self.dictionary.pad(), self.dictionary.eos()
        gold = sample["target"].ne(pad).sum(dim=1).index_fill(0, rows, 0)  # lengths, (B,)
        width = max(int(gold.max()), *map(len, samples))

        def filled(old: torch.Tensor, shifted: bool) -> torch.Tensor:
            options = {"left_pad": self.left_pad, "move_eos_to_beginning": shifted, "pad_to_length": width}
            new = _of_width(old, width, pad, self.left_pad)
            return new.index_copy(0, rows, collate_tokens(samples, pad, eos, **options))

        prefixes = filled(sample["net_input"]["prev_output_tokens"], shifted=True)
        return sample | {
            "target": filled(sample["target"], shifted=False),
            "ntokens": int(gold.sum()) + sum(map(len, samples)),
            "net_input": sample["net_input"] | {"prev_output_tokens": prefixes},
        }


def on_policy(cfg, task) -> OnPolicy | None:
    """None without --on-policy-rate, and for kd_hybrid, which has no such option.

    Raises KDError as `OnPolicy`, and for options with samples in a task that adds language tokens.
    """
    given = [f"--{name.replace('_', '-')}" for name in SAMPLED if getattr(cfg, name, 0) > 0]
    if given and (layout := layout_of(configuration(task))) != PLAIN:
        raise KDError(
            f"{' and '.join(given)} cannot go with a task that has {layout}: a sample begins and ends as in --task "
            "translation. Train the student with --task translation; the teacher may have language tokens"
        )
    return OnPolicy(cfg, task) if getattr(cfg, "on_policy_rate", 0) > 0 else None


def _sources(net_input: dict, rows: torch.Tensor, pad: int) -> dict:
    """The sources of some sentences of a batch, as wide as the longest of them: LSTMs refuse a wider batch."""
    tokens = net_input["src_tokens"].index_select(0, rows)
    tokens = tokens[:, tokens.ne(pad).any(dim=0)]
    return {"src_tokens": tokens, "src_lengths": net_input["src_lengths"].index_select(0, rows)}


def _of_width(tokens: torch.Tensor, width: int, pad: int, left_pad: bool) -> torch.Tensor:
    """A copy of tokens (B, T) with `width` columns: padding is added or columns are left out, at the padded side."""
    new = tokens.new_full((len(tokens), width), pad)
    kept = min(width, tokens.size(1))
    if left_pad:
        new[:, width - kept :] = tokens[:, tokens.size(1) - kept :]
    else:
        new[:, :kept] = tokens[:, :kept]
    return new


def mixed_result(criterion, model, batch: MixedBatch, net_output, places, signal, fused: bool, reduce: bool):
    """The result of `KDWordCriterion.forward` for a batch with samples. net_output to fused: see its `losses`."""
    target, tokens = batch.sample["target"], len(places)
    is_sampled = rows_at(batch.is_sampled.unsqueeze(1).expand(target.shape), places)  # (N,)
    sampled, gold = (mask.nonzero().squeeze(1) for mask in (is_sampled, ~is_sampled))
    objective = replace(criterion.objective, kd_weight=1.0, label_smoothing=0.0)

    def of(chosen: torch.Tensor, *rest) -> Losses:
        part = signal if len(chosen) == tokens else signal.select(chosen)
        return criterion.losses(model, net_output, target, places[chosen], part, fused, *rest)

    on_samples = of(sampled, None, objective)
    on_samples.loss = criterion.cfg.kd_weight * on_samples.loss
    on_gold = of(gold) if len(gold) else _nothing(on_samples)
    sums, sampled_sums = on_gold.sum(), on_samples.sum()
    loss = sums.loss + sampled_sums.loss
    if not reduce:
        loss = on_samples.loss.new_zeros(target.numel()).index_copy(0, places[sampled], on_samples.loss)
        loss = loss.index_copy(0, places[gold], on_gold.loss).view(-1, 1)
    loss, sample_size, logging_output = criterion.result(model, batch.sample, len(gold), loss, sums)
    return loss, sample_size, logging_output | samples_logged(sampled_sums.kd, len(sampled), batch.sentences)


def samples_logged(kd: torch.Tensor, tokens: int = 0, sentences: int = 0) -> dict:
    """What is logged about the samples of a batch. kd: the sum of their divergences, 0-d, in nats."""
    return {"sampled_kd_loss": kd.data, "sampled_tokens": tokens, "sampled_sentences": sentences}


def _nothing(like: Losses) -> Losses:
    """The losses of 0 tokens, of the types of `like`."""
    return Losses(**{name: value.detach().reshape(-1)[:0] for name, value in vars(like).items()})
