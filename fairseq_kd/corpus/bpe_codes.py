"""Codes of byte-pair encoding in the form of subword-nmt, from the files of the tools that write them.

subword-nmt begins a file with `#version: 0.2` and writes a merge as `a b</w>`. fastBPE has no such line and adds how
often each merge was seen: `a b</w> 123`. Files without the first line come from versions before 0.2 too, which take
the end of a word for a symbol of its own (`b </w>`). subword-nmt reads every file without the line in that old way, so
codes of the new kind that lost it would leave the ends of words unmerged without a word.
"""

import re
from pathlib import Path

from fairseq_kd.core.errors import KDError

HEADER = re.compile(r"#version: 0\.[12](\.0+)*\s*")
END = "</w>"


def read_codes(path) -> str:
    """The text of a file of codes, with the line that names the version; a file that has it is returned as it is.

    Raises KDError when the file holds no codes, with what it holds.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise KDError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise KDError(
            f"{path} holds no codes of subword-nmt or fastBPE but bytes that are no UTF-8 text; for a SentencePiece "
            "model `fairseq-kd prepare` needs --subword sentencepiece"
        ) from error
    first, _, rest = text.partition("\n")
    if not first.startswith("#version"):
        merges = _merges(text, path, first_line=1)
        return f"#version: {_version(merges)}\n" + "".join(f"{left} {right}\n" for left, right in merges)
    if not HEADER.fullmatch(first):
        raise KDError(
            f"{path} begins with {first.strip()!r}: its codes are those of another program, which segments otherwise; "
            "those of subword-nmt begin with '#version: 0.2' alone"
        )
    _merges(rest, path, first_line=2)
    return text


def _merges(text: str, path, first_line: int) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), first_line):
        symbols = line.strip("\r\n ").split(" ")
        if first_line == 1 and len(symbols) == 3 and symbols[2].isdecimal():  # fastBPE
            symbols = symbols[:2]
        if len(symbols) != 2 or not all(symbols):
            raise KDError(
                f"{path} holds no codes of subword-nmt or fastBPE: line {number} is {line[:60]!r}, where two subwords "
                "are expected (and how often they were merged, from fastBPE)"
            )
        merges.append((symbols[0], symbols[1]))
    return merges


def _version(merges: list[tuple[str, str]]) -> str:
    """0.1 merges with the end of a word, 0.2 has it at the end of a symbol from the beginning."""
    ends = {right for _, right in merges if right.endswith(END)}
    return "0.2" if ends and END not in ends else "0.1"
