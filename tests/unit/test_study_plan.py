import importlib.metadata
import json
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from corpora_helpers import IWSLT14_SETS, iwslt_members, tar
from study_helpers import write_spec

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.artifacts.writing import write_json
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.download import check_recorded_hash
from fairseq_kd.study import check as study_check
from fairseq_kd.study.cells import make_cells
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.durations import Estimates
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.show import StudyProgress, format_plan, format_status
from fairseq_kd.study.spec import load_spec, shipped_specs
from fairseq_kd.study.state import cell_states, stage_states

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


def names_of(plan, *kinds) -> list:
    return [name for name, stage in plan.stages.items() if stage.kind in kinds]


def with_version(monkeypatch, library, version) -> None:
    """As if that version of a library were installed."""
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == library else real(name))


def test_a_key_changes_with_the_versions_of_what_the_kind_uses_and_of_its_inputs(tmp_path, monkeypatch):
    changes = {"factors": {"method": ["ce", "seq"], "noise": [10]}, "evaluate": {"noise": [0, 10]}}
    before = plan_of(tmp_path, **changes)
    with_version(monkeypatch, "torch", "9.9")
    torch = plan_of(tmp_path, **changes)
    data, trained = ("prepare", "noise"), ("teacher", "decode", "student", "evaluate")
    assert names_of(torch, *data) == names_of(before, *data)
    assert not set(names_of(torch, *trained)) & set(names_of(before, *trained))
    assert kinds(torch) == kinds(before)
    with_version(monkeypatch, "torch", "9.9+cu126")  # another build of the same version
    assert plan_of(tmp_path, **changes).stages.keys() == torch.stages.keys()
    monkeypatch.undo()
    with_version(monkeypatch, "sacrebleu", "9.9")
    assert names_of(plan_of(tmp_path, **changes), *data, "teacher") == names_of(before, *data, "teacher")
    assert not set(names_of(plan_of(tmp_path, **changes), "evaluate")) & set(names_of(before, "evaluate"))


def test_a_key_changes_with_the_format_of_its_kind_and_of_its_inputs(tmp_path, monkeypatch):
    from fairseq_kd.study import maker

    before = plan_of(tmp_path, factors=EIGHT)
    monkeypatch.setitem(maker.MAKERS, "cache", replace(maker.MAKERS["cache"], format=2))
    after = plan_of(tmp_path, factors=EIGHT)
    # 4 of the students and their evaluations have no cache
    assert Counter(before.stages[name].kind for name in before.stages.keys() & after.stages.keys()) == {
        **{"prepare": 1, "teacher": 1, "decode": 1, "student": 4, "evaluate": 5}
    }


SMOKE_REQUESTS = """
    cache-b560ea86fccf
    cache-f2f8e1e37465
    decode-6075ef3aa67d
    evaluate-178e7b395408
    evaluate-a76d1c0e6be3
    evaluate-ca9052082928
    evaluate-d98fa1baa5ed
    evaluate-e2aec2be7c19
    prepare-d5ea23664ea9
    student-314a09ab35fb
    student-84b0de2b2a42
    student-b7b2f78ebb87
    student-b7f0acb430a6
    teacher-b7bfb92504a4
"""  # as planned by the commit before the keys of recipes were spelt as in studies


def test_requests_of_a_shipped_study_do_not_change(tmp_path):
    """Finished stages of users are found by these names. The recipe had this architecture then."""
    recipe = (ROOT / "configs" / "quickstart" / "synthetic.yaml").read_text()
    assert recipe.count("arch: kd_student\n") == 1
    (tmp_path / "synthetic.yaml").write_text(recipe.replace("arch: kd_student\n", "arch: transformer\n"))
    plan = open_plan("smoke", tmp_path / "work", str(tmp_path / "synthetic.yaml"))
    assert sorted(name.rpartition("-")[0] for name in plan.stages) == SMOKE_REQUESTS.split()


def test_a_name_is_the_one_that_version_0_1_0_gave():
    """Literals: printf '%s' JSON | sha256sum, of the JSON that 0.1.0 hashed."""
    from fairseq_kd.study.key import key_of

    prepare = key_of("prepare", ["fairseq-kd", "prepare", "synthetic"], None, {"format": 1}, {})
    assert prepare.former == "prepare-247454750ac4"
    words = ["fairseq-kd", "mix", f"@/stages/{prepare.name}/data-bin"]
    assert key_of("mix", words, {"raw": "x"}, {"format": 1}, {prepare.name: prepare}).former == "mix-2b94b5dd29cf"


