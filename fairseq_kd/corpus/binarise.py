"""Binarisation by stock fairseq-preprocess, called in this process, and the words that it takes for symbols.

fairseq-preprocess looks each word up in the dictionary. So it turns the words `<s>`, `<pad>`, `</s>` and `<unk>` of the
text into the beginning of a sentence, padding, the end of a sentence and an unknown word, without a message. Subword
models can write them too: SentencePiece leaves a run of characters that it does not know in one piece.
"""

import logging
import re
from pathlib import Path

from fairseq_kd.artifacts.data_bin_check import count_id, read_dictionary
from fairseq_kd.core.errors import KDError

SPECIAL_WORDS = ("<s>", "<pad>", "</s>", "<unk>")
IN_PIECES = re.compile(rf"(?<!\S)<({'|'.join(re.escape(word[1:]) for word in SPECIAL_WORDS)})(?!\S)")
EXAMPLES_KEPT = 5  # line numbers that an error names
ORIGIN = (
    "fairseq-preprocess turns the word {word} of the text into this symbol: write the word in another way and "
    "binarise again, or use `fairseq-kd prepare` with subwords, which cuts the word in two"
)


def binarise(
    prefixes: dict, source_lang, target_lang, folder, *, joint: bool, dictionaries=None, workers: int = 1
) -> None:
    """Write data-bin files of segmented text into `folder`.

    prefixes: fairseq's name of a subset ("train", "valid", "test", "test1", ...) -> prefix of its segmented text; the
    files prefix.source_lang and prefix.target_lang exist. joint: whether both languages share one dictionary.
    dictionaries: language -> path of the dictionary; None: they are built from the training text.
    """
    from fairseq import options
    from fairseq_cli import preprocess

    arguments = ["--source-lang", source_lang, "--target-lang", target_lang, "--destdir", str(folder)]
    arguments += ["--workers", str(workers)]
    if "train" in prefixes:
        arguments += ["--trainpref", str(prefixes["train"])]
    for subset in ("valid", "test"):
        # fairseq names the subsets by their positions in the list: test, test1, test2, ...
        names = sorted((n for n in prefixes if n.rstrip("0123456789") == subset), key=lambda n: (len(n), n))
        listed = [str(prefixes[name]) for name in names]
        if listed:
            arguments += [f"--{subset}pref", ",".join(listed)]
    if dictionaries is not None:
        arguments += ["--srcdict", str(dictionaries[source_lang])]
        arguments += [] if joint else ["--tgtdict", str(dictionaries[target_lang])]
    if joint:
        arguments.append("--joined-dictionary")
    logger = logging.getLogger("fairseq_cli.preprocess")
    handlers, propagate = list(logger.handlers), logger.propagate
    logger.propagate = False  # fairseq reports to preprocess.log, this package in the manifest
    try:
        preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    finally:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = propagate
    (Path(folder) / "preprocess.log").unlink(missing_ok=True)


def count_unknown(folder, subset: str, source_lang: str, target_lang: str) -> dict[str, int]:
    """Language -> number of tokens of a binarised subset that were not in the dictionary."""
    counts = {}
    for lang in (source_lang, target_lang):
        unknown = read_dictionary(Path(folder) / f"dict.{lang}.txt").unk()
        counts[lang] = count_id(Path(folder) / f"{subset}.{source_lang}-{target_lang}.{lang}", unknown)
    return counts


def cut_special(pieces: str, joint: str = "") -> str:
    """Space-separated subwords without symbols of fairseq: `</s>` is cut into `<` + `joint` and `/s>`.

    joint: the mark of a subword after which the word continues. The subwords still spell the same text.
    """
    return IN_PIECES.sub(rf"<{joint} \1", pieces) if "<" in pieces else pieces


class WholeWords:
    """Refuses special words in text without subwords, where nothing can cut them in two."""

    def __init__(self):
        self._lines, self._count, self._words = [], 0, set()

    def note(self, line_number: int, *sides: str) -> None:
        """Record the special words of a pair."""
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
            "unknown word would count as a right translation. Write them in another way, or give --subword subword-nmt "
            "or sentencepiece"
        )
