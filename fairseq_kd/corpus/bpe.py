"""Byte-pair encoding by subword-nmt, with the codes of subword-nmt or fastBPE.

subword-nmt begins a file of codes with `#version: 0.2` and writes a merge as `a b</w>`. fastBPE has no such line and
adds how often each merge was seen: `a b</w> 123`. Versions before 0.2 write no such line either, and treat the end of a
word as a symbol of its own (`b </w>`). subword-nmt reads every file without the line in that old way: if codes of
version 0.2 have lost the line, it would leave the ends of words unmerged, without a message.
"""

import contextlib
import io
import re
from collections.abc import Iterable
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.binarise import cut_special

HEADER = re.compile(r"#version: 0\.[12](\.0+)*\s*")
END = "</w>"
JOINT = "@@"  # at the end of a subword: the word continues


def read_codes(path) -> str:
    """The text of a file of codes, with the line that names the version; that line is added where it is missing.

    Raises KDError when the file holds no codes, with what it holds.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise KDError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise KDError(
            f"{path} holds no codes of subword-nmt or fastBPE but bytes that are not UTF-8 text; for a SentencePiece "
            "model give --subword sentencepiece"
        ) from error
    first, _, rest = text.partition("\n")
    if not first.startswith("#version"):
        merges = _merges(text, path, first_line=1)
        return f"#version: {_version(merges)}\n" + "".join(f"{left} {right}\n" for left, right in merges)
    if not HEADER.fullmatch(first):
        raise KDError(
            f"{path} begins with {first.strip()!r}: another program, which segments in another way, wrote its codes; "
            "codes of subword-nmt begin with the line '#version: 0.2'"
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
                f"{path} holds no codes of subword-nmt or fastBPE: line {number} is {line[:60]!r}; expected are two "
                "subwords (and a count, from fastBPE)"
            )
        merges.append((symbols[0], symbols[1]))
    return merges


def _version(merges: list[tuple[str, str]]) -> str:
    """In version 0.1 the end of a word is a symbol, in version 0.2 it is part of a symbol from the beginning."""
    ends = {right for _, right in merges if right.endswith(END)}
    return "0.2" if ends and END not in ends else "0.1"


class SubwordNMTModel:
    """Byte-pair encoding by subword-nmt, over words between spaces."""

    kind = "subword-nmt"
    suffix = ".codes"

    def __init__(self, path):
        """Load. Raises KDError when `path` holds no BPE codes."""
        from subword_nmt.apply_bpe import BPE

        self.bpe = BPE(io.StringIO(read_codes(path), newline="\n"))

    @staticmethod
    def copy(path, out: Path) -> None:
        """Write the codes in the file `path` to `out`, as subword-nmt itself reads them."""
        out.write_bytes(read_codes(path).encode("utf-8"))

    @staticmethod
    def train(lines: Iterable[str], vocab_size: int, out: Path) -> None:
        """Learn `vocab_size` merges and write the codes to `out`. Deterministic."""
        from subword_nmt.learn_bpe import learn_bpe

        with open(out, "w", encoding="utf-8") as codes, contextlib.redirect_stderr(io.StringIO()):
            learn_bpe((line + "\n" for line in lines), codes, vocab_size)

    def encode(self, line: str) -> str:
        """Text to space-separated subwords; a subword ends in @@ if the word continues."""
        return cut_special(self.bpe.process_line(line), JOINT)

    @staticmethod
    def decode(line: str) -> str:
        """Space-separated subwords to text."""
        return (line + " ").replace(f"{JOINT} ", "").strip()
