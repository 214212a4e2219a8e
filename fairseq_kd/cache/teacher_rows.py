"""The rows of a cache, computed by a teacher."""

import numpy as np
import torch

from fairseq_kd.artifacts.blocks import offsets_of
from fairseq_kd.cache.format import CacheFormat, sentence_crcs
from fairseq_kd.cache.options import CachingOptions
from fairseq_kd.cache.tail_shapes import fit, sample_sentences
from fairseq_kd.cache.values import Rows, encoded, encoded_logits, named
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.binarise import ORIGIN
from fairseq_kd.inference.device import to_host
from fairseq_kd.inference.frozen import FrozenModel
from fairseq_kd.inference.opening import check_longest, check_positions, collate, length_sorted
from fairseq_kd.loss.signal import rows_at_a_time


class TeacherRows:
    """Computes the rows of consecutive sentences, in batches of similar length."""

    def __init__(self, teacher: FrozenModel, task, cache_format: CacheFormat, options: CachingOptions):
        """Raises KDError when a sentence is too long for the teacher or for a batch."""
        self.teacher, self.task, self.format, self.options = teacher, task, cache_format, options
        self.dataset = task.dataset(options.subset)
        self.sizes = np.asarray(self.dataset.tgt_sizes)
        self._longest_side = np.maximum(self.dataset.src_sizes, self.sizes)
        check_positions(self.dataset.src_sizes, self.sizes, teacher.max_positions, "the teacher")
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
        signal, gold, parts = self.teacher.signal(sample, keep), sample["target"][keep], []
        step = rows_at_a_time(keep.device, signal.vocabulary)
        few_passes = self.options.rounds_products() and not self.format.is_dense
        encode, rows = (encoded_logits, signal.logits) if few_passes else (encoded, signal.rows)
        if few_passes and root_shapes is not None:
            root_shapes = root_shapes.bfloat16()
        for first in range(0, len(signal), step):
            end = first + step
            parts.append(encode(rows(first, end), self.format, root_shapes, gold[first:end]))
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
        found = named([tensor.numpy() for tensor in values], self.format)
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
