"""Robustness: BLEU with several levels of noise in the source text, and its relative drop at each level."""

from dataclasses import dataclass

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.subword import load_subword_models
from fairseq_kd.evaluation.segments import Segments, text_hash
from fairseq_kd.evaluation.system import System, check_lengths
from fairseq_kd.inference.language_tokens import sources_for_search
from fairseq_kd.noise.operations import OPERATIONS, NoiseOptions
from fairseq_kd.noise.text import noise_and_count
from fairseq_kd.noise.text_level import UnsegmentedText
from fairseq_kd.scoring.score import Scorer

KINDS = (*OPERATIONS, "mix")


@dataclass(frozen=True)
class NoiseLevels:
    """percents: percentages of the source's words that get noise. kind: one operation, or "mix": a third of each.

    Raises KDError on construction for values out of range.
    """

    percents: tuple[float, ...]
    kind: str = "mix"
    seed: int = 1

    def __post_init__(self):
        if self.seed < 0:
            raise KDError(f"--noise-seed {self.seed}: must be 0 or above")
        for percent in self.percents:
            if not 0 <= percent <= 100:
                raise KDError(f"--noise-levels {percent:g}: levels are percentages between 0 and 100")
        if len(set(self.percents)) < len(self.percents):
            raise KDError(f"--noise-levels {' '.join(f'{p:g}' for p in self.percents)}: a level is given twice")

    def noise(self, lines: list[str], percent: float) -> tuple[list[str], float]:
        """(the lines with noise of one level, the percentage of their words that met an operation).

        Substitutes are drawn from the words of these lines, by frequency. The percentage differs a little from
        `percent`, because words are drawn at random, no line loses all words, and some words cannot change places.
        """
        if percent == 0:
            return lines, 0.0
        operations = OPERATIONS if self.kind == "mix" else (self.kind,)
        rates = dict.fromkeys(operations, percent / 100 / len(operations))
        try:
            noised, report = noise_and_count(lines, NoiseOptions(**rates), self.seed)
        except UnsegmentedText as error:
            raise KDError(
                f"--noise-levels changes words between spaces: {error}. Make a noisy copy with `fairseq-kd noise "
                "--word-tokenizer char` or `--level char`, and evaluate on the copy"
            ) from error
        if noised == lines:  # possible with operations too: two equal words may have changed places
            return lines, 0.0
        return noised, 100 * sum(rate["done"] for rate in report["rates"].values()) / report["units"]


class Robustness:
    """The noised subsets for one system. They are made and checked before the decoding begins."""

    def __init__(self, levels: NoiseLevels, system: System, segments: Segments, scorer: Scorer):
        """Raises KDError when no plain text exists, when it has no words, or when a noised sentence is too long."""
        if segments.source is None:
            raise KDError(
                f"{segments.origin['data_bin']} keeps no source text of {segments.origin['subset']!r}, which "
                "--noise-levels needs together with the subword model: keep both by `fairseq-kd adopt DATA_BIN "
                "--subword-model FILE --source SUBSET=FILE`"
            )
        self.levels, self.system, self.segments, self.scorer = levels, system, segments, scorer
        cfg = system.task.cfg
        subword = load_subword_models(segments.origin["data_bin"], cfg.source_lang, cfg.target_lang)[cfg.source_lang]
        self.sources = segments.sources(system)
        noised = {percent: levels.noise(self.sources, percent) for percent in levels.percents}
        self.texts = {percent: text for percent, (text, _) in noised.items()}
        self.realised = {percent: share for percent, (_, share) in noised.items()}
        self.datasets = {percent: binarised(system, map(subword.encode, text)) for percent, text in self.texts.items()}
        for dataset in self.datasets.values():
            check_lengths(system, dataset)

    def run(self, clean: dict, resamples: int) -> dict:
        """{"noise", "seed", "levels": [{"percent", "realised", "sources_sha256", "bleu", "relative_drop"}]}.

        clean: the BLEU entry of the subset without noise. realised: see `NoiseLevels.noise`. relative_drop is None
        where a level above 0 has changed no word, because nothing was measured.
        """
        rows = []
        for percent, dataset in self.datasets.items():
            bleu, changed = clean, self.texts[percent] != self.sources
            if changed:
                lines = self.system.translate(dataset, f"decoding, {percent:g} % noise")
                hypotheses = [self.segments.decode(line) for line in lines]
                bleu = self.scorer.score_by("bleu", hypotheses, self.segments.references, resamples)
            row = {"percent": percent, "realised": self.realised[percent], "bleu": bleu}
            row["sources_sha256"] = text_hash(self.texts[percent])
            row["relative_drop"] = relative_drop(bleu["score"], clean["score"]) if changed or percent == 0 else None
            rows.append(row)
        return {"noise": self.levels.kind, "seed": self.levels.seed, "levels": rows}


def relative_drop(bleu: float, clean: float) -> float | None:
    """The lost share of the BLEU without noise; None where that BLEU is 0."""
    return 1 - bleu / clean if clean else None


def binarised(system: System, lines):
    """A dataset of segmented source lines, for translation."""
    encode = system.task.source_dictionary.encode_line
    tokens = [encode(line, add_if_not_exist=False).long() for line in lines]
    return sources_for_search(system.task, tokens, np.array([len(ids) for ids in tokens]))
