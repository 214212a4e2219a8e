"""Manifests: what an artefact was made from, with hashes, so that a reader can check it.

`folders` and `writing` write artefacts; this module reads manifests and compares hashes.
"""

import contextlib
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.records import read_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.version import __version__

MANIFEST_NAME = "manifest.json"
DECODED = "fairseq_kd decoded data-bin"  # the kind of a data-bin whose targets a teacher has translated
MIXED = "fairseq_kd mixed data-bin"  # kind of the data-bins that `fairseq-kd mix` makes
PREPARED = {"source_lang": str, "target_lang": str, "subsets": dict, "subword": dict, "files": dict}


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
    """The manifest in `folder`, or None if it has none. Raises KDError when it is damaged."""
    return read_record(Path(folder) / name, "copy the folder again, or make it again")


def read_prepared(folder) -> dict | None:
    """The manifest of a data-bin that contains plain-text references and its subword model, else None.

    `fairseq-kd prepare` makes such data-bins, and `decode`, `mix` and `noise` keep these files. Raises KDError when the
    manifest is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None or "subword" not in manifest:
        return None
    if missing := [name for name in PREPARED if not isinstance(manifest.get(name), PREPARED[name])]:
        raise KDError(f"{Path(folder) / MANIFEST_NAME} is damaged: {missing[0]!r} is missing. Copy the data-bin again")
    return manifest


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
