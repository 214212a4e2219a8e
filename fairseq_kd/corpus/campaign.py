"""Corpora of evaluation campaigns: archives -> the files of each subset -> aligned text that `prepare` takes.

A corpus is described by where its archives are, which of their members hold which subset and how those are read, and
how it is usually prepared; iwslt.py and wmt.py hold the descriptions.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.writing import create_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.datasets import SubsetFiles, corpus_folder, download, existing_folder
from fairseq_kd.corpus.files import extract, fault_of

ENDINGS = (".tgz", ".tar.gz", ".tar", ".zip")


@dataclass(frozen=True)
class Archive:
    """An archive of text. name: without ending. urls: tried in order; none: only by --raw.

    inside: larger archives that hold it, by their names without ending, for --raw.
    """

    name: str
    urls: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Two aligned members of an archive. path: of the member, with {lang}, or language -> path."""

    archive: Archive
    path: str | dict[str, str]
    read: Callable[[Path], Iterator[bytes]]

    def member(self, lang: str) -> str:
        """Path of one side in the archive."""
        return self.path[lang] if isinstance(self.path, dict) else self.path.format(lang=lang)


@dataclass(frozen=True)
class Corpus:
    """A named corpus. usual: the fields of PrepareOptions by which it is usually prepared."""

    name: str
    languages: tuple[str, str]
    subsets: dict[str, tuple[Part, ...]]
    usual: dict = field(default_factory=dict)
    # the usual tokenised editions have straight apostrophes in their evaluation sets
    straight_apostrophes: bool = False

    @property
    def archives(self) -> list[Archive]:
        """Each archive once, in order of use."""
        return list(dict.fromkeys(part.archive for parts in self.subsets.values() for part in parts))


def locate_archives(corpus: Corpus, raw=None) -> dict[Archive, Path]:
    """Where each archive is: a file (perhaps a larger archive that holds it), or the folder where it was unpacked.

    raw: folder with the archives, or with what is in them; None: they are downloaded into the cache folder.
    Raises KDError when one cannot be had.
    """
    if raw is None:
        return {archive: _download(corpus, archive) for archive in corpus.archives}
    raw = existing_folder(raw)
    return {archive: _find(raw, archive) or raw for archive in corpus.archives}


def _find(raw: Path, archive: Archive) -> Path | None:
    names = [name for stem in (archive.name, *archive.inside) for name in _file_names(stem)]
    return next((raw / name for name in names if (raw / name).is_file()), None)


def _download(corpus: Corpus, archive: Archive) -> Path:
    if not archive.urls:
        raise KDError(f"no address is known for {archive.name} of {corpus.name}: get it and give its folder by --raw")
    errors = []
    for url in archive.urls:
        ending = next(ending for ending in ENDINGS if url.endswith(ending))
        path = corpus_folder(corpus.name) / f"{archive.name}{ending}"
        try:
            download(url, path, lambda file, path=path: _fault(file, path))
        except KDError as error:
            errors.append(str(error))
            continue
        return path
    raise KDError("; ".join(errors) + f"; or get {archive.name} yourself and give its folder by --raw")


def _fault(file: Path, path: Path) -> str | None:
    """What is wrong with `file`, which is or becomes `path`: it is read to its end before it is used first."""
    if file == path and _record(path).is_file():
        return None  # its hash is compared whenever it is used
    return fault_of(file)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def check_recorded_hash(path: Path, inputs: Inputs) -> str:
    """sha256 of an archive, compared with PATH.sha256; at first use it is recorded there, as sha256sum writes it.

    Raises KDError when the archive is not the one that was recorded. A folder that cannot be written to is said on
    standard error: then the hash is in the manifest of the data-bin alone.
    """
    found, record = inputs.sha256(path), _record(path)
    try:
        create_file(record, [f"{found}  {path.name}\n".encode()])
    except (OSError, KDError) as error:
        if not record.is_file():
            print(f"the sha256 of {path} cannot be recorded beside it ({error})", file=sys.stderr, flush=True)
            return found
    if (expected := record.read_text(encoding="utf-8").split()[:1]) != [found]:
        raise KDError(
            f"{path} has sha256 {found[:16]}..., {record.name} says {(expected or ['nothing'])[0][:16]}...: it is "
            f"not the archive that was used first; get that again, or remove {record} to use this one"
        )
    return found


