"""Read a complete cache: check it, map it into memory, and read only the requested rows."""

import json
import logging
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, read_manifest
from fairseq_kd.artifacts.request import PARTS
from fairseq_kd.cache.format import KIND, READABLE, check_sizes, format_of
from fairseq_kd.cache.values import Rows
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one

logger = logging.getLogger(__name__)
SLOW_TO_HASH = 1 << 30  # bytes; the check of a larger cache takes so long that it is announced
REQUIRED = ("k", "temperatures", "types", "store", "sentences", "tokens", "files")


class CacheReader:
    """The arrays of a cache, by sentence. It does not depend on tasks and batches."""

    def __init__(self, folder, check_hashes: bool = True):
        """Raises KDError when `folder` has no complete cache, or when the cache was damaged or changed."""
        self.folder = Path(folder)
        self.manifest = _read(self.folder)
        self.format = format_of(self.manifest)
        check_sizes(self.folder, self.manifest)
        if check_hashes:
            self._check_hashes()
        self.offsets = self._map("offsets", "<i8", (-1,))
        self.crc = self._map("crc", "<u4", (-1, 2))
        arrays = self.format.token_arrays().items()
        shapes = self.format.shapes_size()
        self.shapes = self._map("shapes", "<f4", shapes) if self.format.tail_shapes else None
        self._arrays = {name: self._map(name, dtype, (-1, columns)) for name, (dtype, columns) in arrays}

    def __len__(self) -> int:
        """Number of sentences."""
        return self.manifest["sentences"]

    def sentence_rows(self, sentences) -> np.ndarray:
        """Row numbers of all tokens of these sentences, sentence by sentence. sentences: their numbers, from 0."""
        sentences = np.asarray(sentences)
        starts, ends = self.offsets[sentences], self.offsets[sentences + 1]
        lengths = ends - starts
        before = np.cumsum(lengths) - lengths  # tokens of the sentences before each
        return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)

    def rows(self, rows: np.ndarray) -> Rows:
        """The stored values of these rows, in this order and in the stored dtypes."""
        return Rows(**{name: array[rows] for name, array in self._arrays.items()})

    def take(self, rows: np.ndarray, allocate, gold: bool = False) -> dict[str, np.ndarray]:
        """As `rows`, by name, written to arrays of allocate(rows, columns, dtype), such as memory that a GPU copies.

        gold: also the log-probabilities of the gold tokens, which the distributions do not need.
        """
        found = {}
        for name, array in self._arrays.items():
            if name == "gold" and not gold:
                continue
            assert len(rows) == 0 or (rows.min() >= 0 and rows.max() < len(array)), "rows outside of the cache"
            found[name] = allocate(len(rows), array.shape[1], array.dtype)
            np.take(array, rows, axis=0, out=found[name], mode="clip")  # the default would copy once more
        return found

    def check_gold(self, what: str) -> None:
        """Raises KDError when the cache has no log-probabilities of the gold tokens. what: what needs them."""
        if not self.format.gold:
            raise KDError(
                f"teacher cache {self.folder} has format {self.manifest['format']}, which stores no log-probabilities "
                f"of the gold tokens, and {what} needs them: make the cache again in another folder with fairseq-kd "
                "cache"
            )

    def check_temperature_1(self, what: str) -> None:
        """Raises KDError when the cache has no values at temperature 1. what: what happens at this temperature."""
        if 1.0 not in self.format.temperatures:
            raise KDError(
                f"teacher cache {self.folder} has no values at temperature 1, at which {what}: make a cache with "
                "fairseq-kd cache --temperature 1"
            )

    def tail_column(self, temperature: float) -> int:
        """The column of the tail at `temperature`. Raises KDError when it is not stored."""
        stored = self.format.temperatures
        if temperature not in stored:
            listed = ", ".join(f"{t:g}" for t in stored)
            raise KDError(
                f"teacher cache {self.folder} was made for the temperature{'s' if stored[1:] else ''} {listed}, the "
                f"training asks for {temperature:g}: the mass outside of the {self.format.k} stored tokens does not "
                f"follow from the mass at another temperature. Use --teacher-temperature {stored[0]:g}, or make a "
                f"cache with fairseq-kd cache --temperature {temperature:g}"
            )
        return stored.index(temperature)

    def tail_shapes(self, temperature: float) -> torch.Tensor | None:
        """Log-probabilities (G, V) of the tail shapes at `temperature`, float32; None if the cache has no shapes."""
        if self.shapes is None:
            return None
        return torch.tensor(self.shapes[self.format.shape_temperatures().index(temperature)])

    def _map(self, name: str, dtype, shape) -> np.ndarray:
        return np.asarray(np.memmap(self.folder / f"{name}.bin", dtype=dtype, mode="r")).reshape(shape)

    def _check_hashes(self) -> None:
        size = sum((self.folder / name).stat().st_size for name in self.manifest["files"])
        if size > SLOW_TO_HASH:
            logger.info(f"checking the {size / 1e9:.1f} GB of teacher cache {self.folder}")
        check_files(self.folder, self.manifest["files"])


def _read(folder: Path) -> dict:
    manifest = read_manifest(folder)
    if manifest is None:
        check_one(folder, "teacher cache", "cache")
        if not folder.is_dir():
            raise KDError(f"teacher cache {folder} does not exist: make it with fairseq-kd cache --out {folder}")
        if (folder / PARTS).is_dir():
            raise KDError(
                f"teacher cache {folder} is not complete: run the same fairseq-kd cache command again, it continues "
                "where it stopped"
            )
        raise KDError(f"{folder} has no {MANIFEST_NAME}, so it is not a teacher cache (fairseq-kd cache makes one)")
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise KDError(f"{folder / MANIFEST_NAME} is not the manifest of a teacher cache (fairseq-kd cache makes one)")
    if manifest.get("format") not in READABLE:
        raise KDError(
            f"teacher cache {folder} has format {json.dumps(manifest.get('format'))}, this version of fairseq_kd "
            f"reads formats {', '.join(map(str, READABLE))}: make the cache again with this version"
        )
    required = REQUIRED if manifest["format"] == 1 else (*REQUIRED, "tail_shapes")
    if missing := [name for name in required if name not in manifest]:
        raise KDError(f"{folder / MANIFEST_NAME} was changed after it was written: it has no {missing[0]!r}")
    return manifest
