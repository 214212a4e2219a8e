"""Where a study stands, read from the folders of its stages."""

import contextlib
import fcntl
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a plan looks at the stages that are done
    from fairseq_kd.study.plan import Plan

DONE, FAILED, LOG, LOCK = "done.json", "failed.json", "log.txt", ".lock"
STATES = ("done", "running", "failed", "waiting")


class Records:
    """The done.json of the stages in WORK. One is read again only when the file is another, or was changed."""

    def __init__(self, work):
        self.folder = Path(work) / "stages"
        self._known = {}  # name -> (what says that the file is the same, its content)

    def of(self, name: str) -> dict | None:
        """See `record_of`."""
        try:
            found = (self.folder / name / DONE).stat()
        except FileNotFoundError:
            return None
        version = found.st_ino, found.st_mtime_ns, found.st_size
        if name not in self._known or self._known[name][0] != version:
            self._known[name] = version, record_of(self.folder / name)
        return self._known[name][1]


def stage_states(plan: "Plan", work, records: Records | None = None) -> dict:
    """Name of the stage -> one of STATES. records: for who asks often."""
    records = records or Records(work)
    return {name: _state(records, name) for name in plan.stages}


def cell_states(plan: "Plan", stages: dict) -> dict:
    """Name of the cell -> one of STATES: failed if any of its stages is, done if all are.

    Running: a process works on its student, or on what this is measured by.
    """
    cells = {}
    for cell in plan.cells:
        found = {stages[name] for name in plan.stages_of(cell)}
        own = {stages[name] for name in plan.stages_of(cell) if plan.stages[name].kind in ("student", "evaluate")}
        if "failed" in found:
            cells[cell] = "failed"
        elif found == {"done"}:
            cells[cell] = "done"
        else:
            cells[cell] = "running" if "running" in own else "waiting"
    return cells


def _state(records: Records, name: str) -> str:
    folder = records.folder / name
    failed = (folder / FAILED).is_file()  # then Snakemake may have put a done.json from before back
    if not failed and records.of(name) is not None:
        return "done"
    if is_running(folder):
        return "running"
    return "failed" if failed else "waiting"


def is_running(folder: Path) -> bool:
    """Whether a process works on the stage."""
    with contextlib.suppress(FileNotFoundError), open(folder / LOCK) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def record_of(folder: Path) -> dict | None:
    """What done.json says, None while the stage is not finished; one that is cut off says nothing."""
    try:
        return json.loads((Path(folder) / DONE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def fingerprint_of(folder: Path) -> str:
    """What identifies the output of a finished stage."""
    return record_of(folder)["fingerprint"]


def end_of_log(folder: Path, lines: int) -> str:
    """The last lines of a stage's log."""
    path = Path(folder) / LOG
    if not path.is_file():
        return "(no log: the stage was not started)"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
