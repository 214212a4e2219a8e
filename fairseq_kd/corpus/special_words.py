"""Words of the text that are written like symbols of fairseq's dictionary: `<s>`, `<pad>`, `</s>`, `<unk>`.

fairseq-preprocess looks each word up in the dictionary and so makes these into the beginning of a sentence, padding,
its end and an unknown word, in silence. Subword models can write them too: SentencePiece leaves a run of characters
that it does not know in one piece.
"""

import re

from fairseq_kd.core.errors import KDError

SPECIAL_WORDS = ("<s>", "<pad>", "</s>", "<unk>")
IN_PIECES = re.compile(rf"(?<!\S)<({'|'.join(re.escape(word[1:]) for word in SPECIAL_WORDS)})(?!\S)")
EXAMPLES_KEPT = 5  # line numbers in an error
ORIGIN = (
    "fairseq-preprocess makes this symbol of the word {word} in the text: write the word otherwise in the text and "
    "binarise again, or use `fairseq-kd prepare` with subwords, which cuts the word in two"
)


def cut_special(pieces: str, joint: str = "") -> str:
    """Space-separated subwords without symbols of fairseq: `</s>` is cut into `<` + `joint` and `/s>`.

    joint: what marks a subword that is continued. The subwords are joined to the same text as before.
    """
    return IN_PIECES.sub(rf"<{joint} \1", pieces) if "<" in pieces else pieces


class WholeWords:
    """Refuses special words in text whose words become symbols as they are, which nothing can cut in two."""

    def __init__(self):
        self._lines, self._count, self._words = [], 0, set()

    def note(self, line_number: int, *sides: str) -> None:
        """Look at a pair."""
        found = {word for side in sides if "<" in side for word in side.split(" ") if word in SPECIAL_WORDS}
        if found:
            self._words |= found
            self._count += 1
            if len(self._lines) < EXAMPLES_KEPT:
                self._lines.append(str(line_number))

    def check(self, paths) -> None:
        """Raises KDError if special words were found. paths: the SubsetFiles that they are in."""
        if not self._count:
            return
        more = ", ..." if self._count > len(self._lines) else ""
        raise KDError(
            f"{self._count} pairs of {paths.source} and {paths.target} (lines {', '.join(self._lines)}{more}) hold the "
            f"words {' '.join(sorted(self._words))}. Without subwords these become fairseq's symbols for the beginning "
            "and end of a sentence, padding and an unknown word, so that sentences would end in their middle and an "
            "unknown word would count as a right translation. Write them otherwise in the text, or take --subword "
            "subword-nmt or sentencepiece"
        )
