"""--teacher-schedule A@2000,B@5000,C: teachers, or caches, that follow each other in one training.

Each part is what --teacher or --teacher-cache takes. Its options are checked, and its source is opened, as those of a
training with this part alone.
"""

import copy
import functools
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import listed
from fairseq_kd.criterions.no_effect import refuse
from fairseq_kd.criterions.teachers_config import DEFAULTS, WEIGHTS


@dataclass(frozen=True)
class SchedulePart:
    """paths: one or several, joined by ":". last: the number of the last update with this part; None: no end."""

    paths: str
    last: int | None


def read_schedule(text: str) -> list[SchedulePart]:
    """The parts of a value of --teacher-schedule. Raises KDError for a value that has another form. No file is read."""
    words = [word.strip() for word in text.split(",")]
    if len(words) < 2:
        raise KDError(
            f"--teacher-schedule {text}: give at least two parts, such as A@2000,B; for one part use --teacher or "
            "--teacher-cache"
        )
    parts = [_ending(word) for word in words[:-1]]
    name, _, number = words[-1].rpartition("@")
    if name and number.isdecimal():
        raise KDError(
            f"--teacher-schedule: the last part {words[-1]} is used to the end of the training, so it must be without "
            f"@{number}: give {name}, or add a part after it"
        )
    parts.append(SchedulePart(words[-1], None))
    if not all(part.paths.strip(os.pathsep) for part in parts):
        raise KDError(f"--teacher-schedule {text}: each part must be a path; one of them is empty")
    for one, other in itertools.pairwise(parts[:-1]):
        if other.last <= one.last:
            raise KDError(
                f"--teacher-schedule: {other.paths}@{other.last} follows {one.paths}@{one.last}, so no update would "
                "use it: the numbers of updates must be increasing"
            )
    return parts


def _ending(word: str) -> SchedulePart:
    """A part that is not the last one."""
    paths, _, number = word.rpartition("@")
    is_number = number.isascii() and number.isdecimal() and len(number) < 16
    if "@" not in word or not is_number or int(number) < 1:
        raise KDError(
            f"--teacher-schedule: the part {word or repr(word)} must be a path, @ and the number of the last update "
            "that uses it (at least 1), such as A@2000; only the last part is without a number"
        )
    return SchedulePart(paths, int(number))


def are_caches(cfg, parts: list[SchedulePart]) -> bool:
    """Whether the parts are caches: the first one is a folder. If it does not exist, the other options decide.

    Raises KDError when some parts are folders and others are files.
    """
    paths = [path for part in parts for path in listed(part.paths)]
    first = paths[0]
    if not Path(first).exists():
        return cfg.kd_start_cache is not None
    found = Path(first).is_dir()
    for path in paths:
        if Path(path).exists() and Path(path).is_dir() != found:
            kinds = ("a folder", "a file") if found else ("a file", "a folder")
            raise KDError(
                f"--teacher-schedule: {first} is {kinds[0]} and {path} is {kinds[1]}; the parts must be checkpoints "
                "(files) or caches (folders), not both"
            )
    return found


def configurations(cfg) -> list:
    """For each part the options of a training with this part alone. `cfg` itself if there is no schedule.

    Raises KDError for a schedule that has another form, and for options that exclude it.
    """
    if cfg.teacher_schedule is None:
        return [cfg]
    for name in ("teacher", "teacher_cache"):
        if (value := getattr(cfg, name)) is not None:
            raise KDError(f"--teacher-schedule takes the place of --{name.replace('_', '-')} {value}: give one of them")
    if cfg.kd_weight == 0:
        refuse(cfg, ("teacher_schedule",), "with --kd-weight 0", DEFAULTS)
    if cfg.kd_valid:
        raise KDError(
            "--kd-valid cannot go with --teacher-schedule: validations with different teachers cannot be compared"
        )
    parts = read_schedule(cfg.teacher_schedule)
    caches = are_caches(cfg, parts)
    return [_alone(cfg, part, parts, caches) for part in parts]


def _alone(cfg, part: SchedulePart, parts: list[SchedulePart], caches: bool):
    found = copy.copy(cfg)
    found.teacher_schedule = None
    setattr(found, "teacher_cache" if caches else "teacher", part.paths)
    if len(listed(part.paths)) < 2 and any(len(listed(other.paths)) > 1 for other in parts):
        for name in WEIGHTS:  # they are for the parts with several teachers
            setattr(found, name, DEFAULTS[name])
    if cfg.trust_checkpoint is not None:
        own, others = set(listed(part.paths)), {path for other in parts for path in listed(other.paths)}
        trusted = [path for path in listed(cfg.trust_checkpoint) if path in own or path not in others]
        found.trust_checkpoint = os.pathsep.join(trusted) or None
    return found


def of_each_part(check):
    """Decorator: check(cfg) is called for the options of each part of a schedule."""

    @functools.wraps(check)
    def checked(cfg) -> None:
        for each in configurations(cfg):
            check(each)

    return checked
