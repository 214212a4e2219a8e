"""Lines of plain text in, lines of plain text out: in Python, and as streams of bytes with several formats."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.evaluation.translator import Translation, Translator, check_nbest, open_translator

FORMATS = ("text", "tsv", "jsonl")
BUFFER = 10_000  # lines that are translated together
BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")  # what would end a line or a column of the output
EXAMPLES_KEPT = 5


def translate(lines: Iterable[str], model, data=None, *, options=None, long_lines="error", **opening) -> list[str]:
    """The best translations of lines of plain text, as plain text, in order.

        >>> translate(["ein Hund schläft ."], "checkpoint_best.pt", "data-bin/mine")
        >>> translate(["ein Hund schläft ."], "student-int8")

    model: a checkpoint of fairseq-train, or a folder of `fairseq-kd export`. data: the data-bin of the training, for a
    checkpoint. options: a `TranslateOptions` (beam, length penalty, device). long_lines: what happens to a line that is
    longer than the model's positions: "error", or "split", see `Translator.translate`. opening: the other arguments of
    `open_translator`. For several calls, for the scores and for more hypotheses, call `open_translator` once and then
    `Translator.translate`.
    Raises KDError for a model or data-bin that cannot be used, and for a line that is too long.
    """
    translator = open_translator(model, data, options, **opening)
    blocks = translated_blocks(translator, lines, long_lines=long_lines)
    return [found.text for block in blocks for _, found in block]


def translated_blocks(
    translator: Translator, lines: Iterable[str], *, buffer: int = BUFFER, **how
) -> Iterator[list[tuple[int, Translation]]]:
    """(line number from 1, translation) of every line, `buffer` lines at a time, which are translated together.

    how: arguments of `Translator.translate`.
    """
    lines, number = iter(lines), 1
    while block := list(itertools.islice(lines, buffer)):
        yield list(enumerate(translator.translate(block, first_line=number, **how), number))
        number += len(block)


def decoded(lines: Iterable[bytes], name) -> Iterator[str]:
    """The lines as text. name: of the file, for errors. Raises KDError for a line that is not UTF-8."""
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise KDError(f"line {number} of {name} is not UTF-8 ({error.reason}), so it cannot be translated: convert "
                          "the text (iconv -t utf-8)") from error  # fmt: skip


def written(number: int, found: Translation, format: str) -> str:
    """A translation as lines of output, each with a newline. number: of the input line, from 1. format: of FORMATS.

    text: the best hypothesis. tsv: a row per hypothesis: line number, rank from 1, score, text. jsonl: an object per
    line of input: "line", "source", "parts", "hypotheses" [{"text", "score"}].
    Line breaks and tabs that a hypothesis may hold become spaces in text and tsv.
    """
    if format == "jsonl":
        hypotheses = [{"text": text, "score": score} for text, score in found.hypotheses]
        row = {"line": number, "source": found.source, "parts": found.parts, "hypotheses": hypotheses}
        return json.dumps(row, ensure_ascii=False) + "\n"
    texts = [BREAKS.sub(" ", text) for text, _ in found.hypotheses]
    if format == "text":
        return texts[0] + "\n"
    scores = ["" if score is None else f"{score:.6f}" for _, score in found.hypotheses]
    rows = enumerate(zip(scores, texts, strict=True), 1)
    return "".join(f"{number}\t{rank}\t{score}\t{text}\n" for rank, (score, text) in rows)


def check_output(format: str, nbest: int, beam: int) -> None:
    """Raises KDError when a format has no room for the hypotheses, and for numbers out of range."""
    check_nbest(nbest, beam)
    if nbest > 1 and format == "text":
        raise KDError(f"--nbest {nbest}: --format text has one line per line of input; give --format tsv or jsonl")


class Notices:
    """Tells about lines that were split, or whose translation may lack its end, for each buffer of lines.

    say: called with the text of a notice.
    """

    def __init__(self, say: Callable[[str], None], options: TranslateOptions):
        self.say, self.options = say, options

    def about(self, found: list[tuple[int, Translation]]) -> None:
        """Tell about the translations of one buffer. found: (line number, translation)."""
        if split := [number for number, one in found if one.parts > 1]:
            self.say(f"note: {_lines(split)} too long for the model: translated in parts, which were joined")
        if ended := [number for number, one in found if one.at_limit]:
            self.say(
                f"note: a translation of {_lines(ended)} has the greatest length that --max-len-a "
                f"{self.options.max_len_a:g} and --max-len-b {self.options.max_len_b} allow, so its end may be missing"
            )


def _lines(numbers: list[int]) -> str:
    listed = ", ".join(map(str, numbers[:EXAMPLES_KEPT])) + (", ..." if len(numbers) > EXAMPLES_KEPT else "")
    return f"line {listed}" if len(numbers) == 1 else f"{len(numbers):,} lines ({listed})"


def translate_stream(
    translator: Translator,
    lines: Iterable[bytes],
    write: Callable[[str], object],
    ended: Callable[[], bool] = lambda: False,
    *,
    name: str,
    format: str,
    notices: Notices,
    progress: Progress | None = None,
    **how,
) -> None:
    """Translate buffer by buffer, and write each buffer as soon as it is translated.

    ended: whether nobody reads the output any more, which ends the work. name: of the input, for errors. progress:
    counts lines; None: no progress is shown. how: arguments of `translated_blocks`.
    """
    if progress is not None:
        how["advance"] = progress.advance
    for block in translated_blocks(translator, decoded(lines, name), **how):
        if progress is not None:
            progress.finish()  # clears its line on a terminal, where the output may be written too
        notices.about(block)
        write("".join(written(number, found, format) for number, found in block))
        if ended():
            return
