"""Scores by sacreBLEU, never without their signature."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.public import check_lines, errors_name_arguments
from fairseq_kd.scoring.tokenizers import BY_SPACES, STANDARD, check_text, choose_tokenizer, load_tokenizer

METRICS = ("bleu", "chrf", "ter")
LOWER_IS_BETTER = {"ter"}


@dataclass(frozen=True)
class Scorer:
    """How text is scored. tokenize: one of `TOKENIZERS`; it splits text into the words of BLEU and TER.

    With 13a, intl, none and ko-mecab, TER is sacreBLEU's standard: words between spaces. With zh, TER has Asian
    support, which has an effect only together with `normalized`: Chinese characters are words. With the other
    tokenisers TER counts the tokens of BLEU, because sacreBLEU's TER does not split runs of kana, Thai or Khmer. The
    signature of a score says which of these it is.
    """

    tokenize: str = STANDARD

    @property
    def recorded(self) -> str | None:
        """For manifests that describe their inputs: None for 13a, because older manifests have no entry for it."""
        return None if self.tokenize == STANDARD else self.tokenize

    def metric(self, name: str, references: list[list[str]] | None = None, **options):
        """A metric of sacreBLEU: "bleu", "chrf" or "ter". Raises KDError when its tokeniser is not installed.

        references: read once, to score several systems. options: arguments of sacreBLEU's BLEU.
        """
        if name == "chrf":
            return _of_one_type(CHRF(references=references))
        tokenizer = load_tokenizer(self.tokenize)
        if name == "bleu":
            return BLEU(tokenize=self.tokenize, references=references, **options)
        if self.tokenize == "zh":
            return _of_one_type(TER(normalized=True, asian_support=True, references=references))
        if self.tokenize in (*BY_SPACES, "ko-mecab"):
            return _of_one_type(TER(references=references))
        return _of_one_type(_TokenTER(tokenizer, references))

    def score(self, hypotheses: list[str], references: list[str], resamples: int = 0) -> dict:
        """BLEU, chrF and TER of detokenised text against one reference each, all 0 to 100 (TER can be larger).

        resamples: of sacreBLEU's bootstrap; 0 for no intervals. Its seed is the environment variable SACREBLEU_SEED;
        the default is 12345.
        Returns {"bleu" | "chrf" | "ter": {"score", "signature", "verbose"}}; with intervals also "mean" (of the
        resamples) and "ci": half the width of the interval that holds 95 % of the resamples.
        """
        assert len(hypotheses) == len(references), f"{len(hypotheses)} hypotheses, {len(references)} references"
        return {name: self.score_by(name, hypotheses, references, resamples) for name in METRICS}

    def score_by(self, name: str, hypotheses: list[str], references: list[str], resamples: int = 0) -> dict:
        """One entry of `score`."""
        metric = self.metric(name)
        result = metric.corpus_score(hypotheses, [references], n_bootstrap=resamples)
        found = {
            "score": result.score,
            "signature": f"{result.name}|{metric.get_signature()}",
            "verbose": str(result),
        }
        return found | ({"mean": float(result._mean), "ci": float(result._ci)} if resamples > 1 else {})

    def words(self, lines: Iterable[str]) -> list[list[str]]:
        """The words of each line: the words between spaces, or the tokens of BLEU."""
        if self.tokenize in BY_SPACES:
            return [line.split() for line in lines]
        tokenize = load_tokenizer(self.tokenize)
        return [tokenize(line).split() for line in lines]


class _TokenTER(TER):
    """TER over the tokens of one of BLEU's tokenisers. The text is in lower case, as in sacreBLEU's TER."""

    def __init__(self, tokenizer, references=None):
        super().__init__()
        self.tokenizer, self.tokenizer_signature = tokenizer, tokenizer.signature()
        if references is not None:
            self._ref_cache = self._cache_references(references)

    def _preprocess_segment(self, sent: str) -> str:
        return self.tokenizer(sent.rstrip().lower())


def _of_one_type(metric):
    """Give the scores of all resamples one type: sacreBLEU cannot average them if some are the integer 0."""
    compute = metric._compute_score_from_stats

    def typed(stats):
        found = compute(stats)
        if isinstance(stats, np.ndarray):
            found.score = stats.dtype.type(found.score)
        return found

    metric._compute_score_from_stats = typed
    return metric


PLAIN = Scorer()  # sacreBLEU's standard


def choose_scorer(lang: str, given: str | None, references: Iterable[str]) -> Scorer:
    """The scorer for a target language. given: --tokenize; None: the default of the language.

    Raises KDError for a tokeniser that does not exist or is not installed, and for a default that does not fit the
    references; see `check_text`.
    """
    name = choose_tokenizer(lang, given)
    check_text(name, given is not None, lang, references)
    return Scorer(name)


@errors_name_arguments()
def score_lines(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lang: str = "und",
    tokenize: str | None = None,
    resamples: int = 0,
) -> dict:
    """BLEU, chrF and TER of detokenised text against one reference per line; see `Scorer.score` for the result.

    lang: code of the target language, which chooses the tokeniser ("und": undetermined). tokenize: one of `TOKENIZERS`;
    None: by the language. resamples: of the bootstrap; 0: no intervals.
    Raises KDError for lists of different lengths or without lines, and as `choose_scorer` does.
    """
    for name, lines in (("hypotheses", hypotheses), ("references", references)):
        check_lines(name, lines)
    if len(hypotheses) != len(references) or not references:
        raise KDError(
            f"{len(hypotheses)} hypotheses and {len(references)} references cannot be scored: give one reference per "
            "hypothesis, and at least one of each"
        )
    if resamples < 0 or resamples == 1:
        raise KDError(f"resamples {resamples}: give 0 (no intervals) or at least 2 resamples")
    check_seed()
    return choose_scorer(lang, tokenize, references).score(list(hypotheses), list(references), resamples)


def check_seed(of_tests: bool = False) -> None:
    """Raises KDError when SACREBLEU_SEED is neither a number nor "none", and when it is 0 for paired tests."""
    seed = os.environ.get("SACREBLEU_SEED", "12345")
    if seed.lower() != "none" and not seed.isdecimal():
        raise KDError(f"SACREBLEU_SEED is {seed!r}: set it to 0 or more, or to none for another seed in each run")
    if of_tests and seed.isdecimal() and int(seed) == 0:
        raise KDError(
            "SACREBLEU_SEED is 0: then sacreBLEU's paired tests draw another seed in each run; set it to 1 or more"
        )
