"""Aligned text, one sentence per line: reading (plain or compressed), checking, and the rules of cleaning.

A line ends at a newline byte and nowhere else, so `wc -l` gives the number of lines. Carriage returns, U+2028
and form feeds become spaces, because fairseq would split lines at some of them.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fairseq_kd.artifacts.writing import naming_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.files import ENDINGS, open_sound

SPACES = re.compile(r"[\s\u0085\u2028\u2029\u200b\ufeff\x00-\x1f\x7f]+")
EXAMPLES_KEPT = 5  # line numbers that the report keeps for each kind of damage


def read_raw_lines(path) -> Iterator[bytes]:
    """The lines of a file as bytes, without the newline. Raises KDError for a damaged compressed file."""
    with open_sound(path) as file:
        for line in file:
            yield line.rstrip(b"\n")


def read_blocks(path, lines: int) -> Iterator[bytes]:
    """A file as blocks of bytes, `lines` lines each; the last line gets a newline if it has none.

    Raises KDError for a damaged compressed file, and for a line that is not UTF-8; the error has its number.
    """
    from fairseq_kd.corpus.files import is_common_utf8  # needs numpy, which most commands do not load

    with open_sound(path) as file:
        for number in itertools.count():
            block = b"".join(itertools.islice(file, lines))
            if not block:
                return
            ended = block if block.endswith(b"\n") else block + b"\n"
            if not block.isascii() and not is_common_utf8(ended):
                _check_utf8(block, path, number * lines)
            yield ended


def check_aligned(path, sentences: int, use: str) -> None:
    """Raises KDError unless the plain text of a subset has a line per sentence. use: what cannot be done otherwise."""
    if (lines := count_lines(path)) != sentences:
        raise KDError(f"{path} has {lines:,} lines, the binary data next to it {sentences:,} sentences, so they are "
                      f"not aligned and {use}; make the data-bin again")  # fmt: skip


def count_lines(path) -> int:
    """The number of lines of a file. Raises KDError for a damaged compressed file."""
    count, last = 0, b"\n"
    with open_sound(path) as file:
        while chunk := file.read(1 << 20):
            count, last = count + chunk.count(b"\n"), chunk[-1:]
    return count + (last != b"\n")


def _check_utf8(block: bytes, path, lines_before: int) -> None:
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        number = lines_before + block.count(b"\n", 0, error.start) + 1
        raise KDError(
            f"line {number} of {path} is not UTF-8 ({error.reason}): so its words cannot be read; convert the file "
            "(iconv -t utf-8)"
        ) from error


def normalise_spaces(line: str) -> str:
    """Replace each run of white space, control characters and zero-width marks by one space; strip both ends."""
    return SPACES.sub(" ", line).strip()


def read_evaluation_text(path) -> list[str]:
    """The lines of the text of an evaluation set, with normalised spaces. Raises KDError when it is not UTF-8."""
    try:
        return [normalise_spaces(line.decode("utf-8")) for line in read_raw_lines(path)]
    except UnicodeDecodeError as error:
        raise KDError(f"the text {path} is not UTF-8 ({error}): convert it to UTF-8") from error


def find_text(folder, stem: str, lang: str) -> Path | None:
    """`folder/stem.lang`, plain or compressed, the first that exists in the order of ENDINGS; else None."""
    paths = (Path(folder) / f"{stem}.{lang}{ending}" for ending in ("", *ENDINGS))
    return next((path for path in paths if path.is_file()), None)


def missing_text(folder, stem: str, lang: str) -> str:
    """Why `find_text` found nothing, for an error."""
    wanted = Path(folder) / f"{stem}.{lang}"
    found = f"{wanted} does not exist, neither plain nor with {', '.join(ENDINGS)}"
    for table in sorted(Path(folder).glob("*.tsv*")):
        if table.name.startswith(stem):
            return (
                f"{found}. {table.name} is a table, which does not tell the languages of its columns: write "
                f"each column to its own file (cut -f1 {table.name} > {stem}.LANG; cut -f2 for the other)"
            )
    return found


def input_text(prefix, lang: str) -> Path:
    """PREFIX.LANG as `find_text` finds it. Raises KDError when it does not exist."""
    prefix = Path(prefix)
    path = find_text(prefix.parent, prefix.name, lang)
    if path is None:
        raise KDError(f"{missing_text(prefix.parent, prefix.name, lang)} (--prefix)")
    return path


def count_aligned(paths: dict[str, Path]) -> int:
    """The number of lines of the files "source" and "target". Raises KDError when they differ."""
    counts = {side: count_lines(path) for side, path in paths.items()}
    if counts["source"] != counts["target"]:
        raise KDError(
            f"{paths['source']} has {counts['source']:,} lines and {paths['target']} has {counts['target']:,}: they "
            "are not aligned line by line; get the aligned files again"
        )
    return counts["source"]


@dataclass(frozen=True)
class SubsetFiles:
    """The two aligned files of one subset, and the name that the corpus gives it."""

    stem: str
    source: Path
    target: Path


@dataclass(frozen=True)
class CleaningRules:
    """Which pairs a training set keeps. Lengths are in words, see `scripts.Lengths`."""

    max_words: int = 175
    max_ratio: float = 9.0

    def __post_init__(self):
        if self.max_words < 1:
            raise KDError(f"--max-words {self.max_words}: must be at least 1")
        if self.max_ratio < 1:
            raise KDError(f"--max-ratio {self.max_ratio}: must be at least 1")

    def damage(self, n_source: float, n_target: float) -> str | None:
        """The kind of damage that a pair of these lengths has, a field of CleaningReport; or None."""
        if not n_source or not n_target:
            return "empty"
        if max(n_source, n_target) > self.max_words:
            return "too_long"
        if max(n_source, n_target) > self.max_ratio * min(n_source, n_target):
            return "uneven_length"
        return None


@dataclass
class CleaningReport:
    """The findings in one subset: the counts of lines, and the first line numbers (from 1) of each kind of damage.

    measured: language -> the unit of its lengths.
    """

    rules: CleaningRules = field(default_factory=CleaningRules)
    measured: dict = field(default_factory=dict)
    read: int = 0
    kept: int = 0
    empty: int = 0
    bad_utf8: int = 0
    too_long: int = 0
    uneven_length: int = 0
    first_lines: dict = field(default_factory=dict)

    def note(self, kind: str, line_number: int) -> None:
        """Count one line of `kind`."""
        setattr(self, kind, getattr(self, kind) + 1)
        examples = self.first_lines.setdefault(kind, [])
        if len(examples) < EXAMPLES_KEPT:
            examples.append(line_number)

    def as_dict(self) -> dict:
        """For the manifest."""
        return asdict(self)

    def describe(self) -> str:
        """One line of text: the pairs that were read and kept, the damage by its rule, and the unit of lengths."""
        names = {
            "empty": "empty",
            "bad_utf8": "not UTF-8",
            "too_long": f"too long, by --max-words {self.rules.max_words}",
            "uneven_length": f"uneven in length, by --max-ratio {self.rules.max_ratio:g}",
        }
        found = [f"{self.read} pairs read, {self.kept} kept"]
        found += [
            f"{getattr(self, kind)} {name} (lines {', '.join(map(str, self.first_lines[kind]))}"
            f"{', ...' if getattr(self, kind) > EXAMPLES_KEPT else ''})"
            for kind, name in names.items()
            if getattr(self, kind)
        ]
        if any(measure != "words" for measure in self.measured.values()):
            found.append("lengths: " + ", ".join(f"{lang} in {measure}" for lang, measure in self.measured.items()))
        return "; ".join(found)


def read_pairs(source_path, target_path, report: CleaningReport, *, training: bool) -> Iterator[tuple[int, str, str]]:
    """Read two aligned files together; yield (line number from 1, source, target), with normalised spaces.

    A training set drops a pair that is not UTF-8 and counts it in `report`. An evaluation set must stay whole, or its
    scores would not be comparable: there such a pair is an error. Only one line is in memory at a time.
    Raises KDError for unequal line counts, when the shorter file ends.
    """
    source_lines, target_lines = read_raw_lines(source_path), read_raw_lines(target_path)
    while True:
        source, target = next(source_lines, None), next(target_lines, None)
        if source is None or target is None:
            break
        report.read += 1
        try:
            yield report.read, normalise_spaces(source.decode("utf-8")), normalise_spaces(target.decode("utf-8"))
        except UnicodeDecodeError as error:
            report.note("bad_utf8", report.read)
            if not training:
                raise KDError(
                    f"line {report.read} of {source_path} or {target_path} is not UTF-8. An evaluation set must stay "
                    "whole, so the line cannot be dropped; convert the file to UTF-8 (iconv -t utf-8)"
                ) from error
    if source is not None or target is not None:
        extra_source = int(source is not None) + sum(1 for _ in source_lines)
        extra_target = int(target is not None) + sum(1 for _ in target_lines)
        raise KDError(
            f"{source_path} has {report.read + extra_source} lines and {target_path} has "
            f"{report.read + extra_target}: they are not aligned line by line, so no pair after the first missing "
            "line can be trusted; get the aligned files again"
        )


def read_lines(path) -> Iterator[str]:
    """The lines of a file that `write_lines` wrote."""
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def write_lines(path, lines) -> None:
    """Write one sentence per line, in UTF-8, each with a newline at its end. Raises CannotWrite."""
    with naming_file(path), open(path, "w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
