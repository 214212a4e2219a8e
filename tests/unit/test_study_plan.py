import json
import os
import re
from collections import Counter

import pytest
from conftest import ROOT
from study_helpers import write_spec

from fairseq_kd.study.estimate import Estimates
from fairseq_kd.study.factors import make_cells
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.show import format_plan, format_status
from fairseq_kd.study.spec import load_spec, shipped_specs

EIGHT = {"method": ["ce", "word", "seq", "word+seq"], "seed": [1, 2]}


def plan_of(folder, **changes) -> Plan:
    spec = load_spec(write_spec(folder, **changes))
    return Plan(spec, make_cells(spec))


def kinds(plan) -> Counter:
    return Counter(stage.kind for stage in plan.stages.values())


def finish(plan, work, name, seconds):
    """Make a stage look finished."""
    folder = work / "stages" / name
    folder.mkdir(parents=True)
    record = {"stage": name, "seconds": seconds, "fingerprint": "x", "command": " ".join(plan.stages[name].command)}
    (folder / "done.json").write_text(json.dumps(record))


def test_eight_students_share_one_teacher_one_decoding_and_a_cache_for_each_training_set(tmp_path):
    plan = plan_of(tmp_path, factors=EIGHT)
    assert kinds(plan) == {"prepare": 1, "teacher": 1, "decode": 1, "cache": 2, "student": 8, "evaluate": 9}
    assert (
        sum(plan.asked.values()) == 8 * 3 + 1 + 6 + 4 + 4
    )  # prepare, student, evaluate; score of the teacher; teacher, decode, cache


def test_noise_is_made_once_for_each_level_and_a_clean_teacher_is_trained_once(tmp_path):
    factors = EIGHT | {"noise": [0, 10, 30]}
    noisy = plan_of(tmp_path, factors=factors, evaluate={"subsets": ["valid", "test"], "noise": [0, 30]})
    assert kinds(noisy) == {
        **{"prepare": 1, "noise": 2 + 2, "teacher": 3, "decode": 3, "cache": 6, "student": 24},
        "evaluate": (24 + 3) * 4,
    }
    clean = plan_of(tmp_path, factors=factors | {"teacher-noise": ["clean"]})
    assert kinds(clean)["teacher"] == 1 and kinds(clean)["decode"] == 3
    rates = {
        tuple(stage.command[stage.command.index("--delete") :][:6])
        for stage in noisy.stages.values()
        if stage.kind == "noise"
    }
    assert rates == {("--delete", p, "--substitute", p, "--swap", p) for p in ("0.033333", "0.1")}


def test_a_key_changes_with_what_the_stage_depends_on_and_with_nothing_else(tmp_path):
    before = plan_of(tmp_path, factors=EIGHT)
    other_student = plan_of(tmp_path, factors=EIGHT | {"dropout": [0.3]})
    same = {name for name in before.stages if name in other_student.stages}
    assert Counter(before.stages[name].kind for name in same) == {
        **{"prepare": 1, "teacher": 1, "decode": 1, "cache": 2, "evaluate": 1}
    }
    other_teacher = plan_of(tmp_path, factors=EIGHT | {"teacher.dropout": [0.3]})
    same = {name for name in before.stages if name in other_teacher.stages}
    assert Counter(before.stages[name].kind for name in same) == {"prepare": 1, "student": 2, "evaluate": 2}
    other_beam = plan_of(tmp_path, factors=EIGHT, evaluate={"beam": 2})
    assert {n.split("-")[0] for n in set(other_beam.stages) - set(before.stages)} == {"evaluate"}


def test_raw_text_is_known_by_its_content(tmp_path, corpus):
    data = {"name": "text", "source-lang": "qaa", "target-lang": "qab", "vocab-size": 120, "raw": str(corpus)}
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in corpus.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    before, after = plan_of(tmp_path, data=data), plan_of(tmp_path, data=data | {"raw": str(copy)})
    assert before.stages.keys() == after.stages.keys()
    (copy / "train.qaa").write_text("other " + (copy / "train.qaa").read_text())
    assert not before.stages.keys() & plan_of(tmp_path, data=data | {"raw": str(copy)}).stages.keys()


def test_stages_name_only_earlier_stages_and_every_cell_ends_in_its_results(tmp_path):
    factors = EIGHT | {"teacher-choice": ["low-loss"], "mix-gold": [1], "compact": [True]}
    plan = plan_of(tmp_path, factors=factors, common={"save-interval-updates": 10})
    seen = set()
    for name, stage in plan.stages.items():
        assert set(stage.inputs) <= seen
        seen.add(name)
    (cell,) = (cell for cell in plan.cells if cell == "method=word+seq,seed=2")
    found = [plan.stages[name].kind for name in plan.stages_of(cell)]
    assert sorted(found) == sorted(
        ["prepare", "teacher", "select", "decode", "mix", "cache", "student", "compact", "evaluate"]
    )
    assert found[-1] == "evaluate" and found[0] == "prepare"


def test_time_is_estimated_from_what_is_done(tmp_path):
    plan = plan_of(tmp_path, factors=EIGHT)
    students = [name for name, stage in plan.stages.items() if stage.kind == "student"]
    estimates = Estimates(plan, tmp_path)
    assert estimates.total(plan.stages) == (0, 22)
    finish(plan, tmp_path, students[0], 60.0)  # ce, seed 1
    estimates = Estimates(plan, tmp_path)
    assert estimates.seconds(students[1]) == 60  # ce, seed 2
    shown = format_plan(plan, tmp_path)
    assert "student          8                8      1       0.13" in shown and "not known" in shown
    assert "8 cells" in shown and "method=word+seq,seed=2" in shown


def test_the_state_of_cells_and_the_end_of_the_log_of_what_failed(tmp_path):
    plan = plan_of(tmp_path, factors=EIGHT)
    for name in plan.stages_of("method=ce,seed=1"):
        finish(plan, tmp_path, name, 1.0)
    failed = tmp_path / "stages" / next(name for name, stage in plan.stages.items() if stage.kind == "decode")
    failed.mkdir()
    (failed / "failed.json").write_text("{}")
    (failed / "log.txt").write_text("\n".join(f"line {n}" for n in range(50)) + "\nout of memory\n")
    lines = format_status(plan, tmp_path).splitlines()
    states = {line.split()[0]: line.split()[1] for line in lines if line.startswith("method=")}
    assert Counter(states.values()) == {"done": 1, "failed": 4, "waiting": 3} and states["method=ce,seed=1"] == "done"
    assert any(line.startswith("failed: decode-") and "4 of 8 cells" in line for line in lines)
    assert lines[-1].strip() == "out of memory" and "    line 0" not in lines


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.stem)
def test_every_script_that_runs_a_study_names_a_shipped_spec(path):
    for spec in re.findall(r"^exec fairseq-kd study run (\S+)", path.read_text(), re.M):
        assert spec in shipped_specs()


def test_the_page_about_studies_shows_a_shipped_spec():
    page = (ROOT / "docs" / "studies.md").read_text()
    assert f"```yaml\n{(ROOT / 'configs' / 'studies' / 'noise.yaml').read_text()}```" in page


def test_stages_on_one_machine_take_different_gpus(tmp_path, monkeypatch):
    from fairseq_kd.study.stage import GPUS, _a_gpu

    monkeypatch.setenv(GPUS, "0,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    with _a_gpu(tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        with _a_gpu(tmp_path):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
        with _a_gpu(tmp_path):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
