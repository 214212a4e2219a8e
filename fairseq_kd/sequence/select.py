"""Which of the n best hypotheses becomes the target, and which sentences are left out."""

from collections.abc import Callable

from fairseq_kd.sequence.hypothesis import Hypothesis


def sentence_metric(name: str) -> Callable[[str, str], float]:
    """(hypothesis, reference) -> sentence-level score by sacreBLEU, 0 to 100.

    "bleu": with the effective order, so that sentences under four words have one. "chrf": chrF2.
    """
    from sacrebleu.metrics import BLEU, CHRF

    metric = BLEU(effective_order=True) if name == "bleu" else CHRF()
    return lambda hypothesis, reference: metric.sentence_score(hypothesis, [reference]).score


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
