"""Members of .tgz, .tar and .zip archives, and of folders in which an archive was unpacked.

Members are looked up by the end of their path and written under names that are chosen here, so no name in an archive
can lead out of the folder.
"""

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fairseq_kd.errors import KDError

NAMES_SHOWN = 8


def is_archive(path) -> bool:
    """Whether the file begins as a tar (compressed or not) or a zip does."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def extract(archive, wanted: list[str], folder) -> dict[str, Path]:
    """Write the members whose paths end in `wanted` into `folder`: wanted path -> file.

    archive: a file, read once from front to back, or a folder. A folder's files stay where they are.
    Raises KDError for members that are missing, ambiguous or no plain files, and for a damaged archive.
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
                    raise KDError(f"{archive} holds {member} twice: which is meant cannot be told")
                if not plain:
                    raise KDError(f"{archive}: {name} is a link or a device, not a plain file; get the archive again")
                if archive.is_dir():
                    found[member] = archive / name
                    continue
                found[member] = folder / f"{number}-{PurePosixPath(member).name}"
                with open_member() as source, open(found[member], "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error) as error:
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
    """(path, whether it is a plain file, function that opens it) of each member that is no folder."""
    if archive.is_dir():
        for path in sorted(path for path in archive.rglob("*") if path.is_file()):
            yield path.relative_to(archive).as_posix(), True, None
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                if not info.is_dir():
                    kind = info.external_attr >> 28  # upper bits of the Unix mode; 0 where it was made elsewhere
                    yield info.filename, kind in (0, 8), lambda info=info: file.open(info)
    else:
        with tarfile.open(archive, "r|*") as file:
            for info in file:
                if not info.isdir():
                    yield info.name, info.isfile(), lambda info=info: file.extractfile(info)
