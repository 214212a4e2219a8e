"""The training set of a cell, which can be a part of the data, and the students of method `ce`: the local models."""

from fairseq_kd.study.architectures import left_out
from fairseq_kd.study.data_stages import DataStages
from fairseq_kd.study.parts import PART, WHOLE
from fairseq_kd.study.stages import BEST, Stage
from fairseq_kd.training.arguments import CROSS_ENTROPY, check_without_teacher


class LocalStages(DataStages):
    """The stages that divide the data, and that train the students of method `ce`."""

    def _training_set(self, clean: str, settings: dict) -> str:
        """The data-bin of a cell's training set with its noise. clean: the word for the whole data without noise."""
        return self._noised(self._part(clean, settings), "train", settings["noise-level"], settings)

    def _part(self, clean: str, settings: dict) -> str:
        """The data-bin of the cell's part, whose validation and test sets are those of the whole data."""
        if settings[PART] == WHOLE:
            return clean
        divided = self._tool("partition", ["partition", clean], settings["partition"] | {"out": "@out/parts"})
        return divided.path(f"parts/part{settings[PART]}")

    def _local(self, clean: str, settings: dict) -> str:
        """The checkpoint of the local model: the student of method `ce` on the training set of these settings."""
        return self._plain(self._training_set(clean, settings), settings).path(BEST)

    def _plain(self, data_bin: str, settings: dict) -> Stage:
        """The student of the method ce with the settings of another cell: the same stage as that of a cell with ce."""
        options = self._options(settings)
        self._check_plain(options)
        return self._training("student", data_bin, options | CROSS_ENTROPY)

    def _options(self, settings: dict) -> dict:
        """The options of a student's training that all methods share."""
        options = left_out(settings["common"] | settings["student"], "student", self.spec, settings)
        return options | {"max-update": settings["budget"]["student"], "seed": settings["seed"]}

    def _check_plain(self, options: dict) -> None:
        check_without_teacher(f"{self.spec.path}: student or common", options)
