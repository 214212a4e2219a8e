"""How much a student says what its teacher says: token by token under gold prefixes, and by its own translations."""

from dataclasses import dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.gold import gold_batches
from fairseq_kd.evaluation.system import System, translate
from fairseq_kd.inference.opening import check_positions
from fairseq_kd.loss.signal import ROWS_AT_A_TIME
from fairseq_kd.scoring.score import Scorer
from fairseq_kd.teacher.ensemble import Teachers, open_teachers


@dataclass(frozen=True)
class TeacherOptions:
    """paths: a checkpoint, or several joined by ":" (an ensemble); data: where its dictionaries are, if they moved."""

    paths: str
    data: str | None = None
    trust: str | None = None

    def open(self, system: System, data_bin, subset: str) -> Teachers:
        """Load what `agreement` asks. Raises KDError when it cannot be used on this subset, or by other languages."""
        teachers = open_teachers(
            data_bin, self.paths, subset, data=self.data, dtype=system.options.dtype(), trust=self.trust
        )
        languages = (system.task.cfg.source_lang, system.task.cfg.target_lang)
        if teachers.members[0].languages != languages:
            raise KDError(
                f"--teacher {self.paths} translates {'-'.join(teachers.members[0].languages)}, the checkpoint "
                f"{'-'.join(languages)}"
            )
        check_positions(system.dataset.src_sizes, system.dataset.tgt_sizes, teachers.max_positions)
        return teachers


def agreement(
    system: System, teachers: Teachers, hypotheses: list[str], decode, scorer: Scorer, resamples: int
) -> dict:
    """{"tokens", "top1", "bleu", "teacher", "teacher_hypotheses"}.

    top1: share of the target tokens for which student and teacher find the same type most probable, given the gold
    prefix. bleu: of the student's `hypotheses` (plain text) against the teacher's, decoded by the same search.
    decode: joins subwords.
    """
    same, tokens = top1_agreement(system, teachers)
    lines = translate(
        teachers.models(system.options.device()), teachers.task, teachers.dataset, system.options, "decoding, teacher"
    )
    theirs = [decode(line) for line in lines]
    return {
        "teacher": teachers.fingerprint(),
        "tokens": tokens,
        "top1": same / tokens,
        "bleu": scorer.score_by("bleu", hypotheses, theirs, resamples),
        "teacher_hypotheses": theirs,
    }


def top1_agreement(system: System, teachers: Teachers) -> tuple[int, int]:
    """(target tokens for which both prefer the same type, target tokens) of the subset, EOS included."""
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
