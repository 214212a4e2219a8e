"""The progress of a study: the records of its stages, and the states of stages and cells.

`OlderStages` finds the finished stages in WORK that other versions made. They are never used silently.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.locks import is_held
from fairseq_kd.artifacts.manifest import MANIFEST_NAME
from fairseq_kd.artifacts.records import DamagedRecord, read_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.key import FIRST_VERSION, Key
from fairseq_kd.study.maker import made_by

if TYPE_CHECKING:  # `plan` imports this module
    from fairseq_kd.study.plan import Plan

CHOSEN_TEACHER = "teacher.pt"
# the file whose hash says that the output of a stage is the same as before: the first that exists
OUTPUTS = (
    f"data-bin/{MANIFEST_NAME}",
    f"cache/{MANIFEST_NAME}",
    f"parts/{MANIFEST_NAME}",
    CHOSEN_TEACHER,
    f"peers/{MANIFEST_NAME}",
    "model.pt",
    "run/final.pt",
    "result.json",
    "comparison.json",
    "checkpoints/checkpoint_best.pt",
    "init.pt",
)
RECORDED = ("fingerprint",)
DONE, FAILED, LOG, LOCK = "done.json", "failed.json", "log.txt", ".lock"
STATES = ("done", "running", "failed", "waiting")


class Records:
    """The done.json of the stages in WORK. A file is read again only after it was replaced or changed."""

    def __init__(self, work):
        self.folder = Path(work) / "stages"
        self._known = {}  # name -> (inode, time and size of the file, its content)

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
    """Name of the stage -> one of STATES. records: for a caller that asks repeatedly."""
    records = records or Records(work)
    return {name: _state(records, name) for name in plan.stages}


def cell_states(plan: "Plan", stages: dict) -> dict:
    """Name of the cell -> one of STATES. stages: the result of `stage_states`.

    A cell has failed if any of its stages has. It is done if all its stages are. It is running while a process works on
    its student or on one of its evaluations.
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
    failed = (folder / FAILED).is_file()  # Snakemake may then have restored the done.json of an earlier run
    if not failed and records.of(name) is not None:
        return "done"
    if is_running(folder):
        return "running"
    return "failed" if failed else "waiting"


def is_running(folder: Path) -> bool:
    """Whether a process works on the stage."""
    return is_held(folder / LOCK)


def record_of(folder: Path) -> dict | None:
    """The content of done.json; None while the stage is not finished. If it is damaged, None: it runs again."""
    try:
        return read_record(Path(folder) / DONE, "the stage is run again", required=RECORDED)
    except DamagedRecord:
        return None


def fingerprint_of(folder: Path) -> str:
    """The hash of a finished stage's output. Raises KDError when the output is missing or has another hash."""
    record, output = record_of(folder), output_of(folder)
    if record is None:
        raise KDError(f"{folder / DONE} is damaged or does not exist: run the study again, which runs this stage again")
    if output is None or sha256_file(output) != record["fingerprint"]:
        what = "its output does not exist" if output is None else f"{output} was changed since"
        raise KDError(
            f"{folder / DONE} says that the stage is done, but {what}: remove the folder {folder} and run the study "
            "again, which makes it again"
        )
    return record["fingerprint"]


def read_output(path: Path) -> dict:
    """A JSON file that a finished stage wrote. Raises KDError when it is damaged or does not exist."""
    remedy = f"remove the folder {path.parent} and run the study again, which makes it again"
    if (found := read_record(path, remedy)) is None:
        raise KDError(f"{path} does not exist, although its stage is done: {remedy}")
    return found


def output_of(folder: Path) -> Path | None:
    """The file whose hash is the fingerprint of a stage, None while it has none."""
    return next((folder / name for name in OUTPUTS if (folder / name).is_file()), None)


def end_of_log(folder: Path, lines: int) -> str:
    """The last lines of a stage's log."""
    path = Path(folder) / LOG
    if not path.is_file():
        return "(no log: the stage was not started)"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


REUSE, RECOMPUTE, SHOW = "reuse", "recompute", "show"
CHOICES = (REUSE, RECOMPUTE)  # values of --old-stages


class OlderStages:
    """Finished stages in WORK that other versions made.

    choice: with REUSE and SHOW the plan uses an older stage where its own stage is not done. With RECOMPUTE it uses
    none. None: the user of a run has not chosen; then an older stage is an error.
    """

    def __init__(self, work, choice: str | None, planned=()):
        """planned: names of the stages of the last run.

        A stage that it was to make again is not replaced by an older one.
        """
        self.folder, self.choice = Path(work) / "stages", choice
        self._planned = set() if choice == REUSE else set(planned)
        self._names = {}  # KIND-REQUEST, or the name that version 0.1.0 gave -> names of folders
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            for start in {path.name, path.name.rpartition("-")[0]}:
                self._names.setdefault(start, []).append(path.name)

    def find(self, key: Key) -> str | None:
        """The latest older stage with the same request; None where the stage of this key is done or planned."""
        if key.name in self._planned or self._is_done(key.name):
            return None
        names = [*self._names.get(key.request, []), *self._names.get(key.former, [])]
        done = [name for name in names if name != key.name and self._is_done(name)]
        return max(done, key=lambda name: (self.folder / name / DONE).stat().st_mtime_ns, default=None)

    def _is_done(self, name: str) -> bool:
        folder = self.folder / name
        return record_of(folder) is not None and not (folder / FAILED).is_file()

    @property
    def is_taken(self) -> bool:
        """Whether the plan uses older stages."""
        return self.choice in (REUSE, SHOW)

    def check(self, found: dict[str, str], stages: int, versions: dict) -> None:
        """Raises KDError when there are older stages and the user has not chosen what to do with them."""
        if found and self.choice is None:
            raise KDError(
                f"{self.describe(found, stages, versions)}. Give --old-stages {RECOMPUTE} to make them again (the "
                f"old ones are kept), or --old-stages {REUSE} to continue with them as they are"
            )

    def describe(self, found: dict[str, str], stages: int, versions: dict) -> str | None:
        """The number of older stages and what differs, as text; None without any. found: name -> older name."""
        if not found:
            return None
        differences = {}
        for old in found.values():
            kind, record = old.partition("-")[0], record_of(self.folder / old) or {}
            now = made_by(kind, versions, shlex.split(record.get("command") or ""))
            for line in _differences(kind, record, now):
                differences[line] = None
        said = f": {'; '.join(differences)}" if differences else ""
        return f"{len(found)} of {stages} stages in {self.folder.parent} were made by other versions{said}"


def _differences(kind: str, record: dict, now: dict):
    """Each difference as text. None where only the inputs are of other versions. Records of 0.1.0 have no format."""
    before = record.get("made_by")
    if before is None:
        yield f"fairseq_kd {record.get('versions', {}).get('fairseq_kd', FIRST_VERSION)}, which recorded no formats"
        command = shlex.split(record.get("command") or "")
        before = made_by(kind, record["versions"], command) if "versions" in record else now
    elif before["format"] != now["format"]:
        yield f"format {before['format']} of {kind}, now {now['format']}"
    for library in (name for name in now if name != "format"):
        if before.get(library) != now[library]:
            yield f"{library} {before.get(library) or 'not installed'}, now {now[library] or 'not installed'}"
