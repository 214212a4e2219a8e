"""Corpora of evaluation campaigns: archives -> the files of each subset -> aligned text that `prepare` takes.

An entry says where the archives are, which of their members hold which subset, how these are read, and how the corpus
is usually prepared; `corpora` has the entries. The functions read_* are the readers of members: tagged training text,
XML and SGML sets, plain text. A reader takes a path and yields lines as bytes, one sentence each, without newlines.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.download import Archive, archive_hash, locate_archives
from fairseq_kd.corpus.entry import Corpus
from fairseq_kd.corpus.files import extract
from fairseq_kd.corpus.text import SubsetFiles, read_raw_lines


@dataclass(frozen=True)
class Part:
    """Two aligned members of an archive.

    path: of the member, with {lang}, or language -> path. read: yields the lines of a member.
    """

    archive: Archive
    path: str | dict[str, str]
    read: Callable[[Path], Iterator[bytes]]

    def member(self, lang: str) -> str:
        """The path of one side in the archive."""
        return self.path[lang] if isinstance(self.path, dict) else self.path.format(lang=lang)


@dataclass(frozen=True)
class ArchiveCorpus(Corpus):
    """A corpus whose text is in archives.

    subsets: subset -> the parts whose text follows one another. straight_apostrophes: the usual tokenised editions
    have straight apostrophes in their evaluation sets.
    """

    name: str
    languages: tuple[str, str]
    subsets: dict[str, tuple[Part, ...]]
    usual: dict = field(default_factory=dict)
    straight_apostrophes: bool = False
    takes: ClassVar[tuple[str, ...]] = ("raw",)

    @property
    def archives(self) -> list[Archive]:
        """Each archive once, in order of use."""
        return list(dict.fromkeys(part.archive for parts in self.subsets.values() for part in parts))

    def choose_languages(self, source_lang: str | None, target_lang: str | None) -> tuple[str, str]:
        """See `Corpus`; without languages: the languages of the corpus, in its order."""
        first, second = self.languages
        if source_lang is None and target_lang is None:
            return first, second
        if {source_lang, target_lang} != {first, second}:
            raise KDError(
                f"{self.name} is {first}-{second}, or {second}-{first} with --source-lang {second} --target-lang "
                f"{first}; found {source_lang} and {target_lang}"
            )
        return source_lang, target_lang

    @contextmanager
    def open(self, languages, options, inputs, *, raw=None, stems=None, spec=None) -> Iterator[tuple]:
        """See `Corpus`. The text is written only if the data-bin is not finished."""
        archives = locate_archives(self.name, self.archives, raw)
        tokenised = options.form != "cased"
        write = partial(write_text, self, archives, languages=languages, tokenised=tokenised)
        yield write, describe_origin(self, archives, inputs)

    def raw_files(self, languages, raw) -> dict[str, Path]:
        """See `Corpus`."""
        return files_read(self, locate_archives(self.name, self.archives, raw))


def files_read(corpus: ArchiveCorpus, archives: dict[Archive, Path]) -> dict[str, Path]:
    """Name -> file of everything that is read: the archives, or their members where they were unpacked.

    Raises KDError for members that are missing.
    """
    found = {}
    for archive, path in archives.items():
        if path.is_file():
            found[path.name] = path
        else:
            found |= sorted(extract(path, _members(corpus, archive), path).items())
    return found


def describe_origin(corpus: ArchiveCorpus, archives: dict[Archive, Path], inputs: Inputs) -> dict:
    """The identity of the raw text: the sha256 of each archive, or of each file of an unpacked one.

    inputs: gets these files.
    Raises KDError for an archive whose hash differs from the hash in the entry or of an earlier use.
    """
    whole = {path: archive for archive, path in archives.items()}
    files = files_read(corpus, archives).items()
    return {
        "archives": {
            name: archive_hash(whole[file], file, inputs) if file in whole else inputs.sha256(file)
            for name, file in files
        }
    }


def write_text(corpus: ArchiveCorpus, archives: dict[Archive, Path], folder, languages, *, tokenised: bool) -> dict:
    """Write the text of each subset into `folder`, one sentence per line; return subset -> SubsetFiles.

    tokenised: whether the text will be tokenised. Raises KDError for archives that are damaged or have another
    layout, and for sides of unequal length.
    """
    folder = Path(folder)
    unpacked = {}
    for number, (archive, path) in enumerate(archives.items()):
        scratch = folder / f"archive-{number}"
        scratch.mkdir()
        members = _members(corpus, archive)
        if path.is_file() and not archive.is_file(path):  # a larger archive holds it
            path = extract(path, [f"{archive.name}.tgz"], scratch)[f"{archive.name}.tgz"]
        unpacked |= {(archive, name): file for name, file in extract(path, members, scratch).items()}
    files = {}
    for subset, parts in corpus.subsets.items():
        straight = corpus.straight_apostrophes and tokenised and subset != "train"
        stem = "+".join(Path(part.member(languages[0])).name for part in parts)
        files[subset] = SubsetFiles(stem, *(folder / f"raw.{subset}.{lang}" for lang in languages))
        with open(files[subset].source, "wb") as source, open(files[subset].target, "wb") as target:
            for part in parts:
                sides = {name: unpacked[part.archive, name] for name in map(part.member, languages)}
                _write_part(part.read, sides, straight, source, target)
    for (archive, _), file in unpacked.items():
        if archives[archive].is_file():  # unpacked here, not by the user
            file.unlink(missing_ok=True)
    return files


def _write_part(read, sides: dict[str, Path], straight: bool, source, target) -> None:
    counts = [0, 0]
    for pair in zip_longest(*map(read, sides.values())):
        for side, (line, file) in enumerate(zip(pair, (source, target), strict=True)):
            if line is not None:
                counts[side] += 1
                file.write((line.replace("’".encode(), b"'") if straight else line) + b"\n")
    if counts[0] != counts[1]:
        found = " and ".join(f"{name} has {count} sentences" for name, count in zip(sides, counts, strict=True))
        raise KDError(
            f"{found}: they are not aligned, so no pair after the first missing one can be trusted; get the archive "
            "again"
        )


def _members(corpus: ArchiveCorpus, archive: Archive) -> list[str]:
    parts = [part for parts in corpus.subsets.values() for part in parts if part.archive == archive]
    return list(dict.fromkeys(part.member(lang) for part in parts for lang in corpus.languages))


KEPT_TEXT = re.compile(rb"</?(?:title|description)>")


def read_plain(path: Path) -> Iterator[bytes]:
    """Text, plain or .gz."""
    return read_raw_lines(path)


def read_tagged(path: Path, dropped: tuple[str, ...]) -> Iterator[bytes]:
    """A training file of IWSLT, train.tags.*: lines with one of the tags `dropped` are not text.

    Titles and descriptions are translated too: they are kept, without their tags.
    """
    no_text = re.compile("|".join(rf"</?{tag}\b" for tag in dropped).encode())
    for line in read_raw_lines(path):
        if not no_text.search(line):
            yield KEPT_TEXT.sub(b"", line)


def read_segments(path: Path) -> Iterator[bytes]:
    """The <seg> elements of an evaluation set: .xml, or .sgm as WMT has it, which is not well-formed.

    Raises KDError for a damaged file and for one without segments.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
        segments = _segments_of_xml(content) if path.suffix == ".xml" else _segments_of_sgml(content)
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        raise KDError(f"{path.name} is damaged ({error}); get the archive again") from error
    if not segments:
        raise KDError(f"{path.name} holds no <seg>: it is not an evaluation set")
    for text in segments:
        yield " ".join(text.split("\n")).encode()


def _segments_of_xml(content: str) -> list[str]:
    # the declaration names an encoding, which a str must not have
    root = ElementTree.fromstring(re.sub(r"\A\s*<\?xml[^>]*\?>", "", content))
    return ["".join(segment.itertext()) for segment in root.iter("seg")]


def _segments_of_sgml(content: str) -> list[str]:
    parser = _SegmentParser()
    parser.feed(content)
    parser.close()
    if parser.open:
        raise ValueError(f"segment {len(parser.segments)} does not end")
    return ["".join(parts) for parts in parser.segments]


class _SegmentParser(HTMLParser):
    """Tolerates the irregularities of .sgm files: bare ampersands, attributes of any form, upper-case tags."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.segments, self.open = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "seg":
            if self.open:
                raise ValueError(f"segment {len(self.segments)} does not end")
            self.segments.append([])
            self.open = True

    def handle_endtag(self, tag):
        self.open = self.open and tag != "seg"

    def handle_data(self, data):
        if self.open:
            self.segments[-1].append(data)
