"""Check that the files of a data-bin are as they were written: by the hashes of its manifest, else by consistency.

A data-bin of stock fairseq has no manifest. Then an index must have the length that its header promises, the data file
must have the size that the index promises, and each id must belong to an entry of the dictionary. fairseq itself checks
none of this: it fails with a traceback, or reads the wrong sentences.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.hashes import data_files
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, read_manifest
from fairseq_kd.core.errors import KDError

MMAP, INDEXED = b"MMIDIDX\x00\x00", b"TNTIDX\x00\x00"  # first bytes of the two kinds of index
MMAP_HEADER, INDEXED_HEADER = "<9sQBQ", "<8sQQQQQ"
DTYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 8: "u2", 9: "u4", 10: "u8"}  # fairseq's codes, integers only
REMEDY = "copy it again, or binarise the text again"
IDS_AT_A_TIME = 1 << 24


def listed_files(data_bin) -> dict[str, str]:
    """Name -> sha256 of the files that the manifest of a data-bin lists, {} where it has no manifest.

    Raises KDError for a damaged manifest, and where a data-bin of `fairseq-kd prepare` has lost its manifest.
    """
    manifest, path = read_manifest(data_bin), Path(data_bin) / MANIFEST_NAME
    if "subword" not in (manifest or {}) and (Path(data_bin) / "subword").is_dir():
        state = "is missing" if manifest is None else "has no entry 'subword'"
        raise KDError(
            f"{path} {state}, but the folder subword/ next to it shows that fairseq-kd made this data-bin. Without it, "
            "nothing says how subwords make words. Copy the data-bin again; if fairseq-kd adopt was "
            "interrupted, give it again"
        )
    if manifest is None:
        return {}
    files = manifest.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise KDError(f"{path} is damaged: it lists no files with their sha256. Copy or make the data-bin again")
    return files


def check_the_rest(data_bin, subset: str) -> None:
    """Check the files that a data-bin with another `subset` takes over: other subsets, dictionaries, text, subwords.

    Raises KDError when one of them is listed in the manifest and has another content or is missing.
    """
    taken = re.compile(r"[^/]+\.(bin|idx)|dict\.[^/]+\.txt|(raw|subword)/.+")
    listed, replaced = listed_files(data_bin), _of_subset(subset)
    names = [name for name in listed if taken.fullmatch(name) and not replaced.fullmatch(name)]
    check_files(data_bin, {name: listed[name] for name in names})


def check_content(data_bin, subset: str, languages: tuple[str, str]) -> None:
    """Check the dictionaries and the data of one subset; of "train" also train1, train2, ...

    Raises KDError that names the first file that is missing, was changed, or contradicts the others.
    """
    listed, dictionaries = listed_files(data_bin), {lang: f"dict.{lang}.txt" for lang in languages}
    names = [name for name in listed if name in dictionaries.values() or _of_subset(subset).fullmatch(name)]
    check_files(data_bin, {name: listed[name] for name in names})
    for side in sorted({name[:-4] for name in data_files(data_bin, subset, *languages)}):
        lang = next(lang for lang in languages if side.endswith(f".{lang}"))
        if not {dictionaries[lang], f"{side}.bin", f"{side}.idx"} <= listed.keys():
            _check_side(Path(data_bin) / side, Path(data_bin) / dictionaries[lang])


def _of_subset(subset: str) -> re.Pattern:
    """Names of the data files of a subset; "train" has train1, train2, ... too."""
    return re.compile(rf"{re.escape(subset)}{'[0-9]*' if subset == 'train' else ''}\.[^/]*\.(bin|idx)")


def check_side(side, dictionary_size: int | None = None, dictionary="its dictionary") -> None:
    """Check the index of one side against its data file; side: the path without an ending.

    dictionary_size: number of valid ids; None: ids are not checked. dictionary: its file, for the message.
    `data_bin.check_format` checks an index of another format.
    Raises KDError for an index or a data file that is cut off or damaged.
    """
    index, data = Path(f"{side}.idx"), Path(f"{side}.bin")
    if (found := _read_index(index, data)) is None:
        return
    dtype, sizes, first_id = found
    if (sizes < 0).any():
        raise KDError(f"{index} is damaged: a sentence has {sizes.min()} tokens. To repair it, {REMEDY}")
    promised, found = int(sizes.sum()) * dtype.itemsize, data.stat().st_size
    if promised != found:
        raise KDError(
            f"{data} has {found:,} bytes, its index promises {promised:,}: it was cut off or belongs to another index. "
            f"To repair it, {REMEDY}"
        )
    if dictionary_size is not None:
        _check_ids(data, dtype, first_id, dictionary_size, dictionary)


def count_id(side, wanted: int) -> int:
    """How often an id occurs in one side in a format that is read. side: the path without an ending.

    Raises KDError as `check_side` does for the index.
    """
    return sum(int(np.count_nonzero(ids == wanted)) for ids in _ids(side))


def count_ids(side, size: int) -> np.ndarray:
    """How often each id below `size` occurs in one side, int64 (size,). See `count_id`; no id is `size` or above."""
    return sum((np.bincount(ids, minlength=size) for ids in _ids(side)), np.zeros(size, np.int64))


def _ids(side) -> Iterator[np.ndarray]:
    """Yield all ids of one side as int64, some at a time."""
    data = Path(f"{side}.bin")
    dtype, _, first_id = _read_index(Path(f"{side}.idx"), data)
    with open(data, "rb") as file:
        while len(ids := np.frombuffer(file.read(IDS_AT_A_TIME * dtype.itemsize), dtype)):
            yield ids.astype(np.int64) - first_id


def _read_index(index: Path, data: Path) -> tuple[np.dtype, np.ndarray, int] | None:
    """(dtype of the ids, tokens of each sentence, id on disk of the id 0); None for an index of another format."""
    for path in (index, data):
        if not path.is_file():
            raise KDError(f"{path} is missing or is not a file, but belongs to {index.stem}: {REMEDY}")
    content = index.read_bytes()
    if content.startswith(MMAP[:8]):  # by which fairseq knows the format
        return *_read_mmap(index, content), 0
    if content.startswith(INDEXED):
        return *_read_indexed(index, content), 1
    return None


def read_dictionary(path):
    """The dictionary of fairseq in a file. Raises KDError for a file that is missing or no dictionary."""
    from fairseq.data import Dictionary

    try:
        return Dictionary.load(str(path))
    except Exception as error:  # what fairseq raises for text that is not UTF-8
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise KDError(
            f"{path} is not a dictionary of fairseq ({reason}): copy it again, or give fairseq-preprocess the right "
            "one (--srcdict, --tgtdict)"
        ) from error


def _check_side(side: Path, dictionary: Path) -> None:
    check_side(side, len(read_dictionary(dictionary)) if dictionary.is_file() else None, dictionary)


def _read_mmap(index: Path, content: bytes) -> tuple[np.dtype, np.ndarray]:
    """(dtype of the ids, tokens of each sentence) of an index of --dataset-impl mmap."""
    magic, version, code, sentences = _header(index, content, MMAP_HEADER)
    if magic != MMAP:
        raise KDError(f"{index} is damaged: it begins with {magic!r}. To repair it, {REMEDY}")
    start = struct.calcsize(MMAP_HEADER)
    _check_length(index, content, start + 12 * sentences, f"{sentences:,} sentences")
    dtype = _dtype(index, version, code)
    sizes = np.frombuffer(content, "<i4", sentences, start).astype(np.int64)
    places = np.frombuffer(content, "<i8", sentences, start + 4 * sentences)
    if not np.array_equal(places, (np.cumsum(sizes) - sizes) * dtype.itemsize):
        raise KDError(f"{index} is damaged: its sentences do not follow one after the other. To repair it, {REMEDY}")
    return dtype, sizes


def _read_indexed(index: Path, content: bytes) -> tuple[np.dtype, np.ndarray]:
    """(dtype of the ids, tokens of each sentence) of an index of --dataset-impl lazy or cached."""
    _, version, code, width, sentences, dimensions = _header(index, content, INDEXED_HEADER)
    start = struct.calcsize(INDEXED_HEADER)
    _check_length(index, content, start + 8 * (2 * (sentences + 1) + dimensions), f"{sentences:,} sentences")
    dtype = _dtype(index, version, code)
    numbers = np.frombuffer(content, "<i8", -1, start)
    shapes, places, sizes = np.split(numbers, [sentences + 1, 2 * (sentences + 1)])
    one_dimension = dimensions == sentences and np.array_equal(shapes, np.arange(sentences + 1))
    if width != dtype.itemsize or not one_dimension or places[0] != 0 or not np.array_equal(np.diff(places), sizes):
        raise KDError(f"{index} is damaged: its sentences do not follow one after the other. To repair it, {REMEDY}")
    return dtype, sizes


def _header(index: Path, content: bytes, layout: str) -> tuple:
    if len(content) < struct.calcsize(layout):
        raise KDError(f"{index} is cut off: it has {len(content)} bytes. To repair it, {REMEDY}")
    return struct.unpack_from(layout, content)


def _check_length(index: Path, content: bytes, promised: int, what: str) -> None:
    if len(content) != promised:
        raise KDError(
            f"{index} has {len(content):,} bytes, its header promises {what}, which take {promised:,}: it was cut off "
            f"or damaged. To repair it, {REMEDY}"
        )


def _dtype(index: Path, version: int, code: int) -> np.dtype:
    if version != 1 or code not in DTYPES:
        raise KDError(f"{index} is damaged: version {version} and type {code} are unknown. To repair it, {REMEDY}")
    return np.dtype(DTYPES[code]).newbyteorder("<")


def _check_ids(data: Path, dtype: np.dtype, first_id: int, dictionary_size: int, dictionary) -> None:
    with open(data, "rb") as file:
        while len(ids := np.frombuffer(file.read(IDS_AT_A_TIME * dtype.itemsize), dtype)):
            low, high = int(ids.min()) - first_id, int(ids.max()) - first_id
            if low < 0 or high >= dictionary_size:
                raise KDError(
                    f"{data} holds the id {low if low < 0 else high}, {dictionary} has {dictionary_size:,} entries: "
                    f"one of them was damaged, or belongs to another data-bin. To repair it, {REMEDY}"
                )
