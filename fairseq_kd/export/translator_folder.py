"""What a folder that `ctranslate2.Translator` loads says about itself: vocabularies, special tokens, positions.

The folder can come from any converter of CTranslate2. The file model.bin is a header followed by named tensors; only
names and shapes are read here (`ctranslate2.specs.model_spec.LayerSpec.save` writes them).
"""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.core.errors import KDError

VERSIONS = range(2, 7)  # of the format of model.bin: the names and the sizes are written in the same way
TRANSLATOR = "TransformerSpec"  # the name of encoder-decoder models in model.bin
POSITIONS = ("encoder/position_encodings/encodings", "decoder/position_encodings/encodings")
SPECIAL = ("bos_token", "eos_token", "unk_token")  # keys of config.json
FILES = ("model.bin", "config.json")


@dataclass(frozen=True)
class TranslatorFolder:
    """A model with its vocabularies.

    config: the content of config.json. source, target: the tokens by id. positions: the longest source and target, in
    tokens; None where the model has no table of positions, so that any length is possible. files: the files that
    decide about translations.
    """

    path: Path
    config: dict
    source: tuple[str, ...]
    target: tuple[str, ...]
    positions: tuple[int | None, int | None]
    files: tuple[Path, ...]

    @property
    def special(self) -> set[str]:
        """The symbols for the beginning and the end of a sentence, padding and an unknown token."""
        named = {self.config[key] for key in SPECIAL if self.config.get(key)}
        return named | {"<s>", "</s>", "<pad>", "<blank>", "<unk>"}

    @property
    def eos(self) -> str:
        """The token that ends a sentence."""
        return self.config.get("eos_token") or "</s>"

    @property
    def unknown(self) -> str:
        """The token for what the vocabulary does not have."""
        return self.config.get("unk_token") or "<unk>"


def read_translator_folder(path) -> TranslatorFolder:
    """Read everything but the weights. Raises KDError for a folder that is no translator."""
    path = Path(path)
    if not path.is_dir():
        raise KDError(f"--teacher-folder {path} is not a folder: give a model that a converter of CTranslate2 wrote")
    for name in FILES:
        if not (path / name).is_file():
            hint = "a model of transformers or Marian becomes one by a converter of CTranslate2"
            raise KDError(f"--teacher-folder {path} is no translator of CTranslate2, it has no {name}: {hint}")
    name, positions = _read_header(path / "model.bin")
    if name != TRANSLATOR:
        raise KDError(f"--teacher-folder {path} is no translator: its model is a {name}, and {TRANSLATOR} is needed")
    source, target = _vocabulary_file(path, "source"), _vocabulary_file(path, "target")
    config = _read_json(path / "config.json", dict)
    tokens = {file: _read_vocabulary(file) for file in {source, target}}
    files = tuple(sorted({path / "model.bin", path / "config.json", source, target}))
    return TranslatorFolder(path, config, tokens[source], tokens[target], positions, files)


def _vocabulary_file(path: Path, side: str) -> Path:
    names = [f"{kind}_vocabulary.{ending}" for kind in (side, "shared") for ending in ("json", "txt")]
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise KDError(f"--teacher-folder {path} is no translator with one {side} vocabulary: it has no {names[0]}")
    return found


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    if path.suffix == ".json":
        return tuple(_read_json(path, list))
    return tuple(path.read_text(encoding="utf-8").rstrip("\n").split("\n"))


def _read_json(path: Path, kind: type):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KDError(f"--teacher-folder: {path} was damaged ({error}): convert the model again") from error
    if not isinstance(found, kind) or (kind is list and not all(isinstance(token, str) for token in found)):
        raise KDError(f"--teacher-folder: {path} was damaged (it holds no tokens): convert the model again")
    return found


def _read_header(path: Path) -> tuple[str, tuple[int | None, int | None]]:
    """(name of the specification, rows of the tables of positions of encoder and decoder)."""
    rows = {}
    try:
        with open(path, "rb") as file:
            (version,) = _read(file, "I")
            if version not in VERSIONS:
                raise KDError(f"--teacher-folder: {path} has the format {version}, which is not known: convert again")
            name = _read_string(file)
            _read(file, "I")
            for _ in range(*_read(file, "I")):
                variable = _read_string(file)
                shape = _read(file, "I" * _read(file, "B")[0])
                _, size = _read(file, "<BI")
                file.seek(size, 1)
                rows |= {variable: shape[0]} if variable in POSITIONS else {}
            for _ in range(*_read(file, "I")):  # equal tensors are written once
                alias, variable = _read_string(file), _read_string(file)
                rows |= {alias: rows.get(variable)} if alias in POSITIONS else {}
    except (OSError, struct.error, UnicodeDecodeError, IndexError) as error:
        raise KDError(f"--teacher-folder: {path} was damaged ({error}): convert the model again") from error
    return name, tuple(map(rows.get, POSITIONS))


def _read(file, layout: str) -> tuple:
    layout = layout if layout.startswith("<") else "<" + layout
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _read_string(file) -> str:
    (length,) = _read(file, "H")
    return file.read(length)[:-1].decode()
