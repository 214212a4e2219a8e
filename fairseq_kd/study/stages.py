"""The stages of a plan: each is one command in a folder of its own, WORK/stages/NAME.

The name (`fairseq_kd.study.key`) depends on everything that the result depends on, so cells that need the same stage
share it. In a planned command `@/` is WORK, `@out/` the folder of the stage, `@raw` the folder of the raw files,
`@existing/` an artefact that the study takes as it is (`fairseq_kd.study.existing`), and `@user-dir` the plugin.
"""

from dataclasses import dataclass

from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.study.key import Key, inputs_of, key_of, with_files
from fairseq_kd.study.maker import KINDS, made_by
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.state import OlderStages
from fairseq_kd.training.arguments import to_arguments, training_arguments

BEST = "checkpoints/checkpoint_best.pt"  # of a training


@dataclass(frozen=True)
class Stage:
    """One command.

    inputs: names of the stages that must be finished first. updates: number of updates of a training, without those of
    a training that it continues, or of each client of a federated run; 0 for other kinds. made_by: see `maker.made_by`.
    old: whether this is a finished stage that other versions made.
    """

    name: str
    kind: str
    command: list
    inputs: list
    updates: int
    made_by: dict
    old: bool

    def path(self, file: str) -> str:
        """A file of the stage, as a word of other planned commands."""
        return f"@/stages/{self.name}/{file}"


class Stages:
    """The stages of one spec.

    stages: name -> Stage, inputs first. asked: kind -> number of stages without sharing. older: name of a stage ->
    name of the older stage with the same request.
    """

    def __init__(self, spec: Spec, older: OlderStages | None = None):
        self.spec, self.stages, self.older = spec, {}, {}
        self.asked = dict.fromkeys(KINDS, 0)
        self._older, self._keys, self._versions, self._files = older, {}, library_versions(), {}

    def needed(self, names) -> list[str]:
        """Names of these stages and of all stages that they need, inputs first."""
        found = {}
        for name in names:
            found |= dict.fromkeys([*self.needed(self.stages[name].inputs), name])
        return list(found)

    def _add(self, kind: str, command: list, depends=None, updates: int = 0) -> Stage:
        self.asked[kind] += 1
        inputs, maker = inputs_of(command), made_by(kind, self._versions, command)
        key = key_of(kind, command, depends, maker, {name: self._keys[name] for name in inputs})
        name, old = self._name(key)
        if name not in self.stages:
            self._keys[name] = key
            self.stages[name] = Stage(name, kind, command, inputs, updates, maker, old)
        return self.stages[name]

    def _name(self, key: Key) -> tuple[str, bool]:
        """(name of the stage to use, whether it is an older one)."""
        found = self._older.find(key) if self._older else None
        if found is not None:
            self.older[key.name] = found
        return (found, True) if found and self._older.is_taken else (key.name, False)

    def _tool(self, kind: str, words: list, options: dict, depends=None, updates: int = 0) -> Stage:
        options, files = with_files(f"{self.spec.path}: {kind}", options, self._files)
        depends = depends if files is None else [depends, files]
        return self._add(kind, ["fairseq-kd", *words, *to_arguments(options)], depends, updates)

    def _training(self, kind: str, data_bin: str, options: dict, updates: int | None = None) -> Stage:
        """updates: of this stage, if it continues another training; None: `max-update`."""
        options, files = with_files(f"{self.spec.path}: {kind}", options, self._files)
        languages = (self.spec.sections["data"][f"{side}-lang"] for side in ("source", "target"))
        arguments = training_arguments(data_bin, *languages, options, user_dir="@user-dir")
        return self._add(kind, ["fairseq-train", *arguments], files, updates=updates or options["max-update"])
