"""A study on a data-bin and a teacher that exist, with real stages: other architectures, weights of the teacher.

The stages run one after the other without Snakemake, which tests/integration/test_study_run.py covers.
"""

import json
import re
import shutil

import pytest
import torch
from helpers import write_variant
from study_helpers import CONVOLUTION, LSTM, MODEL, SHORT, completing, spec_on

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.records import read_record
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.study import stage as study_stage
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.plan import PLAN_NAME
from fairseq_kd.study.refresh import rounds_of
from fairseq_kd.study.report.rows import read_study
from fairseq_kd.study.report.tested import _teachers
from fairseq_kd.study.show import write_results


@pytest.fixture
def complete(monkeypatch):
    return completing(monkeypatch)


def test_a_study_on_what_exists_trains_decodes_and_reports(data_bin, teacher, tmp_path, complete, capsys):
    models = {"copy": {"init": "skip"}, "lstm": LSTM, "convolution": CONVOLUTION | {"decoder-out-embed-dim": 16}}
    sections = {"cache": {"top-k": 4}, "evaluate": SHORT | {"confidence-n": 0}, "question": "Which model learns?"}
    spec = spec_on(data_bin, teacher, tmp_path, factors={"method": ["word"], "model": models}, **sections)
    work = tmp_path / "work"
    plan = open_plan(spec, work)
    complete(plan, work)
    results = {}
    for name, cell in plan.cells.items():
        results[name] = json.loads((work / "stages" / cell["results"]["test"] / "result.json").read_text())
        assert results[name]["updates"] == 2 and results[name]["sentences"] == 30
    (taught,) = plan.teachers
    parameters = json.loads((work / "stages" / taught["results"]["test"] / "result.json").read_text())["parameters"]
    assert results["model=copy"]["parameters"] == parameters  # it has the teacher's shape
    capsys.readouterr()
    assert main(["study", "report", str(spec), "--out", str(work)]) == 0
    page = (work / "report.md").read_text()
    for found in results.values():
        assert f"{found['parameters']:,}" in page
    assert json.loads((work / "results.json").read_text())["teachers"][0]["checkpoint"] == str(teacher)

    before = {path: path.stat().st_mtime_ns for path in work.glob("stages/*/done.json")}
    complete(open_plan(spec, work), work)  # nothing is run again
    assert {path: path.stat().st_mtime_ns for path in work.glob("stages/*/done.json")} == before


def test_students_of_two_teachers_are_trained_by_each_method_and_the_report_names_them(
    data_bin, teacher, tmp_path, complete
):
    other, work = tmp_path / "other.pt", tmp_path / "work"
    write_variant(teacher, other, 0.3, 7)
    methods = ["hybrid", "on-policy", "dp", "mutual", "ensemble"]
    factors = {"teachers": {"both": [str(teacher), str(other)]}, "method": methods}
    spec = spec_on(
        *(data_bin, teacher, tmp_path),
        **{"teacher": None, "decode": SHORT | {"backend": "fairseq"}, "cache": {"top-k": 4}},
        **{"evaluate": SHORT | {"confidence-n": 0}, "factors": factors},
        kd={"on-policy-rate": 1, "teacher-weights": "2:1"},
    )
    plan = open_plan(spec, work)
    complete(plan, work)
    cells = {cell["factors"]["method"]: cell for cell in plan.cells.values()}
    logged = {"hybrid": "gate", "on-policy": "sampled_tokens", "dp": "from_teacher", "mutual": "agreement"}
    for method, name in logged.items():
        log = (work / "stages" / cells[method]["student"] / "train.log").read_text()
        assert f'"{name}"' in log or f'"train_{name}"' in log, method
        result = json.loads((work / "stages" / cells[method]["results"]["test"] / "result.json").read_text())
        assert result["sentences"] == 30 and result["updates"] == 2, method
    files = [sha256_file(teacher), sha256_file(other)]
    result = json.loads((work / "stages" / cells["ensemble"]["results"]["test"] / "result.json").read_text())
    assert result["members"] == files
    (cache,) = work.glob("stages/cache-*/cache/manifest.json")
    mixture = json.loads(cache.read_text())["teacher"]
    assert mixture["members"] == sorted(files) and sorted(mixture["weights"]["numbers"]) == [1 / 3, 2 / 3]
    study = read_study(write_results(plan, work), work)
    assert [row.label for row in study.teachers] == ["teacher", f"teacher {teacher.name}", f"teacher {other.name}"]
    assert _teachers(plan, study)[0].startswith("teacher: 2 teachers together, ")


