"""`fairseq-kd federated` with Flower's engine, and the trainings of one client, update by update."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_user_error
from federated_helpers import LANGUAGES, TINY, LocalGrid, write_parts, write_spec
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from process_helpers import Process, run_kd, run_python

from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.core.preloaded import preloaded_python
from fairseq_kd.federated import guard
from fairseq_kd.federated.arrays import load_arrays
from fairseq_kd.federated.client import do_job
from fairseq_kd.federated.collect import METRICS
from fairseq_kd.federated.jobs import TRAINED, job_of, prepare_job, round_folder
from fairseq_kd.federated.messages import train_config
from fairseq_kd.federated.packing import ARRAYS
from fairseq_kd.federated.plan import make_plan
from fairseq_kd.federated.rounds import GLOBAL, RECORD, folder_of, run_rounds
from fairseq_kd.federated.spec import load_spec
from fairseq_kd.federated.start import write_start
from fairseq_kd.federated.training import client_arguments, training_options
from fairseq_kd.federated.weights import to_arrays
from fairseq_kd.training.arguments import training_arguments
from fairseq_kd.training.run import train

ALL = bool(os.environ.get("FAIRSEQ_KD_FAULTS"))  # `make faults`
UPDATES = 4


@pytest.fixture(scope="module")
def parts(data_bin, tmp_path_factory):
    return write_parts(data_bin, tmp_path_factory.mktemp("parts"), [range(0, 200), range(200, 300), range(300, 400)])


@pytest.fixture(scope="module")
def server():
    """Trainings are forks of one process."""
    with preloaded_python(dict(os.environ)) as environment:
        yield environment


@pytest.fixture
def plan_of(data_bin, parts, tmp_path):
    def make(**keys):
        keys = {"rounds": 2, "updates": UPDATES, "evaluate": {"every": 0}} | keys
        plan = make_plan(load_spec(write_spec(tmp_path / "s.yaml", data_bin, parts[:1], **keys)), tmp_path, cpu=True)
        folder = folder_of(tmp_path, 0)
        write_record(folder / RECORD, write_start(plan, folder) | {"data": 0})
        return plan

    return make


def do_round(plan, number: int, last: int, arrays: dict, mu: float = 0.0) -> dict:
    """The weights that the client sends after a round. arrays: those that it got."""
    shared = read_record(folder_of(plan["out"], 0) / RECORD, "")["shared"]
    config = train_config(plan, number, [last], shared) | {"proximal-mu": mu}
    job = job_of(config, 1, plan["parts"][0], plan["languages"], cpu=True, local=False)
    path = prepare_job(Path(plan["out"]) / "client", job, arrays)
    do_job(path)
    return load_arrays(path.with_name(TRAINED))


def test_one_client_is_a_plain_training_update_by_update(plan_of, server, monkeypatch, tmp_path):
    """Two rounds of one client, with dropout and its optimizer kept, end with the weights of one training."""
    monkeypatch.setattr(os, "environ", server)
    plan = plan_of()
    start = torch.load(folder_of(tmp_path, 0) / GLOBAL)["model"]
    shared = read_record(folder_of(tmp_path, 0) / RECORD, "")["shared"]
    first = do_round(plan, 1, 0, to_arrays(start, shared))
    second = do_round(plan, 2, 1, first)
    words = client_arguments(
        plan["parts"][0], plan["languages"], training_options(plan["spec"]), plan["spec"], 2, cpu=True
    )
    record = train(tmp_path / "plain", words, {}, 2 * UPDATES, "plain")
    plain = to_arrays(torch.load(record["checkpoint"])["model"], shared)
    assert record["updates"] == 2 * UPDATES and plain.keys() == second.keys()
    for name, value in plain.items():
        assert (value == second[name]).all(), name
    assert not all((first[name] == second[name]).all() for name in plain)
    assert not (round_folder(tmp_path / "client", 1) / "start.pt").exists()


def moved_by(part: int, message) -> Message:
    """A client that adds 0.01 · its part to every weight, in place of a training."""
    arrays = {name: array.numpy() + np.float32(0.01 * part) for name, array in message.content[ARRAYS].items()}
    numbers = {"num-examples": 100 * part, "sentences": 100 * part, "updates": UPDATES, "seconds": 1.0}
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return Message(RecordDict({ARRAYS: record, METRICS: MetricRecord(numbers)}), reply_to=message)


def test_server_kd_is_a_kd_word_training_from_the_mean_with_the_clients_models_as_teachers(
    data_bin, parts, server, monkeypatch, tmp_path
):
    """After one round of two clients: the same command by hand, from a mean that is worked by hand."""
    monkeypatch.setattr(os, "environ", server)
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    distillation = {"updates": 3, "transfer": str(data_bin), "kd-weight": 0.7, "teacher-temperature": 2.0}
    keys = {"rounds": 1, "updates": UPDATES, "evaluate": {"every": 0}, "server-kd": distillation}
    out, grid = tmp_path / "run", LocalGrid(2, moved_by)
    plan = make_plan(load_spec(write_spec(tmp_path / "s.yaml", data_bin, parts[:2], **keys)), out, cpu=True)
    write_record(folder_of(out, 0) / RECORD, write_start(plan, folder_of(out, 0)))
    start = torch.load(folder_of(out, 0) / GLOBAL)
    begun = folder_of(out, 1) / "server-kd"  # of a run that was killed here, in which other clients had answered
    begun.mkdir(parents=True)
    write_record(begun / "request.json", {"command": ["with other teachers"], "inputs": {}})
    (folder_of(out, 1) / "client9.pt").touch()
    (_, record) = run_rounds(grid, plan, grid.nodes)
    assert not (folder_of(out, 1) / "client9.pt").exists()
    assert record["updates"] == 2 * UPDATES + 3 and not (folder_of(out, 1) / "server-kd").exists()
    found = torch.load(folder_of(out, 1) / GLOBAL)["model"]

    shifts = {"one.pt": 0.01, "two.pt": 0.02, "mean.pt": (1 * 0.01 + 2 * 0.02) / 3}
    for name, shift in shifts.items():
        torch.save(start | {"model": {key: value + shift for key, value in start["model"].items()}}, tmp_path / name)
    options = TINY | {"seed": 2, "criterion": "kd_word", "kd-weight": 0.7, "teacher-temperature": 2.0}
    options |= {"teacher": f"{tmp_path}/one.pt:{tmp_path}/two.pt", "finetune-from-model": tmp_path / "mean.pt"}
    options |= {"max-update": 3, "disable-validation": True}
    words = training_arguments(data_bin, *LANGUAGES, options, cpu=True)
    expected = torch.load(train(tmp_path / "by-hand", words, {}, 3, "by hand")["checkpoint"])["model"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)
    mean = {name: value + shifts["mean.pt"] for name, value in start["model"].items()}
    assert max((found[name] - value).abs().max() for name, value in mean.items()) > 1e-3  # it has trained


def processes_of(folder: Path) -> list[int]:
    """The processes of the engine that works in `folder`, by FLWR_HOME in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"FLWR_HOME={folder}/engine/home".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def assert_nothing_is_left(folder: Path) -> None:
    end = time.monotonic() + 15
    while (left := processes_of(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []


@pytest.mark.skipif(not ALL, reason="the engine takes minutes: make faults")
def test_three_clients_killed_ten_times_end_with_the_same_weights(data_bin, parts, tmp_path):
    """Each kill is at a random moment after a round; two of them after each of the rounds 0 to 4."""
    rounds, moments = 8, random.Random(1)
    spec = write_spec(tmp_path / "spec.yaml", data_bin, parts, rounds=rounds, updates=3, strategy={"name": "FedAdam"})
    words = ["federated", str(spec), "--cpu", "--out"]
    undisturbed = run_kd(*words, str(tmp_path / "a"), timeout=900)
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    for kill in range(10):
        process = Process("-m", "fairseq_kd.cli.main", *words, str(tmp_path / "b"))
        wait_for_round(tmp_path / "b", kill // 2, process)
        time.sleep(moments.uniform(0, 10))
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert_nothing_is_left(tmp_path / "b")
    assert run_kd(*words, str(tmp_path / "b"), timeout=900).returncode == 0
    models = [torch.load(folder_of(tmp_path / name, rounds) / GLOBAL)["model"] for name in ("a", "b")]
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name
    assert_nothing_is_left(tmp_path / "a")


def signal_client(folder: Path, part: int, number: int) -> None:
    """Send a signal to the processes of one client, which all write to its log."""
    log = str(folder / f"engine/client{part}.log")
    found = [pid for pid in processes_of(folder) if os.path.realpath(f"/proc/{pid}/fd/1") == log]
    assert found
    for pid in found:
        os.kill(pid, number)


def wait_for_round(folder: Path, number: int, process: Process) -> None:
    """Until the round is complete."""
    end = time.monotonic() + 300
    while not (folder_of(folder, number) / RECORD).exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.skipif(not ALL, reason="the engine takes minutes: make faults")
def test_rounds_go_on_without_a_client_that_hangs_and_one_that_dies(data_bin, parts, tmp_path):
    """Client 2 is stopped and client 3 killed after the first round; the second ends after `timeout`."""
    keys = {"rounds": 2, "updates": 3, "on-failure": "go-on", "timeout": 40}
    spec, out = write_spec(tmp_path / "spec.yaml", data_bin, parts, **keys), tmp_path / "out"
    process = Process("-m", "fairseq_kd.cli.main", "federated", str(spec), "--cpu", "--out", str(out))
    wait_for_round(out, 1, process)
    signal_client(out, 2, signal.SIGSTOP)
    signal_client(out, 3, signal.SIGKILL)
    assert process.wait(300) == 0, process.communicate()
    first, second = (read_record(folder_of(out, number) / RECORD, "") for number in (1, 2))
    assert set(first["clients"]) == {"1", "2", "3"} and first["failed"] == {}
    assert set(second["clients"]) == {"1"}
    assert second["failed"] == {"2": "it has not answered within 40 seconds", "3": "its process has ended"}
    assert_nothing_is_left(out)


@pytest.mark.skipif(not ALL, reason="the engine takes minutes: make faults")
def test_a_client_that_dies_ends_a_run_that_says_stop_and_the_same_command_goes_on(data_bin, parts, tmp_path):
    spec, out = write_spec(tmp_path / "spec.yaml", data_bin, parts, rounds=2, updates=3), tmp_path / "out"
    words = ["federated", str(spec), "--cpu", "--out", str(out)]
    process = Process("-m", "fairseq_kd.cli.main", *words)
    wait_for_round(out, 1, process)
    signal_client(out, 3, signal.SIGKILL)
    assert process.wait(300) == 2
    assert "round 2: client 3 has failed: its process has ended. on-failure is stop" in process.communicate()[1]
    assert_nothing_is_left(out)
    assert run_kd(*words, timeout=300).returncode == 0


def test_the_guard_ends_the_processes_of_an_engine_when_the_command_is_killed(tmp_path):
    """The command starts a process in a session of its own; kill -9 of the command ends both."""
    word = "test" + os.urandom(8).hex()
    code = f"""
import os, subprocess, sys, time
from fairseq_kd.federated import guard
subprocess.Popen([sys.executable, guard.__file__, {word!r}], stdin=subprocess.PIPE, start_new_session=True)
marked = dict(os.environ, **{{guard.MARK: {word!r}}})
subprocess.Popen(["sleep", "600"], env=marked, start_new_session=True)
time.sleep(600)
"""
    process = Process("-c", code)
    end = time.monotonic() + 60
    while not guard.marked(word) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(guard.marked(word)) == 1
    time.sleep(0.5)  # the guard has started
    os.kill(process.pid, signal.SIGKILL)
    while guard.marked(word) and time.monotonic() < end:
        time.sleep(0.05)
    assert guard.marked(word) == []


def test_flower_is_missing(tmp_path):
    code = "import sys; sys.modules['flwr'] = None; from fairseq_kd.cli.main import main; sys.exit(main(sys.argv[1:]))"
    result = run_python("-c", code, "federated", "embedded", "--out", str(tmp_path / "out"))
    assert_user_error(result, "needs Flower, which is not installed: pip install 'fairseq_kd[federated]'")
    assert not (tmp_path / "out").exists()
