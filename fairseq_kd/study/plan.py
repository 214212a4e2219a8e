"""The plan of a study: its stages, and the stages of each cell, teacher and claim.

A stage is one command in a folder of its own, WORK/stages/NAME. The name (`fairseq_kd.study.key`) depends on everything
that the result depends on, so cells that need the same stage share it. In a planned command `@/` is WORK, `@out/` the
folder of the stage, `@raw` the folder of the raw files and `@user-dir` the plugin.
"""

import json
from dataclasses import dataclass

from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.study.cells import Cell, Cells
from fairseq_kd.study.claims import Claim, read_claims
from fairseq_kd.study.key import KINDS, ON_GPU, Key, RawText, inputs_of, key_of, made_by, raw_text, with_files
from fairseq_kd.study.sections import SHARES
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.state import CHOSEN_TEACHER, OlderStages
from fairseq_kd.training.arguments import to_arguments, training_arguments

FORMAT = 2  # format number of plan.json
PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Stage:
    """One command.

    inputs: names of the stages that must be finished first. updates: number of updates of a training, 0 for other
    kinds. made_by: see `key.made_by`. old: whether this is a finished stage that other versions made.
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


class Plan:
    """Stages by name, and the stages of each cell, teacher and claim.

    stages: name -> Stage. cells: name -> {"factors", "student", "results"}. asked: kind -> stages without sharing.
    """

    def __init__(self, spec: Spec, cells: Cells, older: OlderStages | None = None):
        """Raises KDError when `older` finds stages of other versions and the user has not chosen what to do."""
        self.spec, self.stages, self.cells = spec, {}, {}
        self.older = {}  # name of a stage -> name of the older stage with the same request
        self._older, self._keys, self._versions = older, {}, library_versions()
        self.teachers = []  # {"checkpoint", "results", "cells"}
        self.excluded, self.repeated = cells.excluded, cells.repeated
        self.asked = dict.fromkeys(KINDS, 0)
        self._raw, self._files, self._measured = {}, {}, {}
        for cell in cells.cells:
            self._add_cell(cell)
        first = next(iter(self.cells.values()))
        factors = {name: cell["factors"] for name, cell in self.cells.items()}
        self.claims = [
            {**claim.as_dict(), "compare": self._compared(claim)}
            for claim in read_claims(spec, factors, list(first["results"]))
        ]
        if older is not None:
            older.check(self.older, len(self.stages), self._versions)

    @property
    def about_older(self) -> str | None:
        """One line about the stages that other versions made; None without such stages."""
        return self._older and self._older.describe(self.older, len(self.stages), self._versions)

    @property
    def takes_older(self) -> bool:
        """Whether the plan uses stages that other versions made."""
        return any(stage.old for stage in self.stages.values())

    def _compared(self, claim: Claim) -> str:
        """Name of the stage that measures the systems of a claim, and tests it if it compares two systems."""
        command = ["fairseq-kd", "compare"]
        for name, runs in claim.systems.items():
            stages = [self.stages[self.cells[cell]["results"][on]] for cell, on in runs]
            command += ["--system", name, *[stage.path("result.json") for stage in stages]]
        return self._add(
            "compare", [*command, "--metric", claim.metric, *claim.options, "--out", "@out/comparison.json"]
        ).name

    def as_dict(self) -> dict:
        """The content of plan.json, which the Snakefile and the processes of the stages read."""
        return {
            "format": FORMAT,
            "kind": "study-plan",
            "name": self.spec.name,
            "kinds": KINDS,
            "on_gpu": ON_GPU,
            "raw": self.spec.sections["data"].get("raw"),
            "stages": {name: vars(stage) for name, stage in self.stages.items()},
            "cells": self.cells,
            "teachers": self.teachers,
            "claims": self.claims,
        }

    def stages_of(self, cell: str) -> list[str]:
        """Names of all stages of a cell, inputs first."""
        return self.needed(self.cells[cell]["results"].values())

    def needed(self, names) -> list[str]:
        """Names of these stages and of all stages that they need, inputs first."""
        found = {}
        for name in names:
            found |= dict.fromkeys([*self.needed(self.stages[name].inputs), name])
        return list(found)

    def _add(self, kind: str, command: list, depends=None, updates: int = 0) -> Stage:
        self.asked[kind] += 1
        inputs, maker = inputs_of(command), made_by(kind, self._versions)
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

    def _tool(self, kind: str, words: list, options: dict, depends=None) -> Stage:
        options, files = with_files(f"{self.spec.path}: {kind}", options, self._files)
        depends = depends if files is None else [depends, files]
        return self._add(kind, ["fairseq-kd", *words, *to_arguments(options)], depends)

    def _add_cell(self, cell: Cell) -> None:
        settings, method = cell.settings, cell.settings["method"]
        clean = self._prepared(settings)
        data = self._noised(clean, "train", settings["noise-level"], settings)
        options = dict(settings["common"]) | settings["student"] | {"max-update": settings["budget"]["student"]}
        options["seed"] = settings["seed"]
        if method == "ce":
            options["criterion"] = "label_smoothed_cross_entropy"
        else:
            teacher = self._teacher(clean if settings["teacher-noise"] == "clean" else data, settings)
            self._add_teacher(teacher, clean, cell)
        if "seq" in method:
            data = self._decoded(data, teacher, settings)
        if "word" in method:
            options |= {"criterion": "kd_word"} | settings["kd"] | self._signal(data, teacher, settings)
        elif method == "seq":
            options["criterion"] = "label_smoothed_cross_entropy"
        student = self._training("student", data, options)
        checkpoint = student.path("checkpoints/checkpoint_best.pt")
        if settings["compact"]:
            checkpoint = self._tool("compact", ["compact", checkpoint], {"out": "@out/model.pt"}).path("model.pt")
        results = self._evaluations(checkpoint, clean, settings)
        self.cells[cell.name] = {"factors": cell.factors, "student": student.name, "results": results}

    def _prepared(self, settings: dict) -> str:
        data = dict(settings["data"])
        name, raw = data.pop("name"), {"raw": "@raw"} if data.pop("raw", None) else {}
        given = data | raw | {"out": "@out/data-bin"}
        return self._tool("prepare", ["prepare", name], given, self._raw_text(settings).hashes).path("data-bin")

    def _raw_text(self, settings: dict) -> RawText:
        data = settings["data"]
        key = json.dumps(data)
        if key not in self._raw:
            self._raw[key] = raw_text(self.spec.path, data)
        return self._raw[key]

    def _noised(self, data_bin: str, subset: str, level: float, settings: dict) -> str:
        """The data-bin with `level` percent of the words of `subset` changed, divided by the operations' shares."""
        if level == 0:
            return data_bin
        options = dict(settings["noise"])
        shares = {name: options.pop(name) for name in SHARES}
        rates = {name: round(level / 100 * share / sum(shares.values()), 6) for name, share in shares.items() if share}
        given = {"data-bin": data_bin, "subset": subset} | rates | options | {"out": "@out/data-bin"}
        return self._tool("noise", ["noise"], given).path("data-bin")

    def _training(self, kind: str, data_bin: str, options: dict) -> Stage:
        options, files = with_files(f"{self.spec.path}: {kind}", options, self._files)
        languages = (self.spec.sections["data"][f"{side}-lang"] for side in ("source", "target"))
        arguments = training_arguments(data_bin, *languages, options, user_dir="@user-dir")
        return self._add(kind, ["fairseq-train", *arguments], files, updates=options["max-update"])

    def _teacher(self, data_bin: str, settings: dict) -> str:
        """The teacher's checkpoint: checkpoint_best.pt (lowest validation loss), unless `teacher-choice` is set."""
        options = {"criterion": "label_smoothed_cross_entropy", "seed": 1, "max-update": settings["budget"]["teacher"]}
        stage = self._training("teacher", data_bin, dict(settings["common"]) | options | settings["teacher"])
        if settings["teacher-choice"] is None:
            return stage.path("checkpoints/checkpoint_best.pt")
        given = {"checkpoints": stage.path("checkpoints"), "by": settings["teacher-choice"]} | settings["select"]
        given |= _tokenizer(settings) | {"out": "@out/selection"}
        return self._tool("select", ["select-teacher", data_bin], given).path(CHOSEN_TEACHER)

    def _decoded(self, data_bin: str, teacher: str, settings: dict) -> str:
        by_text = settings["decode"].get("select") == "closest" and settings["decode"].get("metric", "bleu") == "bleu"
        scored = _tokenizer(settings) if by_text else {}
        given = {"teacher": teacher} | settings["decode"] | scored | {"out": "@out/data-bin"}
        decoded = self._tool("decode", ["decode", data_bin], given).path("data-bin")
        if settings["mix-gold"] == 0:
            return decoded
        times = {"times": [settings["mix-gold"], 1], "out": "@out/data-bin"}
        return self._tool("mix", ["mix", data_bin, decoded], times).path("data-bin")

    def _signal(self, data_bin: str, teacher: str, settings: dict) -> dict:
        if settings["signal"] == "online":
            return {"teacher": teacher}
        given = {"teacher": teacher, "temperature": settings["kd"].get("teacher-temperature", 1)}
        cache = self._tool("cache", ["cache", data_bin], given | settings["cache"] | {"out": "@out/cache"})
        return {"teacher-cache": cache.path("cache")}

    def _evaluations(self, checkpoint: str, clean: str, settings: dict) -> dict:
        """Evaluation set -> name of the stage. Set: `test`, or `test@10` for ten percent of noise in the source."""
        options = dict(settings["evaluate"])
        subsets, levels = options.pop("subsets"), options.pop("noise")
        found = {}
        for subset in subsets:
            self._raw_text(settings).check_subset(self.spec.path, subset)
            for level in levels:
                given = {"checkpoint": checkpoint, "subset": subset} | options | {"out": "@out/result.json"}
                data_bin = self._noised(clean, subset, level, settings)
                name = f"{subset}@{level}" if level else subset
                found[name] = self._tool("evaluate", ["evaluate", data_bin], given).name
        return found

    def _add_teacher(self, checkpoint: str, clean: str, cell: Cell) -> None:
        """Evaluate the teacher with the options of this cell, once for all cells with the same options."""
        key = checkpoint, clean, json.dumps([cell.settings["evaluate"], cell.settings["noise"]])
        if key not in self._measured:
            self._measured[key] = self._evaluations(checkpoint, clean, cell.settings)
        results = self._measured[key]
        for teacher in self.teachers:
            if (teacher["checkpoint"], teacher["results"]) == (checkpoint, results):
                teacher["cells"].append(cell.name)
                return
        self.teachers.append({"checkpoint": checkpoint, "results": results, "cells": [cell.name]})


def _tokenizer(settings: dict) -> dict:
    """The option --tokenize, for a stage that must score text like the evaluations."""
    return {name: settings["evaluate"][name] for name in ("tokenize",) if name in settings["evaluate"]}
