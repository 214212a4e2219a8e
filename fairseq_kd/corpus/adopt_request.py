"""What `fairseq-kd adopt` is asked to keep: the subword models, and the text of subsets."""

import re
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.entry import ENDING
from fairseq_kd.corpus.prepare_options import FORMS
from fairseq_kd.corpus.subword import NO_SUBWORDS


@dataclass
class Adoption:
    """models: language -> file of its subword model or "none"; with the key "" one for both languages.

    references, sources: subset -> file with its text in the target, in the source language. form: one of FORMS.
    languages: (source, target); None: the languages that the data-bin shows.
    Raises KDError on construction for a wrong form and for a training set among the texts.
    """

    models: dict[str, str]
    references: dict[str, str]
    sources: dict[str, str]
    form: str = "cased"
    languages: tuple[str, str] | None = None

    def __post_init__(self):
        if self.form not in FORMS:
            raise KDError(f"--form {self.form}: must be one of {', '.join(FORMS)}")

    def check_subsets(self, data_bin, subsets) -> None:
        """Raises KDError for text of a subset that the data-bin lacks, and of a training set."""
        for option, texts in (("--reference", self.references), ("--source", self.sources)):
            for subset in texts:
                if subset not in subsets:
                    raise KDError(
                        f"{option} {subset}=...: {data_bin} has no subset {subset!r}; it has {', '.join(subsets)}"
                    )
                if subset.startswith("train"):
                    raise KDError(f"{option} {subset}=... has no effect: text is kept for the sets of the evaluation")

    def describe(self, languages: tuple[str, str], inputs: Inputs) -> dict:
        """The request for the manifest; files by their hashes. Raises KDError for a missing file."""
        self.models = by_language(self.models, languages)
        return {
            "name": "adopt",
            "languages": list(languages),
            "form": self.form,
            "subword_model": hash_models(self.models, inputs),
            "references": {subset: _hash(path, "--reference", inputs) for subset, path in self.references.items()},
            "sources": {subset: _hash(path, "--source", inputs) for subset, path in self.sources.items()},
        }


def by_language(models: dict[str, str], languages: tuple[str, str]) -> dict[str, str]:
    """The files of `parse_models` by language. Raises KDError where they are for other languages."""
    if models.keys() == {""}:
        return dict.fromkeys(languages, models[""])
    if models.keys() != set(languages):
        raise KDError(
            f"--subword-model names the languages {', '.join(models)}, the data-bin has {' and '.join(languages)}: "
            "give one FILE for both, or LANG=FILE for each"
        )
    return {lang: models[lang] for lang in languages}


def hash_models(paths: dict[str, str], inputs: Inputs) -> dict[str, str]:
    """Language -> sha256 of the file of its model. Raises KDError for a missing file."""
    return {lang: _hash(path, "--subword-model", inputs) for lang, path in paths.items()}


def parse_models(words: list[str]) -> dict[str, str]:
    """The words of --subword-model: FILE or "none" -> {"": FILE}; LANG=FILE LANG=FILE -> {LANG: FILE, LANG: FILE}."""
    if len(words) == 1 and ("=" not in words[0] or Path(words[0]).is_file()):
        return {"": words[0]}
    return parse_files("--subword-model", words, "LANG")


def parse_files(option: str, words: list[str], what: str) -> dict[str, str]:
    """NAME=FILE ... -> {NAME: FILE}. what: the kind of the names, for the message.

    Raises KDError for a word of another form and for a name that is given twice.
    """
    found = {}
    for word in words:
        if (match := re.fullmatch(r"([^=/]+)=(.+)", word)) is None:
            raise KDError(f"{option} {word}: must be {what}=FILE")
        if match[1] in found:
            raise KDError(f"{option}: {match[1]} is given twice")
        found[match[1]] = match[2]
    return found


def corpus_name(path, lang: str) -> str:
    """The name of a text file without its language and the ending of its compression."""
    return re.sub(ENDING, "", Path(path).name).removesuffix(f".{lang}")


def _hash(path: str, option: str, inputs: Inputs) -> str:
    if option == "--subword-model" and path == NO_SUBWORDS:
        return NO_SUBWORDS
    if not Path(path).is_file():
        raise KDError(f"{option}: {path} is not there")
    return inputs.sha256(path)
