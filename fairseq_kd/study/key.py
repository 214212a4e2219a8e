"""Names of stages, KIND-REQUEST-MAKER: what a stage was asked to make, and what made it.

REQUEST is the hash of the command and of the contents of the files that the command names. Files of other stages count
by the REQUEST of their stage, files of the user by their sha256. MAKER is the hash of the format number of the kind, of
the versions of the libraries that the kind uses, and of the names of the inputs. So a stage that other versions made
has another name but the same REQUEST, by which `state.OlderStages` finds it. A training without a teacher's
distribution keeps the REQUEST that it had with another criterion (`_as_asked`), and has another MAKER.

Files of the user: stages run in another folder, so a command has absolute paths (`with_files`); the request depends on
the contents alone.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, hash_files
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import nearest
from fairseq_kd.corpus.corpora import CORPORA
from fairseq_kd.corpus.entry import text_files
from fairseq_kd.study.maker import BEFORE, is_cross_entropy
from fairseq_kd.training.arguments import CROSS_ENTROPY, to_arguments

REQUEST_LENGTH, MAKER_LENGTH = 12, 8  # hexadecimal digits
FIRST_FORMAT, FIRST_VERSION = 1, "0.1.0"  # the version that named stages KIND-KEY
FILE_OF_STAGE = re.compile(r"@/stages/([^/]+)/")  # the beginning of a file of a stage, see parts_of
BETWEEN_PARTS = re.compile(r"((?:@\d+)?,|:)")


@dataclass(frozen=True)
class Key:
    """The parts of a stage's name. former: the name that version 0.1.0 gave to the same request."""

    request: str  # KIND-REQUEST
    maker: str
    former: str

    @property
    def name(self) -> str:
        """The name of the stage and of its folder."""
        return f"{self.request}-{self.maker}"


def key_of(kind: str, command: list, depends, maker: dict, inputs: dict[str, Key]) -> Key:
    """The key of a stage.

    depends: JSON, what the result depends on besides the command. maker: the result of `made_by`. inputs: name of each
    stage in the command -> its key.
    """
    command = _as_asked(command)
    asked = [kind, _renamed(command, {name: key.request for name, key in inputs.items()}), depends]
    first = [kind, _renamed(command, {name: key.former for name, key in inputs.items()}), depends]
    return Key(
        request=f"{kind}-{_hash(asked, REQUEST_LENGTH)}",
        maker=_hash([maker, list(inputs)], MAKER_LENGTH),
        former=f"{kind}-{_hash([*first, FIRST_FORMAT, FIRST_VERSION], REQUEST_LENGTH)}",
    )


def inputs_of(command: list) -> list[str]:
    """Names of the stages whose files a command names, each once."""
    found = (FILE_OF_STAGE.match(part) for word in command for part in parts_of(word))
    return list(dict.fromkeys(match[1] for match in found if match))


def _as_asked(command: list) -> list:
    """The command with the words BEFORE in place of CROSS_ENTROPY: both ask for the same training."""
    words = to_arguments(CROSS_ENTROPY)
    for at in range(len(command) if is_cross_entropy(command) else 0):
        if command[at : at + len(words)] == words:
            return [*command[:at], *BEFORE, *command[at + len(words) :]]
    return command


def parts_of(word: str) -> list[str]:
    """The files that a word of a planned command names.

    Several teachers, caches or peers are joined by ":", and those that follow each other by "@UPDATE,".
    """
    return _split(word)[::2]


def with_parts(word: str, change) -> str:
    """The word of a planned command with change(part) in place of each of its parts, see `parts_of`."""
    split = _split(word)
    split[::2] = map(change, split[::2])
    return "".join(split)


def _split(word: str) -> list[str]:
    """Parts and what is between them, in turn."""
    return BETWEEN_PARTS.split(word) if word.startswith("@") else [word]


def _renamed(command: list, names: dict[str, str]) -> list:
    def renamed(part: str) -> str:
        found = FILE_OF_STAGE.match(part)
        return f"@/stages/{names[found[1]]}/{part[found.end() :]}" if found else part

    return [with_parts(word, renamed) for word in command]


def _hash(content: list, length: int) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:length]


FILE_OPTIONS = ("finetune-from-model", "restore-file", "encoder-embed-path", "decoder-embed-path", "like")
FILE_OPTIONS += ("subword-model", "reference", "teacher", "teacher-data", "peer-like", "domains", "transfer")
FILE_OPTIONS += ("select-model", "round-trip")
FOLDER_LISTS = ("user-dir",)  # one folder, or a list of folders
COMPILED = "__pycache__"  # Python writes it next to code that it has imported
NAMES_IN_FAIRSEQ = ("checkpoint_last.pt",)  # a value of restore-file that is not a path


