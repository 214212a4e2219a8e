"""Files of a named corpus, downloaded once into the cache folder and checked by sha256."""

import os
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

from fairseq_kd.corpus.manifest import ensure_writable_folder, sha256_file
from fairseq_kd.errors import KDError

TIMEOUT_SECONDS = 60


def cache_folder() -> Path:
    """Where downloads are kept: $FAIRSEQ_KD_CACHE, else ~/.cache/fairseq_kd."""
    return Path(os.environ.get("FAIRSEQ_KD_CACHE") or Path.home() / ".cache" / "fairseq_kd")


def download_files(name: str, base_url: str, wanted: dict) -> Path:
    """Fetch `base_url/FILE` for each FILE of `wanted` (name -> sha256) that is not in the cache; return the folder.

    A file appears under its name only when it is whole and its hash is right, so a killed download is begun again.
    Raises KDError when the network or the hash fails.
    """
    folder = cache_folder() / name
    ensure_writable_folder(folder)
    for file_name, expected in wanted.items():
        path = folder / file_name
        if path.is_file() and sha256_file(path) == expected:
            continue
        print(f"downloading {base_url}/{file_name}", file=sys.stderr, flush=True)
        part = folder / f".{file_name}.part-{os.getpid()}"
        try:
            _fetch(f"{base_url}/{file_name}", part)
            if (found := sha256_file(part)) != expected:
                raise KDError(
                    f"{base_url}/{file_name} has sha256 {found[:16]}..., expected {expected[:16]}...; "
                    "fetch the official files yourself and give their folder with --raw"
                )
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return folder


def _fetch(url: str, path: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, open(path, "wb") as file:
            shutil.copyfileobj(answer, file)
    except (urllib.error.URLError, OSError) as error:
        raise KDError(
            f"cannot download {url} ({error}); on a machine without network give a folder with the files by --raw"
        ) from error
