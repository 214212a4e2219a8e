"""Decoding strategies: one object per strategy, in the registry STRATEGIES.

A strategy names its options with their ranges, and says how each backend runs it. The options of `fairseq-kd decode`,
their help and checks, and the names that a study accepts derive from the registry: a new strategy is one class.
"""

import math
from abc import ABC, abstractmethod
from argparse import Namespace
from dataclasses import dataclass
from typing import ClassVar

from fairseq_kd.core.errors import KDError


@dataclass(frozen=True)
class Option:
    """One option: its default, whose Python type is the option's type, and its range.

    help: what the value means. least, above, most: the bounds of a number. choices: the values of a word.
    why: the reason for the upper bound, for the error.
    """

    default: int | float | str
    help: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    why: str = ""

    def check(self, name: str, value) -> None:
        """Raises KDError for a value out of range. name: of the option, with underscores."""
        found = f"{as_option(name)} {value}"
        if self.choices:
            if value not in self.choices:
                raise KDError(f"{found}: must be one of {', '.join(self.choices)}")
            return
        if not math.isfinite(value):
            raise KDError(f"{found}: must be a finite number")
        if self.least is not None and value < self.least:
            raise KDError(f"{found}: must be at least {self.least}")
        if self.above is not None and value <= self.above:
            raise KDError(f"{found}: must be above {self.above}")
        if self.most is not None and value > self.most:
            raise KDError(f"{found}: must be at most {self.most}{self.why}")


def as_option(name: str) -> str:
    """`max_len_a` as it is written on the command line, `--max-len-a`."""
    return f"--{name.replace('_', '-')}"


class Strategy(ABC):
    """How hypotheses are made from a teacher.

    name: the value of --strategy. summary: what it does, for the help. options: every option that has an effect, by
    name with underscores; any other option is refused. The manifest of the data records the name and the value of
    each option. An option that several strategies share is the same object in each of them; the option `nbest` says
    how many hypotheses each sentence has, which is 1 without it.
    reads_gold: whether gold targets go through the teacher, so that a target without positions has no answer.
    not_by_ctranslate2: why CTranslate2 cannot run the strategy, None if it can.
    """

    name: str
    summary: str
    options: ClassVar[dict[str, Option]]
    reads_gold = False
    not_by_ctranslate2: str | None = "this strategy runs on fairseq's models"

    def check(self, settings: dict) -> None:  # noqa: B027
        """Raises KDError for values that do not go together. settings: option -> value; each is in its range."""

    @abstractmethod
    def open_fairseq(self, teachers, settings: dict, max_tokens: int | None, device):
        """The `backend.Backend` that runs fairseq's models. max_tokens: per batch, None for the backend's default."""

    def ctranslate2_arguments(self, settings: dict) -> dict:
        """The arguments of `Translator.translate_batch`; read only where `not_by_ctranslate2` is None.

        Lengths are set by the backend, from max_len_a and max_len_b.
        """
        raise NotImplementedError(f"{self.name}: {self.not_by_ctranslate2}")


SEARCH_OPTIONS = {
    "max_len_a": Option(0.0, "the longest hypothesis has A * source length + B tokens", least=0),
    "max_len_b": Option(200, "see --max-len-a", least=1),
}
NBEST = Option(1, "hypotheses that are written per sentence, or samples that are drawn", least=1)


class Search(Strategy):
    """A strategy that fairseq's sequence generator runs."""

    def open_fairseq(self, teachers, settings: dict, max_tokens: int | None, device):
        """See `Strategy`."""
        from fairseq_kd.inference.language_tokens import language_ids
        from fairseq_kd.sequence.backend import MAX_TOKENS, FairseqBackend

        search, max_tokens = self.fairseq_arguments(settings), max_tokens or MAX_TOKENS[device.type]
        what = teachers.models(device), teachers.task, teachers.dataset
        return FairseqBackend(*what, search, max_tokens, device, language_ids(teachers.task))

    def fairseq_arguments(self, settings: dict) -> Namespace:
        """The options that `build_generator` of fairseq's task reads, the seed of samples, and nbest."""
        return Namespace(
            beam=settings.get("beam", 1),
            nbest=settings.get("nbest", 1),
            lenpen=settings.get("lenpen", 1.0),
            max_len_a=settings["max_len_a"],
            max_len_b=settings["max_len_b"],
            sampling=False,
            sampling_topk=-1,
            sampling_topp=-1.0,
            temperature=1.0,
            seed=None,
        )

    def ctranslate2_arguments(self, settings: dict) -> dict:
        """See `Strategy`."""
        return {
            "beam_size": settings.get("beam", 1),
            "num_hypotheses": settings.get("nbest", 1),
            "length_penalty": settings.get("lenpen", 1.0),
        }


