"""Data of `gpu.py` without a network: the synthetic corpus with a trained teacher, and random data of any size."""

import copy
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary, indexed_dataset
from gpu_config import parsed

from fairseq_kd.artifacts.blocks import offsets_of
from fairseq_kd.artifacts.hashes import data_files, data_hashes, dictionary_hash
from fairseq_kd.cache.format import CacheFormat, sentence_crcs
from fairseq_kd.cache.values import Rows
from fairseq_kd.cache.writer import write_cache
from fairseq_kd.corpus.entry import text_files
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.synthetic import CorpusSpec, write_corpus
from fairseq_kd.inference.frozen import FrozenModel
from fairseq_kd.inference.opening import open_data

SOURCE, TARGET = "xxa", "xxb"
LENGTH = 32  # the longest random sentence, with EOS; the shortest has 20 tokens
TOP_K, TAIL_SHAPES = 16, 64


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    pairs: int  # size of the synthetic corpus
    test: int
    teacher_updates: int
    updates: int  # length of a training whose losses are compared
    rows: int  # rows for the comparison of the fused loss with the readable one
    vocabulary: int  # vocabulary of that comparison
    vocabularies: tuple[int, ...]
    tokens: tuple[int, ...]
    students: tuple[str, ...]
    teacher: str
    sentences: int  # size of the random data
    rounds: int
    dimensions: tuple[str, ...] = ()  # options that replace options of the students