@pytest.fixture(params=["0.1.0", "torch 2.1"])
def old_study(request, tmp_path, monkeypatch):
    """(version, spec, WORK) of a finished study of other versions: prepare, student, evaluate."""
    spec, work = write_spec(tmp_path, factors={"method": ["ce"]}, teacher=None, decode=None), tmp_path / "work"
    with monkeypatch.context() as patch:
        with_version(patch, "torch", "2.1")
        plan = open_plan(str(spec), work)
        plan_of_010 = plan.as_dict() | {"stages": {plan._keys[name].former: {} for name in plan.stages}}
        names = {name: plan._keys[name].former if request.param == "0.1.0" else name for name in plan.stages}
        for name, old in names.items():
            finish(plan, work, name, 1.0)
            made = {} if request.param == "0.1.0" else {"made_by": plan.stages[name].made_by}
            record = json.loads((work / "stages" / name / "done.json").read_text())
            record |= {"versions": library_versions() | {"fairseq_kd": "0.1.0"}, **made}
            (work / "stages" / name / "done.json").write_text(json.dumps(record))
            (work / "stages" / name).rename(work / "stages" / old)
    write_json(work / "plan.json", plan_of_010 if request.param == "0.1.0" else plan.as_dict())
    (evaluation,) = (old for name, old in names.items() if name.startswith("evaluate-"))
    result = {"bleu": {"score": 12.5, "signature": "s", "ci": 1.0}}
    (work / "stages" / evaluation / "result.json").write_text(json.dumps(result))
    return request.param, spec, work


def tree(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_other_versions_made_is_shown_and_said_to_be_old(old_study, capsys):
    version, spec, work = old_study
    count = 3 if version == "0.1.0" else 2  # torch has no part in preparing data
    for action in ("plan", "status", "report"):
        assert main(["study", action, str(spec), "--out", str(work)]) == 0
        shown = capsys.readouterr().out
        assert f"{count} of 3 stages in {work} were made by other versions" in shown, action
        assert "torch 2.1, now " in shown and ("fairseq_kd 0.1.0" in shown) == (version == "0.1.0")
        assert action == "plan" or "12.50" in shown or "done" in shown
    for name in ("report.html", "report.md"):
        assert "were made by other versions" in (work / name).read_text()
    assert "12.50" in (work / "report.md").read_text()


def test_a_run_neither_uses_nor_repeats_in_silence_what_other_versions_made(old_study, capsys, monkeypatch):
    from fairseq_kd.study import run

    version, spec, work = old_study
    planned, count = [], 3 if version == "0.1.0" else 2

    def snakemake(plan, *rest):
        planned.append(plan)
        (work / "snakemake.log").touch()
        for name in plan.stages:
            if not (work / "stages" / name / "done.json").exists():
                finish(plan, work, name, 1.0)
        return 0

    monkeypatch.setattr(run, "_snakemake", snakemake)
    words, before = ["study", "run", str(spec), "--out", str(work), "--cpu"], tree(work)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "--old-stages recompute" in said and "--old-stages reuse" in said and f"{count} of 3 stages" in said
    assert len(said.splitlines()) == 1 and tree(work) == before and not planned
    assert main([*words, "--old-stages", "reuse"]) == 0
    assert "other versions" in (said := capsys.readouterr().err) and said.rstrip().endswith("reused")
    assert [stage.old for stage in planned[-1].stages.values()].count(True) == count
    assert f"{count} of 3 stages" in json.loads((work / "results.json").read_text())["older"]
    assert {name for name in tree(work) if name.endswith("done.json")} == {n for n in before if n.endswith("done.json")}
    monkeypatch.setattr(run, "_snakemake", lambda plan, *_: 1)  # killed before the first stage has ended
    assert main([*words, "--old-stages", "recompute"]) != 0
    capsys.readouterr()
    assert main(["study", "status", str(spec), "--out", str(work)]) == 0
    shown = capsys.readouterr().out  # the values of the new run, not of the earlier run
    assert "other versions" not in shown and "method=ce  waiting" in shown
    monkeypatch.setattr(run, "_snakemake", snakemake)
    assert main([*words, "--old-stages", "recompute"]) == 0
    capsys.readouterr()
    assert {stage.old for stage in planned[-1].stages.values()} == {False}
    assert json.loads((work / "results.json").read_text())["older"] is None  # they are results of the new stages
    after = tree(work)
    assert len([name for name in after if name.endswith("done.json")]) == 3 + count
    assert all(after[name] == content for name, content in before.items() if name.startswith("stages/"))
    assert main(words) == 0 and "other versions" not in capsys.readouterr().err  # now they exist


def test_what_becomes_of_older_stages_is_asked_where_they_are_run(tmp_path, capsys):
    words = [str(write_spec(tmp_path)), "--out", str(tmp_path / "work"), "--old-stages", "reuse"]
    assert main(["study", "plan", *words]) == 2
    assert "--old-stages: no effect with study plan, only with study run" in capsys.readouterr().err


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


def test_only_the_files_that_are_read_identify_a_corpus(tmp_path):
    archive = tmp_path / "raw" / "de-en.tgz"
    archive.parent.mkdir()
    changes = {"recipe": "iwslt14.de-en", "data": {"raw": str(archive.parent)}, "factors": {"method": ["ce"]}}
    changes |= dict.fromkeys(("common", "teacher", "student", "decode"))
    with pytest.raises(KDError, match="raw lacks de-en/train.tags"):
        plan_of(tmp_path, **changes)
    archive.write_bytes(tar(iwslt_members("de-en", IWSLT14_SETS, 9)))
    before = plan_of(tmp_path, **changes).stages
    check_recorded_hash(archive, Inputs())
    (archive.parent / ".notes").write_text("mine")
    assert plan_of(tmp_path, **changes).stages == before
    archive.write_bytes(b"another")
    assert not plan_of(tmp_path, **changes).stages.keys() & before.keys()


def test_raw_text_of_each_cell_is_known_by_its_content(tmp_path, corpus, monkeypatch):
    for path in corpus.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / path.name.replace("train", "other")).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    data = {"name": "text", "source-lang": "qaa", "target-lang": "qab", "vocab-size": 120, "raw": "."}
    data |= {"valid": "valid", "test": "test"}
    changes = {"data": data, "factors": {"method": ["seq"], "data.train": ["train", "other"]}}
    before = plan_of(tmp_path, **changes)
    assert before.as_dict()["raw"] == str(tmp_path)  # stages run in another folder
    (tmp_path / "other.qaa").write_text("more " + (tmp_path / "other.qaa").read_text())
    after = plan_of(tmp_path, **changes)
    kept = [before.cells[name]["student"] == after.cells[name]["student"] for name in before.cells]
    assert kept == [True, False]


