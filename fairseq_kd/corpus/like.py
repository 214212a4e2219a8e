"""What text needs to become sentences of an existing data-bin: form, cleaning, subword model and dictionaries."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fairseq_kd.artifacts.data_bin_check import read_dictionary
from fairseq_kd.artifacts.manifest import check_files, read_prepared
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.scripts import Lengths
from fairseq_kd.corpus.subword import load_subword_models
from fairseq_kd.corpus.text import CleaningRules

IN_CHARACTERS = re.compile(r"characters, ([0-9.e+]+) to a word")  # as `Lengths.describe` writes it


@dataclass
class Like:
    """A data-bin with the subword model, opened for text in the first of the `languages` (source, target).

    Raises KDError when the data-bin does not say how its text became subwords, and for other languages.
    """

    data_bin: Path
    languages: tuple[str, str]
    manifest: dict = field(init=False)

    def __post_init__(self):
        self.data_bin = Path(self.data_bin)
        self.manifest = read_like(self.data_bin)
        self.model = load_subword_models(self.data_bin, *self.languages)[self.languages[0]]
        self.options = PrepareOptions(
            form=self.manifest.get("form", "cased"),
            count_tokens=self.manifest.get("request", {}).get("options", {}).get("count_tokens", False),
            rules=CleaningRules(**self._cleaning.get("rules", {})),
        )

    @cached_property
    def dictionaries(self) -> tuple:
        """Of source and target."""

        return tuple(read_dictionary(self.data_bin / f"dict.{lang}.txt") for lang in self.languages)

    @property
    def _cleaning(self) -> dict:
        """The record of the cleaning of the training set; a derived data-bin has only those of the other subsets."""
        subsets = self.manifest["subsets"]
        return next((found["cleaning"] for name, found in sorted(subsets.items(), key=lambda item: item[0] != "train")
                     if "cleaning" in found), {})  # fmt: skip

    @cached_property
    def _lengths(self) -> Lengths:
        measured = self._cleaning.get("measured", {}).get(self.languages[0], "words")
        found = IN_CHARACTERS.fullmatch(measured)
        return Lengths(source=float(found[1]) if found else None)

    def damage(self, counted: str) -> str | None:
        """ "empty" or "too_long", measured as in the training set of the data-bin; None for a line to keep."""
        length, _ = self._lengths.of(counted, "")
        return self.options.rules.damage(length, length)

    @cached_property
    def evaluation_texts(self) -> list[Path]:
        """The sources of the evaluation sets as text. Raises KDError when one of them was changed."""
        names = [name for name in self.manifest["files"] if re.fullmatch(r"raw/[^/]+", name)]
        names = sorted(name for name in names if name.endswith(f".{self.languages[0]}"))
        check_files(self.data_bin, {name: self.manifest["files"][name] for name in names})
        return [self.data_bin / name for name in names]

    def as_dict(self) -> dict:
        """For the manifest."""
        return {
            "max_words": self.options.rules.max_words,
            "measured": self._lengths.describe()[0],
            "evaluation_sets": [path.name for path in self.evaluation_texts],
        }


def read_like(data_bin) -> dict:
    """The manifest of a data-bin that says how its text became subwords. Raises KDError for another data-bin."""
    check_data_bin(data_bin, "--like")
    if (manifest := read_prepared(data_bin)) is None:
        raise KDError(
            f"--like {data_bin} does not say how its text became subwords, because it was not made by `fairseq-kd "
            "prepare`: new text could not be cut in the same way, and the teacher would not know it"
        )
    return manifest
