"""What translations do, told by the text alone."""

import unicodedata
from collections.abc import Iterable

from fairseq_kd.evaluation.score import Scorer

NGRAM = 4  # words; as seq-rep-4 of Welleck et al. 2020


def rates(sources: list[str], hypotheses: list[str], references: list[str], scorer: Scorer) -> dict:
    """Rates over all sentences of detokenised text.

    length_ratio: tokens of the hypotheses / tokens of the references, as BLEU counts them.
    repetition: see `repetition_rate`, of the scorer's words; repetition_of_references: the same of the references, to
    compare with.
    copied: share of sentences whose hypothesis is the source, and not empty; both in Unicode's form NFKC, to which
    SentencePiece may have brought text.
    empty: share of sentences whose hypothesis has no characters.
    """
    count = len(hypotheses)
    pairs = list(zip(sources, hypotheses, strict=True))
    return {
        "length_ratio": scorer.metric("bleu").corpus_score(hypotheses, [references]).ratio,
        "repetition": repetition_rate(scorer.words(hypotheses)),
        "repetition_of_references": repetition_rate(scorer.words(references)),
        "copied": sum(bool(hypothesis) and _same(source, hypothesis) for source, hypothesis in pairs) / count,
        "empty": sum(not hypothesis for hypothesis in hypotheses) / count,
    }


def _same(source: str, hypothesis: str) -> bool:
    return unicodedata.normalize("NFKC", source) == unicodedata.normalize("NFKC", hypothesis)


def repetition_rate(lines: Iterable[list[str]]) -> float:
    """Share of the 4-grams that stood earlier in the same line; 0 where no line has four words. lines: their words.

    Source: Welleck et al. 2020 (arXiv 1908.04319), seq-rep-4, here over all lines at once.
    """
    total = repeated = 0
    for words in lines:
        ngrams = [tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1)]
        total += len(ngrams)
        repeated += len(ngrams) - len(set(ngrams))
    return repeated / total if total else 0.0
