"""The checkpoints among which `select-teacher` chooses, each content once."""

import os
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import checkpoints_of
from fairseq_kd.core.progress import Progress

PATTERN = "checkpoint*.pt"
COPIES = ("checkpoint_best.pt", "checkpoint_last.pt")  # fairseq copies an epoch's checkpoint to these names


@dataclass(frozen=True)
class Candidate:
    """A checkpoint by content: its first file, its hash, and the other files with the same content."""

    path: Path
    sha256: str
    same: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files with this content."""
        return (self.path, *self.same)

    @property
    def same_names(self) -> list[str]:
        """The names of the other files: without their folder if it is that of the first one."""
        return [path.name if path.parent == self.path.parent else str(path) for path in self.same]


def is_folder(checkpoints) -> bool:
    """Whether a value of --checkpoints names a folder, and not files."""
    return Path(checkpoints).is_dir()


def find_candidates(checkpoints) -> list[Candidate]:
    """The checkpoint*.pt of a folder by name, or the files that are joined by ":" in their order, each content once.

    Raises KDError when there is none, and for a file that cannot be read.
    """
    paths = _in_folder(checkpoints) if is_folder(checkpoints) else _named(checkpoints)
    by_content: dict[str, list[Path]] = {}
    progress = Progress("hashing", len(paths), "checkpoints")
    for path in progress.over(paths):
        try:
            by_content.setdefault(sha256_file(path), []).append(path)
        except OSError as error:
            remedy = "move it out of the folder" if is_folder(checkpoints) else "leave it out"
            raise KDError(f"checkpoint {path} cannot be read ({error.strerror}): {remedy}") from error
    progress.finish()
    return [Candidate(first, sha256, tuple(rest)) for sha256, (first, *rest) in by_content.items()]


def _in_folder(folder) -> list[Path]:
    paths = sorted(Path(folder).glob(PATTERN), key=lambda path: (path.name in COPIES, path.name))
    if not paths:
        raise KDError(f"--checkpoints {folder} has no {PATTERN}: give the --save-dir of a training")
    return paths


def _named(checkpoints) -> list[Path]:
    if os.pathsep not in str(checkpoints) and not Path(checkpoints).is_file():
        raise KDError(f"--checkpoints {checkpoints} is not a folder: give the --save-dir of a training, or several "
                      "checkpoints joined by :")  # fmt: skip
    return checkpoints_of(str(checkpoints), "--checkpoints")
