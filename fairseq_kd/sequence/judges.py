"""What looks at the hypotheses of a block: the selection, and measurements of the chosen hypothesis for filters."""

from dataclasses import dataclass, field

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.device import choose_device
from fairseq_kd.scoring.pairwise import sentence_metric
from fairseq_kd.scoring.score import PLAIN
from fairseq_kd.sequence.answers import Answer
from fairseq_kd.sequence.decode_options import DecodeOptions
from fairseq_kd.sequence.estimate import Estimator
from fairseq_kd.sequence.filters.opus import OpusRule, opusfilter_version
from fairseq_kd.sequence.second_model import SecondModel
from fairseq_kd.sequence.select import ByEstimate, Selector, open_selector
from fairseq_kd.sequence.texts import Texts, open_texts
from fairseq_kd.teacher.ensemble import Teachers


@dataclass(frozen=True)
class Judges:
    """Those that the options ask for. described: entries of the request; empty for the options of older folders."""

    selector: Selector | None = None
    texts: Texts | None = None
    estimator: ByEstimate | None = None  # for --min-qe without --select qe
    round_trip: "RoundTrip | None" = None
    described: dict = field(default_factory=dict)

    def judge(self, answers: list[Answer]) -> None:
        """Choose a hypothesis of each answer, and measure it. answers: of the teacher, with one hypothesis or more."""
        if self.selector is not None:
            for answer, values in zip(answers, self.selector.values(answers), strict=True):
                answer.choose(values)
        if isinstance(self.selector, ByEstimate):
            self._note("qe", answers, [answer.values[answer.chosen] for answer in answers])
        elif self.estimator is not None:
            chosen = [Answer(answer.number, [answer.best]) for answer in answers]
            self._note("qe", answers, [value for (value,) in self.estimator.values(chosen)])
        if self.round_trip is not None:
            self._note("round_trip", answers, self.round_trip.chrf(answers))

    @staticmethod
    def _note(name: str, answers: list[Answer], values: list[float | None]) -> None:
        for answer, value in zip(answers, values, strict=True):
            if value is not None:
                answer.measured[name] = value


NO_JUDGES = Judges()


class RoundTrip:
    """Translates the chosen hypothesis back, and compares the result with the source."""

    def __init__(self, model: SecondModel, texts: Texts, dataset):
        self.model, self.texts, self.dataset = model, texts, dataset
        self._score = sentence_metric("chrf", PLAIN)

    def chrf(self, answers: list[Answer]) -> list[float]:
        """Sentence-level chrF2, 0 to 100; 0 where the hypothesis is longer than the model's positions."""
        back = self.model.translate([answer.best.tokens for answer in answers])
        return [
            0.0 if found is None else self._score(self.texts.source(found.tokens), self._source(answer))
            for found, answer in zip(back, answers, strict=True)
        ]

    def _source(self, answer: Answer) -> str:
        return self.texts.source(self.dataset.src[answer.number].numpy()[:-1])


def open_judges(
    data_bin,
    teachers: Teachers,
    options: DecodeOptions,
    *,
    post_process=None,
    data=None,
    dtype: str = "float32",
    trust: str | None = None,
) -> Judges:
    """The judges that the options ask for.

    data_bin: whose dictionaries and subwords the sentences have. post_process: how subwords become text, None: as the
    data-bin's manifest says. data, dtype, trust: of other models, see `SecondModel.open`.
    Raises KDError for models, functions and filters that cannot be used, before anything is decoded.
    """
    texts = open_texts(data_bin, teachers, options, post_process)
    estimator, described = Estimator.load(options.qe), {}
    for text in options.opusfilter or ():
        OpusRule(text)
    device, how = choose_device(options.cpu), {"data": data, "dtype": dtype, "trust": trust}
    model = round_trip = None
    if options.select_model is not None:
        model = SecondModel.open("--select-model", options.select_model, data_bin, teachers, device, **how)
    selector = open_selector(teachers, options, texts, estimator, model)
    if options.round_trip is not None:
        back = SecondModel.open("--round-trip", options.round_trip, data_bin, teachers, device, back=True, **how)
        if not back.reverse:
            raise KDError(
                f"--round-trip {options.round_trip} translates {'-'.join(back.teachers.members[0].languages)} like the "
                "teacher: give a model of the other direction"
            )
        round_trip = RoundTrip(back, texts, teachers.dataset)
        described["round_trip"] = back.describe()
    if selector is not None and options.select != "closest":
        described["selection"] = selector.describe()
    by_estimate = None
    if estimator is not None and options.select != "qe":
        by_estimate = ByEstimate(estimator, texts, teachers.dataset)
        described["estimate"] = by_estimate.describe()
    if options.opusfilter:
        described["opusfilter"] = opusfilter_version()
    return Judges(selector, texts, by_estimate, round_trip, described)
