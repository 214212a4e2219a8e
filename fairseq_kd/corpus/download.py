"""Files of a named corpus, downloaded once into the cache folder. A download that was cut off is continued."""

import functools
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fairseq_kd.corpus.manifest import ensure_writable_folder, exclusive, sha256_file, write_json
from fairseq_kd.errors import KDError
from fairseq_kd.progress import Progress
from fairseq_kd.resources import cached

TIMEOUT_SECONDS = 60
BLOCK = 1 << 20


def corpus_folder(name: str) -> Path:
    """Where the files of a corpus are kept: in the user's cache."""
    return cached(name, Path(os.environ.get("FAIRSEQ_KD_CACHE") or Path.home() / ".cache" / "fairseq_kd"))


def download_files(name: str, base_url: str, wanted: dict) -> Path:
    """Fetch `base_url/FILE` for each FILE of `wanted` (name -> sha256) that is not in the cache; return the folder.

    Raises KDError when the network or the hash fails; a file with another hash is not kept.
    """
    folder = corpus_folder(name)
    for file_name, expected in wanted.items():
        download(f"{base_url}/{file_name}", folder / file_name, functools.partial(_other_hash, expected))
    return folder


def _other_hash(expected: str, path: Path) -> str | None:
    if (found := sha256_file(path)) == expected:
        return None
    return (
        f"has sha256 {found[:16]}..., expected {expected[:16]}...; fetch the official files yourself and give their "
        "folder with --raw"
    )


def download(url: str, path: Path, fault: Callable[[Path], str | None]) -> None:
    """Have the file of `url` at `path`: all of it, or the rest of it, is fetched if it is not there.

    fault(file) -> what is wrong with it, None if it is the one that is wanted; a file at fault is not kept. The lock
    is held until the file has its name: of two processes one fetches and the other waits, and finds it.
    Raises KDError when the network fails, then the same call continues, and for a file at fault.
    """
    if path.is_file() and fault(path) is None:  # also in a folder that cannot be written to
        return
    ensure_writable_folder(path.parent)
    with exclusive(path, wait=True):
        if path.is_file() and fault(path) is None:
            return
        path.unlink(missing_ok=True)
        part = fetch(url, path)
        if (wrong := fault(part)) is not None:
            part.unlink()
            raise KDError(f"{url} {wrong}")
        os.replace(part, path)


def fetch(url: str, path: Path) -> Path:
    """Fetch all of `url` beside `path`, or the rest of it; return the whole file, under a temporary name still.

    The caller holds the lock of `path`. What an earlier, interrupted call fetched is kept if the server says that the
    file is the same (If-Range). Raises KDError when the network fails; then the same call continues.
    """
    part = path.with_name(f".{path.name}.part")
    print(f"downloading {url}", file=sys.stderr, flush=True)
    try:
        _fetch(url, part)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise KDError(
            f"cannot download {url} ({error}); the same command continues where this one ended. On a machine "
            "without network give a folder with the files by --raw"
        ) from error
    return part


def _fetch(url: str, part: Path) -> None:
    state = part.with_name(f"{part.name}.json")  # which version of which address the part is of
    request = urllib.request.Request(url)
    known = json.loads(state.read_text()) if state.is_file() and part.is_file() else {}
    if known.get("url") == url and known["version"]:
        request.add_header("Range", f"bytes={part.stat().st_size}-")
        request.add_header("If-Range", known["version"])
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{part.stat().st_size}":
            return  # it was whole already
        answer = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    with answer:
        done = part.stat().st_size if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if not done:
            part.unlink(missing_ok=True)
            # a weak validator cannot vouch for bytes (RFC 9110, 13.1.5)
            tag = answer.headers.get("ETag", "")
            version = answer.headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
            write_json(state, {"url": url, "version": version})
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        _copy(answer, part, done, total)
    state.unlink()


def _copy(answer, part: Path, done: int, total: int | None) -> None:
    progress = Progress(part.name.removesuffix(".part")[1:], total, "bytes", done=done)
    with open(part, "ab") as file:
        while block := answer.read(BLOCK):
            file.write(block)
            progress.advance(len(block))
    progress.finish()
    if total is not None and progress.done != total:
        raise OSError(f"the connection ended after {progress.done:,} of {total:,} bytes")
