"""The measures in addition to the scores. Whether they can be measured is checked before the decoding begins.

Agreement with a teacher is measured here: token by token under gold prefixes, and by comparing translations. The other
measures are in `calibration`, `gap`, `robustness`, `efficiency`, `other_metrics` and `segment_changes`.
"""

from dataclasses import dataclass, replace

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.backend import BackendOptions
from fairseq_kd.evaluation.calibration import calibration, observe
from fairseq_kd.evaluation.efficiency import check_latency, latency
from fairseq_kd.evaluation.gap import Gap, GapOptions
from fairseq_kd.evaluation.other_metrics import OtherMetric
from fairseq_kd.evaluation.robustness import NoiseLevels, Robustness
from fairseq_kd.evaluation.segment_changes import CompareTo
from fairseq_kd.evaluation.segments import Segments
from fairseq_kd.evaluation.system import System, translate
from fairseq_kd.inference.loading import check_same_layout
from fairseq_kd.inference.multilingual import PLAIN
from fairseq_kd.inference.opening import check_positions, gold_batches
from fairseq_kd.inference.precision import check_loss_dtype
from fairseq_kd.loss.signal import ROWS_AT_A_TIME
from fairseq_kd.scoring.score import Scorer
from fairseq_kd.teacher.ensemble import Teachers, open_teachers


@dataclass(frozen=True)
class TeacherOptions:
    """paths: a checkpoint, or several joined by ":" (an ensemble). data: folder of its dictionaries, if it was moved.

    trust: path of a checkpoint to read even if it holds code.
    """

    paths: str
    data: str | None = None
    trust: str | None = None

    def open(self, system: System, data_bin, subset: str) -> Teachers:
        """Load the teacher for `agreement`. Raises KDError when it does not fit the subset or the languages."""
        languages = (system.task.cfg.source_lang, system.task.cfg.target_lang)
        opened = {"data": self.data, "dtype": system.options.dtype(), "trust": self.trust}
        if system.frozen.members[0].layout != PLAIN:
            opened["lang_pair"] = "-".join(languages)
        teachers = open_teachers(data_bin, self.paths, subset, **opened)
        check_same_layout(self.paths, teachers.members[0], system.frozen.path, system.frozen.members[0])
        if teachers.members[0].languages != languages:
            raise KDError(
                f"--teacher {self.paths} translates {'-'.join(teachers.members[0].languages)}, but the checkpoint "
                f"translates {'-'.join(languages)}, so they cannot agree: give a teacher of the same languages"
            )
        check_positions(system.dataset.src_sizes, system.dataset.tgt_sizes, teachers.max_positions, "the teacher")
        return teachers


@dataclass(frozen=True)
class Measures:
    """resamples: of the bootstrap intervals; bins: of the calibration; latency: how many sentences are timed.

    0 switches each of them off, None switches off agreement (teacher), robustness (noise), overfitting (gap) and the
    comparison with an earlier result (compare_to).
    metrics: of other packages. loss_dtype: of the products of calibration and overfitting, float32 (the dtype of the
    weights) or bfloat16.
    """

    resamples: int = 0
    bins: int = 0
    latency: int = 0
    teacher: TeacherOptions | None = None
    noise: NoiseLevels | None = None
    metrics: tuple[OtherMetric, ...] = ()
    gap: GapOptions | None = None
    loss_dtype: str = "float32"
    compare_to: CompareTo | None = None

    def __post_init__(self):
        if self.resamples < 0 or self.resamples == 1:
            raise KDError(f"--confidence-n {self.resamples}: give 0 (no intervals) or at least 2 resamples")
        for name in ("bins", "latency"):
            if getattr(self, name) < 0:
                raise KDError(f"--{name} {getattr(self, name)}: must be at least 1")


