"""Select one of several checkpoints: the one with the lowest loss, the highest score or the most parameters, or one by
chance.

The candidates are the checkpoints of one training, or several models by their names. The lowest loss and the highest
score can differ. A model that becomes overconfident has a worse loss but not a worse BLEU, and word-level
distillation learns from its probabilities. arXiv 2401.06356 compares the two teachers. arXiv 2402.14922 compares the
models with which the consolidation of several models can begin.

    folder or names -> candidates.find_candidates -> checkpoints.Measurements -> rank -> average.write_average
    -> selection.json
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.evaluation.average import check_out, names_of, write_average
from fairseq_kd.evaluation.candidates import PATTERN, Candidate, find_candidates, is_folder
from fairseq_kd.evaluation.checkpoints import Measurements
from fairseq_kd.inference.checkpoint import read_checkpoint, updates_of

RESULT, MEASURED = "selection.json", "measured"
CHOICES = {"low-loss": ("nll", 1), "high-score": ("bleu", -1)}  # name: (measure, 1 if lower is better, else -1)
LARGEST, BY_CHANCE = "largest", "random"
RANKED = CHOICES | {LARGEST: ("parameters", -1)}
WAYS = (*RANKED, BY_CHANCE)


@dataclass(frozen=True)
class AverageOptions:
    """Write the average of the best `count` checkpoints by the chosen measure to `out`."""

    count: int
    out: Path

    def __post_init__(self):
        if self.count < 2:
            raise KDError(f"--average {self.count}: must be at least 2 checkpoints")


def rank(rows: list[dict], by: str) -> list[dict]:
    """The rows from best to worst by one of RANKED. Equal rows keep their order."""
    measure, sign = RANKED[by]
    return sorted(rows, key=lambda row: sign * row[measure])


def drawn(rows: list[dict], seed: int) -> dict:
    """One of the rows by chance. It depends on the contents of the checkpoints and the seed, and not on their order."""
    return sorted(rows, key=lambda row: row["sha256"])[np.random.default_rng(seed).integers(len(rows))]


def select(
    measurements: Measurements, checkpoints, by: str, out, *, last=None, average=None, trusted=(), seed: int = 1
) -> dict:
    """Measure checkpoints, choose one, write `out`/selection.json, and return its content.

    measurements: the measurements in `out`/measured. checkpoints: a folder, or files joined by ":", see
    `find_candidates`. by: one of WAYS. last: measure only this number of checkpoints with the most updates. average:
    AverageOptions. trusted: paths of checkpoints, also of the average, to read even if they hold code. seed: of
    BY_CHANCE. A call that was killed at any moment is continued by the same call.
    Raises KDError when a checkpoint cannot be used; finished measurements are kept.
    """
    if last is not None and last < 1:
        raise KDError(f"--last {last}: must be at least 1")
    out, trusted = Path(out), {Path(path) for path in trusted}
    if average is not None:
        _check_average(average, checkpoints, trust=average.out in trusted)
    candidates = find_candidates(checkpoints)
    named = {path for one in candidates for path in one.paths}
    if strangers := trusted - named - ({average.out} if average else set()):
        where = f"in {checkpoints}" if is_folder(checkpoints) else f"of --checkpoints {checkpoints}"
        raise KDError(f"--trust-checkpoint {min(strangers)} is not one of the checkpoints {where}")
    _check_ours(out)
    with exclusive(out / RESULT):
        measurements.remove_leftovers()
        candidates = _by_updates(candidates, measurements, trusted)
        if last is not None:
            candidates = candidates[-last:]
        if average is not None and average.count > len(candidates):
            raise KDError(
                f"--average {average.count}: there are only {len(candidates)} different checkpoints to average"
            )
        rows = _measure(candidates, measurements, trusted)
        if average is not None:
            rows.append(_averaged(rank(rows, by)[: average.count], candidates, average, measurements, trusted))
        chosen = drawn(rows, seed) if by == BY_CHANCE else rank(rows, by)[0]
        result = {
            "format": 1,
            "kind": "fairseq_kd selection",
            "data_bin": str(measurements.data_bin),
            "by": by,
            **({"seed": seed} if by == BY_CHANCE else {}),
            "chosen": chosen["checkpoint"],
            **{name: rank(rows, name)[0]["checkpoint"] for name in CHOICES},
            "checkpoints": rows,
            "made_from": measurements.made_from,
        }
        write_record(out / RESULT, result)
    return result


def _check_average(average: AverageOptions, checkpoints, trust: bool) -> None:
    within = is_folder(checkpoints) and average.out.parent.resolve() == Path(checkpoints).resolve()
    if within and average.out.match(PATTERN):
        raise KDError(
            f"--out-checkpoint {average.out} would be one of the checkpoints of the next run: give another name"
        )
    ensure_writable_folder(average.out.absolute().parent)
    check_out(average.out, trust)


def _check_ours(out: Path) -> None:
    ensure_writable_folder(out)
    if others := sorted({path.name for path in out.iterdir() if path.name[0] != "."} - {RESULT, MEASURED}):
        raise KDError(f"{out} holds {others[0]!r}, which this command did not write: choose another --out")


def _by_updates(candidates: list[Candidate], measurements: Measurements, trusted: set[Path]) -> list[Candidate]:
    """The candidates sorted by updates, then by name. All broken files are found here, before the long work begins."""
    updates, broken = {}, []
    progress = Progress("reading", len(candidates), "checkpoints")
    for candidate in progress.over(candidates):
        try:
            updates[candidate] = _updates(candidate, measurements, _is_trusted(candidate, trusted))
        except KDError as error:
            broken.append(str(error))
    progress.finish()
    if broken:
        raise KDError(f"{len(broken)} of {len(candidates)} checkpoints cannot be used. " + "; ".join(broken))
    return sorted(candidates, key=updates.__getitem__)


def _updates(candidate: Candidate, measurements: Measurements, trust: bool) -> int:
    if (known := measurements.known(candidate.sha256)) is not None:
        return known["updates"]
    return updates_of(read_checkpoint(candidate.path, trust=trust))


def _is_trusted(candidate: Candidate, trusted: set[Path]) -> bool:
    return any(path in trusted for path in candidate.paths)


def _measure(candidates: list[Candidate], measurements: Measurements, trusted: set[Path]) -> list[dict]:
    known = {candidate: measurements.known(candidate.sha256) for candidate in candidates}
    missing = [candidate for candidate in candidates if known[candidate] is None]
    if missing:
        measurements.check()
    progress = Progress("measuring", len(candidates), "checkpoints", done=len(candidates) - len(missing))
    for candidate in missing:
        progress.advance(0, candidate.path.name)
        known[candidate] = measurements.measure(candidate.path, candidate.sha256, _is_trusted(candidate, trusted))
        progress.advance(1)
    progress.finish()
    return [_row(candidate, known[candidate]) for candidate in candidates]


def _row(candidate: Candidate, found: dict) -> dict:
    names = ("nll", "bleu", "signature", "updates", "parameters", "tokens", "sentences", "dictionary_check")
    return {
        "checkpoint": str(candidate.path),
        "same": candidate.same_names,
        "sha256": candidate.sha256,
        **{name: found[name] for name in names},
    }


def _averaged(
    best: list[dict], candidates: list[Candidate], average: AverageOptions, measurements: Measurements, trusted
) -> dict:
    """Write the average of the rows `best`, measure it, and return its row."""
    chosen = [next(one for one in candidates if one.sha256 == row["sha256"]) for row in best]
    trusted_paths = [candidate.path for candidate in chosen if _is_trusted(candidate, trusted)]
    write_average({candidate.path: candidate.sha256 for candidate in chosen}, average.out, trusted_paths)
    sha256 = sha256_file(average.out)
    found = measurements.known(sha256) or measurements.measure(average.out, sha256, trust=average.out in trusted)
    averaged_from = names_of([candidate.path for candidate in chosen])
    return _row(Candidate(average.out, sha256, ()), found) | {"updates": None, "averaged_from": averaged_from}
