"""Files and archives of named corpora: found in the user's folder, or downloaded, and identified by their hashes.

A file is downloaded once, into the user's cache folder. A download that was cut off is continued.
"""

import contextlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts import writing
from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.records import DamagedRecord, read_record, write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import cached
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.files import fault_of

TIMEOUT_SECONDS = 60
BLOCK = 1 << 20
ENDINGS = (".tgz", ".tar.gz", ".tar", ".zip")  # of archives


def corpus_folder(name: str) -> Path:
    """The folder of the user's cache that keeps the files of a corpus."""
    return cached(name, Path(os.environ.get("FAIRSEQ_KD_CACHE") or Path.home() / ".cache" / "fairseq_kd"))


def download_files(name: str, base_url: str, wanted: dict) -> Path:
    """Fetch `base_url/FILE` for each FILE of `wanted` (name -> sha256) that the cache lacks; return the folder.

    Raises KDError when the network fails, or a file has another hash; that file is not kept.
    """
    folder = corpus_folder(name)
    for file_name, sha256 in wanted.items():
        download(f"{base_url}/{file_name}", folder / file_name, lambda path, known=sha256: other_hash(known, path))
    return folder


def other_hash(expected: str, path: Path) -> str | None:
    """A description of the difference when a file has another sha256 than `expected`, else None."""
    if (found := sha256_file(path)) == expected:
        return None
    return (
        f"has sha256 {found[:16]}..., expected {expected[:16]}...; fetch the official files yourself and give their "
        "folder with --raw"
    )


def download(url: str, path: Path, fault: Callable[[Path], str | None]) -> None:
    """Fetch the file of `url` to `path`, or the rest of it, unless `path` exists and has no fault.

    fault(file) -> description of a fault, None for the wanted file; a file with a fault is not kept. The lock
    is held until the file has its name: one of two processes fetches, the other waits and finds the file.
    Raises KDError for a file with a fault, and when the network fails; then the same call continues the download.
    """
    if path.is_file() and fault(path) is None:  # also in a folder that cannot be written to
        return
    writing.ensure_writable_folder(path.parent)
    with exclusive(path, wait=True):
        if path.is_file() and fault(path) is None:
            return
        path.unlink(missing_ok=True)
        part = fetch(url, path)
        if (wrong := fault(part)) is not None:
            part.unlink()
            raise KDError(f"{url} {wrong}")
        writing.rename(part, path)


def fetch(url: str, path: Path) -> Path:
    """Fetch `url`, or the rest of it, into a temporary file in the folder of `path`; return that file.

    The caller holds the lock of `path`. The part that an interrupted call fetched is kept if the server says that the
    file has not changed (If-Range). Raises KDError when the network fails or the disk is full; the same call continues.
    """
    part = path.with_name(f".{path.name}.part")
    print(f"downloading {url}", file=sys.stderr, flush=True)
    try:
        _fetch(url, part)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise KDError(
            f"cannot download {url} ({error}); the same command continues where this one ended. On a machine "
            "without network, give a folder with the files by --raw"
        ) from error
    return part


def _fetch(url: str, part: Path) -> None:
    state = part.with_name(f"{part.name}.json")  # the address and the version of the part
    request = urllib.request.Request(url)
    known = _read_state(state) if part.is_file() else {}
    if known.get("url") == url and known["version"]:
        request.add_header("Range", f"bytes={part.stat().st_size}-")
        request.add_header("If-Range", known["version"])
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{part.stat().st_size}":
            return  # the part was the whole file
        answer = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    with answer:
        done = part.stat().st_size if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if not done:
            part.unlink(missing_ok=True)
            # a weak validator cannot vouch for bytes (RFC 9110, 13.1.5)
            tag = answer.headers.get("ETag", "")
            version = answer.headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
            write_record(state, {"url": url, "version": version})
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        _copy(answer, part, done, total)
    state.unlink()


def _read_state(state: Path) -> dict:
    """The address and the version of an unfinished download; {} if they are not known, so that it begins again."""
    with contextlib.suppress(DamagedRecord):
        return read_record(state, "the download begins again", required=("url", "version")) or {}
    return {}