FULL = Sizes(
    pairs=4000,
    test=300,
    teacher_updates=500,
    updates=12,
    rows=700,
    vocabulary=10_007,
    vocabularies=(10_000, 32_000),
    tokens=(4096, 16_384, 32_768),
    students=("kd_student_9m", "kd_student_66m"),
    teacher="kd_student_66m",
    sentences=4096,
    rounds=5,
)
DRY = Sizes(
    pairs=200,
    test=12,
    teacher_updates=8,
    updates=2,
    rows=90,
    vocabulary=307,
    vocabularies=(300,),
    tokens=(256,),
    students=("kd_student_3m",),
    teacher="kd_student_3m",
    sentences=24,
    rounds=1,
    dimensions=("--encoder-layers", "1", "--decoder-layers", "1"),
)


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured. folder: for everything that is made on the way."""

    device: str
    sizes: Sizes
    folder: Path

    @property
    def cpu(self) -> bool:
        """Whether the machine has no GPU."""
        return self.device == "cpu"

    @functools.cached_property
    def corpus(self) -> Path:
        """A data-bin of the synthetic corpus."""
        text, out = self.folder / "text", self.folder / "corpus"
        text.mkdir()
        write_corpus(CorpusSpec(pairs=self.sizes.pairs, valid=200, test=self.sizes.test), text)
        files = text_files(text, "qaa", "qab")
        prepare("text", files, "qaa", "qab", out, PrepareOptions(vocab_size=500), say=lambda line: None)
        return out

    def random(self, vocabulary: int) -> "RandomData":
        """Random sentences, their cache and an untrained teacher; made once for each size."""
        folder = self.folder / f"random-{vocabulary}"
        return made(folder, vocabulary, self.sizes.sentences, self.sizes.dimensions)


@functools.cache
def made(folder: Path, vocabulary: int, sentences: int, dimensions: tuple[str, ...]) -> "RandomData":
    """See `RandomData`."""
    return RandomData(folder, vocabulary, sentences, dimensions)


class RandomData:
    """A data-bin of random sentences of 20 to 32 tokens, and a cache of random signals for it."""

    def __init__(self, folder: Path, vocabulary: int, sentences: int, dimensions: tuple[str, ...] = ()):
        """vocabulary: V, the entries of the joint dictionary. dimensions: options of the students."""
        folder.mkdir()
        self.data_bin, self.cache, self.vocabulary = folder / "data-bin", folder / "cache", vocabulary
        self.dimensions = dimensions
        self.data_bin.mkdir()
        dictionary = Dictionary()
        for number in range(vocabulary - len(dictionary)):
            dictionary.add_symbol(f"w{number}", n=vocabulary - number)
        rng = np.random.default_rng(vocabulary)
        for lang in (SOURCE, TARGET):
            dictionary.save(str(self.data_bin / f"dict.{lang}.txt"))
            self._write(lang, sentences, dictionary, rng)
        self.task = open_data(self.data_bin, (SOURCE, TARGET), "train")
        self.dataset = self.task.dataset("train")
        self._write_cache()

    def _write(self, lang: str, sentences: int, dictionary: Dictionary, rng) -> None:
        prefix = str(self.data_bin / f"train.{SOURCE}-{TARGET}.{lang}")
        builder = indexed_dataset.make_builder(f"{prefix}.bin", impl="mmap", vocab_size=len(dictionary))
        for length in rng.integers(19, LENGTH, size=sentences):
            tokens = rng.integers(dictionary.nspecial, len(dictionary), size=length + 1)
            tokens[-1] = dictionary.eos()
            builder.add_item(torch.from_numpy(tokens).int())
        builder.finalize(f"{prefix}.idx")

    def _write_cache(self) -> None:
        shapes = TAIL_SHAPES if self.vocabulary > 1000 else 4
        cache_format = CacheFormat(TOP_K, (1.0,), self.vocabulary, tail_shapes=shapes)
        dictionary, names = self.task.target_dictionary, data_files(self.data_bin, "train", SOURCE, TARGET)
        made_from = {
            "subset": "train",
            "dictionaries": dict.fromkeys(("source", "target"), dictionary_hash(dictionary)),
            "data": data_hashes(self.data_bin, names),
        }
        sizes = np.asarray(self.dataset.tgt_sizes)
        offsets, generator = offsets_of(sizes), torch.Generator().manual_seed(1)
        fitted = torch.randn(1, shapes, self.vocabulary, generator=generator).log_softmax(dim=-1).numpy()

        def compute(start: int, end: int, advance, shapes) -> tuple[Rows, np.ndarray]:
            tokens = int(offsets[end] - offsets[start])
            advance(tokens)
            return self._signals(tokens, len(shapes), np.random.default_rng(start)), self._crcs(start, end)

        write_cache(self.cache, cache_format, made_from, sizes, compute, fit=lambda: fitted)

    def _signals(self, tokens: int, shapes: int, rng) -> Rows:
        step = self.vocabulary // TOP_K - 1  # the k entries of a token differ
        ids = (rng.integers(self.vocabulary, size=(tokens, 1)) + step * np.arange(TOP_K)) % self.vocabulary
        delta = np.cumsum(rng.random((tokens, TOP_K), dtype=np.float32), axis=1)
        tail = -1 - rng.random((tokens, 1), dtype=np.float32)
        return Rows(ids, delta - delta[:, :1], tail, rng.integers(shapes, size=(tokens, 1)))

    def _crcs(self, start: int, end: int) -> np.ndarray:
        pad = self.task.target_dictionary.pad()
        sides = (self.dataset.src, self.dataset.tgt)
        found = [sentence_crcs(side[number].unsqueeze(0), pad) for number in range(start, end) for side in sides]
        return np.concatenate(found).reshape(-1, 2)

    def batch(self, number: int, tokens: int) -> dict:
        """A fairseq batch of the given number of tokens with padding; other sentences for the next number."""
        count, every = max(1, tokens // LENGTH), len(self.dataset)
        chosen = [(number * count + place) % every for place in range(count)]
        return self.dataset.collater([self.dataset[place] for place in chosen])

    @functools.cache  # noqa: B019
    def model(self, arch: str):
        """With random weights, on the CPU; to be copied."""
        torch.manual_seed(7)
        return self.task.build_model(parsed(*self.words(arch)).model)

    def words(self, arch: str) -> list[str]:
        """The command line of a training of this architecture."""
        capacity = ["--capacity-target", "0.8"] if arch.startswith("kd_adaptive") else []
        return [
            str(self.data_bin),
            "--arch",
            arch,
            "--lr",
            "0.0001",
            "--max-tokens",
            "99999",
            *capacity,
            *self.dimensions,
        ]

    def teacher(self, arch: str, dtype: str) -> FrozenModel:
        """With random weights."""
        return FrozenModel(copy.deepcopy(self.model(arch)), self.task, f"untrained {arch}", dtype)