def test_a_student_is_trained_in_rounds_with_one_learning_rate_and_an_exact_number_of_updates(
    data_bin, teacher, tmp_path, complete
):
    """The rate falls linearly over all rounds: after t of 5 updates it is 0.01 · (1 - t/5). Adam counts on."""
    common = MODEL | {"optimizer": "adam", "lr": 0.01, "lr-scheduler": "polynomial_decay", "max-tokens": 400}
    sections = {
        "cache": {"top-k": 4, "tail-shapes": 0},
        "budget": {"student": 5},
        "evaluate": SHORT | {"confidence-n": 0},
    }
    sections |= {"common": common | {"save-interval-updates": 1}, "student-decode": {"max-len-a": 0, "max-len-b": 4}}
    factors = {"method": ["semi-on-policy"], "refresh": 3}
    work = tmp_path / "work"
    plan = open_plan(spec_on(data_bin, teacher, tmp_path, factors=factors, **sections), work)
    complete(plan, work)
    (cell,) = plan.cells.values()
    rounds = [work / "stages" / name for name in rounds_of(plan.stages, cell["student"])]
    states = [torch.load(folder / "checkpoints" / "checkpoint_last.pt", weights_only=False) for folder in rounds]
    for state, updates in zip(states, (3, 5), strict=True):
        adam = state["last_optimizer_state"]
        assert state["optimizer_history"][-1]["num_updates"] == updates
        assert adam["param_groups"][0]["lr"] == pytest.approx(0.01 * (1 - updates / 5), abs=1e-12)
        assert {int(moments["step"]) for moments in adam["state"].values()} == {updates}
    assert all((folder / "checkpoints" / "checkpoint_best.pt").is_file() for folder in rounds)
    result = json.loads((work / "stages" / cell["results"]["test"] / "result.json").read_text())
    assert result["updates"] == 5  # of the last round
    logs = [(folder / "train.log").read_text() for folder in rounds]
    shares = [re.findall(r'"train_sampled_tokens": "([\d.]+)"', log) for log in logs]
    assert not shares[0] and max(map(float, shares[1])) > 0
    seconds = [read_record(folder / "done.json", "")["seconds"] for folder in rounds]
    assert write_results(plan, work)["cells"][0]["training_seconds"] == pytest.approx(sum(seconds))
    total = states[-1]["extra_state"]["previous_training_time"]  # of all rounds, as fairseq counts
    assert sum(seconds) == pytest.approx(total, abs=0.2)

    folder, name = rounds[1], rounds[1].name  # as if it was killed after its first update
    for path in (folder / "done.json", folder / "train.json", folder / "checkpoints" / "checkpoint_best.pt"):
        path.unlink()
    shutil.copy(folder / "checkpoints" / "checkpoint_1_4.pt", folder / "checkpoints" / "checkpoint_last.pt")
    study_stage._complete(work, read_record(work / PLAN_NAME, ""), vars(plan.stages[name]), folder)
    assert "checkpoint_last.pt (epoch 1 @ 4 updates)" in (folder / "train.log").read_text()
    again = torch.load(folder / "checkpoints" / "checkpoint_last.pt", weights_only=False)
    assert all(torch.equal(again["model"][key], value) for key, value in states[1]["model"].items())


def test_a_stage_whose_data_bin_has_changed_since_the_plan_fails(data_bin, teacher, tmp_path, complete):
    copy, work = shutil.copytree(data_bin, tmp_path / "copy"), tmp_path / "work"
    plan = open_plan(spec_on(copy, teacher, tmp_path, factors={"method": ["ce"]}, teacher=None), work)
    with open(copy / "raw" / "test.qab", "a") as file:
        file.write("one more\n")
    with pytest.raises(KDError, match=r"raw/test\.qab was changed since the study was planned"):
        complete(plan, work)
    assert not list(work.glob("stages/*/done.json"))