def test_a_file_that_an_option_names_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "init.pt").write_text("one")
    plans = [plan_of(tmp_path, factors=EIGHT, student={"finetune-from-model": "init.pt"})]
    (tmp_path / "init.pt").write_text("two")
    plans.append(plan_of(tmp_path, factors=EIGHT, student={"finetune-from-model": "init.pt"}))
    students = [{name for name, stage in plan.stages.items() if stage.kind == "student"} for plan in plans]
    assert len(students[0]) == 8 and not students[0] & students[1]
    for name in students[1]:
        command = plans[1].stages[name].command
        assert command[command.index("--finetune-from-model") + 1] == str(tmp_path / "init.pt")


def test_a_teacher_is_measured_in_every_way_in_which_its_students_are(tmp_path):
    plan = plan_of(tmp_path, factors={"method": ["ce", "word"], "evaluate.beam": [1, 5], "seed": [1, 2]}, decode=None)
    assert len({teacher["checkpoint"] for teacher in plan.teachers}) == 1
    cells = [[plan.cells[name]["factors"]["evaluate.beam"] for name in teacher["cells"]] for teacher in plan.teachers]
    assert cells == [[1, 1], [5, 5]]
    for beam, teacher in zip(("1", "5"), plan.teachers, strict=True):
        command = plan.stages[teacher["results"]["test"]].command
        assert command[command.index("--beam") + 1] == beam


LAYERS = {"encoder-layers": [1, 2], "decoder-layers": [1, 2, 3]}


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (
            "ce > ce at encoder-layers 1, decoder-layers 1 by bleu",
            "method=ce,encoder-layers=1,decoder-layers=1 with",
        ),
        ("seq > word at method ce by bleu", "method after `at` is the factor that the claim compares"),
        (
            "beam > greedy at method ce, encoder-layers 1, decoder-layers 1 by bleu",
            "itself: strategy has no effect",
        ),
        ("word > ce at encoder-layers 1, encoder-layers 2 by bleu", "encoder-layers after `at` occurs twice"),
        ("1 > 2 at method ce by bleu", "encoder-layers and decoder-layers both have the values 1 and 2"),
        ("1 > 4 at method ce by bleu", "no factor has the value '4'"),
    ],
)
def test_a_claim_that_compares_a_cell_with_itself_or_is_not_clear_is_refused(tmp_path, claim, message):
    factors = {"method": ["ce", "word", "seq"], "strategy": ["beam", "greedy"]} | LAYERS
    with pytest.raises(KDError, match=message):
        plan_of(tmp_path, factors=factors, claims=[claim])