def _copy(answer, part: Path, done: int, total: int | None) -> None:
    progress = Progress(part.name.removesuffix(".part")[1:], total, "bytes", done=done)
    with writing.naming_file(part), open(part, "ab") as file:
        while block := answer.read(BLOCK):
            file.write(block)
            progress.advance(len(block))
    progress.finish()
    if total is not None and progress.done != total:
        raise OSError(f"the connection ended after {progress.done:,} of {total:,} bytes")


def existing_folder(folder) -> Path:
    """`folder` as a Path. Raises KDError when it is not a folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise KDError(f"--raw {folder} is not a folder")
    return folder


@dataclass(frozen=True)
class Archive:
    """An archive of text.

    name: without ending. urls: tried in order; without urls the user gives the archive by --raw. sha256: None if it is
    not known; then the first use records it. inside: names, without ending, of larger archives that --raw may hold.
    """

    name: str
    urls: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    sha256: str | None = None

    def is_file(self, path: Path) -> bool:
        """Whether `path` has the name of this archive, and not of a larger one that holds it."""
        return path.name in _file_names(self.name)


def locate_archives(name: str, archives: list[Archive], raw=None) -> dict[Archive, Path]:
    """Where each archive is: a file (perhaps a larger archive that holds it), or the folder where it was unpacked.

    name: of the corpus. raw: folder with the archives, or with their members; None: they are downloaded into the
    cache folder.
    Raises KDError when an archive cannot be downloaded.
    """
    if raw is None:
        return {archive: _download(name, archive) for archive in archives}
    raw = existing_folder(raw)
    return {archive: _find(raw, archive) or raw for archive in archives}


def _find(raw: Path, archive: Archive) -> Path | None:
    names = [name for stem in (archive.name, *archive.inside) for name in _file_names(stem)]
    return next((raw / name for name in names if (raw / name).is_file()), None)


def _download(name: str, archive: Archive) -> Path:
    if not archive.urls:
        raise KDError(f"no address is known for {archive.name} of {name}: get it and give its folder by --raw")
    errors = []
    for url in archive.urls:
        ending = next(ending for ending in ENDINGS if url.endswith(ending))
        path = corpus_folder(name) / f"{archive.name}{ending}"
        try:
            download(url, path, lambda file, path=path: _fault(archive, file, path))
        except writing.CannotWrite:  # the next address would not help
            raise
        except KDError as error:
            errors.append(str(error))
        else:
            return path
    raise KDError("; ".join(errors) + f"; or get {archive.name} yourself and give its folder by --raw")


def _fault(archive: Archive, file: Path, path: Path) -> str | None:
    """The fault of `file`, which is or becomes `path`, or None. Before its first use it is read to its end."""
    if archive.sha256 is not None:
        return other_hash(archive.sha256, file)
    if file == path and _record(path).is_file():
        return None  # every use compares its hash
    return fault_of(file)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def check_recorded_hash(path: Path, inputs: Inputs) -> str:
    """sha256 of an archive, compared with the file PATH.sha256; the first use writes that file, as sha256sum does.

    Raises KDError when the archive has another hash. A folder that cannot be written to is reported on standard
    error: then only the manifest of the data-bin holds the hash.
    """
    found, record = inputs.sha256(path), _record(path)
    try:
        writing.create_file(record, [f"{found}  {path.name}\n".encode()])
    except (OSError, KDError) as error:
        if not record.is_file():
            print(f"the sha256 of {path} cannot be recorded next to it ({error})", file=sys.stderr, flush=True)
            return found
    if (expected := record.read_text(encoding="utf-8").split()[:1]) != [found]:
        raise KDError(
            f"{path} has sha256 {found[:16]}..., {record.name} says {(expected or ['nothing'])[0][:16]}...: it is "
            f"not the archive that was used first; get that one again, or remove {record} to use this one"
        )
    return found


def archive_hash(archive: Archive, path: Path, inputs: Inputs) -> str:
    """sha256 of an archive. Raises KDError when the entry or an earlier use knows another one."""
    inputs.watch(path)
    if archive.sha256 is None or not archive.is_file(path):
        return check_recorded_hash(path, inputs)
    if (wrong := other_hash(archive.sha256, path)) is not None:
        raise KDError(f"{path} {wrong}")
    return archive.sha256


def _file_names(stem: str) -> list[str]:
    return [f"{stem}{ending}" for ending in ENDINGS]
