"""A teacher network that runs during the training of the student."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.frozen import FrozenModel, load_frozen
from fairseq_kd.inference.multilingual import PLAIN, Layout, configuration, layout_of
from fairseq_kd.inference.precision import check_bfloat16
from fairseq_kd.inference.without_tokens import WithoutTokens
from fairseq_kd.loss.signal import DenseSignal, TopKSignal

logger = logging.getLogger(__name__)

SAME = "same"  # --teacher-dtype: the type of the student's products, where that is faster


def type_of(model, autocast: str = "none") -> str:
    """The name of the type in which a student multiplies. autocast: one of `precision.AUTOCAST`, of the training.

    A half-precision student on a CPU has a teacher in float32, because there it is no faster.
    """
    parameter = next(model.parameters())
    if parameter.device.type != "cuda":
        return "float32" if autocast == "none" else autocast
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else parameter.dtype
    return str(dtype).removeprefix("torch.")


def check_top_k(top_k: int, task) -> None:
    """Raises KDError when top_k, the number of entries to keep, is not smaller than the vocabulary."""
    if top_k >= len(task.target_dictionary):
        raise KDError(
            f"--kd-top-k {top_k}: the target dictionary has only {len(task.target_dictionary)} tokens; give a "
            "smaller number, or 0 to keep all"
        )


class OnlineSignalSource:
    """A `SignalSource` that runs a network. The network is loaded at the first call.

    So the validation of a student needs no teacher, and works on a machine without the teacher's checkpoint. A training
    calls `check_file` before it loads its data.
    """

    def __init__(
        self,
        path,
        task,
        *,
        data=None,
        dtype: str = "float32",
        trust: bool = False,
        top_k: int = 0,
        name: str = "teacher",
        option: str = "--teacher",
    ):
        """task: of the student; its dictionaries must equal the teacher's. top_k: entries to keep, 0 for all.

        dtype: one of `frozen.DTYPES`, or SAME, which `choose_dtype` replaces; float32 if it is not called first.
        name, option: of the network, in messages.

        Raises KDError when top_k is not smaller than the vocabulary.
        """
        check_top_k(top_k, task)
        self.path, self._name, self._option = Path(path), name, option
        self._arguments = {"path": path, "data": data, "dtype": dtype, "trust": trust}
        self._task = task
        self._top_k = top_k
        self._is_chosen = False
        self.teacher: FrozenModel | None = None

    def choose_dtype(self, student, autocast: str = "none") -> None:
        """Replace SAME by the type of the student, see `type_of`. The first call logs the type.

        Raises KDError for bfloat16 on a CPU without instructions for it.
        """
        if self._is_chosen:
            return
        given, device = self._arguments["dtype"], next(student.parameters()).device
        if given == SAME:
            self._arguments["dtype"] = type_of(student, autocast)
        dtype = self._arguments["dtype"]
        if dtype == "bfloat16" and device.type == "cpu":
            check_bfloat16(device, f"--teacher-dtype {given}")
            dtype = "float32 with products in bfloat16"
        logger.info(f"the {self._name} runs in {dtype} (--teacher-dtype {given})")
        self._is_chosen = True

    def check_file(self) -> None:
        """Raises KDError when the teacher is not loaded yet and its file cannot be opened. The file is not read."""
        if self.teacher is not None:
            return
        kind = self._name.split()[0]
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise KDError(f"{kind} {self.path} {what}: give the checkpoint that fairseq-train wrote ({self._option})")
        try:
            with open(self.path, "rb"):
                pass
        except OSError as error:
            raise KDError(
                f"{kind} {self.path} cannot be opened ({error.strerror}): check its owner and its mode"
            ) from error

    def request(self, sample, keep: torch.Tensor, temperature: float) -> Callable[[], DenseSignal | TopKSignal]:
        """As in `SignalSource`. The teacher runs before the student, whose activations are not in memory yet."""
        signal = self.signal(sample, keep, temperature)
        return lambda: signal

    def signal(self, sample, keep: torch.Tensor, temperature: float) -> DenseSignal | TopKSignal:
        """Run the teacher on the batch. Raises KDError as `load`."""
        signal = self.load().signal(sample, keep, temperature)
        return signal.truncate(self._top_k) if self._top_k else signal

    def max_target_positions(self) -> int:
        """The length of the longest target, with EOS, that the teacher accepts. Raises KDError as `load`."""
        return self.load().model.max_positions()[1]

    def load(self) -> FrozenModel:
        """The network, which is read at the first call.

        Raises KDError when it cannot be loaded or has other dictionaries.
        """
        if self.teacher is None:
            task_cfg = configuration(self._task)
            languages = (getattr(task_cfg, "source_lang", None), getattr(task_cfg, "target_lang", None))
            self._arguments["dtype"] = self._arguments["dtype"].replace(SAME, "float32")  # no student has called
            teacher = load_frozen(**self._arguments, languages=languages, signals_only=True)
            self.teacher = self._for_student(teacher, layout_of(task_cfg))
        return self.teacher

    def _for_student(self, teacher: FrozenModel, layout: Layout) -> FrozenModel:
        """The network for batches of this layout. Raises KDError when layouts or dictionaries do not fit."""
        dictionaries, names = (self._task.source_dictionary, self._task.target_dictionary), (self._name, "student")
        if teacher.layout == layout:
            teacher.check_dictionaries(*dictionaries, names=names)
            return teacher
        if layout == PLAIN:
            return WithoutTokens(teacher, *dictionaries, names=names)
        raise KDError(
            f"the {self._name} {self.path} was trained with {teacher.layout}, the student has {layout}: the same "
            "batch would mean other sentences. Train the student with the task and the options of the teacher's "
            "language tokens, or with --task translation if only the teacher has them"
        )
