"""Raw files: compressed files, a fast check of UTF-8, and archives.

The first bytes of a file, not its name, tell how it is compressed. The check of UTF-8 is several times faster than
decoding, for most text. Archives are .tgz, .tar and .zip files, or folders in which an archive was unpacked. Members
are found by the end of their path, and this module chooses the names of the files that it writes, so no name in an
archive can lead out of the folder.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from fairseq_kd.core.errors import KDError

ENDINGS = (".gz", ".xz", ".bz2", ".zst")
READ_AT_ONCE = 2**20  # bytes


@contextlib.contextmanager
def open_sound(path) -> Iterator[BinaryIO]:
    """The content of a file as bytes. Raises KDError when the reader reaches the damage of a compressed file."""
    kind, opened = _opener(path)
    with opened(path) as file:
        try:
            yield file
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if kind is None:
                raise
            raise KDError(f"{path} is a damaged {kind} file ({error}); fetch it again") from error


def _opener(path):
    """(name of the compression or None, function that opens the file)."""
    with open(path, "rb") as file:
        head = file.read(10)
    if head.startswith(b"\x1f\x8b"):
        return "gzip", gzip.open
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz", lzma.open
    if head.startswith(b"BZh") and head[4:] in (
        b"1AY&SY",
        b"\x17rE8P\x90",
    ):  # a block, or the end
        return "bzip2", bz2.open
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd", _open_zstd
    return None, lambda path: open(path, "rb", buffering=READ_AT_ONCE)


def _open_zstd(path) -> io.BufferedReader:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"), READ_AT_ONCE)


UNCOMMON = b"\xc0\xc1\xe0\xed"  # two bytes never occur in UTF-8, two allow only some second bytes
FOUR_BYTES = 0xF0  # this byte and larger ones begin a character of four bytes, or never occur


def is_common_utf8(text: bytes) -> bool:
    """True: the text is UTF-8. False: it is not UTF-8, or it has characters for which only decoding can tell.

    text: ends with a newline.
    """
    data = np.frombuffer(text, np.uint8)
    if data.max() >= FOUR_BYTES or any(byte in text for byte in UNCOMMON):
        return False
    is_later = data.view(np.int8) < -0x40  # 80 to BF
    later_must_follow = data >= 0xC0
    later_must_follow[1:] |= data[:-1] >= 0xE0
    return not is_later[0] and np.array_equal(later_must_follow[:-1], is_later[1:])


NAMES_SHOWN = 8
DAMAGES = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error)


def fault_of(path) -> str | None:
    """The fault of a downloaded file, as text; None for a complete archive.

    A zip file has its list of members at the end, so a zip file that was cut off is not recognised as one. tarfile
    takes the end of a compressed file for the end of the archive, so the compressed file itself is read to its end,
    which compares its checksum.
    """
    try:
        if zipfile.is_zipfile(path):
            return None
        if not tarfile.is_tarfile(path):
            return "gave a file that is not an archive (a page?)"
        if _is_gzip(path):
            with gzip.open(path) as file:
                while file.read(1 << 20):
                    pass
        else:
            with tarfile.open(path) as file:
                file.getmembers()
    except DAMAGES as error:
        return f"gave an archive that was cut off or damaged ({error})"
    return None


def _is_gzip(path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def extract(archive, wanted: list[str], folder) -> dict[str, Path]:
    """Write the members whose paths end in `wanted` into `folder`; return wanted path -> file.

    archive: a file, which is read once from front to back, or a folder, whose files stay where they are.
    Raises KDError for members that are missing, ambiguous or not plain files, and for a damaged archive.
    """
    archive, folder = Path(archive), Path(folder)
    found, seen = {}, []
    try:
        for name, plain, open_member in _members(archive):
            seen.append(name)
            for number, member in enumerate(wanted):
                if not _ends_in(name, member):
                    continue
                if member in found:
                    raise KDError(f"{archive} holds {member} twice, and nothing tells which one is meant")
                if not plain:
                    raise KDError(f"{archive}: {name} is a link or a device, not a plain file; get the archive again")
                if archive.is_dir():
                    found[member] = archive / name
                    continue
                found[member] = folder / f"{number}-{PurePosixPath(member).name}"
                with open_member() as source, open(found[member], "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except DAMAGES as error:
        raise KDError(f"{archive} is damaged ({error}); get it again") from error
    if missing := [member for member in wanted if member not in found]:
        shown = ", ".join(sorted(seen)[:NAMES_SHOWN]) + (", ..." if len(seen) > NAMES_SHOWN else "")
        raise KDError(
            f"{archive} lacks {', '.join(missing)}; it holds {shown or 'no file'}. The official layout is expected: "
            "is this the archive of another year or language pair?"
        )
    return found


def _ends_in(name: str, member: str) -> bool:
    parts, end = PurePosixPath(name).parts, PurePosixPath(member).parts
    return parts[-len(end) :] == end


def _members(archive: Path) -> Iterator[tuple]:
    """(path, whether it is a plain file, function that opens it) of each member that is not a folder."""
    if archive.is_dir():
        for path in sorted(path for path in archive.rglob("*") if path.is_file()):
            yield path.relative_to(archive).as_posix(), True, None
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir():
                    kind = info.external_attr >> 28  # the upper bits of the Unix mode; 0 in archives of other systems
                    yield info.filename, kind in (0, 8), lambda info=info: file.open(info)
    else:
        with tarfile.open(archive, "r|*") as file:
            for info in file:
                if not info.isdir():
                    yield info.name, info.isfile(), lambda info=info: file.extractfile(info)
