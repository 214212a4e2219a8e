"""Monolingual text -> a data-bin that has sources only, for a teacher to translate.

The text gets the form, the cleaning rules, the subword model and the dictionary of another data-bin, the one that the
option --like names. A line is dropped for the first of the REASONS that holds. The folder holds

    train.SOURCE-TARGET.SOURCE.bin, .idx    the sentences
    dict.LANG.txt                           the dictionaries, copied
    train.lines.tsv                         one row per input line: number of the file from 1, number of the line from
                                            1, number of the sentence from 0 or the reason why the line was dropped
    manifest.json                           request, counts, and the sha256 of every other file

Lines are processed in blocks. Of the whole text only 8 bytes per different line are kept in memory (`Seen`), and twice
that for a moment.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.derived import SideWriter
from fairseq_kd.artifacts.folders import finished, folder_in_progress
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, hash_files
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import ensure_writable_folder, naming_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.binarise import SPECIAL_WORDS
from fairseq_kd.corpus.clean import in_blocks, in_form
from fairseq_kd.corpus.like import Like
from fairseq_kd.corpus.text import normalise_spaces, read_lines, read_raw_lines

KIND = "fairseq_kd source text"
FORMAT = 1
LINES_NAME = "train.lines.tsv"
REASONS = {  # name in files -> words for the user, in the order of the checks
    "bad_utf8": "not UTF-8",
    "empty": "empty",
    "too_long": "too long",
    "special_word": "with a word that fairseq takes for a symbol",
    "evaluation": "also in an evaluation set",
    "duplicate": "repeated",
}


class Seen:
    """64-bit hashes of lines. Among n different lines, n² / 2^65 are taken for repeated ones on average."""

    def __init__(self):
        self._runs: list[np.ndarray] = []  # sorted, without repetition, each longer than the next

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Add uint64 (n,); return bool (n,): whether each is new, the first of equal ones only."""
        values, first = np.unique(hashes, return_index=True)
        lacking = self.lacks(values)
        new = np.zeros(len(hashes), dtype=bool)
        new[first[lacking]] = True
        if len(run := values[lacking]):
            while self._runs and len(self._runs[-1]) <= len(run):
                run = np.concatenate([self._runs.pop(), run])
                run.sort()
            self._runs.append(run)
        return new

    def lacks(self, hashes: np.ndarray) -> np.ndarray:
        """bool (n,): whether each of uint64 (n,) was never added."""
        known = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            places = np.searchsorted(run, hashes)
            known |= run[np.minimum(places, len(run) - 1)] == hashes
        return ~known


def hash_lines(lines: Iterable[str]) -> np.ndarray:
    """uint64 (lines,): the first 64 bits of BLAKE2b."""
    digests = b"".join(hashlib.blake2b(line.encode(), digest_size=8).digest() for line in lines)
    return np.frombuffer(digests, "<u8")


def check_text_files(files: list) -> list[Path]:
    """The paths of the files. Raises KDError for files that do not exist and for a file that is given twice."""
    paths = [Path(path) for path in files]
    for path in paths:
        if not path.is_file():
            what = "is not a file that can be read twice" if path.exists() else "is not there"
            raise KDError(f"--source-text {path} {what}: give files of text, one sentence per line")
        if sum(path.resolve() == other.resolve() for other in paths) > 1:
            raise KDError(f"--source-text {path} is given twice")
    return paths


def describe_text(files: list, like, inputs: Inputs) -> dict:
    """What decides about the sentences, for a manifest: the hashes of the files, in order, and of the data-bin `like`.

    inputs: gets the files. Raises KDError as `check_text_files` does.
    """
    paths = check_text_files(files)
    inputs.watch(*paths)
    inputs.watch_data_bin(like)
    return {
        "format": FORMAT,
        "sha256": [inputs.sha256(path) for path in paths],
        "like": inputs.sha256(Path(like) / MANIFEST_NAME),
    }


def make_sources(files: list, like: Like, described: dict, out: Path, inputs: Inputs, say=print) -> dict:
    """Make the folder `out` (see the module) and return its manifest; a finished `out` is checked and kept.

    described: see `describe_text`. Several processes may call it at once: one makes it, the others wait.
    Raises KDError for a damaged file and for text that leaves no line.
    """
    request = {"kind": KIND, "languages": list(like.languages), "source_text": described}
    ensure_writable_folder(out.parent)
    with exclusive(out, wait=True):
        if (manifest := finished(out, request, lock=False)) is not None:
            return manifest
        with folder_in_progress(out, inputs, lock=False) as folder:
            report = _write(files, like, folder)
            say(f"{', '.join(map(str, files))}: {describe_report(report)}")
            if not report["kept"]:
                raise KDError(f"--source-text leaves no usable line: {describe_report(report)}")
            source, target = like.languages
            manifest = request | {"source_lang": source, "target_lang": target, "cleaning": report}
            write_record(folder / MANIFEST_NAME, manifest | {"files": hash_files(folder)})
    return manifest


