"""The training of a cell's student, by each method."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.architectures import of_the_model
from fairseq_kd.study.methods import (
    CHOSEN,
    METHODS,
    OF_FEDERATED,
    OF_SEVERAL_TEACHERS,
    RANDOM,
    SCHEDULE,
    STUDENT,
    taken_options,
)
from fairseq_kd.study.mutual_stages import FROM_A_FILE, MutualStages
from fairseq_kd.study.stages import BEST, Stage
from fairseq_kd.study.teachers import NO_SCHEDULE, schedule
from fairseq_kd.study.transfer import learns_from_decoded
from fairseq_kd.training.arguments import CROSS_ENTROPY


class StudentStages(MutualStages):
    """The stages that train students."""

    def _student(self, data_bin: str, clean: str, teacher: str, settings: dict) -> tuple[Stage, str]:
        """(the training of a student, the word for its checkpoint). teacher: a word; "" for a cell without one.

        data_bin: of the cell's training set. clean: the data-bin before noise.
        """
        if settings["method"] == "mutual":
            return self._mutual(data_bin, clean, settings)
        method, options = METHODS[settings["method"]], self._options(settings)
        if method.criterion is None:
            self._check_plain(options)
        if settings["method"] == "ce":  # before the initial weights: the order of the words is a part of the key
            options |= CROSS_ENTROPY
        options = self._begun(data_bin, clean, teacher, settings, options)
        decoded = learns_from_decoded(settings)
        learnt = self._targets(data_bin, clean, teacher, settings) if decoded else data_bin
        if method.criterion is not None:
            options |= {"criterion": method.criterion} | self._taught_options(learnt, teacher, settings)
        elif settings["method"] == "seq":
            options |= CROSS_ENTROPY
        if method.decoded and not method.on_decoded:
            distilled = self._distilled(data_bin, clean, teacher, settings)
            options |= {"task": "kd_translation", "distilled": distilled}
        student = self._training("student", learnt, options)
        return student, student.path(BEST)

    def _begun(self, data_bin: str, clean: str, teacher: str, settings: dict, options: dict) -> dict:
        """The options of a training, with those that say with which weights the student begins."""
        init, named = settings["init"], [name for name in FROM_A_FILE if name in options]
        if settings["method"] == "dp" and init == RANDOM and not named:
            if "init" in settings["assigned"]:
                raise KDError(f"{self.spec.path}: init random and method dp: a student of dp goes on from a trained "
                              "student; exclude these cells, or give init ce")  # fmt: skip
            init = STUDENT
        if init == RANDOM:
            return options
        if named:
            raise KDError(f"{self.spec.path}: init {init} and {named[0]} both say with which weights the "
                          "student begins; leave one of them out")  # fmt: skip
        if init in OF_FEDERATED:
            raise KDError(f"{self.spec.path}: init {init} and method {settings['method']}: only federated begins "
                          "with such a model; exclude these cells, or give another init")  # fmt: skip
        if init in CHOSEN:
            return self._from_chosen(clean, teacher, settings, options)
        if init == STUDENT:
            return options | {"finetune-from-model": self._plain(data_bin, settings).path(BEST)}
        return options | {"finetune-from-model": self._from_teacher(clean, teacher, settings, options)}

    def _from_teacher(self, clean: str, teacher: str, settings: dict, options: dict) -> str:
        """The checkpoint from which a student begins: it holds weights of the teacher."""
        if ":" in teacher:
            raise KDError(f"{self.spec.path}: init {settings['init']} takes layers of one teacher, and this cell has "
                          f"{teacher.count(':') + 1}; exclude these cells, or leave init out")  # fmt: skip
        model = of_the_model(self.spec, options)
        self._check.init(clean, teacher, settings, options, self.stages)
        given = {"teacher": teacher, "layers": settings["init"], "data": clean, "out": "@out/init.pt"} | model
        return self._tool("init", ["init-student"], given).path("init.pt")

    def _taught_options(self, data_bin: str, teacher: str, settings: dict) -> dict:
        """The options of the criterion, and of the teacher: it runs, or its answers come from a cache."""
        taken = taken_options(settings)
        ends, online = taken.pop(SCHEDULE, NO_SCHEDULE), METHODS[settings["method"]].is_online(settings["signal"])
        own = self._dictionaries(settings) if online else {}
        weights = {name: taken[name] for name in OF_SEVERAL_TEACHERS if name in taken}
        if ends != NO_SCHEDULE:
            if weights:
                raise KDError(f"{self.spec.path}: {next(iter(weights))} has no effect beside {SCHEDULE} {ends}: one "
                              "teacher teaches at a time; exclude these cells, or leave one of them out")  # fmt: skip
            several = teacher.split(":")
            signals = several if online else [self._cache(data_bin, one, {}, settings) for one in several]
            return taken | {SCHEDULE: schedule(self.spec.path, ends, signals, settings["budget"]["student"])} | own
        if online:
            return taken | {"teacher": teacher} | own
        taken = {name: value for name, value in taken.items() if name not in weights}
        return taken | {"teacher-cache": self._cache(data_bin, teacher, weights, settings)}

    def _cache(self, data_bin: str, teacher: str, weights: dict, settings: dict) -> str:
        """The cache of the teacher, or of the mixture of several. weights: options about the mixture."""
        own, temperature = settings["cache"], settings["kd"].get("teacher-temperature", 1)
        if both := [name for name in weights if name in own or "folder" in own]:
            where = "folder in cache" if "folder" in own else f"{both[0]} in cache"
            raise KDError(f"{self.spec.path}: {both[0]} in kd and {where} both say which mixture the cache holds; "
                          "leave one of them out")  # fmt: skip
        if "folder" in own:
            return self._check.cache(own["folder"], data_bin, teacher, temperature)
        given = {"teacher": teacher, "temperature": temperature} | self._dictionaries(settings) | own | weights
        return self._tool("cache", ["cache", data_bin], given | {"out": "@out/cache"}).path("cache")
