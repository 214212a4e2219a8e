"""Files of a named corpus, downloaded once into the cache folder. A download that was cut off is continued."""

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from fairseq_kd.corpus.manifest import ensure_writable_folder, exclusive, sha256_file, write_json
from fairseq_kd.errors import KDError
from fairseq_kd.progress import Progress

TIMEOUT_SECONDS = 60
BLOCK = 1 << 20


def cache_folder() -> Path:
    """Where downloads are kept: $FAIRSEQ_KD_CACHE, else ~/.cache/fairseq_kd."""
    return Path(os.environ.get("FAIRSEQ_KD_CACHE") or Path.home() / ".cache" / "fairseq_kd")


def download_files(name: str, base_url: str, wanted: dict) -> Path:
    """Fetch `base_url/FILE` for each FILE of `wanted` (name -> sha256) that is not in the cache; return the folder.

    Raises KDError when the network or the hash fails; a file with another hash is not kept.
    """
    folder = cache_folder() / name
    for file_name, expected in wanted.items():
        path = folder / file_name
        if path.is_file() and sha256_file(path) == expected:
            continue
        path.unlink(missing_ok=True)
        part = download(f"{base_url}/{file_name}", path)
        if (found := sha256_file(part)) != expected:
            part.unlink()
            raise KDError(
                f"{base_url}/{file_name} has sha256 {found[:16]}..., expected {expected[:16]}...; "
                "fetch the official files yourself and give their folder with --raw"
            )
        os.replace(part, path)
    return folder


def download(url: str, path: Path) -> Path:
    """Fetch all of `url` beside `path`, or the rest of it; return the whole file, under a temporary name still.

    What an earlier, interrupted call fetched is kept if the server says that the file is the same (If-Range).
    Raises KDError when the network fails; then the same call continues.
    """
    ensure_writable_folder(path.parent)
    part = path.with_name(f".{path.name}.part")
    with exclusive(path):
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