def with_files(where: str, options: dict, known: dict) -> tuple[dict, dict | None]:
    """(the options with absolute paths, the hashes of the files that they name).

    The hashes are a dict, option -> hashes of its files; None where no option names a file. known: path -> hash, for
    files that several cells share. Raises KDError for a file that does not exist.
    """
    options, hashes = dict(options), {}
    for name in FILE_OPTIONS:
        value = options.get(name)
        if isinstance(value, str) and not value.startswith("@") and value not in NAMES_IN_FAIRSEQ:
            paths = [os.path.abspath(part) for part in value.split(os.pathsep)]
            options[name] = os.pathsep.join(paths)
            hashes[name] = _hashes(paths, f"{where}: {name} {value}", known)
    for name in FOLDER_LISTS:
        if name in options:
            value = options[name]
            paths = [os.path.abspath(str(part)) for part in (value if isinstance(value, list) else [value])]
            options[name] = paths
            hashes[name] = _hashes(paths, f"{where}: {name} {value}", known)
    return options, hashes or None


def _hashes(paths: list[str], what: str, known: dict) -> list:
    for path in paths:
        if path not in known:
            known[path] = _hash_path(path, what)
    return [known[path] for path in paths]


def _hash_path(path: str, what: str) -> str | dict:
    """sha256 of a file, of the manifest in a folder, or else of each file in the folder."""
    if not os.path.exists(path):
        raise KDError(f"{what}: {path} does not exist; give a file that exists, or leave the option out")
    if os.path.isfile(path):
        return sha256_file(path)
    manifest = Path(path) / MANIFEST_NAME
    if manifest.is_file():
        return sha256_file(manifest)
    return {name: found for name, found in hash_files(path).items() if COMPILED not in Path(name).parts}


SUBSETS = ("train", "valid", "test")


@dataclass(frozen=True)
class RawText:
    """The identity of the raw text of a cell.

    hashes: file name -> sha256 of the user's own text, or size in bytes for a corpus that `prepare` knows by name; None
    without raw files. subsets: the subsets that the text gives.
    """

    subsets: tuple
    hashes: dict | None

    def check_subset(self, path, subset: str) -> None:
        """Raises KDError, with the path of the spec, for a subset to evaluate that the data lack."""
        if subset not in self.subsets:
            raise KDError(f"{path}: evaluate has the subset {subset!r}, which the data lack; the nearest subset of the "
                          f"data is {nearest(subset, self.subsets)!r}")  # fmt: skip


def raw_text(path, data: dict) -> RawText:
    """The files that `prepare` will read for a section `data` of the spec `path`, and no others.

    Raises KDError when files are missing, or when `raw` holds a named corpus that is not the official one.
    """
    name, raw = data["name"], data.get("raw")
    if raw is not None and "raw" not in CORPORA[name].takes:
        raise KDError(f"{path}: raw has no effect with the {name} corpus: it is generated")
    if raw is not None and not Path(raw).is_dir():
        raise KDError(f"{path}: {raw} is not a folder; give the folder with your raw files as raw in data, or by --raw")
    if name == "text":
        return _own_text(path, data)
    subsets = tuple(dict.fromkeys((*SUBSETS, *CORPORA[name].subsets)))
    return RawText(subsets, None if raw is None else _sizes(name, data))


def _sizes(name: str, data: dict) -> dict:
    files = CORPORA[name].raw_files((data["source-lang"], data["target-lang"]), data["raw"])
    return {name: files[name].stat().st_size for name in sorted(files)}


def _own_text(path, data: dict) -> RawText:
    if data.get("raw") is None:
        raise KDError(f"{path}: data lacks 'raw', the folder with your files (or give --raw)")
    files = text_files(data["raw"], data["source-lang"], data["target-lang"], _stems(data))
    hashes = {file.name: sha256_file(file) for pair in files.values() for file in (pair.source, pair.target)}
    return RawText(tuple(files), hashes)


def _stems(data: dict) -> dict | None:
    if not set(SUBSETS) <= set(data):
        return None
    tests = data["test"] if isinstance(data["test"], list) else [data["test"]]
    named = {f"test{number or ''}": stem for number, stem in enumerate(tests)}
    return {"train": data["train"], "valid": data["valid"]} | named
