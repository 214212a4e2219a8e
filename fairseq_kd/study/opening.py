"""From the name of a spec to a checked plan: all that can be refused is refused here, before anything runs."""

from pathlib import Path

from fairseq_kd.corpus.manifest import PROBE, read_manifest
from fairseq_kd.errors import KDError
from fairseq_kd.paths import check_new_data_bin
from fairseq_kd.study.check import check_commands
from fairseq_kd.study.factors import make_cells
from fairseq_kd.study.older import SHOW, Older
from fairseq_kd.study.plan import PLAN_NAME, Plan
from fairseq_kd.study.spec import load_spec, spec_path


def open_plan(spec, work, recipe=None, raw=None, old_stages: str | None = SHOW) -> Plan:
    """Read a spec, check it down to the last option, and plan it. Raises KDError; nothing is written.

    work: the folder of the study, which must be one, or empty, or not there. old_stages: see `Older`.
    """
    check_folder(Path(work))
    checked = load_spec(spec_path(spec), recipe, raw)
    held = read_manifest(work, PLAN_NAME) or {}
    plan = Plan(checked, make_cells(checked), Older(work, old_stages, held.get("stages", ())))
    check_commands(plan)
    _check_distinct(plan)
    return plan


def _check_distinct(plan: Plan) -> None:
    """Cells of one training that is measured in one way would be shown as separate results."""
    seen = {}
    for name, cell in plan.cells.items():
        first = seen.setdefault((cell["student"], *cell["results"].items()), name)
        if first != name:
            one, other = plan.cells[first]["factors"], cell["factors"]
            differ = [factor for factor in one | other if one.get(factor) != other.get(factor)]
            raise KDError(f"{plan.spec.path}: the cells {first} and {name} are the same experiment, for "
                          f"{' and '.join(differ)} has no effect there; take it out, or exclude one")  # fmt: skip


def check_same_study(plan: Plan, work: Path) -> None:
    """Raises KDError when `work` holds the study of that name with other stages: nothing of it would be found.

    The commands that only look are not to take it for one that has not begun.
    """
    held = read_manifest(work, PLAN_NAME)
    if held is not None and held["name"] == plan.spec.name and not held["stages"].keys() & plan.stages.keys():
        raise KDError(f"{work} holds the study {plan.spec.name} with another recipe, with other data or of another "
                      "version of fairseq_kd: none of its stages is planned here; give --recipe and --raw as for the "
                      "run, or another --out")  # fmt: skip


def check_folder(work: Path) -> None:
    """Raises KDError unless `work` is the folder of a study, or empty, or not there, and fairseq can use its name."""
    check_new_data_bin(work)
    if work.exists() and not (work / PLAN_NAME).is_file() and not _is_free(work):
        raise KDError(f"{work} exists and is not the folder of a study; choose another --out")


def _is_free(work: Path) -> bool:
    """Whether nothing is there but what a study leaves that was killed before it wrote its plan."""
    begun = (".study.lock", f".{PLAN_NAME}.", PROBE)
    return work.is_dir() and all(path.name.startswith(begun) for path in work.iterdir())
