"""Learning and forgetting between results: translations before and afterwards -> the entry "changes".

`changes` documents the entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.text import read_evaluation_text
from fairseq_kd.evaluation.changes import ChangeOptions, count_changes
from fairseq_kd.evaluation.parts import read_parts
from fairseq_kd.evaluation.results import check_same_segments, read_result
from fairseq_kd.evaluation.segments import text_hash
from fairseq_kd.scoring.score import PLAIN


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """The chrF of each segment by sacreBLEU, with the settings of the corpus score: (segments,), 0 to 100."""
    metric = PLAIN.metric("chrf")
    pairs = zip(hypotheses, references, strict=True)
    return np.array([metric.sentence_score(ours, [gold]).score for ours, gold in pairs])


def chrf_signature() -> str:
    """The signature of `sentence_chrf`."""
    return PLAIN.score_by("chrf", ["x"], ["x"])["signature"]


@dataclass(frozen=True)
class Pairs:
    """Translations of the same segments, before and afterwards.

    before, after: hypotheses of each run; run r afterwards belongs to run r before. seeds: of the runs afterwards.
    sources: None if they are not known.
    """

    before: list[list[str]]
    after: list[list[str]]
    seeds: list
    references: list[str]
    sources: list[str] | None = None


def describe_changes(pairs: Pairs, options: ChangeOptions, known: dict | None = None) -> dict:
    """The entry "changes". known: id of a list of hypotheses -> its sentence chrF, for lists in several pairs.

    Raises KDError for a file of parts that does not fit the segments.
    """
    known = {} if known is None else known
    labels = None if options.parts is None else read_parts(options.parts, len(pairs.references))
    before, after = (
        np.stack([_scored(lines, pairs.references, known) for lines in runs]) for runs in (pairs.before, pairs.after)
    )
    found = {"signature": chrf_signature(), "threshold": options.threshold, "seeds": pairs.seeds}
    found |= count_changes(before, after, options.threshold, labels)
    if labels is not None:
        found["parts_sha256"] = text_hash(labels)
    if options.show:
        found["examples"] = find_examples(pairs, before, after, labels, options.show)
    return found


def _scored(lines: list[str], references: list[str], known: dict) -> np.ndarray:
    if id(lines) not in known:
        known[id(lines)] = sentence_chrf(lines, references)
    return known[id(lines)]


def find_examples(pairs: Pairs, before: np.ndarray, after: np.ndarray, labels: list | None, count: int) -> list[dict]:
    """The segments whose chrF changed most; segments with equal changes are in the order of runs and segments.

    before, after: sentence chrF (runs, segments). Returns {"segment": its number from 1, "seed", "chrf_before",
    "chrf_after", "source", "reference", "before", "after"}, with "part" if there are parts, without "source" if it is
    not known.
    """
    changed = np.abs(after - before).round(6)
    places = sorted(np.ndindex(*changed.shape), key=lambda place: (-changed[place], place))
    found = []
    for run, segment in places[:count]:
        found.append({"segment": segment + 1, "seed": pairs.seeds[run]})
        found[-1] |= {} if labels is None else {"part": labels[segment]}
        found[-1] |= {"chrf_before": float(before[run, segment]), "chrf_after": float(after[run, segment])}
        found[-1] |= {} if pairs.sources is None else {"source": pairs.sources[segment]}
        texts = pairs.references[segment], pairs.before[run][segment], pairs.after[run][segment]
        found[-1] |= dict(zip(("reference", "before", "after"), texts, strict=True))
    return found


@dataclass(frozen=True)
class CompareTo:
    """The earlier result with which `evaluate` compares. path: its file."""

    path: str
    options: ChangeOptions

    def open(self, sources: list[str], references: list[str], where: str) -> "Earlier":
        """Read the earlier result and the parts. where: the evaluated subset in words.

        Raises KDError when the file is not a result of the same segments, and for parts that do not fit them.
        """
        result = read_result(self.path)
        evaluated = {"references": references, "sources_sha256": text_hash(sources)}
        check_same_segments([self.path, where], [result, evaluated], "chrf")
        if self.options.parts is not None:
            read_parts(self.options.parts, len(references))
        return Earlier(self, result, sources)


@dataclass(frozen=True)
class Earlier:
    """An earlier result of the segments that are evaluated."""

    compared: CompareTo
    result: dict
    sources: list[str]

    def changes(self, hypotheses: list[str], seed: int | None) -> dict:
        """The entry "changes" of the result of `evaluate`, with "before": the file, the checkpoint and the seed."""
        pairs = Pairs([self.result["hypotheses"]], [hypotheses], [seed], self.result["references"], self.sources)
        about = {name: self.result.get(name) for name in ("checkpoint", "checkpoint_sha256", "seed")}
        before = {"before": {"file": str(self.compared.path), **about}}
        return before | describe_changes(pairs, self.compared.options)


def changes_of_systems(systems: dict[str, list], pairings: dict, results: dict, options: ChangeOptions) -> list[dict]:
    """One entry "changes" per system except the baseline, each with "name" and "baseline".

    systems: name -> files in the order of their seeds, the baseline first. pairings: name -> "seed", "single" or
    "none", see `compare`. Raises KDError for runs that are not paired, and for files that do not fit the segments.
    """
    baseline, *others = systems
    for name in others:
        if pairings[name] == "none":
            seeds, theirs = ([results[path]["seed"] for path in systems[one]] for one in (name, baseline))
            raise KDError(
                f"--segments: {name} has the seeds {seeds}, {baseline} has {theirs}: segments are compared run by run, "
                "so both must have the same seeds, each once"
            )
    references = results[systems[baseline][0]]["references"]
    sources = None if options.sources is None else _read_sources(options.sources, results[systems[baseline][0]])
    progress, known, found = Progress("comparing segments", len(others), "systems"), {}, []
    for name in progress.over(others):
        before, after = ([results[path]["hypotheses"] for path in systems[one]] for one in (baseline, name))
        pairs = Pairs(before, after, [results[path]["seed"] for path in systems[name]], references, sources)
        found.append({"name": name, "baseline": baseline, **describe_changes(pairs, options, known)})
    progress.finish()
    return found


def _read_sources(path, result: dict) -> list[str]:
    if not Path(path).is_file():
        raise KDError(f"--sources {path} does not exist or is not a file: give the source text of the test set")
    lines = read_evaluation_text(path)
    if text_hash(lines) != result["sources_sha256"]:
        raise KDError(
            f"--sources {path} is not the text that the systems translated, so examples would show other sentences: "
            "give the source text of the test set (raw/SUBSET.LANG in its data-bin)"
        )
    return lines
