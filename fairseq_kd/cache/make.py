"""Run a teacher on a subset of a data-bin and write its cache."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.blocks import offsets_of
from fairseq_kd.artifacts.hashes import data_files, dictionary_hash
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.cache.format import CacheFormat, Rows, encoded, sentence_crcs
from fairseq_kd.cache.rounding import exact_teacher, measure_rounding
from fairseq_kd.cache.tail_shapes import fit, sample_sentences
from fairseq_kd.cache.writer import write_cache
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.binarise import ORIGIN
from fairseq_kd.inference.device import choose_device, to_host
from fairseq_kd.inference.frozen import FrozenModel
from fairseq_kd.inference.opening import check_longest, check_positions, collate, length_sorted, load_pair
from fairseq_kd.inference.precision import check_bfloat16
from fairseq_kd.loss.signal import rows_at_a_time

TAIL_SHAPES = 64
VERSIONS = ("fairseq_kd", "fairseq", "ve-fairseq", "torch", "numpy")


@dataclass(frozen=True)
class CachingOptions:
    """The options of a cache: the stored entries, and how they are computed."""

    subset: str = "train"
    top_k: int = 16
    temperatures: tuple[float, ...] = (1.0,)
    store: str = "compact"
    teacher_dtype: str = "float32"
    max_tokens: int = 4000
    cpu: bool = False
    tail_shapes: int | None = None  # None: TAIL_SHAPES, or none if all tokens are stored

    def __post_init__(self):
        if self.max_tokens < 1:
            raise KDError(f"--max-tokens {self.max_tokens}: must be at least 1")

    def device(self) -> torch.device:
        """See `choose_device`."""
        return choose_device(self.cpu)

    def rounds_products(self) -> bool:
        """Whether the teacher multiplies in bfloat16 and keeps its weights in float32: bfloat16 on a CPU."""
        return self.teacher_dtype == "bfloat16" and self.device().type == "cpu"


class TeacherRows:
    """Computes the rows of consecutive sentences, in batches of similar length."""

    def __init__(self, teacher: FrozenModel, task, cache_format: CacheFormat, options: CachingOptions):
        """Raises KDError when a sentence is too long for the teacher or for a batch."""
        self.teacher, self.task, self.format, self.options = teacher, task, cache_format, options
        self.dataset = task.dataset(options.subset)
        self.sizes = np.asarray(self.dataset.tgt_sizes)
        self._longest_side = np.maximum(self.dataset.src_sizes, self.sizes)
        check_positions(self.dataset.src_sizes, self.sizes, teacher.model.max_positions(), "the teacher")
        check_longest(self._longest_side, options.max_tokens)

    def __call__(self, start: int, end: int, advance, shapes: np.ndarray | None) -> tuple[Rows, np.ndarray]:
        """Rows and crcs of the sentences from start to before end; see `writer.Compute`."""
        offsets = offsets_of(self.sizes[start:end])
        arrays = self.format.token_arrays()
        rows = Rows(**{name: np.empty((offsets[-1], columns), dtype) for name, (dtype, columns) in arrays.items()})
        crc = np.empty((end - start, 2), dtype=np.uint32)
        roots = None if shapes is None else self.root_shapes(shapes)
        before = None  # on CUDA a batch is stored while the device computes the next one
        for sentences in self.batches(np.arange(start, end)):
            batch = self._launch(sentences, roots)
            if before is not None:
                advance(self._store(before, start, offsets, rows, crc))
            before = batch
        if before is not None:
            advance(self._store(before, start, offsets, rows, crc))
        return rows, crc

    def fit(self) -> np.ndarray:
        """Tail shapes (temperatures, G, V), log-probabilities, fitted to a sample of the sentences."""
        cache_format = self.format
        shapes = fit(self._sample(), cache_format.k, cache_format.shape_temperatures(), cache_format.tail_shapes)
        return shapes.cpu().numpy()

    def root_shapes(self, shapes: np.ndarray) -> torch.Tensor:
        """Square roots (G, V) of the tail shapes at temperature 1, on the device."""
        at_one = torch.tensor(shapes[self.format.shape_temperatures().index(1.0)])
        return at_one.mul_(0.5).exp_().to(self.options.device())

    def batches(self, sentences: np.ndarray):
        """Batches by falling length. Each side has at most max_tokens tokens, with padding."""
        return length_sorted(sentences, self._longest_side, self.options.max_tokens)

    def collate(self, sentences: np.ndarray):
        """A fairseq batch on the device and the mask (B, T) of its target tokens."""
        sample = collate(self.dataset, sentences, self.options.device())
        return sample, sample["target"].ne(self.task.target_dictionary.pad())

    def _sample(self):
        """The teacher's log-probabilities at temperature 1 for evenly spaced sentences, a few rows (n, V) at a time."""
        chosen = sample_sentences(self.sizes, self.format.types)
        progress = Progress("fitting tail shapes", len(chosen), "sentences")
        for sentences in self.batches(chosen):
            sample, keep = self.collate(sentences)
            signal = self.teacher.signal(sample, keep)
            step = rows_at_a_time(keep.device, signal.vocabulary)
            for first in range(0, len(signal), step):
                lprobs = signal.rows(first, first + step)
                self._check_finite(not lprobs.isnan().any(), sentences)
                yield lprobs
            progress.advance(len(sentences))
        progress.finish()

    def _launch(self, sentences: np.ndarray, root_shapes):
        """Begin to compute one batch. Returns (sentences, a function that waits for the results, see `_store`)."""
        sample, keep = self.collate(sentences)
        signal, parts = self.teacher.signal(sample, keep), []
        step = rows_at_a_time(keep.device, signal.vocabulary)
        for first in range(0, len(signal), step):
            parts.append(encoded(signal.rows(first, first + step), self.format, root_shapes))
        values = [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
        batch = (sample["id"], sample["net_input"]["src_tokens"], sample["target"], keep)
        return sentences, to_host((*batch, *values))

    def _store(self, batch, start: int, offsets, rows: Rows, crc) -> int:
        """Write the rows and crcs of one batch to their places in the block that starts at sentence `start`.

        Returns the number of its tokens.
        """
        sentences, wait = batch
        numbers, source, target, keep, *values = wait()
        self._check_padding(numbers.numpy(), keep)
        inside = numbers.numpy() - start  # (B,)
        crc[inside, 0] = sentence_crcs(source, self.task.source_dictionary.pad())
        crc[inside, 1] = sentence_crcs(target, self.task.target_dictionary.pad())
        places = (torch.from_numpy(offsets[inside]).unsqueeze(1) + keep.cumsum(dim=1) - 1)[keep].numpy()  # (N,)
        found = Rows(*(tensor.numpy() for tensor in values))
        self._check_finite(np.isfinite(found.delta).all() and not np.isnan(found.tail).any(), sentences)
        for name in self.format.token_arrays():
            getattr(rows, name)[places] = getattr(found, name)
        return len(places)

    def _check_padding(self, numbers: np.ndarray, keep: torch.Tensor) -> None:
        padded = numbers[keep.sum(dim=1).numpy() != self.sizes[numbers]]
        if len(padded):
            raise KDError(
                f"the target of sentence {padded.min() + 1:,} holds the padding symbol as a word, which no position of "
                f"a batch can stand for. {ORIGIN.format(word='<pad>')}"
            )

    @staticmethod
    def _check_finite(finite: bool, sentences: np.ndarray) -> None:
        if not finite:
            raise KDError(
                f"the teacher's answers to some of the sentences {sentences.min()} to {sentences.max()} are not "
                "finite: it was trained badly, or --teacher-dtype is too narrow for it"
            )


def make_cache(
    data_bin,
    teacher_path,
    out,
    options: CachingOptions,
    shard=(0, 1),
    teacher_data=None,
    trust=False,
    block_tokens=None,
) -> dict | None:
    """Write, or continue, the cache `out`. Return its manifest, or None if other shards are not complete yet.

    teacher_data: folder with the teacher's dictionaries; None: the folder recorded in the checkpoint. block_tokens: see
    `write_cache`. Raises KDError when teacher, data and options do not fit together.
    """
    if options.rounds_products():
        check_bfloat16(options.device(), "--teacher-dtype bfloat16")
    with Inputs() as inputs:
        inputs.watch(teacher_path)
        inputs.watch_data_bin(data_bin)
        teacher, task = load_pair(
            data_bin,
            teacher_path,
            options.subset,
            data=teacher_data,
            dtype=options.teacher_dtype,
            trust=trust,
            signals_only=True,
        )
        exact = exact_teacher(teacher, task, options, data=teacher_data, trust=trust)
        inputs.loaded(teacher_path)
        compute = TeacherRows(teacher, task, _format(options, len(task.target_dictionary)), options)
        made_from = describe_inputs(data_bin, teacher_path, task, options, inputs)
        return write_cache(
            out,
            compute.format,
            made_from,
            compute.sizes,
            compute,
            shard,
            block_tokens,
            compute.fit,
            inputs=inputs,
            measure=None if exact is None else lambda stored: measure_rounding(exact, compute, stored),
        )


def _format(options: CachingOptions, types: int) -> CacheFormat:
    """types: entries of the target vocabulary."""
    temperatures = tuple(sorted(options.temperatures))
    shapes = options.tail_shapes
    if shapes is None:
        shapes = 0 if options.top_k == types else TAIL_SHAPES
    return CacheFormat(options.top_k, temperatures, types, options.store, shapes)


def describe_inputs(data_bin, teacher_path, task, options: CachingOptions, inputs: Inputs) -> dict:
    """The inputs and options on which the rows depend, for the manifest."""
    pair = (task.cfg.source_lang, task.cfg.target_lang)
    versions = library_versions()
    return {
        "subset": options.subset,
        "source_lang": pair[0],
        "target_lang": pair[1],
        "teacher": {
            "path": str(Path(teacher_path).absolute()),
            "sha256": inputs.sha256(teacher_path),
            "dtype": options.teacher_dtype,
            **({"rounded": "products"} if options.rounds_products() else {}),  # else the weights have this dtype
        },
        "dictionaries": {
            "source": dictionary_hash(task.source_dictionary),
            "target": dictionary_hash(task.target_dictionary),
        },
        "data_bin": str(Path(data_bin).absolute()),
        "data": inputs.hashes(data_bin, data_files(data_bin, options.subset, *pair)),
        "max_tokens": options.max_tokens,
        "device": options.device().type,
        "versions": {name: versions[name] for name in VERSIONS if name in versions},
    }
