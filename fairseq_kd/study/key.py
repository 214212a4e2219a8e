"""Names of stages, KIND-REQUEST-MAKER: what is asked for, and what makes it.

REQUEST is the hash of the command, in which inputs stand by their own REQUEST, and of the content of the files that it
names. MAKER is the hash of the kind's format number, of the versions of the libraries that the kind uses, and of the
names of the inputs. So what other versions made has another name and the same REQUEST, by which `older` finds it.
"""

import hashlib
import json
import re
from dataclasses import dataclass

REQUEST_LENGTH, MAKER_LENGTH = 12, 8
FIRST_FORMAT, FIRST_VERSION = 1, "0.1.0"  # of the version whose stages are KIND-KEY
OF_A_STAGE = re.compile(r"@/stages/([^/]+)/")  # at the beginning of a word: a file of a stage


@dataclass(frozen=True)
class Maker:
    """format: to be raised when our code gives other results; tests/unit/test_golden.py says when.

    libraries: those whose versions can change a result.
    """

    format: int
    libraries: tuple[str, ...]


MAKERS = {
    "prepare": Maker(1, ("sentencepiece", "subword-nmt", "fairseq")),
    "noise": Maker(1, ("numpy", "sentencepiece", "fairseq")),
    "teacher": Maker(1, ("torch", "fairseq")),
    "select": Maker(1, ("torch", "fairseq", "sentencepiece", "sacrebleu")),
    "decode": Maker(1, ("torch", "fairseq", "ctranslate2", "sentencepiece", "sacrebleu")),
    "mix": Maker(1, ("fairseq",)),
    "cache": Maker(1, ("torch", "fairseq")),
    "student": Maker(1, ("torch", "fairseq")),
    "compact": Maker(1, ("torch", "fairseq")),
    "evaluate": Maker(1, ("torch", "fairseq", "sentencepiece", "sacrebleu")),
    "compare": Maker(1, ("sacrebleu",)),
}


def made_by(kind: str, versions: dict) -> dict:
    """What makes a stage: {"format": number, library: version or None}. versions: those of `library_versions`.

    Builds of one version of torch (2.13.0+cpu, 2.13.0+cu126) are the same, as the device is no part of a request.
    """
    found = versions | {"fairseq": versions.get("fairseq", versions.get("ve-fairseq"))}
    named = {name: found.get(name) for name in MAKERS[kind].libraries}
    return {"format": MAKERS[kind].format} | {name: value and value.partition("+")[0] for name, value in named.items()}


@dataclass(frozen=True)
class Key:
    """The parts of a stage's name. former: the name that version 0.1.0 gave to the same request."""

    request: str  # KIND-REQUEST
    maker: str
    former: str

    @property
    def name(self) -> str:
        """Of the folder."""
        return f"{self.request}-{self.maker}"


def key_of(kind: str, command: list, depends, maker: dict, inputs: dict[str, Key]) -> Key:
    """depends: JSON, what else the result depends on. maker: of `made_by`. inputs: names in the command -> keys."""
    asked = [kind, _renamed(command, {name: key.request for name, key in inputs.items()}), depends]
    first = [kind, _renamed(command, {name: key.former for name, key in inputs.items()}), depends]
    return Key(
        request=f"{kind}-{_hash(asked, REQUEST_LENGTH)}",
        maker=_hash([maker, list(inputs)], MAKER_LENGTH),
        former=f"{kind}-{_hash([*first, FIRST_FORMAT, FIRST_VERSION], REQUEST_LENGTH)}",
    )


def inputs_of(command: list) -> list[str]:
    """Names of the stages whose files a command names, each once."""
    found = (OF_A_STAGE.match(word) for word in command)
    return list(dict.fromkeys(match[1] for match in found if match))


def _renamed(command: list, names: dict[str, str]) -> list:
    return [OF_A_STAGE.sub(lambda match: f"@/stages/{names[match[1]]}/", word, count=1)
            if OF_A_STAGE.match(word) else word for word in command]  # fmt: skip


def _hash(content: list, length: int) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:length]
