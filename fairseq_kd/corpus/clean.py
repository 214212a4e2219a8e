"""From the raw files of one subset to the text that is segmented: its form, and the cleaning of a training set.

sacremoses tokenises the text. It is the Python port of the Moses tokeniser with which the usual IWSLT14 data are made.
"""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.process import map_lines
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.binarise import WholeWords
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.scripts import HEAD_PAIRS, fit_lengths
from fairseq_kd.corpus.text import CleaningReport, read_pairs

MOSES = "tokenised text needs sacremoses (pip install 'fairseq_kd[moses]'); `--form cased` does without"


class Tokenise:
    """A function from a line to its tokens between spaces, with Moses' escapes (&apos; and so on)."""

    def __init__(self, lang: str, lower: bool):
        """lang: two-letter code. Moses tokenises a language without rules of its own like English.

        Raises KDError when sacremoses is not installed.
        """
        try:
            from sacremoses import MosesTokenizer
        except ImportError as error:
            raise KDError(MOSES) from error
        self._tokenizer, self._lower = MosesTokenizer(lang), lower

    def __call__(self, line: str) -> str:
        """The tokens of one line."""
        tokens = self._tokenizer.tokenize(line, return_str=True)
        return tokens.lower() if self._lower else tokens


class Detokenise:
    """A function from Moses tokens between spaces to text. The case stays: lower-case text stays lower-case."""

    def __init__(self, lang: str):
        """lang: two-letter code. Raises KDError when sacremoses is not installed."""
        try:
            from sacremoses import MosesDetokenizer
        except ImportError as error:
            raise KDError(MOSES) from error
        self._detokenizer = MosesDetokenizer(lang)

    def __call__(self, line: str) -> str:
        """The text of one line, without Moses' escapes."""
        return self._detokenizer.detokenize(line.split())


PAIRS_AT_ONCE = 20_000


def write_clean_text(
    paths,
    languages: tuple[str, str],
    options: PrepareOptions,
    prefixes: dict[str, Path],
    label: str,
    *,
    training: bool,
    whole_words: bool = False,
) -> tuple[CleaningReport, dict[str, int]]:
    """Write the pairs of `paths` (a SubsetFiles) as text, PREFIX.LANG; return the report and prefix -> pairs.

    prefixes: where the kept pairs are written: {"train": prefix}, and also {"valid": prefix} when every
    `options.valid_every`-th kept pair becomes a validation pair.
    A training set drops and counts pairs that have an empty side, are not UTF-8, too long or too uneven in length. An
    evaluation set must stay whole: it counts and keeps such pairs, and bad UTF-8 is an error.
    whole_words: words are not segmented, so no word may be a symbol of fairseq.
    The memory needed does not depend on the length of the files.
    Raises KDError for bad files, for special words (see `WholeWords`) and for a training set without pairs.
    """
    special = WholeWords()
    report, written = CleaningReport(options.rules), dict.fromkeys(prefixes, 0)
    main, *rest = prefixes
    pairs = read_pairs(paths.source, paths.target, report, training=training)
    progress = Progress(label, None, "pairs")
    with ExitStack() as stack:
        files = {
            name: [stack.enter_context(open(f"{prefix}.{lang}", "wb")) for lang in languages]
            for name, prefix in prefixes.items()
        }
        for number, source, target, damage in progress.over(_with_damage(pairs, languages, options, report)):
            if damage is not None:
                report.note(damage, number)
                if training:
                    continue
            if whole_words:
                special.note(number, source, target)
            report.kept += 1
            name = rest[0] if rest and report.kept % options.valid_every == 0 else main
            written[name] += 1
            for file, line in zip(files[name], (source, target), strict=True):
                file.write(line.encode("utf-8") + b"\n")
    progress.finish()
    special.check(paths)
    if training and not written[main]:
        raise KDError(f"{paths.source} and {paths.target} leave no usable pair: {report.describe()}")
    return report, written


def _with_damage(pairs: Iterable, languages, options: PrepareOptions, report: CleaningReport) -> Iterator[tuple]:
    """(number, source as written, target as written, kind of damage or None) of each pair; sets `report.measured`."""
    written = in_form(pairs, languages, options)
    head = list(itertools.islice(written, HEAD_PAIRS))
    lengths = fit_lengths([counted for *_, counted in head])
    report.measured = dict(zip(languages, lengths.describe(), strict=True))
    for number, (source, target), counted in itertools.chain(head, written):
        yield number, source, target, options.rules.damage(*lengths.of(*counted))


def in_form(items: Iterable, languages, options: PrepareOptions) -> Iterator[tuple[object, tuple, tuple]]:
    """(number, line of each language) -> (number, the lines as they are written, the lines as cleaning counts them)."""
    if options.form == "cased" and not options.count_tokens:
        for number, *sides in items:
            yield number, tuple(sides), tuple(sides)
        return
    with ExitStack() as stack:
        tokenisers = [
            stack.enter_context(map_lines(Tokenise(lang, options.form == "lower-cased"), options.workers))
            for lang in languages
        ]
        for block in in_blocks(items):
            numbers, *sides = zip(*block, strict=True)
            tokenised = [tokenise(list(side)) for tokenise, side in zip(tokenisers, sides, strict=True)]
            written = sides if options.form == "cased" else tokenised
            yield from zip(numbers, zip(*written, strict=True), zip(*tokenised, strict=True), strict=True)


def in_blocks(items: Iterable) -> Iterator[list]:
    """Lists of PAIRS_AT_ONCE neighbouring items; the last list is shorter."""
    items = iter(items)
    while block := list(itertools.islice(items, PAIRS_AT_ONCE)):
        yield block
