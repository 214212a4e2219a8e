"""Scores by sacreBLEU, never without their signature."""

from sacrebleu.metrics import BLEU, CHRF


def score(hypotheses: list[str], references: list[str]) -> dict:
    """BLEU and chrF of detokenised text against one reference each.

    Returns {"bleu" | "chrf": {"score", "signature", "verbose"}}; scores are 0 to 100.
    """
    assert len(hypotheses) == len(references), f"{len(hypotheses)} hypotheses, {len(references)} references"
    scores = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        result = metric.corpus_score(hypotheses, [references])
        scores[name] = {
            "score": result.score,
            "signature": f"{result.name}|{metric.get_signature()}",
            "verbose": str(result),
        }
    return scores