class Beam(Search):
    """Beam search."""

    name = "beam"
    summary = "beam search"
    options: ClassVar[dict[str, Option]] = {
        "beam": Option(5, "hypotheses that the search keeps", least=1),
        "nbest": NBEST,
        "lenpen": Option(1.0, "length penalty; above 1 it favours longer hypotheses"),
        **SEARCH_OPTIONS,
    }
    not_by_ctranslate2 = None

    def check(self, settings: dict) -> None:
        """See `Strategy`."""
        if settings["nbest"] > settings["beam"]:
            raise KDError(
                f"--nbest {settings['nbest']} is more than --beam {settings['beam']}: beam search ends with as many "
                "hypotheses as it has beams"
            )


class Greedy(Search):
    """Beam search of one beam."""

    name = "greedy"
    summary = "the most probable token at each step"
    options: ClassVar[dict[str, Option]] = SEARCH_OPTIONS
    not_by_ctranslate2 = None


class TeacherForcing(Strategy):
    """The most probable token after each gold prefix."""

    name = "teacher-forcing"
    summary = "the most probable token after each prefix of the gold target"
    options: ClassVar[dict[str, Option]] = {
        "early_eos": Option(
            "replace",
            "what happens where the teacher would end the sentence before the gold target ends: its next best token "
            "is written, or the sentence ends",
            choices=("replace", "cut"),
        )
    }
    reads_gold = True
    not_by_ctranslate2 = "teacher forcing is one forward pass, not a search"

    def open_fairseq(self, teachers, settings: dict, max_tokens: int | None, device):
        """See `Strategy`."""
        from fairseq_kd.sequence.backend import ForcingBackend

        return ForcingBackend(teachers, device, cut=settings["early_eos"] == "cut", max_tokens=max_tokens)


class Sample(Search):
    """Tokens drawn from the teacher's distribution."""

    name = "sample"
    summary = "each token is drawn from the teacher's distribution"
    options: ClassVar[dict[str, Option]] = {
        "nbest": NBEST,
        **SEARCH_OPTIONS,
        "sampling_topk": Option(0, "draw from the K most probable tokens; 0: from all", least=0),
        "sampling_topp": Option(
            0.0, "draw from the most probable tokens whose probabilities sum to P; 0: from all", least=0, most=1,
            why=" because it is a probability",
        ),
        "sampling_temperature": Option(1.0, "divides the logits", above=0),
        "seed": Option(1, "of the random numbers", least=0),
    }  # fmt: skip
    not_by_ctranslate2 = "its samples depend on which of its threads draws them, so they could not be drawn again"

    def check(self, settings: dict) -> None:
        """See `Strategy`."""
        if settings["sampling_topk"] and settings["sampling_topp"]:
            raise KDError("--sampling-topk and --sampling-topp: give one of them")

    def fairseq_arguments(self, settings: dict) -> Namespace:
        """See `Search`. fairseq draws as many samples per sentence as its search has beams."""
        sampling = {
            "beam": settings["nbest"],
            "sampling": True,
            "sampling_topk": settings["sampling_topk"] or -1,
            "sampling_topp": settings["sampling_topp"] or -1.0,
            "temperature": settings["sampling_temperature"],
            "seed": settings["seed"],
        }
        return Namespace(**vars(super().fairseq_arguments(settings)) | sampling)


STRATEGIES = {strategy.name: strategy for strategy in (Beam(), Greedy(), TeacherForcing(), Sample())}


def all_options() -> dict[str, Option]:
    """Name -> option, of all strategies of the registry."""
    found = {}
    for strategy in STRATEGIES.values():
        for name, option in strategy.options.items():
            assert found.setdefault(name, option) == option, f"{strategy.name} defines {name} in another way"
    return found


def strategies_with(name: str) -> list[str]:
    """The names of the strategies on which the option has an effect."""
    return [strategy.name for strategy in STRATEGIES.values() if name in strategy.options]
