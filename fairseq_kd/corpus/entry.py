"""Corpora by name: `Corpus`, and the kinds that need no archive; `campaign` has the kind with archives.

An entry states everything about a corpus in one place: its files or archives with their hashes, its layout, and the
options with which it is usually prepared. `corpora` holds the entries.
"""

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus import synthetic
from fairseq_kd.corpus.download import download_files, existing_folder
from fairseq_kd.corpus.files import ENDINGS
from fairseq_kd.corpus.text import SubsetFiles, find_text, missing_text

VALID_STEMS = ("valid", "val", "dev")
ENDING = rf"(?:{'|'.join(map(re.escape, ENDINGS))})?$"  # the end of a file's name, compressed or not


class Corpus(ABC):
    """A corpus that `fairseq-kd prepare` knows by its name.

    takes: the options of `prepare` that have an effect on this kind of corpus and not on every kind: raw, train,
    valid, test, pairs, seed. usual: the fields of PrepareOptions with which the corpus is usually prepared.
    subsets: the names of the subsets, as far as they are known without the files.
    """

    name: str
    takes: ClassVar[tuple[str, ...]]
    usual: dict
    subsets: dict

    def choose_languages(self, source_lang: str | None, target_lang: str | None) -> tuple[str, str]:
        """(source, target). Raises KDError for languages that are missing or that the corpus lacks."""
        if not source_lang or not target_lang:
            raise KDError(f"prepare {self.name} needs --source-lang and --target-lang")
        return source_lang, target_lang

    @abstractmethod
    def open(self, languages, options, inputs, *, raw=None, stems=None, spec=None) -> AbstractContextManager[tuple]:
        """Yield (files, origin) as `prepare.prepare` takes them; temporary files exist until the end of the block.

        options: PrepareOptions. inputs: gets the files that identify the text in addition to `files`. raw: folder of
        the files;
        None: they are downloaded. stems: subset -> stem of the user's own files. spec: fields of CorpusSpec.
        Raises KDError for files that are missing or not the right ones.
        """

    @abstractmethod
    def raw_files(self, languages, raw) -> dict[str, Path]:
        """Name -> file of everything that is read from the folder `raw`. Raises KDError as `open` does."""


@dataclass(frozen=True)
class OwnText(Corpus):
    """The user's own files: a folder of aligned text."""

    name: str
    usual: dict = field(default_factory=dict)
    subsets: dict = field(default_factory=dict)
    takes: ClassVar[tuple[str, ...]] = ("raw", "train", "valid", "test")

    @contextmanager
    def open(self, languages, options, inputs, *, raw=None, stems=None, spec=None) -> Iterator[tuple]:
        """See `Corpus`."""
        if raw is None:
            raise KDError("prepare text needs --raw FOLDER, the folder with your files")
        yield text_files(raw, *languages, stems), None

    def raw_files(self, languages, raw) -> dict[str, Path]:
        """See `Corpus`."""
        return _by_name(text_files(raw, *languages))


@dataclass(frozen=True)
class Synthetic(Corpus):
    """The embedded corpus of two invented languages, generated each time."""

    name: str
    usual: dict = field(default_factory=dict)
    subsets: dict = field(default_factory=dict)
    takes: ClassVar[tuple[str, ...]] = ("pairs", "seed")

    def choose_languages(self, source_lang: str | None, target_lang: str | None) -> tuple[str, str]:
        """See `Corpus`."""
        return source_lang or synthetic.SOURCE, target_lang or synthetic.TARGET

    @contextmanager
    def open(self, languages, options, inputs, *, raw=None, stems=None, spec=None) -> Iterator[tuple]:
        """See `Corpus`."""
        made = synthetic.CorpusSpec(**spec or {})
        with tempfile.TemporaryDirectory(prefix="fairseq_kd-") as folder:
            yield synthetic.write_corpus(made, folder, *languages), made.as_dict()

    def raw_files(self, languages, raw) -> dict[str, Path]:
        """The corpus has no files."""
        return {}


