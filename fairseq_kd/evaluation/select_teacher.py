"""Select the checkpoint of a training that becomes the teacher: the checkpoint with the lowest loss or the highest
score.

The two can differ. A model that becomes overconfident has a worse loss but not a worse BLEU, and word-level
distillation learns from its probabilities. arXiv 2401.06356 compares the two teachers.

    folder -> find_candidates -> checkpoints.Measurements -> rank -> average.write_average -> selection.json
"""

from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.evaluation.average import check_out, write_average
from fairseq_kd.evaluation.checkpoints import Measurements
from fairseq_kd.inference.checkpoint import read_checkpoint, updates_of

PATTERN = "checkpoint*.pt"
COPIES = ("checkpoint_best.pt", "checkpoint_last.pt")  # fairseq copies an epoch's checkpoint to these names
RESULT, MEASURED = "selection.json", "measured"
CHOICES = {"low-loss": ("nll", 1), "high-score": ("bleu", -1)}  # name: (measure, 1 if lower is better, else -1)


@dataclass(frozen=True)
class Candidate:
    """A checkpoint by content: its first file, its hash, and the names of the other files with the same content."""

    path: Path
    sha256: str
    same: tuple[str, ...]


@dataclass(frozen=True)
class AverageOptions:
    """Write the average of the best `count` checkpoints by the chosen measure to `out`."""

    count: int
    out: Path

    def __post_init__(self):
        if self.count < 2:
            raise KDError(f"--average {self.count}: must be at least 2 checkpoints")


def find_candidates(folder) -> list[Candidate]:
    """The checkpoint*.pt of `folder` by name, each content once. Raises KDError when there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise KDError(f"--checkpoints {folder} is not a folder: give the --save-dir of a training")
    paths = sorted(folder.glob(PATTERN), key=lambda path: (path.name in COPIES, path.name))
    if not paths:
        raise KDError(f"--checkpoints {folder} has no {PATTERN}: give the --save-dir of a training")
    by_content: dict[str, list[Path]] = {}
    progress = Progress("hashing", len(paths), "checkpoints")
    for path in progress.over(paths):
        try:
            by_content.setdefault(sha256_file(path), []).append(path)
        except OSError as error:
            raise KDError(f"checkpoint {path} cannot be read ({error.strerror}): move it out of the folder") from error
    progress.finish()
    return [Candidate(first, sha256, tuple(p.name for p in rest)) for sha256, (first, *rest) in by_content.items()]


def rank(rows: list[dict], by: str) -> list[dict]:
    """The rows from best to worst by "low-loss" or "high-score". Equal rows keep their order."""
    measure, sign = CHOICES[by]
    return sorted(rows, key=lambda row: sign * row[measure])


def select(measurements: Measurements, folder, by: str, out, *, last=None, average=None, trusted=()) -> dict:
    """Measure the checkpoints of `folder`, choose one, write `out`/selection.json, and return its content.

    measurements: the measurements in `out`/measured. last: measure only this number of checkpoints with the most
    updates. average: AverageOptions. trusted: paths of checkpoints, also of the average, to read even if they hold
    code. A call that was killed at any moment is continued by the same call.
    Raises KDError when a checkpoint cannot be used; finished measurements are kept.
    """
    if last is not None and last < 1:
        raise KDError(f"--last {last}: must be at least 1")
    out, trusted = Path(out), {Path(path) for path in trusted}
    if average is not None:
        _check_average(average, folder, trust=average.out in trusted)
    candidates = find_candidates(folder)
    named = {Path(folder) / name for one in candidates for name in (one.path.name, *one.same)}
    if strangers := trusted - named - ({average.out} if average else set()):
        raise KDError(f"--trust-checkpoint {min(strangers)} is not one of the checkpoints in {folder}")
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
            rows.append(_averaged(rank(rows, by)[: average.count], average, measurements, trusted))
        result = {
            "format": 1,
            "kind": "fairseq_kd selection",
            "data_bin": str(measurements.data_bin),
            "by": by,
            "chosen": rank(rows, by)[0]["checkpoint"],
            **{name: rank(rows, name)[0]["checkpoint"] for name in CHOICES},
            "checkpoints": rows,
            "made_from": measurements.made_from,
        }
        write_record(out / RESULT, result)
    return result


def _check_average(average: AverageOptions, folder, trust: bool) -> None:
    if average.out.parent.resolve() == Path(folder).resolve() and average.out.match(PATTERN):
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
    return any(candidate.path.with_name(name) in trusted for name in (candidate.path.name, *candidate.same))


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
        "same": list(candidate.same),
        "sha256": candidate.sha256,
        **{name: found[name] for name in names},
    }


def _averaged(best: list[dict], average: AverageOptions, measurements: Measurements, trusted: set[Path]) -> dict:
    """Write the average of the rows `best`, measure it, and return its row."""
    candidates = [Candidate(Path(row["checkpoint"]), row["sha256"], tuple(row["same"])) for row in best]
    trusted_paths = [candidate.path for candidate in candidates if _is_trusted(candidate, trusted)]
    write_average({candidate.path: candidate.sha256 for candidate in candidates}, average.out, trusted_paths)
    sha256 = sha256_file(average.out)
    found = measurements.known(sha256) or measurements.measure(average.out, sha256, trust=average.out in trusted)
    averaged_from = [candidate.path.name for candidate in candidates]
    return _row(Candidate(average.out, sha256, ()), found) | {"updates": None, "averaged_from": averaged_from}