def describe_report(report: dict) -> str:
    """One line of text."""
    dropped = [f"{count:,} {REASONS[reason]}" for reason, count in report["dropped"].items()]
    unknown = [f"{report['unknown_tokens']:,} unknown tokens"] if report["unknown_tokens"] else []
    return ", ".join([f"{report['read']:,} lines read, {report['kept']:,} kept", *dropped, *unknown])


def _write(files: list, like: Like, folder: Path) -> dict:
    """Write the sentences and the table of the lines; return the counts for the manifest."""
    for lang in like.languages:
        (folder / f"dict.{lang}.txt").write_bytes((like.data_bin / f"dict.{lang}.txt").read_bytes())
    dictionary, pair = like.dictionaries[0], "-".join(like.languages)
    found, kept, unknown = Counter(), 0, 0
    progress = Progress("reading text", None, "lines")
    with ExitStack() as stack:
        stack.enter_context(naming_file(folder / LINES_NAME))
        table = stack.enter_context(open(folder / LINES_NAME, "w", encoding="utf-8"))
        writer = stack.enter_context(SideWriter(folder, f"train.{pair}.{like.languages[0]}", dictionary))
        for (file, line), text, reason in progress.over(_checked(files, like)):
            tokens = None if reason else _tokens(like, text)
            if reason is None and len(tokens) == 1:  # EOS alone: the subword model knows none of the characters
                reason = "empty"
            table.write(f"{file}\t{line}\t{reason or kept}\n")
            found[reason] += 1
            if reason is None:
                writer.add(tokens)
                kept += 1
                unknown += int((tokens == dictionary.unk()).sum())
        writer.close()
    progress.finish()
    return {
        "read": found.total(),
        "kept": kept,
        "dropped": {reason: found[reason] for reason in REASONS if found[reason]},
        "unknown_tokens": unknown,
        **like.as_dict(),
    }


def _tokens(like: Like, text: str) -> np.ndarray:
    """Token ids with EOS, as fairseq-preprocess looks them up (`Dictionary.encode_line`, which is slower)."""
    dictionary = like.dictionaries[0]
    words = like.model.encode(text).split()
    return np.array([*map(dictionary.index, words), dictionary.eos()], dtype=np.int64)


def _checked(files: list, like: Like) -> Iterator[tuple[tuple[int, int], str, str | None]]:
    """((number of the file, of the line), text as written, reason to drop it or None) of each line."""
    seen, evaluated = Seen(), Seen()
    for path in like.evaluation_texts:
        for block in in_blocks(read_lines(path)):
            evaluated.add(hash_lines(block))
    for block in in_blocks(in_form(_read(files), like.languages[:1], like.options)):
        reasons = [like.damage(counted) if not bad else "bad_utf8" for (*_, bad), _, (counted,) in block]
        texts = [text for _, (text,), _ in block]
        if like.model.kind == "none":
            special = set(SPECIAL_WORDS)
            reasons = [
                reason or ("special_word" if special & set(text.split(" ")) else None)
                for reason, text in zip(reasons, texts, strict=True)
            ]
        _mark_repeated(texts, reasons, evaluated, seen)
        for ((*place, _), _, _), text, reason in zip(block, texts, reasons, strict=True):
            yield tuple(place), text, reason


def _mark_repeated(texts: list[str], reasons: list[str | None], evaluated: Seen, seen: Seen) -> None:
    """Set the reason of texts that occur in an evaluation set or before."""
    for name, is_new in (("evaluation", evaluated.lacks), ("duplicate", seen.add)):
        numbers = [number for number, reason in enumerate(reasons) if reason is None]
        new = is_new(hash_lines(texts[number] for number in numbers))
        for number in np.array(numbers, dtype=np.int64)[~new]:
            reasons[number] = name


def kept_texts(files: list, folder: Path) -> Iterator[str]:
    """The kept lines of the files as they are, with normalised spaces. folder: as `make_sources` has made it."""
    with open(folder / LINES_NAME, encoding="utf-8") as table:
        for row, (_, text) in zip(table, _read(files), strict=True):
            if row.rstrip("\n").rpartition("\t")[2] not in REASONS:
                yield text


def _read(files: list) -> Iterator[tuple[tuple[int, int, bool], str]]:
    """((number of the file, of the line, whether it is not UTF-8), text with normalised spaces) of each line."""
    for file, path in enumerate(files, start=1):
        for line, raw in enumerate(read_raw_lines(path), start=1):
            try:
                yield (file, line, False), normalise_spaces(raw.decode("utf-8"))
            except UnicodeDecodeError:
                yield (file, line, True), ""
