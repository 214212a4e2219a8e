"""Which of the n best hypotheses becomes the target, and which sentences are left out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.prepare import subword_decoder
from fairseq_kd.scoring.score import Scorer, choose_scorer
from fairseq_kd.scoring.tokenizers import LOOKED_AT
from fairseq_kd.sequence.options import DecodeOptions, Hypothesis


@dataclass(frozen=True)
class Closeness:
    """How near a hypothesis is to the gold target: both become text, and sacreBLEU scores one by the other.

    post_process: the kind of the subwords. decode: makes text of them. metric: "bleu" or "chrf".
    """

    post_process: str
    decode: Callable[[str], str]
    metric: str
    scorer: Scorer

    def as_dict(self) -> dict:
        """For the manifest."""
        return {"metric": self.metric, "post_process": self.post_process, "tokenize": self.scorer.recorded}

    def sentence_metric(self) -> Callable[[str, str], float]:
        """(hypothesis, reference) -> sentence-level score, 0 to 100.

        "bleu": with the effective order, so that sentences under four words have one. "chrf": chrF2.
        """
        metric = self.scorer.metric(self.metric, **({"effective_order": True} if self.metric == "bleu" else {}))
        return lambda hypothesis, reference: metric.sentence_score(hypothesis, [reference]).score


def open_closeness(data_bin, teachers, options: DecodeOptions, post_process: str | None) -> Closeness | None:
    """What --select closest asks for; None where it is not given.

    Raises KDError for a data-bin whose subwords cannot be made text, and for a tokeniser that does not fit or is not
    installed.
    """
    if options.select != "closest":
        if post_process is not None:
            raise KDError(f"--post-process {post_process} has no effect without --select closest")
        return None
    lang = teachers.task.cfg.target_lang
    kind, decode = subword_decoder(data_bin, lang, post_process)
    scorer = Scorer()
    if options.metric == "bleu":
        scorer = choose_scorer(lang, options.tokenize, map(decode, _gold_lines(teachers)))
    return Closeness(kind, decode, options.metric, scorer)


def _gold_lines(teachers):
    """Gold targets from all over the subset, as subwords."""
    dataset, symbols = teachers.dataset, teachers.task.target_dictionary.symbols
    for number in np.unique(np.linspace(0, len(dataset) - 1, LOOKED_AT).astype(int)):
        yield " ".join(symbols[token] for token in dataset.tgt[number][:-1])


def closest(hypotheses: list[str], reference: str, metric: Callable[[str, str], float]) -> tuple[int, list[float]]:
    """(which hypothesis is nearest to the reference, the score of each); of equal ones the first.

    Source: Kim & Rush 2016, section 3.3, sequence-level interpolation.
    """
    scores = [metric(hypothesis, reference) for hypothesis in hypotheses]
    return max(range(len(scores)), key=lambda index: (scores[index], -index)), scores


def reason_to_drop(source: list[int], chosen: Hypothesis, filters: dict, same_symbols: Callable) -> str | None:
    """The name of the first filter that leaves a pair out, or None.

    source: token ids without EOS. filters: max_length_ratio (longer side / shorter side, in tokens), drop_empty,
    drop_copies. same_symbols(source ids, target ids): whether they are the same text.
    """
    lengths = sorted((len(source), len(chosen.tokens)))
    if filters.get("drop_empty") and lengths[0] == 0:
        return "empty"
    ratio = filters.get("max_length_ratio")
    if ratio and lengths[1] > ratio * max(lengths[0], 1):
        return "length_ratio"
    if filters.get("drop_copies") and same_symbols(source, chosen.tokens):
        return "copy"
    return None
