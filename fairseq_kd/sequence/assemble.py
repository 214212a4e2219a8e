"""Finished blocks -> a data-bin: targets, sources and hypotheses as text; other files are links to the original."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.derived import SideWriter, can_be_linked, hashes, inherited, link, link_the_rest
from fairseq_kd.artifacts.hashes import data_files, files_of_side
from fairseq_kd.artifacts.records import read_part, write_record
from fairseq_kd.artifacts.writing import file_in_progress
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.sequence.back import Back
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
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
    folder: Path, request: dict, teachers: Teachers, options: DecodeOptions, given: Given, blocks: list
) -> dict:
    """Write the data-bin from the parts of all blocks, in order, then its manifest; return the manifest.

    The parts are streamed: of the whole corpus, only the sentence lengths are in memory.
    Raises KDError when a part has been damaged, and when the data-bin was changed since it was read.
    """
    pair = (teachers.task.cfg.source_lang, teachers.task.cfg.target_lang)
    source_lang, target_lang = pair = pair[::-1] if given.back else pair
    subset = options.subset
    prefix = f"{subset}.{source_lang}-{target_lang}"
    names = _take_over(folder, given, subset, pair)
    kept, found, written = _write_targets(folder, prefix, teachers, options, blocks, given.back)
    names += [*written, *_sources(folder, prefix, teachers, given.data_bin, kept)]
    names += [_write_kept(folder, subset, kept)] if options.filters or options.fallback == "drop" else []
    manifest = request | {
        "pairs": len(kept),
        **found,
        **inherited(given.the_rest, subset),
        **given.described,
        "source_lang": source_lang,
        "target_lang": target_lang,
        "files": hashes(folder, names),
    }
    teachers.inputs.check()  # sources and other subsets were taken from the data-bin just now
    write_record(folder / "manifest.json", manifest)
    return manifest


def _write_targets(
    folder: Path, prefix: str, teachers: Teachers, options: DecodeOptions, blocks: list, back: Back | None = None
) -> tuple:
    """Write targets and hypotheses; return (numbers of the sentences kept, counts for the manifest, names of files)."""
    dictionary, lang = teachers.task.target_dictionary, teachers.task.cfg.target_lang
    tag = [dictionary.index(back.tag)] if back and back.tag else []
    kept, dropped, fallbacks, tokens = [], Counter(), Counter(), 0
    same_symbols, hypotheses_name = _same_symbols(teachers.task), f"{options.subset}.hypotheses.{lang}.tsv"
    progress = Progress("assembling", len(teachers.dataset), "sentences")
    with (
        SideWriter(folder, f"{prefix}.{lang}", dictionary) as target,
        _text_file(folder / hypotheses_name) as text,
    ):
        for number, (hypotheses, closeness, chosen, fallback) in enumerate(_sentences(folder, blocks)):
            _write_hypotheses(text, number, hypotheses, closeness, chosen, dictionary.symbols)
            fallbacks.update([fallback] if fallback and hypotheses else [])
            source = teachers.dataset.src[number].numpy()[:-1] if options.filters else ()
            best = hypotheses[chosen] if hypotheses else None
            reason = reason_to_drop(source, best, options.filters, same_symbols) if best else fallback
            if reason is None:
                target.add(np.array([*tag, *best.tokens, dictionary.eos()], dtype=np.int64))
                tokens += len(best.tokens)
                kept.append(number)
            else:
                dropped[reason] += 1
            progress.advance(1)
        progress.finish()
        if not kept:
            listed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(dropped.items()))
            raise KDError(
                f"filters or missing answers drop every sentence ({listed}): loosen them, or check the teacher"
            )
        names = [*target.close(), hypotheses_name]
    counts = {"target_tokens": tokens, "fallbacks": dict(sorted(fallbacks.items()))}
    return kept, counts | {"dropped": dict(sorted(dropped.items()))}, names


def _take_over(folder: Path, given: Given, subset: str, pair: tuple[str, str]) -> list[str]:
    """Link what is not made anew; return the names."""
    for name in given.files:
        link(given.data_bin / name, folder / name)
    return [*link_the_rest(given.the_rest, folder, subset, pair), *given.files]


def reason_to_drop(source: list[int], chosen: Hypothesis, filters: dict, same_symbols: Callable) -> str | None:
    """The name of the first filter that drops a pair, or None.

    source: token ids without EOS. filters: max_length_ratio (longer side / shorter side, in tokens), drop_empty,
    drop_copies. same_symbols(source ids, target ids): whether both are the same text.
    """
    lengths = sorted((len(source), len(chosen.tokens)))
    if filters.get("drop_empty") and lengths[0] == 0:
        return "empty"
    ratio = filters.get("max_length_ratio")
    if ratio and lengths[1] > ratio * max(lengths[0], 1):
        return "length_ratio"
    if filters.get("drop_copies") and same_symbols(source, chosen.tokens):
        return "copy"
    return None


def _sentences(folder: Path, blocks: list) -> Iterator[tuple]:
    """(hypotheses, closeness of each or None, number of the chosen one, reason for a fallback or None), in order."""
    for block in blocks:
        path = block.path(folder)
        count = 0
        try:
            for line in read_part(path).splitlines():
                listed, chosen, fallback = json.loads(line)
                hypotheses = [
                    Hypothesis(np.array(ids, dtype=np.int64), float("nan") if score is None else score)
                    for score, _, ids in listed
                ]
                count += 1
                yield hypotheses, [near for _, near, _ in listed], chosen, fallback
        except (ValueError, TypeError) as error:
            raise KDError(f"{path} was damaged ({error}): remove it, and run the same command again") from error
        if count != block.end - block.start:
            raise KDError(
                f"{path} has {count} of {block.end - block.start} sentences, so it was damaged: remove it, and run "
                "the same command again"
            )


@contextlib.contextmanager
def _text_file(path: Path):
    """A text file that has a temporary name until the block ends without an error."""
    with file_in_progress(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        yield file


def _write_hypotheses(file, number: int, hypotheses, closeness, chosen: int, symbols: list[str]) -> None:
    """One line per hypothesis: sentence, rank, "*" for the chosen one, score, closeness, tokens."""
    for rank, (hypothesis, near) in enumerate(zip(hypotheses, closeness, strict=True)):
        tokens = " ".join(symbols[token] for token in hypothesis.tokens)
        mark = "*" if rank == chosen else ""
        score = "" if np.isnan(hypothesis.score) else f"{hypothesis.score:.6g}"
        file.write(f"{number}\t{rank}\t{mark}\t{score}\t{'' if near is None else f'{near:.4g}'}\t{tokens}\n")


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
    """A function that compares token ids of the two sides by their symbols."""
    source, target = task.source_dictionary.symbols, task.target_dictionary.symbols

    def same(ids, other) -> bool:
        return [source[i] for i in ids] == [target[j] for j in other]

    return same
