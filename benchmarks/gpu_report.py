"""What `gpu.py` has measured so far, as JSON and as Markdown, written again after every row."""

import os
import platform
import shlex
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch

from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.artifacts.writing import write_json

FAILED = "FAILED"


class Report:
    """results.json and results.md in a folder. What ran before a kill is in both."""

    def __init__(self, folder: Path, about: dict, seconds: float):
        """seconds: after that many no row is begun."""
        self.folder, self.sections = folder, {}
        self.about, self.end = about, time.monotonic() + seconds
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, measure, bench) -> None:
        """Run a section; an exception is recorded, and ends this section only."""
        section = self.sections[name] = Section(self)
        started = time.monotonic()
        try:
            measure(bench, section)
        except (Exception, SystemExit) as error:
            section.fail(name, error)
        section.seconds = round(time.monotonic() - started, 1)
        print(f"== {name}: {section.seconds} s", flush=True)
        self.write()

    def failures(self) -> list[str]:
        """What raised, and which rows are out of tolerance."""
        found = []
        for name, section in self.sections.items():
            found += [f"{name}: {title}" for title in section.tracebacks]
            rows = ((title, row) for title, rows in section.tables.items() for row in rows)
            found += [f"{name}: {title}: {row}" for title, row in rows if FAILED in row.values()]
        return found

    def write(self) -> None:
        """Both files."""
        sections = {name: section.as_dict() for name, section in self.sections.items()}
        write_json(self.folder / "results.json", {"about": self.about, "sections": sections})
        (self.folder / "results.md").write_text(self._markdown(), encoding="utf-8")

    def _markdown(self) -> str:
        lines = ["# fairseq_kd on a GPU", "", *(f"- {name}: {value}" for name, value in self.about.items())]
        for name, section in self.sections.items():
            lines += ["", f"## {name}", *(f"\n{note}" for note in section.notes)]
            for title, rows in section.tables.items():
                lines += ["", f"**{title}**", "", *table(rows)]
            for title, text in section.tracebacks.items():
                lines += ["", f"{FAILED}: {title}", "", "```text", text.rstrip(), "```"]
        return "\n".join(lines) + "\n"


class Section:
    """Tables of rows, notes, and the tracebacks of what went wrong."""

    def __init__(self, report: Report):
        self.report, self.tables, self.notes, self.tracebacks, self.seconds = report, {}, [], {}, None

    def row(self, table: str, **values) -> None:
        """Add a row; the values of a column are text or numbers."""
        self.tables.setdefault(table, []).append(values)
        print(f"{table}: " + ", ".join(f"{name} {cell(value)}" for name, value in values.items()), flush=True)
        self.report.write()

    def note(self, text: str) -> None:
        """Add a sentence above the tables."""
        self.notes.append(text)

    def fail(self, what: str, error: BaseException) -> None:
        """Record an exception."""
        self.tracebacks[what] = "".join(traceback.format_exception(error))[-4000:]
        print(f"{what}: {type(error).__name__}: {error}", flush=True)

    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.report.end

    def attempt(self, table: str, labels: dict, measure) -> bool:
        """Add the row of `labels` and what measure() returns; whether it succeeded. Out of memory is not a failure."""
        if self.late():
            self.row(table, **labels, result="skipped: no time left")
            return False
        try:
            self.row(table, **labels, **measure())
            return True
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self.row(table, **labels, result="does not fit in memory")
        except (Exception, SystemExit) as error:
            self.row(table, **labels, result=FAILED)
            self.fail(f"{table}: {', '.join(map(str, labels.values()))}", error)
        return False

    def as_dict(self) -> dict:
        """For the JSON."""
        kept = ("seconds", "notes", "tables", "tracebacks")
        return {name: getattr(self, name) for name in kept}


def table(rows: list[dict]) -> list[str]:
    """A Markdown table; the columns of all rows, in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row.get(name, "")) for name in columns] for row in rows]
    return ["| " + " | ".join(str(value).replace("|", "\\|") for value in line) + " |" for line in lines]


def cell(value) -> str:
    """Numbers with four significant digits."""
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def describe(device: str, commit: str | None) -> dict:
    """What the figures belong to: machine, versions, commit, command."""
    found = {"command": shlex.join(["python", *sys.argv]), "commit": commit or current_commit()}
    found |= {"date": time.strftime("%Y-%m-%d"), "Python": platform.python_version()}
    found |= {"torch": torch.__version__, "CUDA": str(torch.version.cuda)}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["device"] = f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
    else:
        found["device"] = f"CPU, {torch.get_num_threads()} threads"
    found["cores"] = len(os.sched_getaffinity(0))
    return found | {"versions": ", ".join(f"{name} {version}" for name, version in library_versions().items())}


def current_commit() -> str:
    """Of the repository that this file is in, with a + where the working tree differs."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if commit.returncode != 0:
        return "not known (no git repository)"
    changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
