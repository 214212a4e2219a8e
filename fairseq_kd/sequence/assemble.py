"""Finished blocks -> a data-bin: targets, sources and hypotheses as text; other files are links to the original."""

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.derived import SideWriter, can_be_linked, hashes, inherited, link, link_the_rest
from fairseq_kd.artifacts.hashes import data_files, files_of_side
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import file_in_progress
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence.answers import AT_LIMIT, Answer, read_answers
from fairseq_kd.sequence.back import Back
from fairseq_kd.sequence.decode_options import DecodeOptions
from fairseq_kd.sequence.filters.length_model import LengthModel, fit_lengths
from fairseq_kd.sequence.filters.rules import rules_of
from fairseq_kd.sequence.filters.verdicts import Verdicts, judge
from fairseq_kd.sequence.texts import Texts
from fairseq_kd.teacher.ensemble import Teachers


@dataclass(frozen=True)
class Given:
    """Where the sentences come from.

    data_bin: has the sentences. like: the data-bin whose dictionaries, other subsets, raw text and subword model the
    new one takes over; None: `data_bin`. files: other files of `data_bin` that are taken over. described: entries of
    the manifest that are not part of the request. back: the answers become the source side.
    """

    data_bin: Path
    like: Path | None = None
    files: tuple[str, ...] = ()
    described: dict = field(default_factory=dict)
    back: Back | None = None

    @property
    def the_rest(self) -> Path:
        """The data-bin of everything else."""
        return self.like or self.data_bin


def assemble(
    folder: Path,
    request: dict,
    teachers: Teachers,
    options: DecodeOptions,
    given: Given,
    blocks: list,
    texts: Texts | None = None,
) -> dict:
    """Write the data-bin from the parts of all blocks, in order, then its manifest; return the manifest.

    texts: for filters that read text. The parts are streamed: of the whole corpus, only the sentence lengths and the
    verdicts of filters are in memory.
    Raises KDError when a part has been damaged, and when the data-bin was changed since it was read.
    """
    pair = (teachers.task.cfg.source_lang, teachers.task.cfg.target_lang)
    source_lang, target_lang = pair = pair[::-1] if given.back else pair
    subset = options.subset
    prefix = f"{subset}.{source_lang}-{target_lang}"
    names = _take_over(folder, given, subset, pair)
    verdicts, filtering = None, {}
    if options.filters:
        lengths = _length_model(teachers, given) if options.max_length_deviation else None
        verdicts = _judge(folder, teachers, options, blocks, texts, lengths)
        filtering = {"filtering": verdicts.table() | ({"length_model": lengths.as_dict()} if lengths else {})}
    kept, found, written = _write_targets(folder, prefix, teachers, options, blocks, verdicts, given.back)
    names += [*written, *_sources(folder, prefix, teachers, given.data_bin, kept)]
    names += [_write_kept(folder, subset, kept)] if options.filters or options.fallback == "drop" else []
    manifest = request | {
        "pairs": len(kept),
        **found,
        **filtering,
        **inherited(given.the_rest, subset),
        **given.described,
        "source_lang": source_lang,
        "target_lang": target_lang,
        "files": hashes(folder, names),
    }
    teachers.inputs.check()  # sources and other subsets were taken from the data-bin just now
    write_record(folder / "manifest.json", manifest)
    return manifest


def _judge(folder: Path, teachers: Teachers, options: DecodeOptions, blocks: list, texts, lengths) -> Verdicts:
    """The verdicts of the filters on all pairs."""
    filters, lenpen = options.filters, options.settings().get("lenpen", 1.0)
    rules = rules_of(filters, _same_symbols(teachers.task), texts, lengths)
    return judge(read_answers(folder, blocks), teachers.dataset, rules, filters, lenpen)


def _length_model(teachers: Teachers, given: Given) -> LengthModel:
    """Fitted to the gold pairs, those of `given.like` if the sentences have none."""
    dataset, cfg = teachers.dataset, teachers.task.cfg
    if dataset.tgt is None:
        dataset = open_data(given.the_rest, (cfg.source_lang, cfg.target_lang), "train").dataset("train")
    return fit_lengths(np.asarray(dataset.src_sizes) - 1, np.asarray(dataset.tgt_sizes) - 1)


