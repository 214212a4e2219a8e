"""The plan of a study: its stages, each known by a key, and which of them make each cell.

A stage is one command in a folder of its own, WORK/stages/NAME. The name (`key`) says all that the result depends on,
so the same work is planned once. In a planned command `@/` is WORK, `@out/` the stage's folder, `@raw` the raw files
and `@user-dir` the plugin.
"""

import json
from dataclasses import dataclass

from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.study.claims import Claim, read_claims
from fairseq_kd.study.factors import Cell, Cells
from fairseq_kd.study.inputs import RawText, raw_text, with_files
from fairseq_kd.study.key import MAKERS, Key, inputs_of, key_of, made_by
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.state import CHOSEN_TEACHER, Older
from fairseq_kd.study.values import SHARES
from fairseq_kd.training.options import to_arguments, training_arguments

FORMAT = 2  # of plan.json
KINDS = tuple(MAKERS)
TRAININGS = ("teacher", "student")
ON_GPU = ("teacher", "select", "decode", "cache", "student", "evaluate")
PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Stage:
    """One command. inputs: names of the stages that must be finished first. updates: of a training, else 0.

    made_by: see `key`. old: it is done, and was made by other versions.
    """

    name: str
    kind: str
    command: list
    inputs: list
    updates: int
    made_by: dict
    old: bool

    def path(self, file: str) -> str:
        """A file of the stage, as other commands name it."""
        return f"@/stages/{self.name}/{file}"


class Plan:
    """Stages by name, and what each cell and each teacher is made of."""

    def __init__(self, spec: Spec, cells: Cells, older: Older | None = None):
        """older: what WORK holds of other versions, and what becomes of it. Raises KDError when nobody has said."""
        self.spec, self.stages, self.cells = spec, {}, {}
        self.older = {}  # stage -> the one of other versions that could stand in for it, or does
        self._older, self._keys, self._versions = older, {}, library_versions()
        self.teachers = []  # those whose results are shown: {"checkpoint", "results", "cells"}
        self.excluded, self.repeated = cells.excluded, cells.repeated
        self.asked = dict.fromkeys(KINDS, 0)  # stages that the cells would take alone
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
        """One line about the stages that other versions made, None where there is none."""
        return self._older and self._older.describe(self.older, len(self.stages), self._versions)

    @property
    def takes_older(self) -> bool:
        """Whether some of these stand in, so that results are theirs."""
        return any(stage.old for stage in self.stages.values())

    def _compared(self, claim: Claim) -> str:
        """The stage that tests a claim; the side that is said to be worse is the baseline."""
        command = ["fairseq-kd", "compare"]
        for value, cells in ((claim.worse, claim.cells_worse), (claim.better, claim.cells_better)):
            stages = [self.stages[self.cells[name]["results"][claim.on]] for name in cells]
            command += ["--system", f"{claim.factor}={value}", *[stage.path("result.json") for stage in stages]]
        return self._add("compare", [*command, "--metric", claim.metric, "--out", "@out/comparison.json"]).name

    def as_dict(self) -> dict:
        """For plan.json, which the Snakefile, the stages and the report read."""
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
        """Names of all stages that a cell is made of, inputs first."""
        return self.needed(self.cells[cell]["results"].values())

    def needed(self, names) -> list[str]:
        """Names of these stages and of all that they need, inputs first."""
        found = {}
        for name in names:
            self._collect(name, found)
        return list(found)

    def _collect(self, name: str, found: dict) -> None:
        for stage in self.stages[name].inputs:
            self._collect(stage, found)
        found[name] = None

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
        """(name of the stage, whether it is an older one that stands in)."""
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
        """The data-bin with so many percent of the words of `subset` changed, each operation by its share."""
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
        """The checkpoint of the teacher: the one with the lowest validation loss, unless another is chosen."""
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
        """Name of the evaluation set, `test` or `test@10` at ten percent noise -> stage."""
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
        """A teacher is measured as its students are, so cells that are measured otherwise have it again."""
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
    """The option --tokenize of a stage that scores text as the evaluations do."""
    return {name: settings["evaluate"][name] for name in ("tokenize",) if name in settings["evaluate"]}
