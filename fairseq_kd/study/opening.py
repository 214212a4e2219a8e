"""From the name of a spec to a checked plan: all that can be refused is refused here, before anything runs."""

from pathlib import Path

from fairseq_kd.corpus.manifest import PROBE
from fairseq_kd.errors import KDError
from fairseq_kd.study.check import check_commands
from fairseq_kd.study.factors import make_cells
from fairseq_kd.study.plan import PLAN_NAME, Plan
from fairseq_kd.study.spec import load_spec, spec_path


def open_plan(spec, work, recipe=None, raw=None) -> Plan:
    """Read a spec, check it down to the last option, and plan it. Raises KDError; nothing is written.

    work: the folder of the study, which must be one, or empty, or not there.
    """
    check_folder(Path(work))
    checked = load_spec(spec_path(spec), recipe, raw)
    plan = Plan(checked, make_cells(checked))
    check_commands(plan)
    return plan


def check_folder(work: Path) -> None:
    """Raises KDError unless `work` is the folder of a study, or empty, or not there."""
    if work.exists() and not (work / PLAN_NAME).is_file() and not _is_free(work):
        raise KDError(f"{work} exists and is not the folder of a study; choose another --out")


def _is_free(work: Path) -> bool:
    """Whether nothing is there but what a study leaves that was killed before it wrote its plan."""
    begun = (".study.lock", f".{PLAN_NAME}.", PROBE)
    return work.is_dir() and all(path.name.startswith(begun) for path in work.iterdir())