def _write_targets(
    folder: Path,
    prefix: str,
    teachers: Teachers,
    options: DecodeOptions,
    blocks: list,
    verdicts: Verdicts | None,
    back: Back | None,
) -> tuple:
    """Write targets and hypotheses; return (numbers of the sentences kept, counts for the manifest, names of files)."""
    dictionary, lang = teachers.task.target_dictionary, teachers.task.cfg.target_lang
    tag = [dictionary.index(back.tag)] if back and back.tag else []
    kept, dropped, fallbacks, tokens, unknown, at_limit = [], Counter(), Counter(), 0, 0, 0
    hypotheses_name, examples = f"{options.subset}.hypotheses.{lang}.tsv", _Examples(teachers, verdicts)
    progress = Progress("assembling", len(teachers.dataset), "sentences")
    with (
        SideWriter(folder, f"{prefix}.{lang}", dictionary) as target,
        _text_file(folder / hypotheses_name) as text,
    ):
        for answer in read_answers(folder, blocks):
            _write_hypotheses(text, answer, dictionary.symbols)
            fallbacks.update([answer.fallback] if answer.fallback and answer.hypotheses else [])
            reason = (verdicts and verdicts.rule(answer.number)) if answer.hypotheses else answer.fallback
            if reason is None:
                target.add(np.array([*tag, *answer.best.tokens, dictionary.eos()], dtype=np.int64))
                tokens += len(answer.best.tokens)
                unknown += int(np.count_nonzero(answer.best.tokens == dictionary.unk()))
                at_limit += AT_LIMIT in answer.measured
                kept.append(answer.number)
            else:
                dropped[reason] += 1
                examples.add(reason, answer)
            progress.advance(1)
        progress.finish()
        if not kept:
            listed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(dropped.items()))
            raise KDError(
                f"filters or missing answers drop every sentence ({listed}): loosen them, or check the teacher"
            )
        names = [*target.close(), hypotheses_name, *examples.write(folder, f"{options.subset}.dropped.tsv")]
    counts = {"target_tokens": tokens, "unknown_target_tokens": unknown, "targets_at_limit": at_limit}
    counts |= {"fallbacks": dict(sorted(fallbacks.items()))}
    return kept, counts | {"dropped": dict(sorted(dropped.items()))}, names


class _Examples:
    """The first pairs that each rule drops, as text: rule, sentence, source tokens, target tokens."""

    def __init__(self, teachers: Teachers, verdicts: Verdicts | None):
        self.teachers, self.verdicts = teachers, verdicts
        self.wanted = verdicts.examples() if verdicts else set()
        self.lines: dict[str, list[str]] = {}

    def add(self, rule: str, answer: Answer) -> None:
        """Note the pair if it is an example."""
        if answer.number not in self.wanted:
            return
        task = self.teachers.task
        source = self.teachers.dataset.src[answer.number].numpy()[:-1]
        sides = ((task.source_dictionary, source), (task.target_dictionary, answer.best.tokens))
        texts = [" ".join(dictionary.symbols[token] for token in tokens) for dictionary, tokens in sides]
        self.lines.setdefault(rule, []).append("\t".join([rule, str(answer.number), *texts]) + "\n")

    def write(self, folder: Path, name: str) -> list[str]:
        """Write the file, rule by rule in their order, if there are filters; return its name."""
        if self.verdicts is None:
            return []
        with _text_file(folder / name) as file:
            for rule in self.verdicts.names:
                file.writelines(self.lines.get(rule, []))
        return [name]


def _take_over(folder: Path, given: Given, subset: str, pair: tuple[str, str]) -> list[str]:
    """Link what is not made anew; return the names."""
    for name in given.files:
        link(given.data_bin / name, folder / name)
    return [*link_the_rest(given.the_rest, folder, subset, pair), *given.files]


@contextlib.contextmanager
def _text_file(path: Path):
    """A text file that has a temporary name until the block ends without an error."""
    with file_in_progress(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


def _write_hypotheses(file, answer: Answer, symbols: list[str]) -> None:
    """One line per hypothesis: sentence, rank, "*" for the chosen one, score, value of the selection, tokens."""
    for rank, (hypothesis, value) in enumerate(zip(answer.hypotheses, answer.values, strict=True)):
        tokens = " ".join(symbols[token] for token in hypothesis.tokens)
        mark = "*" if rank == answer.chosen else ""
        score = "" if np.isnan(hypothesis.score) else f"{hypothesis.score:.6g}"
        shown = "" if value is None else f"{value:.4g}"
        file.write(f"{answer.number}\t{rank}\t{mark}\t{score}\t{shown}\t{tokens}\n")


def _sources(folder: Path, prefix: str, teachers: Teachers, data_bin: Path, kept: list[int]) -> list[str]:
    """Link the source side if it is one file and every pair is kept, else write it."""
    source_lang, target_lang = teachers.task.cfg.source_lang, teachers.task.cfg.target_lang
    found = data_files(data_bin, teachers.subset, source_lang, target_lang)
    sides = sorted(files_of_side(found, source_lang))
    linked = len(sides) == 2 and can_be_linked(data_bin, sides[0].removesuffix(".bin"))
    if linked and len(kept) == len(teachers.dataset):
        for name in sides:
            link(data_bin / name, folder / f"{prefix}.{source_lang}{Path(name).suffix}")
        return [f"{prefix}.{source_lang}{Path(name).suffix}" for name in sides]
    with SideWriter(folder, f"{prefix}.{source_lang}", teachers.task.source_dictionary) as writer:
        for number in kept:
            writer.add(teachers.dataset.src[number])
        return writer.close()


def _write_kept(folder: Path, subset: str, kept: list[int]) -> str:
    name = f"{subset}.kept.txt"
    with _text_file(folder / name) as file:
        file.writelines(f"{number}\n" for number in kept)
    return name


def _same_symbols(task):
    """A function that compares token ids of the two sides by their text, which both sides can cut in their own way."""
    source, target = task.source_dictionary.symbols, task.target_dictionary.symbols

    def same(ids, other) -> bool:
        return _joined([source[i] for i in ids]) == _joined([target[j] for j in other])

    return same


def _joined(symbols: list[str]) -> str:
    """The words of subwords of SentencePiece or subword-nmt, and of plain words."""
    text = " ".join(symbols).replace("@@ ", "")
    return " ".join(text.replace(" ", "").split("\u2581")).strip() if "\u2581" in text else text