class Measuring:
    """The requested measures of one system. Raises KDError on construction for a measure that is not possible."""

    def __init__(self, measures: Measures, system: System, segments: Segments, scorer: Scorer, backend: BackendOptions):
        """backend: translates for the teacher; the system has a search of its own."""
        self.measures, self.system, self.segments, self.scorer = measures, system, segments, scorer
        data_bin, subset = segments.origin["data_bin"], segments.origin["subset"]
        check_loss_dtype(system.options.device(), measures.loss_dtype)
        self.rounded = {} if measures.loss_dtype == "float32" else {"dtype": measures.loss_dtype}
        self.frozen = system.frozen.with_products(system.task, measures.loss_dtype)
        if measures.latency:
            check_latency(measures.latency, len(system.dataset))
        if measures.bins or measures.teacher or measures.gap:
            _check_gold(system, subset)
        self.teachers = measures.teacher and measures.teacher.open(system, data_bin, subset)
        self.teacher_search = self.teachers and backend.search(self.teachers, system.options)
        self.robustness = measures.noise and Robustness(measures.noise, system, segments, scorer)
        self.gap = measures.gap and Gap(measures.gap, replace(system, frozen=self.frozen), data_bin)
        for metric in measures.metrics:
            metric.check(segments.sources(system), segments.references)
        where = f"subset {subset} of {data_bin}"
        self.earlier = measures.compare_to and measures.compare_to.open(
            segments.sources(system), segments.references, where
        )

    def run(self, hypotheses: list[str], bleu: dict) -> dict:
        """The entries of the result for the requested measures. hypotheses, bleu: of the subset without noise."""
        found = {}
        if self.measures.bins:
            pad, device = self.system.task.target_dictionary.pad(), self.system.options.device()
            batches = gold_batches(self.system.dataset, pad, device, "calibration")
            found["calibration"] = calibration(observe(self.frozen, batches), self.measures.bins) | self.rounded
        if self.gap:
            found["gap"] = self.gap.run(self.segments.origin["subset"], self.measures.resamples) | self.rounded
        if self.teachers:
            found["agreement"] = self._agreement(hypotheses)
        if self.robustness:
            found["robustness"] = self.robustness.run(bleu, self.measures.resamples)
        if self.measures.metrics:
            texts = self.segments.sources(self.system), hypotheses, self.segments.references
            found["metrics"] = {m.name: m.measure(*texts, self.measures.resamples) for m in self.measures.metrics}
        if self.earlier:
            found["changes"] = self.earlier.changes(hypotheses, self.system.seed)
        if self.measures.latency:
            found["latency"] = latency(self.system, self.measures.latency)
        return found

    def _agreement(self, hypotheses: list[str]) -> dict:
        """{"tokens", "top1", "bleu", "teacher", "teacher_hypotheses"}.

        top1: share of the target tokens at which system and teacher give the highest probability to the same token,
        given the gold prefix. bleu: of the system's `hypotheses` (plain text), with the teacher's translations by the
        same search as references.
        """
        same, tokens = top1_agreement(self.system, self.teachers)
        backend = self.teacher_search(self.teachers.dataset)
        lines = translate(backend, self.teachers.task.target_dictionary, "decoding, teacher")
        theirs = [self.segments.decode(line) for line in lines]
        return {
            "teacher": self.teachers.fingerprint(),
            "tokens": tokens,
            "top1": same / tokens,
            "bleu": self.scorer.score_by("bleu", hypotheses, theirs, self.measures.resamples),
            "teacher_hypotheses": theirs,
        }


def _check_gold(system: System, subset: str) -> None:
    """Raises KDError when the subset has no gold prefixes, or longer ones than the model has positions for."""
    dataset = system.dataset
    if dataset.tgt is None:
        raise KDError(
            f"subset {subset!r} is binarised without its target side, so no gold prefixes exist for --calibration, "
            "--teacher and --gap: leave these options out, or binarise both sides"
        )
    check_positions(dataset.src_sizes, dataset.tgt_sizes, system.frozen.max_positions)


def top1_agreement(system: System, teachers: Teachers) -> tuple[int, int]:
    """(target tokens at which both prefer the same token, all target tokens) of the subset, with EOS."""
    pad, device = system.task.target_dictionary.pad(), system.options.device()
    same = tokens = 0
    for sample, keep in gold_batches(system.dataset, pad, device, "agreement"):
        count = int(keep.sum())
        ours, theirs = system.frozen.signal(sample, keep), teachers.signal(sample, keep)
        for start in range(0, count, ROWS_AT_A_TIME):
            end = min(start + ROWS_AT_A_TIME, count)
            best = [signal.rows(start, end).argmax(dim=-1) for signal in (ours, theirs)]  # (n,) each
            same += int((best[0] == best[1]).sum())
        tokens += count
    return same, tokens
