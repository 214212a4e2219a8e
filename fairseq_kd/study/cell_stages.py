"""The stages of a cell: its data, its teacher, its student, and the evaluations of both."""

import json

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.architectures import left_out, of_the_model
from fairseq_kd.study.cells import Cell
from fairseq_kd.study.existing import Existing
from fairseq_kd.study.existing_check import ExistingCheck
from fairseq_kd.study.key import RawText, raw_text
from fairseq_kd.study.refresh import METHOD as SEMI_ON_POLICY
from fairseq_kd.study.refresh import train_in_rounds
from fairseq_kd.study.sections import SHARES, SOURCE_TEXT
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.stages import Stage, Stages
from fairseq_kd.study.state import CHOSEN_TEACHER, OlderStages
from fairseq_kd.training.arguments import CROSS_ENTROPY, check_without_teacher

FROM_A_FILE = ("finetune-from-model", "restore-file")  # options that also say with which weights a student begins


class CellStages(Stages):
    """The stages of cells.

    cells: name -> {"factors", "student", "results"}. teachers: [{"checkpoint", "results", "cells"}]. existing: the
    artefacts that the study takes as they are.
    """

    def __init__(self, spec: Spec, older: OlderStages | None = None):
        super().__init__(spec, older)
        self.cells, self.teachers, self.existing = {}, [], Existing()
        self._raw, self._measured = {}, {}
        self._check = ExistingCheck(spec, self.existing)

    def _add_cell(self, cell: Cell) -> None:
        settings, method = cell.settings, cell.settings["method"]
        clean = self._prepared(settings)
        data = self._noised(clean, "train", settings["noise-level"], settings)
        options = left_out(settings["common"] | settings["student"], "student", self.spec, settings)
        options = options | {"max-update": settings["budget"]["student"], "seed": settings["seed"]}
        if "word" not in method and method != SEMI_ON_POLICY:
            check_without_teacher(f"{self.spec.path}: student or common", options)
        if method == "ce":
            options |= CROSS_ENTROPY
        if method != "ce" or settings["init"] != "random":
            teacher = self._teacher(clean if settings["teacher-noise"] == "clean" else data, clean, settings)
            self._add_teacher(teacher, clean, cell)
        if settings["init"] != "random":
            options["finetune-from-model"] = self._initialised(clean, teacher, settings, options)
        if "seq" in method:
            data = self._decoded(data, clean, teacher, settings)
        if "word" in method:
            options |= {"criterion": "kd_word"} | settings["kd"] | self._signal(data, teacher, settings)
        elif method == "seq":
            options |= CROSS_ENTROPY
        if method == SEMI_ON_POLICY:
            options |= {"criterion": "kd_word"} | settings["kd"]
            rounds = train_in_rounds(self, data, teacher, settings, options)
        else:
            rounds = [self._training("student", data, options)]
        student = rounds[-1]
        checkpoint = student.path("checkpoints/checkpoint_best.pt")
        if settings["compact"]:
            checkpoint = self._tool("compact", ["compact", checkpoint], {"out": "@out/model.pt"}).path("model.pt")
        results = self._evaluations(checkpoint, clean, settings)
        self.cells[cell.name] = {"factors": cell.factors, "student": student.name, "results": results}
        if len(rounds) > 1:
            self.cells[cell.name]["rounds"] = [stage.name for stage in rounds]

    def _prepared(self, settings: dict) -> str:
        """The data-bin: the one that `data` names, or the output of `prepare`."""
        data = dict(settings["data"])
        if "data-bin" in data:
            return self._check.data_bin(settings)
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

    def _teacher(self, data_bin: str, clean: str, settings: dict) -> str:
        """The teacher's checkpoint: the one that is named, or one of a training.

        Of a training: checkpoint_best.pt (lowest validation loss), unless `teacher-choice` is set.
        """
        if "checkpoint" in settings["teacher"]:
            return self._check.teacher(settings["teacher"]["checkpoint"], clean, settings)
        stage = self._teacher_training(data_bin, settings)
        if settings["teacher-choice"] is None:
            return stage.path("checkpoints/checkpoint_best.pt")
        given = {"checkpoints": stage.path("checkpoints"), "by": settings["teacher-choice"]} | settings["select"]
        given |= _tokenizer(settings) | {"out": "@out/selection"}
        return self._tool("select", ["select-teacher", data_bin], given).path(CHOSEN_TEACHER)

    def _teacher_training(self, data_bin: str, settings: dict) -> Stage:
        common, own = settings["common"], settings["teacher"]
        check_without_teacher(f"{self.spec.path}: teacher or common", common | own)
        options = CROSS_ENTROPY | {"seed": 1, "max-update": settings["budget"]["teacher"]}
        given = left_out(common | options | own, "teacher", self.spec, settings)
        return self._training("teacher", data_bin, given)

    def _initialised(self, clean: str, teacher: str, settings: dict, options: dict) -> str:
        """The checkpoint from which a student begins: it holds weights of the teacher."""
        if found := [name for name in FROM_A_FILE if name in options]:
            raise KDError(f"{self.spec.path}: init {settings['init']} and {found[0]} both say with which weights the "
                          "student begins; leave one of them out")  # fmt: skip
        model = of_the_model(self.spec, options)
        self._check.init(clean, teacher, settings, options, self.stages)
        given = {"teacher": teacher, "layers": settings["init"], "data": clean, "out": "@out/init.pt"} | model
        return self._tool("init", ["init-student"], given).path("init.pt")

    def _dictionaries(self, settings: dict) -> dict:
        """The option that names the dictionaries of an existing teacher; {} for a teacher that the study trains."""
        both = "checkpoint" in settings["teacher"] and "data-bin" in settings["data"]
        return {"teacher-data": self._prepared(settings)} if both else {}

    def _decoded(self, data_bin: str, clean: str, teacher: str, settings: dict) -> str:
        """The data-bin with the teacher's targets. clean: the data-bin before noise; monolingual text gets its form."""
        options = settings["decode"]
        if "data-bin" in options:
            if SOURCE_TEXT in settings["assigned"]:
                raise KDError(f"{self.spec.path}: source-text has no effect beside data-bin in one value of a factor: "
                              "data-bin has the text already; leave one of them out")  # fmt: skip
            decoded = self._check.decoded(options["data-bin"], data_bin, teacher, settings)
        elif "source-text" in options:
            decoded = self._decoded_text(clean, teacher, settings)
        else:
            by_text = options.get("select") == "closest" and options.get("metric", "bleu") == "bleu"
            scored = _tokenizer(settings) if by_text else {}
            given = {"teacher": teacher} | self._dictionaries(settings) | options | scored
            decoded = self._tool("decode", ["decode", data_bin], given | {"out": "@out/data-bin"}).path("data-bin")
        if settings["mix-gold"] == 0:
            return decoded
        times = {"times": [settings["mix-gold"], 1], "out": "@out/data-bin"}
        return self._tool("mix", ["mix", data_bin, decoded], times).path("data-bin")

    def _decoded_text(self, clean: str, teacher: str, settings: dict) -> str:
        """A data-bin of monolingual text with the teacher's targets."""
        if settings["noise-level"]:
            raise KDError(
                f"{self.spec.path}: noise {settings['noise-level']:g} has no effect on the text of source-text in "
                "decode, so noise would mean something else in these cells: exclude them, or give files whose text "
                "already has the noise"
            )
        options = dict(settings["decode"])
        given = {"source-text": self._check.source_text(options.pop("source-text"), clean), "like": clean}
        given |= {"teacher": teacher} | self._dictionaries(settings) | options | {"out": "@out/data-bin"}
        return self._tool("decode", ["decode"], given).path("data-bin")

    def _signal(self, data_bin: str, teacher: str, settings: dict) -> dict:
        if settings["signal"] == "online":
            return {"teacher": teacher} | self._dictionaries(settings)
        temperature = settings["kd"].get("teacher-temperature", 1)
        if "folder" in settings["cache"]:
            folder = settings["cache"]["folder"]
            return {"teacher-cache": self._check.cache(folder, data_bin, teacher, temperature)}
        given = {"teacher": teacher, "temperature": temperature} | self._dictionaries(settings) | settings["cache"]
        cache = self._tool("cache", ["cache", data_bin], given | {"out": "@out/cache"})
        return {"teacher-cache": cache.path("cache")}

    def _evaluations(self, checkpoint: str, clean: str, settings: dict) -> dict:
        """Evaluation set -> name of the stage. Set: `test`, or `test@10` for ten percent of noise in the source."""
        options = dict(settings["evaluate"])
        subsets, levels = options.pop("subsets"), options.pop("noise")
        self._check.backend(checkpoint, settings, self.stages)
        if options.get("backend") == "fairseq":  # the default: the same stage as without the option
            del options["backend"]
        found = {}
        for subset in subsets:
            if "data-bin" not in settings["data"]:
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