def test_a_claim_is_about_the_factor_that_has_both_values(tmp_path):
    claims = ["1 > 3 at method ce, encoder-layers 2 by bleu"]
    (claim,) = plan_of(tmp_path, factors={"method": ["ce", "word"]} | LAYERS, claims=claims, decode=None).claims
    assert claim["factor"] == "decoder-layers" and len(claim["cells_worse"]) == 1


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
    shown = format_plan(plan, tmp_path).splitlines()
    assert "time of all stages, one at a time: not known" in shown and not any("0.00" in line for line in shown)
    # one teacher and eight students are trained, none of them with the teacher beside it
    assert shown[-1].startswith("not known: the time of 22 stages (--calibrate measures 9 of them, ")
    assert StudyProgress(plan, tmp_path)._text(1.0, "0 running") == "0/22 stages, time left not known, 0 running"
    finish(plan, tmp_path, students[0], 60.0)  # ce, seed 1
    estimates = Estimates(plan, tmp_path)
    assert estimates.seconds(students[1]) == 60  # ce, seed 2
    shown = format_plan(plan, tmp_path)
    assert "student          8                8      1       0.13" in shown and "not known" in shown
    assert "8 cells" in shown and "method=word+seq,seed=2" in shown


def test_a_cell_is_running_only_while_a_process_works_on_it(tmp_path):
    plan = plan_of(tmp_path, factors=EIGHT)
    cell = plan.cells["method=ce,seed=1"]
    for name in plan.stages_of("method=ce,seed=1")[:-1]:
        finish(plan, tmp_path, name, 1.0)
    states = stage_states(plan, tmp_path)
    assert cell_states(plan, states)["method=ce,seed=1"] == "waiting"
    running = cell_states(plan, states | {cell["results"]["test"]: "running"})
    assert running["method=ce,seed=1"] == "running" and running["method=ce,seed=2"] == "waiting"


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


def test_the_line_of_progress_reads_a_record_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, factors=EIGHT)
    names, read, read_text = list(plan.stages), [], Path.read_text

    def counting(path, *arguments, **options):
        if path.name == "done.json":
            read.append(path.parent.name)
        return read_text(path, *arguments, **options)

    finish(plan, tmp_path, names[0], 1.0)
    monkeypatch.setattr(Path, "read_text", counting)
    progress = StudyProgress(plan, tmp_path)
    for _ in range(5):
        progress.look()
        progress._text(1.0, "")
    assert progress.done == 1 and read == [names[0]]
    finish(plan, tmp_path, names[1], 1.0)
    (tmp_path / "stages" / names[0] / "done.json").write_text("{")  # cut off
    progress.look()
    assert progress.done == 1 and sorted(read) == sorted([names[0], names[0], names[1]])
    (tmp_path / "stages" / names[0] / "done.json").unlink()
    (tmp_path / "stages" / names[1] / "failed.json").write_text("{}")
    progress.look()
    assert progress.done == 0 and len(read) == 3


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
        with pytest.raises(BlockingIOError), _a_gpu(tmp_path):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
            raise BlockingIOError("of the stage")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,3"


@pytest.mark.parametrize("action", ["status", "report"])
def test_a_folder_with_the_study_on_other_data_is_not_taken_for_one_that_has_not_begun(tmp_path, capsys, action):
    plan = plan_of(tmp_path, data={"pairs": 300, "vocab-size": 200})
    work = tmp_path / "work"
    work.mkdir()
    (work / "plan.json").write_text(json.dumps(plan.as_dict()))
    path = write_spec(tmp_path, data={"pairs": 200})
    assert main(["study", action, str(path), "--out", str(work)]) == 2
    assert "holds the study mine with another recipe, with other data" in capsys.readouterr().err
    assert [path.name for path in work.iterdir()] == ["plan.json"]


