"""Checks of the models of a study before anything runs: whether a student can begin with the weights of another model,
and whether the backend of the evaluation can run a model.
"""

from pathlib import Path

from fairseq_kd.core.errors import prefixed_errors
from fairseq_kd.study.existing_check import ExistingCheck
from fairseq_kd.study.key import parts_of
from fairseq_kd.study.maker import TRAININGS
from fairseq_kd.study.peers import of_first_peer
from fairseq_kd.training.arguments import CROSS_ENTROPY, parse_training, to_arguments, training_arguments


class ModelCheck(ExistingCheck):
    """Reads the options of each model once, from its checkpoint or from the command that will train it."""

    def init(self, clean: str, teacher: str, settings: dict, options: dict, stages: dict) -> None:
        """The student can begin with weights of the teacher, as far as the options show it.

        clean, teacher: words. options: of the student's training. stages: the stages planned so far.
        """
        from fairseq_kd.models.initialise import check_possible

        where = f"{self.spec.path}: init {settings['init']}"
        key = "init", teacher, str(to_arguments(options | CROSS_ENTROPY))
        if key in self._words:
            return
        student = self.trained_model(clean, options, where)
        with prefixed_errors(where):
            check_possible(self.model_of(teacher, stages), student)
        self._words[key] = teacher

    def backend(self, checkpoint: str, settings: dict, stages: dict) -> None:
        """The backend of the evaluation can run the model of a checkpoint, as far as its options show it.

        checkpoint: a word. stages: the stages planned so far.
        """
        name = settings["evaluate"].get("backend")
        key = "backend", name, checkpoint
        if name is None or key in self._words:
            return
        from fairseq_kd.evaluation.backend import BackendOptions

        with prefixed_errors(f"{self.spec.path}: backend in evaluate"):
            options = BackendOptions(name)
            exists = self.existing.of(checkpoint) is not None
            if exists or stages[Path(checkpoint).parts[2]].kind != "compact":  # which writes a student without gates
                options.check_model(self.model_of(checkpoint, stages))
        self._words[key] = checkpoint

    def trained_model(self, data_bin: str, options: dict, where: str = ""):
        """The options of the model that a training has. options: of the training. where: for messages."""
        options = options | CROSS_ENTROPY  # the parser asks for a criterion
        words = training_arguments(data_bin, *self._languages, options, user_dir="@user-dir")
        return parse_training(where or f"{self.spec.path}: student or common", words)

    def model_of(self, checkpoint: str, stages: dict):
        """The options of a model: from a checkpoint that exists, or from the command that will train it.

        checkpoint: a word. stages: the stages planned so far. Of a model that is chosen among several, or is their
        mean: the options of the first one.
        """
        if checkpoint not in self._models:
            self._models[checkpoint] = self._planned_model(stages[Path(checkpoint).parts[2]], stages)
        return self._models[checkpoint]

    def _planned_model(self, stage, stages: dict):
        words = stage.command[1:]
        if stage.kind not in TRAININGS:  # one checkpoint of a training, or one of several models
            several = words[words.index("--checkpoints") + 1 if stage.kind == "select" else 1]
            return self.model_of(parts_of(several)[0], stages)
        found = of_first_peer(words)
        if isinstance(found, str):
            return self.model_of(found, stages)
        return parse_training(f"{self.spec.path}: {stage.kind} or common", without_planned_like(found))


def without_planned_like(words: list[str]) -> list[str]:
    """The words of a training without `--like` if its file is made by a stage, so that it cannot be read yet."""
    if "--like" in words and words[(at := words.index("--like")) + 1].startswith("@"):
        return [*words[:at], *words[at + 2 :]]
    return words
