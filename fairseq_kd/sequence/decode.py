"""A subset in, training data out: in blocks, resumable, every sentence in its place.

A part file holds one JSON line a sentence: [[score, closeness or null, token ids], ...], best first, the number of the
chosen one, and null or the reason why the gold target stands in.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq_kd.corpus.fingerprint import data_files, data_hashes, dictionary_hash
from fairseq_kd.corpus.manifest import check_files, library_versions, read_manifest
from fairseq_kd.device import choose_device
from fairseq_kd.errors import KDError
from fairseq_kd.evaluation.evaluate import load_decoder
from fairseq_kd.resumable.blocks import Block, cut_blocks, work_through
from fairseq_kd.sequence.assemble import assemble
from fairseq_kd.sequence.backend import MAX_TOKENS, FairseqBackend, search_arguments
from fairseq_kd.sequence.ctranslate2_backend import CTranslate2Backend, convert, reason_against
from fairseq_kd.sequence.forcing import TeacherForcing
from fairseq_kd.sequence.hypothesis import Hypothesis
from fairseq_kd.sequence.options import DecodeOptions
from fairseq_kd.sequence.select import closest, sentence_metric
from fairseq_kd.sequence.teachers import Teachers, open_teachers

KIND = "fairseq_kd decoded data-bin"
FORMAT = 1
BLOCK_SENTENCES = 4096  # what a kill can cost, and what is sorted by length together
VERSIONS = ("fairseq_kd", "fairseq", "ve-fairseq", "torch", "numpy", "ctranslate2", "sacrebleu")


def decode(
    data_bin,
    teacher: str,
    out,
    options: DecodeOptions,
    *,
    shard=(0, 1),
    teacher_data=None,
    trust=None,
    post_process=None,
    workers=None,
    say=print,
    block_sentences=BLOCK_SENTENCES,
) -> dict | None:
    """Make, or continue, the data-bin `out`; return its manifest, or None when other shards have work left.

    teacher: a checkpoint, or an ensemble joined by ":". teacher_data: folder with the teacher's dictionaries; None:
    where the checkpoint says. trust: a checkpoint that may hold code. post_process: how subwords are joined for
    --select closest; None: as the data-bin's manifest says, or not at all. workers: see `CTranslate2Backend`.
    Raises KDError for whatever does not fit together.
    """
    dtype = "float32" if options.dtype == "int8" else options.dtype
    teachers = open_teachers(data_bin, teacher, options.subset, data=teacher_data, dtype=dtype, trust=trust)
    if len(teachers.dataset) == 0:
        raise KDError(f"subset {options.subset!r} of {data_bin} has no sentences: there is nothing to decode")
    backend = choose_backend(teachers, options, workers, say)
    kind = _post_process(data_bin, options, post_process)
    work = DecodeWork(teachers, options, backend, kind, Path(data_bin), block_sentences)
    request = {
        **describe(data_bin, teachers, options, backend, kind),
        "block_sentences": block_sentences,
    }
    return work_through(out, request, work, shard)


def choose_backend(teachers: Teachers, options: DecodeOptions, workers=None, say=print):
    """The backend that is asked for; for "auto" CTranslate2 where it can do this, else fairseq.

    Raises KDError when the one that is asked for cannot do this.
    """
    device = choose_device(options.cpu)
    why_not = reason_against(teachers, options)
    if options.backend == "ctranslate2" and why_not:
        raise KDError(f"--backend ctranslate2 cannot do this: {why_not}; use --backend fairseq")
    if options.backend == "auto" and not why_not:
        try:
            convert(teachers)
        except KDError as error:
            why_not = str(error)
    if options.backend != "fairseq" and not why_not:
        return CTranslate2Backend(teachers, options, device, workers)
    if options.dtype == "int8":
        raise KDError(f"--dtype int8 needs CTranslate2, which cannot do this: {why_not}")
    if workers is not None:
        raise KDError("--workers is for --backend ctranslate2; share the work of fairseq by --shard I/N")
    if options.strategy == "teacher-forcing":
        return TeacherForcing(teachers, options, device)
    if options.backend == "auto":
        say(f"decoding with fairseq: {why_not}")
    max_tokens = options.max_tokens or MAX_TOKENS
    models, search = teachers.models(device), search_arguments(options)
    return FairseqBackend(models, teachers.task, teachers.dataset, search, max_tokens, device)


def _post_process(data_bin, options: DecodeOptions, post_process: str | None) -> str | None:
    if options.select != "closest":
        if post_process is not None:
            raise KDError(f"--post-process {post_process} has no effect without --select closest")
        return None
    recorded = (read_manifest(data_bin) or {}).get("subword", {}).get("kind")
    if post_process is not None and recorded not in (None, post_process):
        raise KDError(f"--post-process {post_process}: the manifest of {data_bin} says {recorded}")
    return post_process or recorded or "none"


def describe(data_bin, teachers: Teachers, options: DecodeOptions, backend, post_process) -> dict:
    """What the data are made from, for the manifest."""
    cfg, versions = teachers.task.cfg, library_versions()
    pair = (cfg.source_lang, cfg.target_lang)
    return {
        "kind": KIND,
        "format": FORMAT,
        "subset": options.subset,
        "strategy": options.strategy,
        "settings": options.settings(),
        "select": {"by": options.select, "metric": options.metric, "post_process": post_process}
        if options.select == "closest"
        else {"by": options.select},
        "filters": options.filters,
        "fallback": options.fallback,
        "backend": backend.name,
        "dtype": options.dtype,
        "max_tokens": backend.max_tokens,
        "sentences": len(teachers.dataset),
        "teacher": teachers.fingerprint(),
        "dictionaries": {
            "source": dictionary_hash(teachers.task.source_dictionary),
            "target": dictionary_hash(teachers.task.target_dictionary),
        },
        "data_bin": str(Path(data_bin).absolute()),
        "data": data_hashes(data_bin, data_files(data_bin, options.subset, *pair)),
        "device": choose_device(options.cpu).type,
        "versions": {name: versions[name] for name in VERSIONS if name in versions},
    }


@dataclass
class DecodeWork:
    """A `Work`: decodes blocks, and makes a data-bin of them."""

    teachers: Teachers
    options: DecodeOptions
    backend: object
    post_process: str | None
    data_bin: Path
    block_sentences: int
    label: str = "decoding"
    unit: str = "sentences"

    @cached_property
    def blocks(self) -> list[Block]:
        """Runs of neighbouring sentences."""
        return cut_blocks(np.ones(len(self.teachers.dataset), dtype=np.int64), self.block_sentences)

    @cached_property
    def too_long(self) -> np.ndarray:
        """Mask (sentences,): those that the teacher has no positions for. Raises KDError with --fallback error."""
        dataset, (sources, targets) = self.teachers.dataset, self.teachers.max_positions
        found = np.asarray(dataset.src_sizes) > sources
        if self.options.strategy == "teacher-forcing":
            found |= np.asarray(dataset.tgt_sizes) > targets
        if self.options.fallback == "error" and found.any():
            raise KDError(
                f"sentence {np.flatnonzero(found)[0]} is longer than the teacher's positions, {int(found.sum()):,} are "
                "(--fallback reference keeps their gold targets)"
            )
        return found

    def part(self, block: Block, advance):
        """One JSON line a sentence, see the module's text."""
        numbers = np.arange(block.start, block.end)
        left_out = numbers[self.too_long[numbers]]
        advance(len(left_out))
        found = self.backend.translate(numbers[~self.too_long[numbers]], advance)
        for number in numbers.tolist():
            yield self._line(number, found.get(number)).encode()

    def _line(self, number: int, hypotheses: list[Hypothesis] | None) -> str:
        fallback = None
        if hypotheses is None:
            assert self.too_long[number], f"no answer for sentence {number}"
            fallback = "too_long"
        elif not hypotheses or len(hypotheses[0].tokens) == 0:
            fallback = "empty"
        if fallback is not None:
            if self.options.fallback == "error":
                raise KDError(f"the teacher gives nothing for sentence {number} (--fallback reference keeps its gold)")
            hypotheses = [Hypothesis(self.teachers.dataset.tgt[number].numpy()[:-1], float("nan"))]
        chosen, closeness = 0, [None] * len(hypotheses)
        if fallback is None and self.options.select == "closest":
            texts = [self._text(hypothesis.tokens) for hypothesis in hypotheses]
            gold = self._text(self.teachers.dataset.tgt[number].numpy()[:-1])
            chosen, closeness = closest(texts, gold, self._metric)
        listed = [
            [None if np.isnan(h.score) else h.score, near, h.tokens.tolist()]
            for h, near in zip(hypotheses, closeness, strict=True)
        ]
        return json.dumps([listed, chosen, fallback], separators=(",", ":")) + "\n"

    @cached_property
    def _metric(self):
        return sentence_metric(self.options.metric)

    @cached_property
    def _join_subwords(self):
        return load_decoder(self.post_process)

    def _text(self, tokens: np.ndarray) -> str:
        symbols = self.teachers.task.target_dictionary.symbols
        return self._join_subwords(" ".join(symbols[token] for token in tokens))

    def join(self, folder: Path, request: dict) -> dict:
        """See `assemble`."""
        return assemble(folder, request, self.teachers, self.options, self.data_bin, self.blocks)

    def check(self, folder: Path, manifest: dict) -> None:
        """Raises KDError when a file of the finished data-bin is missing or was changed."""
        check_files(folder, manifest["files"])
