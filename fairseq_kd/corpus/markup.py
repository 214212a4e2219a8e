"""Lines of text from the files of evaluation campaigns: tagged training text, XML and SGML sets, plain text.

Each reader takes a path and yields lines as bytes, one sentence each, without the newline.
"""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.text import read_raw_lines

KEPT_TEXT = re.compile(rb"</?(?:title|description)>")


def read_plain(path: Path) -> Iterator[bytes]:
    """Text, plain or .gz."""
    return read_raw_lines(path)


def read_tagged(path: Path, dropped: tuple[str, ...]) -> Iterator[bytes]:
    """A training file of IWSLT, train.tags.*: lines with one of the tags `dropped` are no text.

    Titles and descriptions are translated too: they stay, without their tags.
    """
    no_text = re.compile("|".join(rf"</?{tag}\b" for tag in dropped).encode())
    for line in read_raw_lines(path):
        if not no_text.search(line):
            yield KEPT_TEXT.sub(b"", line)


def read_segments(path: Path) -> Iterator[bytes]:
    """The <seg> elements of an evaluation set: .xml, or .sgm in the way of WMT, which is not well-formed.

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
    """Tolerates what stands in .sgm files: bare ampersands, attributes of any form, upper-case tags."""

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
