"""Run a spec, or continue it: check, make the start, run the engine, follow the rounds, and report."""

import contextlib
import importlib.util
import sys
import time
from pathlib import Path

from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.records import create_record, read_record, write_record
from fairseq_kd.artifacts.request import check_same
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.errors import KDError, prefixed_errors
from fairseq_kd.core.preloaded import preloaded_python
from fairseq_kd.core.progress import format_seconds
from fairseq_kd.federated.plan import FILE, make_plan, read_plan
from fairseq_kd.federated.sent import check_sent
from fairseq_kd.federated.spec import Spec
from fairseq_kd.federated.training import training_options
from fairseq_kd.inference.device import choose_device

SECONDS_BETWEEN_LOOKS, SECONDS_TO_BEGIN = 0.2, 120
# what may change before the last round: where the folder is, and how the rounds that are left deal with failures
MAY_CHANGE = ("out", "spec.on-failure", "spec.min-clients", "spec.timeout", "spec.keep-rounds")


def check_flower() -> None:
    """Raises KDError when Flower is not installed."""
    if importlib.util.find_spec("flwr") is None:
        raise KDError("fairseq-kd federated needs Flower, which is not installed: pip install 'fairseq_kd[federated]'")


def prepare_run(spec: Spec, out, cpu: bool) -> dict:
    """Check the spec, write OUT/plan.json and the start; return the plan. Raises KDError, also for another OUT."""
    out = Path(out)
    plan = make_plan(spec, out, choose_device(cpu).type == "cpu")
    ensure_writable_folder(out)
    create_record(out / FILE, plan)
    recorded = read_plan(out / FILE)
    check_same(out, recorded, plan, ignore=MAY_CHANGE)
    if recorded != plan:
        write_record(out / FILE, plan)
    return plan


def run_federated(spec: Spec, out, cpu: bool = False) -> dict:
    """Run or continue; return the result. This package must be registered with fairseq. Raises KDError."""
    check_flower()
    from fairseq_kd.federated.rounds import complete_rounds
    from fairseq_kd.federated.serving import RESULT

    out = Path(out)
    plan = prepare_run(spec, out, cpu)
    if not plan["parts"]:
        raise KDError(f"{spec.path}: parts is a number: a local run needs data-bins. For a real federation give --app")
    with exclusive(out / "federated"):
        if not (out / RESULT).exists():
            make_start(plan)
            done = len(complete_rounds(out))
            if done > 1:
                print(f"rounds 1 to {done - 1} are complete", file=sys.stderr, flush=True)
            _run_engine(plan, out)
    return read_record(out / RESULT, f"remove {out / RESULT} and give the command again", required=("rounds",))


def make_start(plan: dict) -> None:
    """Write round 0, unless it is complete: the global model before the first round, and its score."""
    from fairseq_kd.federated.rounds import RECORD, folder_of

    folder = folder_of(plan["out"], 0)
    if read_record(folder / RECORD, f"remove {folder}") is None:
        from fairseq_kd.federated.start import write_start

        write_record(folder / RECORD, write_start(plan, folder))


def _run_engine(plan: dict, out: Path) -> None:
    from fairseq_kd.federated.engine import environment_of, running_engine
    from fairseq_kd.federated.programs import PRELOADED

    folder = Path(plan["out"]) / "engine"
    environment = environment_of(folder)
    how = {"separate": True, "modules": PRELOADED}
    forks = preloaded_python(environment, **how) if plan["cpu"] else contextlib.nullcontext(environment)
    with forks as environment, running_engine(folder, Path(plan["out"]) / FILE, plan, environment) as engine:
        _follow(plan, engine, out)


def _follow(plan: dict, engine, out: Path) -> None:
    """Print a line per round until the result is there. Raises KDError when the server has failed."""
    from fairseq_kd.federated.app import FAILED, LOST, SERVER
    from fairseq_kd.federated.rounds import complete_rounds
    from fairseq_kd.federated.serving import RESULT

    shown, begun, rounds = len(complete_rounds(out)), time.monotonic(), plan["spec"]["rounds"]
    first = shown
    while True:
        finished, failed = (out / RESULT).exists(), read_failure(engine.folder / FAILED)
        records = complete_rounds(out)
        for record in records[shown:]:
            each = (time.monotonic() - begun) / (record["round"] + 1 - first)
            print(_line(record, rounds, each * (rounds - record["round"])), file=sys.stderr, flush=True)
        shown = len(records)
        if finished:
            return
        if failed is not None:
            raise KDError(failed)
        for name in engine.ended():
            if name == "superlink":
                raise KDError(f"Flower's SuperLink has ended: {engine.end_of_log(name)}")
            (engine.folder / LOST / name.removeprefix("client")).touch()
        if not finished and _server_has_ended(engine.folder / SERVER, begun):
            raise KDError(f"the server of the rounds has ended: {engine.end_of_log('superlink')}")
        time.sleep(SECONDS_BETWEEN_LOOKS)


def read_failure(path: Path) -> str | None:
    """The message of a user error on the server, or None."""
    found = read_record(path, f"remove {path}") if path.exists() else None
    return found and found["message"]


def _server_has_ended(path: Path, begun: float) -> bool:
    """Whether the process of `app.serve`, which notes its number in the file, is gone, or has not begun in time."""
    if not path.exists():
        return time.monotonic() - begun > SECONDS_TO_BEGIN
    try:
        stat = Path(f"/proc/{read_record(path, 'give the command again')['pid']}/stat").read_text()
    except FileNotFoundError:
        return not (path.parent.parent / "result.json").exists()
    return stat.rpartition(")")[2].split()[0] == "Z" and not (path.parent.parent / "result.json").exists()


def write_federation(spec: Spec, out, cpu: bool = False) -> str:
    """Write what `flwr run` needs for a real federation into OUT; return the text that says what to do."""
    from fairseq_kd.federated.app_folder import write_project

    out = Path(out)
    with prefixed_errors(f"{spec.path}: common or student"):
        check_sent(training_options(spec.values))
    plan = prepare_run(spec, out, cpu)
    make_start(plan)
    (out / "engine").mkdir(exist_ok=True)
    app = write_project(out / "app", Path(plan["out"]) / FILE)
    return (
        f"the app for {plan['clients']} clients is in {app}: start SuperLink and SuperNodes (docs/federated.md), "
        f"then `flwr run {app}`"
    )


def _line(record: dict, rounds: int, left: float) -> str:
    bleu = "" if record["bleu"] is None else f", BLEU {record['bleu']:.2f}"
    failed = f", {len(record['failed'])} failed" if record["failed"] else ""
    return (
        f"round {record['round']}/{rounds}: {len(record['clients'])} clients{failed}{bleu}, "
        f"{record['seconds']:.0f} s, {format_seconds(left)} left"
    )
