"""Manifests: what an artefact was made from, with hashes, so that a reader can check it.

`folders` and `writing` write artefacts; this module reads manifests and compares hashes.
"""

import contextlib
import hashlib
import json
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.version import __version__

MANIFEST_NAME = "manifest.json"


def sha256_file(path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def library_versions() -> dict:
    """Library -> version, for the libraries that can change a result."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"fairseq_kd": __version__}
    names = ("ve-fairseq", "fairseq", "torch", "numpy", "sacrebleu", "sentencepiece", "subword-nmt", "pyarrow")
    for name in (*names, "ctranslate2"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def read_manifest(folder, name: str = MANIFEST_NAME) -> dict | None:
    """The manifest in `folder`, or None if it has none. Raises KDError when the manifest is not readable JSON."""
    path = Path(folder) / name
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError(f"it holds a {type(manifest).__name__}")
    except ValueError as error:  # json and UTF-8 raise subclasses of it
        raise KDError(f"{path} is not a readable manifest ({error}); make the folder again") from error
    return manifest


def read_prepared(folder) -> dict | None:
    """The manifest of a data-bin that contains plain-text references and its subword model, else None.

    `fairseq-kd prepare` makes such data-bins, and `decode`, `mix` and `noise` keep these files.
    """
    manifest = read_manifest(folder)
    return manifest if manifest is not None and "subword" in manifest else None


def check_files(folder, files: dict) -> None:
    """Compare the sha256 of each file of a manifest (relative name -> hash) with the disk.

    Raises KDError that names the first file that is missing or differs.
    """
    for name, expected in files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise KDError(f"{path} is missing although the manifest lists it; make {folder} again")
        found = sha256_file(path)
        if found != expected:
            raise KDError(
                f"{path} has sha256 {found[:16]}..., its manifest says {expected[:16]}...: the file was changed "
                f"after it was made; make {folder} again"
            )


def hash_files(folder) -> dict:
    """sha256 of every file below `folder` except the manifest, by relative name in sorted order."""
    folder = Path(folder)
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_NAME
    }