def files_read(corpus: Corpus, archives: dict[Archive, Path]) -> dict[str, Path]:
    """Name -> file of all that is read: the archives, or their members where they were unpacked.

    Raises KDError for members that are missing.
    """
    found = {}
    for archive, path in archives.items():
        if path.is_file():
            found[path.name] = path
        else:
            found |= sorted(extract(path, _members(corpus, archive), path).items())
    return found


def describe_origin(corpus: Corpus, archives: dict[Archive, Path], inputs: Inputs) -> dict:
    """What identifies the raw text: the sha256 of each archive, or of the files where it was unpacked.

    inputs: gets these files.
    """
    whole = set(archives.values())
    files = files_read(corpus, archives).items()
    return {
        "archives": {
            name: check_recorded_hash(file, inputs) if file in whole else inputs.sha256(file) for name, file in files
        }
    }


def write_text(corpus: Corpus, archives: dict[Archive, Path], folder, languages, *, tokenised: bool) -> dict:
    """Write the text of each subset into `folder`, one sentence a line; return subset -> SubsetFiles.

    tokenised: whether the text is going to be tokenised. Raises KDError for archives of another layout, for damaged
    ones, and for sides of unequal length.
    """
    folder = Path(folder)
    unpacked = {}
    for number, (archive, path) in enumerate(archives.items()):
        scratch = folder / f"archive-{number}"
        scratch.mkdir()
        members = _members(corpus, archive)
        if path.is_file() and path.name not in _file_names(archive.name):  # a larger archive that holds it
            path = extract(path, [f"{archive.name}.tgz"], scratch)[f"{archive.name}.tgz"]
        unpacked |= {(archive, name): file for name, file in extract(path, members, scratch).items()}
    files = {}
    for subset, parts in corpus.subsets.items():
        straight = corpus.straight_apostrophes and tokenised and subset != "train"
        stem = "+".join(Path(part.member(languages[0])).name for part in parts)
        files[subset] = SubsetFiles(stem, *(folder / f"raw.{subset}.{lang}" for lang in languages))
        with open(files[subset].source, "wb") as source, open(files[subset].target, "wb") as target:
            for part in parts:
                sides = {name: unpacked[part.archive, name] for name in map(part.member, languages)}
                _write_part(part.read, sides, straight, source, target)
    for (archive, _), file in unpacked.items():
        if archives[archive].is_file():  # what was unpacked here, not the user's own
            file.unlink(missing_ok=True)
    return files


def _write_part(read, sides: dict[str, Path], straight: bool, source, target) -> None:
    counts = [0, 0]
    for pair in zip_longest(*map(read, sides.values())):
        for side, (line, file) in enumerate(zip(pair, (source, target), strict=True)):
            if line is not None:
                counts[side] += 1
                file.write((line.replace("’".encode(), b"'") if straight else line) + b"\n")
    if counts[0] != counts[1]:
        found = " and ".join(f"{name} has {count} sentences" for name, count in zip(sides, counts, strict=True))
        raise KDError(
            f"{found}: they are not aligned, so no pair after the first missing one can be trusted; get the archive "
            "again"
        )


def _members(corpus: Corpus, archive: Archive) -> list[str]:
    parts = [part for parts in corpus.subsets.values() for part in parts if part.archive == archive]
    return list(dict.fromkeys(part.member(lang) for part in parts for lang in corpus.languages))


def _file_names(stem: str) -> list[str]:
    return [f"{stem}{ending}" for ending in ENDINGS]
