"""Which entries of the dictionaries are kept.

Kept are the special symbols of fairseq, the entries that the task adds, entries in angle brackets (tags such as <BT>,
the bytes <0x00> of SentencePiece), the entries of --keep, and those that occur often enough in the counted subsets.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.data_bin import check_subset, subsets_of
from fairseq_kd.artifacts.data_bin_check import count_ids
from fairseq_kd.artifacts.hashes import data_files, files_of_side
from fairseq_kd.core.errors import KDError
from fairseq_kd.pruning.opening import SIDES, Opened

TAG = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True)
class Chosen:
    """keep: per side, which entries of the dictionary are kept, bool (V,). unknown: subset -> per side, the number of
    tokens that become <unk>; without those that were <unk> already. tokens: the same for all tokens.
    """

    keep: tuple[np.ndarray, np.ndarray]
    unknown: dict[str, list[int]]
    tokens: dict[str, list[int]]

    def ids(self, side: int) -> np.ndarray:
        """The kept ids, ascending: new id -> old id."""
        return np.flatnonzero(self.keep[side])

    def new_ids(self, side: int, unknown: int) -> np.ndarray:
        """Old id -> new id, (V,); pruned entries get the id of `unknown`, an old id."""
        keep = self.keep[side]
        places = np.cumsum(keep) - 1
        return np.where(keep, places, places[unknown])


def choose(opened: Opened, data_bin, counted, listed: frozenset[str], least: int) -> Chosen:
    """Count the tokens of the data-bin and choose the kept entries.

    counted: names of subsets, None: all. listed: entries of --keep. least: occurrences that an entry needs.
    Raises KDError for a subset or an entry that does not exist, and when nothing would be pruned.
    """
    names = subsets_of(data_bin, opened.languages)
    counts = {subset: _counts(opened, data_bin, subset) for subset in names}
    counts = {subset: found for subset, found in counts.items() if found is not None}
    if missing := [subset for subset in counted or () if subset not in counts]:
        raise KDError(f"--subsets {missing[0]}: {data_bin} has the subsets {', '.join(counts) or 'none'}")
    _check_listed(opened, listed)
    sums = [sum(counts[subset][side] for subset in counted or counts) for side in (0, 1)]
    if opened.is_joined:
        sums = [sums[0] + sums[1]] * 2
    keep = tuple(_kept(opened, side, sums[side], listed, least) for side in (0, 1))
    if all(kept.all() for kept in keep):
        raise KDError(
            f"nothing to prune: {data_bin} uses all {len(keep[0]):,} source and {len(keep[1]):,} target entries of "
            f"{opened.path}. --min-count N leaves rare entries out"
        )
    unknown, tokens = (
        {subset: [int(one[chosen].sum()) for one, chosen in zip(found, which, strict=True)]
         for subset, found in counts.items()}
        for which in ([~kept for kept in keep], [slice(None)] * 2)
    )  # fmt: skip
    return Chosen(keep, unknown, tokens)


def sides_of(data_bin, subset: str, languages) -> list[tuple[str, int]]:
    """(path of a side in the data-bin without ending, 0 for source or 1 for target), in the order of fairseq."""
    names = data_files(data_bin, subset, *languages)
    return [
        (name.removesuffix(".bin"), side)
        for side, lang in enumerate(languages)
        for name in files_of_side(names, lang)
        if name.endswith(".bin")
    ]


def read_listed(path) -> frozenset[str]:
    """The entries in a file, one per line. Raises KDError when it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise KDError(f"--keep {path} cannot be read ({reason}): give a text file with one token per line") from error
    return frozenset(filter(None, (line.strip(" \r") for line in text.split("\n"))))


def _counts(opened: Opened, data_bin, subset: str):
    """Per side, how often each entry occurs in a subset; None where the data-bin lacks the subset."""
    if check_subset(data_bin, subset, opened.languages, combine=subset == "train") is None:
        return None
    found = [np.zeros(len(dictionary), np.int64) for dictionary in opened.dictionaries]
    for name, side in sides_of(data_bin, subset, opened.languages):
        found[side] += count_ids(Path(data_bin) / name, len(found[side]))
    return found


def _check_listed(opened: Opened, listed) -> None:
    known = set(opened.dictionaries[0].symbols) | set(opened.dictionaries[1].symbols)
    if missing := sorted(listed - known):
        raise KDError(
            f"--keep: {missing[0]!r} is in no dictionary of {opened.path} ({len(missing):,} of {len(listed):,} lines "
            "are not): give tokens as the dictionaries have them, one per line"
        )


def _kept(opened: Opened, side: int, counts: np.ndarray, listed, least: int) -> np.ndarray:
    dictionary = opened.dictionaries[side]
    always = opened.added | listed
    named = [
        number < dictionary.nspecial or symbol in always or TAG.fullmatch(symbol) is not None
        for number, symbol in enumerate(dictionary.symbols)
    ]
    return np.array(named) | (counts >= least)


def describe(chosen: Chosen) -> list[str]:
    """Lines that say which tokens become <unk>; none if no token does."""
    return [
        f"{subset}, {SIDES[side]}: {count:,} of {chosen.tokens[subset][side]:,} tokens become <unk>"
        for subset, counts in chosen.unknown.items()
        for side, count in enumerate(counts)
        if count
    ]
