"""The parts of all subsets by one rule, and the files that say so: shared by data-bins and text."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.writing import write_json, write_text
from fairseq_kd.core.errors import KDError
from fairseq_kd.partition.differences import differences
from fairseq_kd.partition.labels import TRAIN
from fairseq_kd.partition.options import PartitionOptions
from fairseq_kd.partition.plot import check_packages, draw
from fairseq_kd.partition.rules import RULES
from fairseq_kd.partition.sentences import Sentences
from fairseq_kd.partition.tables import page

PLACES = "parts"  # the folder with the part of each sentence


@dataclass(frozen=True)
class Division:
    """parts: subset -> part of each sentence, from 0. found: the figures of differences.json."""

    number: int
    parts: dict[str, np.ndarray]
    found: dict = field(default_factory=dict)

    def members(self, subset: str, part: int) -> np.ndarray:
        """The numbers of the sentences of a part, in the order of the corpus."""
        return np.flatnonzero(self.parts[subset] == part)


def settle(options: PartitionOptions, domains: Iterable, plot: bool) -> PartitionOptions:
    """The options with the defaults of their rule. domains: the values of --domains.

    Raises KDError for an unknown rule, for options without an effect on it, and for missing packages.
    """
    if options.by not in RULES:
        raise KDError(f"--by {options.by}: must be one of {', '.join(RULES)}")
    rule = RULES[options.by]
    if domains and not rule.needs_domains:
        raise KDError(f"--domains has no effect with --by {options.by}: leave it out")
    if rule.needs_domains and not domains:
        raise KDError(f"--by {options.by} needs --domains FILE with one label per training sentence")
    options = rule.settle(options)
    if plot:
        check_packages()
    return options


def divide(subsets: dict[str, Sentences], options: PartitionOptions, domains: dict) -> Division:
    """Divide all subsets; the rule is fitted on "train". A subset whose domains are not known is left out.

    options: settled. domains: subset -> labels. Raises KDError when the parts cannot be made.
    """
    rule, train = RULES[options.by], subsets[TRAIN]
    least = options.min_sentences or 1
    if len(train) < options.parts * least:
        each = f" with --min-sentences {least}" if least > 1 else ""
        raise KDError(
            f"--parts {options.parts}{each} is more than {len(train):,} sentences can fill: give fewer --parts, or "
            "more sentences"
        )
    parts, place, about = rule.divide(train, options, domains)
    found = {TRAIN: parts}
    for name, sentences in subsets.items():
        if name != TRAIN and (name in domains or not rule.needs_domains):
            found[name] = place(name, sentences)
    return Division(options.parts, found, differences(train, parts, options.parts) | about)


def write_division(folder: Path, division: Division, title: str, plot: bool) -> None:
    """Write parts/SUBSET.txt and the differences. Raises KDError when they cannot be written."""
    (folder / PLACES).mkdir()
    for subset, parts in division.parts.items():
        write_text(folder / PLACES / f"{subset}.txt", "".join(f"{part + 1}\n" for part in parts.tolist()))
    write_json(folder / "differences.json", division.found)
    write_text(folder / "differences.md", page(division.found, title))
    if plot:
        write_text(folder / "differences.svg", draw(division.found))
