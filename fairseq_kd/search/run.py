"""Run a search: each batch of configurations is a study in the same folder, so that nothing is trained twice.

The stages that a killed search has finished are kept. The same command asks for the same configurations again and reads
their scores from these stages. Optuna keeps its proposals in a file of its own.
"""

import hashlib
import json
import math
import sys
from pathlib import Path

from fairseq_kd.artifacts.records import create_record
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.errors import KDError
from fairseq_kd.scoring.score import check_seed
from fairseq_kd.search.report import (
    CHOSEN_NAME,
    JSON_NAME,
    REPORT_NAME,
    finalists,
    read_scores,
    write_search_report,
)
from fairseq_kd.search.space import optuna_search
from fairseq_kd.search.spec import TEST, VALIDATION, SearchSpec
from fairseq_kd.search.strategies import Outcome, Search, drive, greedy, grid, resolve_kd_word
from fairseq_kd.study.plan import PLAN_NAME, Plan
from fairseq_kd.study.run import FAILURE, LOG, RunOptions, report_older, run_stages
from fairseq_kd.study.show import format_failures
from fairseq_kd.study.state import cell_states, stage_states

KEY_LENGTH = 12


def run_search(search: SearchSpec, work: Path, options: RunOptions) -> int:
    """Search, measure the choice on test data and write the report; return 0, or 1 when configurations have failed.

    Raises KDError when all configurations of a step fail, and for the reasons of `run_stages`.
    """
    ensure_writable_folder(work)
    start = _start_plan(search)
    report_older(start)
    if len(search.seeds) == 1:
        check_seed(of_tests=True)  # now, because the test over segments comes after all trainings
    create_record(work / PLAN_NAME, start.as_dict())  # marks the folder as a study's; an existing plan stays
    print(f"search {search.name}: {most_configurations(search)} configurations at most, {len(search.seeds)} seeds each")
    trainings = Trainings(search, work, options)
    outcome = drive(begin(search, work), trainings.validate)
    failed = trainings.test(outcome)
    print(write_search_report(search, outcome, work))
    print(f"wrote {work / REPORT_NAME}, {work / JSON_NAME} and {work / CHOSEN_NAME}")
    return FAILURE if failed or any(run.score is None for run in outcome.runs) else 0


def most_configurations(search: SearchSpec) -> int:
    """The largest number of configurations that the search can ask for; it is smaller where some are one experiment."""
    if search.algorithm == "optuna":
        return search.numbers["trials"]
    counts = [len(values) for _, values in search.parameters]
    return math.prod(counts) if search.algorithm == "grid" else 1 + sum(counts) - len(counts)


def begin(search: SearchSpec, work: Path) -> Search:
    """The generator of the algorithm, see `strategies`."""
    if search.algorithm != "optuna":
        return {"greedy": greedy, "grid": grid}[search.algorithm](search.parameters, search.start, resolve_kd_word)
    numbers = search.numbers
    return optuna_search(
        search.parameters, search.start, numbers["trials"], work / _storage_name(search),
        batch=numbers["batch"], seed=numbers["sampler-seed"], resolve=resolve_kd_word,
    )  # fmt: skip


def _start_plan(search: SearchSpec) -> Plan:
    return search.plan({"start": resolve_kd_word(search.start)}, [VALIDATION])


def _storage_name(search: SearchSpec) -> str:
    """The name depends on data, models, budget and seeds (by the keys of stages), because Optuna's scores do."""
    cells = _start_plan(search).cells.values()
    content = json.dumps([cell["results"][VALIDATION] for cell in cells])
    return f"optuna-{hashlib.sha256(content.encode()).hexdigest()[:KEY_LENGTH]}.db"


class Trainings:
    """Trains configurations and returns their scores. The next command, not this one, tries failed ones again."""

    def __init__(self, search: SearchSpec, work: Path, options: RunOptions):
        self._search, self._work, self._options = search, work, options
        self._succeeded = {}  # label -> options

    def validate(self, batch: list[dict]) -> list[float | None]:
        """Train the configurations that are not trained yet; return BLEU on validation data, the mean over seeds.

        None for a configuration that failed with any seed.
        """
        labels = [self._search.label(options) for options in batch]
        plan = self._search.plan(self._succeeded | dict(zip(labels, batch, strict=True)), [VALIDATION])
        found = stage_states(plan, self._work)
        if set(found.values()) != {"done"}:
            found = run_stages(plan, self._work, self._options)
            _show_failures(plan, self._work, found)
        scores = [self._score(plan, label, found) for label in labels]
        for label, options, score in zip(labels, batch, scores, strict=True):
            print(f"{'failed' if score is None else format(score, '.2f'):>6}  {label}", flush=True)
            if score is not None:
                self._succeeded[label] = options
        return scores

    def _score(self, plan: Plan, label: str, found: dict) -> float | None:
        of_cells = cell_states(plan, found)
        states = {of_cells[name] for name, cell in plan.cells.items() if cell["factors"]["configuration"] == label}
        if not states <= {"done", "failed"}:
            raise KDError(f"the training of {label} ended with neither a result nor a failure: see {self._work / LOG}")
        return None if "failed" in states else read_scores(plan, label, VALIDATION, self._work)["mean"]

    def test(self, outcome: Outcome) -> bool:
        """Measure the finalists on test data, which do not influence the choice; return whether any stage failed."""
        plan = self._search.plan(finalists(self._search, outcome), [VALIDATION, TEST])
        found = run_stages(plan, self._work, self._options)
        _show_failures(plan, self._work, found)
        return "failed" in found.values()


def _show_failures(plan: Plan, work: Path, found: dict) -> None:
    if failures := format_failures(plan, work, found):
        print(failures, file=sys.stderr)