def test_the_format_of_a_students_training_counts_the_changes_of_its_results():
    from fairseq_kd.study.maker import made_by

    words = {
        "word": ["--criterion", "kd_word", "--kd-weight", "0.5", "--teacher-cache", "@/stages/c/cache"],
        "plain, before": ["--criterion", "label_smoothed_cross_entropy"],
        "plain": ["--criterion", "kd_word", "--kd-weight", "0"],
        "word, weight 0": ["--criterion", "kd_word", "--kd-weight", "0", "--teacher", "@/stages/t/t.pt"],
    }
    formats = {
        (name, arch): made_by("student", {}, ["fairseq-train", "--arch", arch, *given])["format"]
        for name, given in words.items()
        for arch in ("transformer", "kd_student")
    }
    assert [*formats.values()] == [1, 2, 2, 3, 2, 3, 1, 2]  # before the change the plain ones had 1 and 2


def test_a_training_without_a_teacher_asks_for_what_it_asked_with_the_criterion_before():
    from fairseq_kd.study.key import key_of

    def request(*words):
        return key_of("student", ["fairseq-train", "data", *words, "--seed", "1"], None, {"format": 1}, {}).request

    plain = request("--criterion", "kd_word", "--kd-weight", "0")
    assert plain == request("--criterion", "label_smoothed_cross_entropy")
    taught = ("--teacher", "@existing/t.pt")
    weighted, before = ("kd_word", "--kd-weight", "0"), ("label_smoothed_cross_entropy",)
    assert request("--criterion", *weighted, *taught) != request("--criterion", *before, *taught)
    assert plain != request("--criterion", "kd_word", "--kd-weight", "0", "--autocast", "bfloat16")


def test_a_training_that_was_made_with_another_criterion_is_shown_and_said_to_be_old(tmp_path, capsys):
    """`record` has what fairseq_kd wrote before plain trainings used kd_word."""
    spec, work = write_spec(tmp_path, factors={"method": ["ce"]}, teacher=None, decode=None), tmp_path / "work"
    plan = open_plan(str(spec), work)
    (name,) = (name for name, stage in plan.stages.items() if stage.kind == "student")
    finish(plan, work, name, 1.0)
    record = json.loads((work / "stages" / name / "done.json").read_text())
    record["command"] = record["command"].replace("kd_word --kd-weight 0", "label_smoothed_cross_entropy")
    record["made_by"] = plan.stages[name].made_by | {"format": 2}
    (work / "stages" / name / "done.json").write_text(json.dumps(record))
    (work / "stages" / name).rename(work / "stages" / f"{name.rpartition('-')[0]}-00000000")
    write_json(work / "plan.json", plan.as_dict() | {"stages": {}})
    assert main(["study", "plan", str(spec), "--out", str(work)]) == 0
    said = f"1 of 3 stages in {work} were made by other versions: format 2 of student, now 3"
    assert f"{said}; `study run` asks for --old-stages reuse or recompute" in capsys.readouterr().out
    assert main(["study", "run", str(spec), "--out", str(work)]) == 2
    assert said in capsys.readouterr().err


def test_plain_and_distilled_students_are_trained_by_one_criterion_and_differ_in_the_teacher_alone(tmp_path):
    plan = plan_of(tmp_path, factors={"method": ["ce", "word", "seq"]})
    ce, word, seq = (plan.stages[cell["student"]].command for cell in plan.cells.values())
    at = ce.index("--criterion")
    assert ce[at : at + 4] == ["--criterion", "kd_word", "--kd-weight", "0"]
    taught = ["--criterion", "kd_word", "--kd-weight", "0.7", "--teacher-cache"]
    end = word.index("--teacher-cache") + 2
    assert word[at : end - 1] == taught and [*word[:at], *word[end:]] == [*ce[:at], *ce[at + 4 :]]
    assert seq[2:] == ce[2:] and seq[1] != ce[1]
    (teacher,) = (stage.command for stage in plan.stages.values() if stage.kind == "teacher")
    at = teacher.index("--criterion")
    assert teacher[at : at + 6] == ["--criterion", "kd_word", "--kd-weight", "0", "--seed", "1"]


def test_the_calibration_measures_a_distilled_student_as_the_plain_one(tmp_path):
    from fairseq_kd.study.durations import _without_teacher

    plan = plan_of(tmp_path, factors={"method": ["ce", "word"], "student.precision": ["bfloat16"]}, decode=None)
    ce, word = (plan.stages[cell["student"]].command for cell in plan.cells.values())
    assert _without_teacher(ce) == ce == _without_teacher(word) != word and "--autocast" in ce


