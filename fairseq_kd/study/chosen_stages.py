"""One model from several: the choice of the model with which a student begins, the best model, and their mean.

The choice depends on scores, so a stage makes it when the study runs. A student that begins with the chosen model has
its shape. Where the shapes of the models are equal, they are the shape of the student that the spec describes. Where
they differ, the student is a `kd_student` whose dimensions `--like` copies from the chosen model.
"""

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.student import DIMENSIONS
from fairseq_kd.study.data_stages import tokenizer
from fairseq_kd.study.methods import BEST_MODEL, CHOSEN, SOUP
from fairseq_kd.study.model_shapes import difference, is_student
from fairseq_kd.study.parts import LOCAL, PART, WHOLE
from fairseq_kd.study.state import CHOSEN_TEACHER
from fairseq_kd.study.teacher_stages import TeacherStages
from fairseq_kd.study.teachers import settings_of_each

OF_THE_SHAPE = tuple(name.replace("_", "-") for name in DIMENSIONS)


class ChosenStages(TeacherStages):
    """The stages that make one model from several without training."""

    def _untrained(self, clean: str, teacher: str, settings: dict) -> str:
        """The word for the models of a cell that trains no student: together, the best one, or their mean.

        Raises KDError for one model, and for models of different shapes that have no mean.
        """
        method = settings["method"]
        if method not in (SOUP, BEST_MODEL):
            return teacher
        words = teacher.split(":")
        if len(words) == 1:
            raise KDError(f"{self.spec.path}: method {method} needs several models, and this cell has one teacher: "
                          "give several in the factor teachers, or exclude these cells")  # fmt: skip
        if method == BEST_MODEL:
            return self._chosen(clean, words, CHOSEN["best-score"], settings)
        return self._mean_of(words)

    def _mean_of(self, words: list[str]) -> str:
        """The word for the mean of models. Raises KDError for models of different shapes."""
        first, *others = (self._check.model_of(word, self.stages) for word in words)
        for number, other in enumerate(others, 2):
            if name := difference(first, other):
                raise KDError(f"{self.spec.path}: method {SOUP} needs models of equal shape, and {name} is "
                              f"{getattr(first, name, None)} in teacher 1 and {getattr(other, name, None)} in teacher "
                              f"{number}: exclude these cells, or leave one of them out")  # fmt: skip
        return self._tool("average", ["average", ":".join(words)], {"out": "@out/model.pt"}).path("model.pt")

    def _chosen(self, clean: str, words: list[str], by: str, settings: dict) -> str:
        """The checkpoint that `select-teacher` chooses among several models on the validation set."""
        given = {"checkpoints": ":".join(words), "by": by} | ({"seed": settings["seed"]} if by == "random" else {})
        given |= settings["select"] | tokenizer(settings) | {"out": "@out/selection"}
        return self._tool("select", ["select-teacher", clean], given).path(CHOSEN_TEACHER)

    def _candidates(self, clean: str, teacher: str, settings: dict) -> list[str]:
        """The models of a cell: its teachers and its own local model, those of parts in the order of the parts."""
        each = settings_of_each(self.spec.path, settings)
        parts = [own[PART] if own.get(LOCAL) else None for _, own in each]
        known = list(zip(teacher.split(":"), parts, strict=True))
        if settings[PART] != WHOLE:
            own = self._local(clean, settings)
            known += [] if own in [word for word, _ in known] else [(own, settings[PART])]
        if len(known) == 1:
            raise KDError(f"{self.spec.path}: init {settings['init']} chooses among several models, and this cell has "
                          "one: give several in the factor teachers, or exclude these cells")  # fmt: skip
        return [word for word, part in sorted(known, key=lambda one: (one[1] is None, one[1] or 0))]

    def _from_chosen(self, clean: str, teacher: str, settings: dict, options: dict) -> dict:
        """The options of a student that begins with one of the models of its cell.

        options: of its training. Raises KDError when the models have different shapes that `--like` cannot copy.
        """
        words, init = self._candidates(clean, teacher, settings), settings["init"]
        chosen = self._chosen(clean, words, CHOSEN[init], settings)
        student = self._check.trained_model(clean, options)
        models = [self._check.model_of(word, self.stages) for word in words]
        different = next((name for model in models if (name := difference(student, model))), None)
        if different is not None:
            if not all(map(is_student, [student, *models])):
                found = dict.fromkeys(str(getattr(model, different, None)) for model in [student, *models])
                raise KDError(f"{self.spec.path}: init {init} needs models of equal shape, or students of fairseq_kd "
                              f"(kd_student): {different} is {' and '.join(found)}; give the student the shape of one "
                              "of them with finetune-from-model, or exclude these cells")  # fmt: skip
            kept = {name: value for name, value in options.items() if name not in OF_THE_SHAPE}
            options = kept | {"arch": "kd_student", "like": chosen}
        return options | {"finetune-from-model": chosen}
