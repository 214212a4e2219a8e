"""A converted teacher: a model of CTranslate2 with its own tokeniser, and the sentences that it translates.

Text goes in and text comes out, so its vocabulary need not be the vocabulary of the data-bin. `ConvertedTeacher` has
the properties of `teacher.ensemble.Teachers` that decoding uses.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.hashes import sha256_of_several
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import DECODED, read_manifest, read_prepared
from fairseq_kd.artifacts.request import PARTS, check_free
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.binarise import SPECIAL_WORDS
from fairseq_kd.corpus.clean import Tokenise
from fairseq_kd.corpus.like import Like
from fairseq_kd.corpus.subword import not_adopted
from fairseq_kd.corpus.text import normalise_spaces
from fairseq_kd.export.runtime import check_installed
from fairseq_kd.export.translator_folder import TranslatorFolder, read_translator_folder
from fairseq_kd.sequence.converted_options import ConvertedOptions, FilledOptions, check_target_pieces, control_tokens
from fairseq_kd.sequence.converted_sources import make_sources, open_sources
from fairseq_kd.sequence.converted_tokeniser import Tokeniser, open_tokeniser

SOURCES = ".teacher"


class TargetText:
    """Text -> token ids of one language of a data-bin, in its form and by its subword model."""

    def __init__(self, data_bin, languages: tuple[str, str]):
        """languages: (of the text, the other one). Raises KDError for a data-bin without a subword model."""
        like = Like(data_bin, languages)
        self.dictionary, self._model = like.dictionaries[0], like.model
        lower, form = like.options.form == "lower-cased", like.options.form
        self._in_form = str if form == "cased" else Tokenise(languages[0], lower)
        self._never = {*SPECIAL_WORDS, *like.manifest.get("reserved", ())}

    def encode(self, text: str) -> np.ndarray:
        """Ids (length,) without EOS. A word that is spelt like a special or reserved symbol becomes unknown."""
        words = self._model.encode(self._in_form(normalise_spaces(text))).split()
        unknown, index = self.dictionary.unk(), self.dictionary.index
        return np.array([unknown if word in self._never else index(word) for word in words], dtype=np.int64)


@dataclass(frozen=True)
class ConvertedTeacher:
    """The model, and a task with the loaded subset of a data-bin. See the module.

    sources: the folder of the sentences in the teacher's tokens; it does not exist where OUT is finished.
    """

    folder: TranslatorFolder
    options: ConvertedOptions
    filled: FilledOptions
    tokeniser: Tokeniser
    target_text: TargetText
    task: object
    subset: str
    sources: Path
    inputs: Inputs

    @property
    def dataset(self):
        """The subset in the data-bin's tokens."""
        return self.task.dataset(self.subset)

    @cached_property
    def tokens(self):
        """The sources in the teacher's tokens, see `converted_sources.open_sources`."""
        return open_sources(self.sources)

    @property
    def added_tokens(self) -> int:
        """The tokens around a source."""
        config = self.folder.config
        ends = sum(bool(config.get(key)) for key in ("add_source_bos", "add_source_eos"))
        return len(self.filled.source_prefix) + len(self.filled.source_suffix) + ends

    @property
    def source_sizes(self) -> np.ndarray:
        """(sentences,): the tokens that the encoder reads."""
        return self.tokens.src_sizes - 1 + self.added_tokens

    @property
    def max_positions(self) -> tuple[int, int]:
        """The longest source and target. A source above it has no answer."""
        source, target = (limit or sys.maxsize for limit in self.folder.positions)
        return min(source, self.options.max_source_tokens or source), target

    @cached_property
    def control_tokens(self) -> frozenset[str]:
        """Of the target side, see `converted_options.control_tokens`."""
        return control_tokens(self.options, self.folder, self.folder.target)

    def fingerprint(self) -> dict:
        """The hashes of model and tokeniser, and the options. Raises KDError when a file has changed."""
        hashes = [self.inputs.sha256(path) for path in self.folder.files]
        return {
            "path": os.path.abspath(self.folder.path),
            "sha256": sha256_of_several(hashes),
            "tokeniser": self.tokeniser.kind,
            "tokeniser_sha256": [self.inputs.sha256(path) for path in self.tokeniser.files],
            "family": self.options.family,
            "source_prefix": " ".join(self.filled.source_prefix),
            "source_suffix": " ".join(self.filled.source_suffix),
            "target_prefix": " ".join(self.filled.target_prefix),
            "max_source_tokens": self.options.max_source_tokens,
            "max_unknown_share": self.options.max_unknown_share,
        }

    def described(self) -> dict:
        """What the manifest of the data-bin says besides the request."""
        made = read_manifest(self.sources)
        return {"teacher_tokeniser": self.filled.tokeniser} | ({"teacher_sources": made["found"]} if made else {})


def open_converted(
    data_bin, options: ConvertedOptions, task, subset: str, out, identity: dict, texts: Callable[[], Iterable[str]],
    inputs: Inputs, say=print,
) -> ConvertedTeacher:  # fmt: skip
    """Open the model, and cut the source texts into its tokens.

    data_bin: whose subwords the targets get. task: with `subset`, in the direction of the teacher. out: the data-bin to
    make. identity: of the sentences, for the manifest. texts: gives the text of each sentence, in order.
    Raises KDError when folder, tokeniser, options and `out` do not fit together.
    """
    check_installed()
    if read_prepared(data_bin) is None:
        raise not_adopted(data_bin, "give a --teacher of fairseq in place of --teacher-folder")
    path = Path(options.folder)
    inputs.watch(path / "model.bin", path / "config.json", *path.glob("*_vocabulary.*"))
    inputs.watch_data_bin(data_bin)
    folder = read_translator_folder(path)
    filled = options.filled(folder)
    tokeniser = open_tokeniser(filled.tokeniser)
    inputs.watch(*tokeniser.files)
    check_target_pieces(tokeniser, folder, options)
    languages = task.cfg.target_lang, task.cfg.source_lang
    target_text, sources = TargetText(data_bin, languages), Path(out) / PARTS / SOURCES
    teacher = ConvertedTeacher(folder, options, filled, tokeniser, target_text, task, subset, sources, inputs)
    _check_dictionary(teacher, data_bin)
    request = {"teacher": {key: value for key, value in teacher.fingerprint().items() if key != "path"}}
    request["sentences"] = {key: value for key, value in identity.items() if key != "data_bin"}
    check_free(Path(out), {"kind": DECODED, "teacher": teacher.fingerprint()})
    if read_manifest(out) is None:
        say(filled.describe(options.family))
        made = make_sources(texts(), len(teacher.dataset), teacher, options, sources, request, inputs)["found"]
        say(f"{made['unknown_pieces']:,} of {made['pieces']:,} source pieces are unknown to the teacher")
    return teacher


def _check_dictionary(teacher: ConvertedTeacher, data_bin) -> None:
    """A subset in the form of the data-bin, opened by fairseq, has the dictionary that new targets are looked up in."""
    ours, theirs = teacher.target_text.dictionary.symbols, teacher.task.target_dictionary.symbols
    if ours != theirs:
        raise KDError(f"the dictionary of {data_bin} was changed while it was read: run the same command again")