@dataclass(frozen=True)
class OfficialFiles(Corpus):
    """Aligned files STEM.LANG.gz whose hashes are known, in several languages.

    url: the folder of the files. subsets: subset -> stem. sha256: file name -> hash.
    """

    name: str
    url: str
    languages: tuple[str, ...]
    subsets: dict[str, str]
    sha256: dict[str, str]
    usual: dict = field(default_factory=dict)
    takes: ClassVar[tuple[str, ...]] = ("raw",)

    @contextmanager
    def open(self, languages, options, inputs, *, raw=None, stems=None, spec=None) -> Iterator[tuple]:
        """See `Corpus`."""
        yield self._files(languages, raw), None

    def raw_files(self, languages, raw) -> dict[str, Path]:
        """See `Corpus`."""
        return _by_name(self._files(languages, raw))

    def _files(self, languages, raw) -> dict[str, SubsetFiles]:
        for lang in languages:
            if lang not in self.languages:
                raise KDError(
                    f"{self.name} has no language {lang!r}; it has {', '.join(self.languages)} "
                    "(--source-lang, --target-lang)"
                )
        names = [f"{stem}.{lang}.gz" for stem in self.subsets.values() for lang in languages]
        wanted = {name: self.sha256[name] for name in names}
        if raw is None:
            raw = download_files(self.name, self.url, wanted)
        else:
            raw = existing_folder(raw)
            self._check_official(raw, wanted)
        return {
            subset: SubsetFiles(stem, *(raw / f"{stem}.{lang}.gz" for lang in languages))
            for subset, stem in self.subsets.items()
        }

    def _check_official(self, raw: Path, wanted: dict) -> None:
        for name, expected in wanted.items():
            path = raw / name
            if not path.is_file():
                raise KDError(f"{path} is missing; --raw needs the official files {', '.join(wanted)}")
            if (found := sha256_file(path)) != expected:
                raise KDError(
                    f"{path} has sha256 {found[:16]}..., the official file has {expected[:16]}...: results on it would "
                    f"not be results on {self.name}; fetch it again, or prepare your own edition by `fairseq-kd "
                    "prepare text`"
                )


def _by_name(files: dict[str, SubsetFiles]) -> dict[str, Path]:
    return {path.name: path for pair in files.values() for path in (pair.source, pair.target)}


def text_files(raw, source_lang: str, target_lang: str, stems: dict | None = None) -> dict[str, SubsetFiles]:
    """Subset -> files of a folder of aligned text, STEM.LANG, plain or compressed.

    stems: subset -> stem. None: `train`, the first of valid, val and dev, and every stem that begins with "test", in
    alphabetical order, as test, test1, ...
    Raises KDError for a missing file; it names the languages that the folder has.
    """
    raw = existing_folder(raw)
    stems = stems or _guess_stems(raw, source_lang, target_lang)
    files = {}
    for subset, stem in stems.items():
        paths = {lang: find_text(raw, stem, lang) for lang in (source_lang, target_lang)}
        for lang, path in paths.items():
            if path is None:
                raise KDError(f"{missing_text(raw, stem, lang)}; languages found in {raw}: {_languages(raw) or 'none'}")
        files[subset] = SubsetFiles(stem, paths[source_lang], paths[target_lang])
    return files


def _guess_stems(raw: Path, source_lang: str, target_lang: str) -> dict:
    valid = next((s for s in VALID_STEMS if find_text(raw, s, source_lang)), VALID_STEMS[0])
    pattern = re.compile(rf"(test[^/]*?)\.(?:{re.escape(source_lang)}|{re.escape(target_lang)}){ENDING}")
    tests = sorted({m.group(1) for path in raw.iterdir() if (m := pattern.match(path.name))}) or ["test"]
    return {"train": "train", "valid": valid} | {f"test{i or ''}": stem for i, stem in enumerate(tests)}


def _languages(raw: Path) -> str:
    names = {re.sub(ENDING, "", path.name) for path in raw.iterdir() if path.is_file()}
    return ", ".join(sorted({name.rsplit(".", 1)[1] for name in names if "." in name}))