def test_precision_is_an_option_of_every_training_and_float32_leaves_the_commands_as_they_are(tmp_path):
    factors = {"method": ["ce", "word", "seq"]}
    plain = plan_of(tmp_path, factors=factors)
    common = yaml.safe_load(write_spec(tmp_path).read_text())["common"]
    assert plan_of(tmp_path, factors=factors, common=common | {"precision": "float32"}).stages == plain.stages
    fast = plan_of(tmp_path, factors=factors, common=common | {"precision": "bfloat16"})
    changed = [stage for stage in fast.stages.values() if "--autocast" in stage.command]
    assert Counter(stage.kind for stage in changed) == {"teacher": 1, "student": 3}
    for stage in changed:
        at = stage.command.index("--autocast")
        assert stage.command[at + 1] == "bfloat16"
    both = plan_of(tmp_path, factors=factors | {"precision": ["float32", "bfloat16"]})
    assert both.stages.keys() == plain.stages.keys() | fast.stages.keys()
    assert [cell["factors"]["precision"] for cell in both.cells.values()] == ["float32", "bfloat16"] * 3


def test_the_precision_of_the_teacher_and_of_the_students_are_factors_of_their_own(tmp_path):
    factors = {"method": ["ce", "word"], "teacher.precision": ["float32", "bfloat16"]}
    plan = plan_of(tmp_path, factors=factors | {"student.precision": ["bfloat16"]}, decode=None)
    kinds_of = Counter((stage.kind, "--autocast" in stage.command) for stage in plan.stages.values())
    assert (kinds_of["teacher", True], kinds_of["teacher", False]) == (1, 1)
    assert (kinds_of["student", True], kinds_of["student", False]) == (3, 0)  # ce does not depend on the teacher
    with pytest.raises(KDError, match=r"the factors teacher\.precision and precision both set teacher\.precision"):
        plan_of(tmp_path, factors=factors | {"precision": ["bfloat16"]}, decode=None)


def test_the_time_of_a_training_is_estimated_for_each_precision(tmp_path):
    factors = {"method": ["ce"], "precision": ["float32", "bfloat16"], "seed": [1, 2]}
    plan = plan_of(tmp_path, factors=factors, teacher=None, decode=None)
    students = {name: plan.stages[cell["student"]] for name, cell in plan.cells.items()}
    for precision, seconds in (("float32", 60), ("bfloat16", 30)):
        finish(plan, tmp_path / "work", students[f"precision={precision},seed=1"].name, seconds)
    estimates = Estimates(plan, tmp_path / "work")
    found = [estimates.seconds(students[f"precision={each},seed=2"].name) for each in ("float32", "bfloat16")]
    assert found == [60, 30]


def test_a_training_of_our_students_has_a_format_of_its_own_because_its_dropout_has():
    from fairseq_kd.study.maker import MAKERS, made_by

    versions = {"torch": "2.13.0+cpu", "fairseq": "0.12.3"}
    for kind in ("teacher", "student"):
        formats = {
            arch: made_by(kind, versions, ["fairseq-train", "data", "--arch", arch, "--dropout", "0.1"])["format"]
            for arch in ("transformer", "lstm", "kd_student", "kd_student_3m", "kd_adaptive_3m")
        }
        first = MAKERS[kind].format
        assert formats == {"transformer": first, "lstm": first, **dict.fromkeys([*formats][2:], first + 1)}
    assert made_by("evaluate", versions, ["fairseq-kd", "--arch", "kd_student"])["format"] == MAKERS["evaluate"].format


def test_commands_that_differ_in_seeds_and_names_of_stages_are_parsed_once(tmp_path, monkeypatch):
    """No other difference is left out: the two methods, and one stage named twice instead of two."""
    parsed, check = [], study_check._check_training
    monkeypatch.setattr(
        study_check, "_check_training", lambda where, words: (parsed.append(words), check(where, words))
    )
    plan = plan_of(tmp_path, factors=EIGHT)
    study_check.check_commands(plan)
    students = [stage.command[1:] for stage in plan.stages.values() if stage.kind == "student"]
    assert len(students) == 8 and len([words for words in parsed if words in students]) == 4
    one = next(stage for stage in plan.stages.values() if stage.kind == "student")
    first, second = [name for name in plan.stages if name != one.name][:2]
    ways = [[first, first], [first, second], [second, first], [second, second]]
    stages = dict.fromkeys([first, second], replace(one, kind="teacher"))
    found = [study_check._options_alone(replace(one, command=["--teacher", ":".join(way)]), stages) for way in ways]
    assert found[0] == found[3] != found[1] == found[2]
