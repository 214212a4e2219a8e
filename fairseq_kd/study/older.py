"""Finished stages in WORK that other versions made: found by what was asked for, never used in silence."""

from pathlib import Path

from fairseq_kd.errors import KDError
from fairseq_kd.study.key import FIRST_VERSION, MAKERS, Key, made_by
from fairseq_kd.study.state import DONE, FAILED, record_of

REUSE, RECOMPUTE, SHOW = "reuse", "recompute", "show"
CHOICES = (REUSE, RECOMPUTE)  # of --old-stages


class Older:
    """choice: REUSE and SHOW take an older stage where the plan's own is not done, RECOMPUTE takes none.

    None is the choice of a run whose user has not said which: then an older stage is an error.
    """

    def __init__(self, work, choice: str | None, planned=()):
        """planned: the stages of the last run. Where it was to make one again, no older one stands in for it."""
        self.folder, self.choice = Path(work) / "stages", choice
        self._planned = set() if choice == REUSE else set(planned)
        self._names = {}  # KIND-REQUEST, or the name that version 0.1.0 gave -> names
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            for start in {path.name, path.name.rpartition("-")[0]}:
                self._names.setdefault(start, []).append(path.name)

    def find(self, key: Key) -> str | None:
        """The one that was made last of those of other versions; None where the one of this key is done or planned."""
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
        """Whether older stages stand in for the plan's own."""
        return self.choice in (REUSE, SHOW)

    def check(self, found: dict[str, str], stages: int, versions: dict) -> None:
        """Raises KDError when there are older stages and nobody has said what is to become of them."""
        if found and self.choice is None:
            raise KDError(
                f"{self.describe(found, stages, versions)}. Give --old-stages {RECOMPUTE} to make them again (they are "
                f"kept beside the new ones), or --old-stages {REUSE} to go on with them as they are"
            )

    def describe(self, found: dict[str, str], stages: int, versions: dict) -> str | None:
        """How many older stages there are and what differs; None where there is none. found: name -> older name."""
        if not found:
            return None
        differences = {}
        for old in found.values():
            kind = old.partition("-")[0]
            for line in _differences(kind, record_of(self.folder / old) or {}, made_by(kind, versions)):
                differences[line] = None
        said = f": {'; '.join(differences)}" if differences else ""
        return f"{len(found)} of {stages} stages in {self.folder.parent} were made by other versions{said}"


def _differences(kind: str, record: dict, now: dict):
    """In words. A record of version 0.1.0 has no format, and other inputs alone change a name without a difference."""
    before = record.get("made_by")
    if before is None:
        yield f"fairseq_kd {record.get('versions', {}).get('fairseq_kd', FIRST_VERSION)}, which recorded no formats"
        before = made_by(kind, record["versions"]) if "versions" in record else now
    elif before["format"] != now["format"]:
        yield f"format {before['format']} of {kind}, now {now['format']}"
    for library in MAKERS[kind].libraries:
        if before.get(library) != now[library]:
            yield f"{library} {before.get(library) or 'not installed'}, now {now[library] or 'not installed'}"
