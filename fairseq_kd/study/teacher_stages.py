"""The teachers of a cell, and the evaluations of teachers and students."""

import json

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.architectures import left_out
from fairseq_kd.study.data_stages import tokenizer
from fairseq_kd.study.local_stages import LocalStages
from fairseq_kd.study.parts import LOCAL, PART, WHOLE
from fairseq_kd.study.sections import AGREEMENT
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.stages import BEST, Stage
from fairseq_kd.study.state import CHOSEN_TEACHER, OlderStages
from fairseq_kd.study.teachers import settings_of_each
from fairseq_kd.training.arguments import CROSS_ENTROPY, check_without_teacher

BY_PROGRAM = ("backend", "workers")  # options of evaluate that choose the program which decodes


class TeacherStages(LocalStages):
    """The stages that make and evaluate teachers.

    teachers: [{"checkpoint", "results", "cells"}], and for a teacher that teaches only together with others "name".
    The checkpoint of several teachers is their checkpoints joined by ":".
    """

    def __init__(self, spec: Spec, older: OlderStages | None = None):
        super().__init__(spec, older)
        self.teachers, self._members, self._measured = [], [], {}

    def _taught_by(self, data_bin: str, clean: str, settings: dict, cell: str) -> str:
        """The word for the teacher of a cell, or for several teachers, which are evaluated alone and together.

        data_bin: of the cell's training set. cell: its name.
        """
        each = settings_of_each(self.spec.path, settings)
        words = [self._teacher(data_bin, clean, own) for _, own in each]
        if len(set(words)) < len(words):
            raise KDError(f"{self.spec.path}: two teachers of the cell {cell} have the same content, so they are one "
                          "teacher: leave one of them out")  # fmt: skip
        joined = ":".join(words)
        self._note(self.teachers, joined, clean, settings, cell)
        if len(words) > 1:
            for (name, own), word in zip(each, words, strict=True):
                self._note(self._members, word, clean, own, cell)["name"] = name
        return joined

    def _note(self, teachers: list, checkpoint: str, clean: str, settings: dict, cell: str) -> dict:
        """Evaluate a teacher with the options of this cell, once for all cells with the same options."""
        key = checkpoint, clean, json.dumps([settings["evaluate"], settings["noise"]])
        if key not in self._measured:
            self._measured[key] = self._evaluations(checkpoint, clean, settings)
        results = self._measured[key]
        for teacher in teachers:
            if (teacher["checkpoint"], teacher["results"]) == (checkpoint, results):
                teacher["cells"].append(cell)
                return teacher
        teachers.append({"checkpoint": checkpoint, "results": results, "cells": [cell]})
        return teachers[-1]

    def _add_members(self) -> None:
        """Add the teachers that teach only together with others. It is called after all cells."""
        known = [(one["checkpoint"], one["results"]) for one in self.teachers]
        self.teachers += [one for one in self._members if (one["checkpoint"], one["results"]) not in known]

    def _teacher(self, data_bin: str, clean: str, settings: dict) -> str:
        """A teacher's checkpoint: the one that is named, that of a local model, or one of a training.

        Of a training, on the whole training set: checkpoint_best.pt (lowest validation loss), unless `teacher-choice`
        is set.
        """
        if settings.get(LOCAL):
            return self._local(clean, settings)
        if "checkpoint" in settings["teacher"]:
            return self._check.teacher(settings["teacher"]["checkpoint"], clean, settings)
        if settings["teacher-noise"] == "clean":
            data_bin = clean
        elif settings[PART] != WHOLE:
            data_bin = self._noised(clean, "train", settings["noise-level"], settings)
        stage = self._teacher_training(data_bin, settings)
        if settings["teacher-choice"] is None:
            return stage.path(BEST)
        given = {"checkpoints": stage.path("checkpoints"), "by": settings["teacher-choice"]} | settings["select"]
        given |= tokenizer(settings) | {"out": "@out/selection"}
        return self._tool("select", ["select-teacher", data_bin], given).path(CHOSEN_TEACHER)

    def _teacher_training(self, data_bin: str, settings: dict) -> Stage:
        common, own = settings["common"], settings["teacher"]
        check_without_teacher(f"{self.spec.path}: teacher or common", common | own)
        options = CROSS_ENTROPY | {"seed": 1, "max-update": settings["budget"]["teacher"]}
        given = left_out(common | options | own, "teacher", self.spec, settings)
        return self._training("teacher", data_bin, given)

    def _evaluations(self, checkpoint: str, clean: str, settings: dict, teacher: str = "") -> dict:
        """Evaluation set -> name of the stage. Set: `test`, or `test@10` for ten percent of noise in the source.

        teacher: the word for the teacher of a student, for the agreement of both.
        """
        options = dict(settings["evaluate"])
        if options.pop(AGREEMENT, False) and teacher:
            options |= {"teacher": teacher} | self._dictionaries(settings)
        subsets, levels = options.pop("subsets"), options.pop("noise")
        if ":" not in checkpoint:
            self._check.backend(checkpoint, settings, self.stages)
        if ":" in checkpoint:  # CTranslate2 has no ensembles; fairseq runs the same search
            options = {name: value for name, value in options.items() if name not in BY_PROGRAM}
        elif options.get("backend") == "fairseq":  # the default: the same stage as without the option
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
