"""Source text -> the tokens of a converted teacher, once for all blocks and all processes.

The folder OUT/parts/.teacher holds

    sources.bin, .idx   the token ids of each sentence in the teacher's vocabulary, without prefix and suffix, and a 0
                        at the end, in fairseq's mmap format
    manifest.json       request, and the count of pieces and of unknown pieces

Of the whole text, only the lengths of the sentences are in memory.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from fairseq_kd.artifacts.derived import SideWriter
from fairseq_kd.artifacts.folders import finished, folder_in_progress
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, hash_files, read_manifest
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.clean import in_blocks
from fairseq_kd.corpus.subword import subword_decoder
from fairseq_kd.sequence.converted_options import ConvertedOptions, control_tokens, not_fitting
from fairseq_kd.sequence.converted_tokeniser import UNKNOWN

KIND = "fairseq_kd teacher sources"
NAME = "sources"
END = 0  # behind each sentence, so that every sentence has a token
SAMPLE = 1000  # sentences after which the share of unknown pieces is checked for the first time
EXAMPLES_KEPT = 10


def texts_of(data_bin, task, subset: str) -> Iterator[str]:
    """The sources of a subset as text, by the data-bin's own subword model.

    Reserved tokens are left out. An unknown token is UNKNOWN, which the teacher does not know either, so it is counted.
    """
    lang, dictionary = task.cfg.source_lang, task.source_dictionary
    _, decode = subword_decoder(data_bin, lang, None)
    reserved = set((read_manifest(data_bin) or {}).get("reserved", ()))
    sources, symbols = task.dataset(subset).src, dictionary.symbols
    for number in range(len(sources)):
        pieces = [UNKNOWN if token == dictionary.unk() else symbols[token] for token in sources[number][:-1].tolist()]
        yield decode(" ".join(piece for piece in pieces if piece not in reserved))


def make_sources(texts: Iterable[str], count: int, teacher, options: ConvertedOptions, out: Path, request: dict,
                 inputs: Inputs) -> dict:  # fmt: skip
    """Make the folder `out` (see the module) and return its manifest; a finished `out` is checked and kept.

    texts: `count` of them, read only if `out` is not finished. teacher: has `tokeniser` and `folder`. Several
    processes may call it at once: one makes it, the others wait.
    Raises KDError when the share of unknown pieces is above `options.max_unknown_share`.
    """
    request = {"kind": KIND} | request
    ensure_writable_folder(out.parent)
    with exclusive(out, wait=True):
        if (manifest := finished(out, request, lock=False)) is not None:
            return manifest
        with folder_in_progress(out, inputs, lock=False) as folder:
            manifest = request | {"found": _write(texts, count, teacher, options, folder)}
            manifest |= {"files": hash_files(folder)}
            write_record(folder / MANIFEST_NAME, manifest)
    return manifest


def open_sources(out: Path) -> SimpleNamespace:
    """src: the tokens by sentence, with END. src_sizes: their numbers. As the `dataset` of a `Backend`."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    found = MMapIndexedDataset(str(out / NAME))
    return SimpleNamespace(src=found, src_sizes=np.asarray(found.sizes))


def _write(texts: Iterable[str], count: int, teacher, options: ConvertedOptions, folder: Path) -> dict:
    vocabulary = teacher.folder.source
    index = {token: number for number, token in reversed(list(enumerate(vocabulary)))}
    unknown_id = index.get(teacher.folder.unknown, 0)
    for token in control_tokens(options, teacher.folder, vocabulary):  # text that spells one is no control token
        index.pop(token, None)
    pieces, sentences, unknown, examples = 0, 0, 0, {}
    progress = Progress("tokenising for the teacher", count, "sentences")
    with SideWriter(folder, NAME, vocabulary) as writer:
        for block in _blocks(texts):
            for found in teacher.tokeniser.encode(block):
                missing = [piece for piece in found if piece not in index]
                pieces, unknown = pieces + len(found), unknown + len(missing)
                examples |= dict.fromkeys(missing[: EXAMPLES_KEPT - len(examples)])
                writer.add(np.array([*(index.get(piece, unknown_id) for piece in found), END], dtype=np.int64))
            sentences += len(block)
            if unknown > options.max_unknown_share * pieces:
                of = f"{pieces:,} pieces of {sentences:,} sentences"
                raise not_fitting(teacher.tokeniser, teacher.folder, options, list(examples), of, unknown)
            progress.advance(len(block))
        writer.close()
    progress.finish()
    assert sentences == count, f"{sentences} texts for {count} sentences"
    return {"pieces": pieces, "unknown_pieces": unknown, "unknown_examples": sorted(examples)}


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """A short block, so that a tokeniser that does not fit is noticed soon, then long ones."""
    texts = iter(texts)
    if first := list(islice(texts, SAMPLE)):
        yield first
        yield from in_blocks(texts)
