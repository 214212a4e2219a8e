"""`fairseq-kd search`: its specs, and searches whose stages are not run but made up."""

import importlib.metadata
import itertools
import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import yaml
from conftest import ROOT
from docs_helpers import blocks_run_by
from helpers import parse
from result_helpers import write_result
from search_helpers import write_search

from fairseq_kd.artifacts.records import write_record
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import check_options
from fairseq_kd.search import run as search_run
from fairseq_kd.search import spec as search_spec
from fairseq_kd.search.space import read_configuration
from fairseq_kd.search.spec import load_search
from fairseq_kd.study.run import RunOptions
from fairseq_kd.study.spec import shipped_specs, spec_path
from fairseq_kd.study.state import stage_states

GREEDY = {
    "algorithm": "greedy",
    "seeds": [1, 2],
    "start": {"teacher-temperature": 2},
    "teacher-checkpoints": 2,
    "parameters": {
        "teacher-choice": ["low-loss", "high-score"],
        "kd-divergence": ["kl", "mse"],
        "student-temperature": ["same", 1],
        "kd-weight": [0.5, 0.9],
    },
}
WEIGHTS = {"kd-weight": [0.5, 0.7, 0.9]}
OPTUNA = {"algorithm": "optuna", "trials": 7, "batch": 2, "teacher-checkpoints": 2}
OPTUNA |= {"parameters": {"kd-weight": {"low": 0.1, "high": 0.9}, "kd-select": ["all", "batch"]}}
SAME_START = {"start": {"student-temperature": "same"}}
OUTPUTS = ("search.json", "search.md", "chosen.yaml")


class Engine:
    """In the place of Snakemake: stages are finished in order, with scores made up from the student's options."""

    def __init__(self, fails=lambda stage: False, killed_after=None):
        self.fails, self.killed_after, self.begun = fails, killed_after, []

    def __call__(self, plan, work, options):
        for stage in plan.stages.values():
            folder = work / "stages" / stage.name
            if (folder / "done.json").is_file() or not all(
                (work / "stages" / name / "done.json").is_file() for name in stage.inputs
            ):
                continue
            if len(self.begun) == self.killed_after:
                raise KeyboardInterrupt
            self.begun.append(stage.name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "failed.json").unlink(missing_ok=True)
            (folder / "log.txt").write_text("out of memory\n")
            if self.fails(stage):
                (folder / "failed.json").write_text("{}")
                continue
            if stage.kind == "evaluate":
                self.write_result(folder, plan, stage)
            (folder / "done.json").write_text(json.dumps({"seconds": 1, "fingerprint": "x", "command": ""}))
        return stage_states(plan, work)

    def write_result(self, folder, plan, stage):
        """Six segments of the test set are wrong with the weight 0.9."""
        score, gold = self.score(plan, stage), ["a b c d e f"] * 9
        wrong = 6 if score < 20 and "valid" not in stage.command else 0
        hypotheses = ["a b c d e x"] * wrong + gold[wrong:]
        write_result(folder / "result.json", hypotheses, gold, bleu={"score": score, "signature": "BLEU|made up"})

    @staticmethod
    def score(plan, stage):
        """By hand: 20, mse -4, weight 0.9 +1 (and -3 on test), a student temperature of 2 +0.5, seed 2 +0.25."""
        student = next((plan.stages[name] for name in stage.inputs if plan.stages[name].kind == "student"), None)
        if student is None:
            return 40.0
        given = dict(itertools.pairwise(student.command[2:]))
        score = 20 - 4 * (given.get("--kd-divergence") == "mse") + 0.25 * (given["--seed"] == "2")
        score += 0.5 * (given.get("--student-temperature") == "2")
        better = 1 if "valid" in stage.command else -3
        return score + better * (given["--kd-weight"] == "0.9") + 0.1 * (0.5 < float(given["--kd-weight"]) < 0.9)


def load_unchecked(tmp_path, monkeypatch, search, **changes):
    """A search whose commands are not parsed, because that takes time; the commands of the shipped specs are."""
    monkeypatch.setattr(search_spec, "check_commands", lambda plan: None)
    return load_search(write_search(tmp_path, search, **changes))


def run(tmp_path, monkeypatch, engine, search=GREEDY, **changes):
    """Search with made-up stages."""
    monkeypatch.setattr(search_run, "run_stages", engine)
    spec = load_unchecked(tmp_path, monkeypatch, search, **changes)
    return search_run.run_search(spec, tmp_path / "work", RunOptions())


def read_outputs(work):
    return {name: (work / name).read_bytes() for name in OUTPUTS}


def test_the_precision_is_a_parameter_of_a_search_and_of_its_choice(tmp_path, monkeypatch):
    trained = {}

    def score(plan, stage):
        trained.update((name, each) for name, each in plan.stages.items() if each.kind in ("teacher", "student"))
        student = next((plan.stages[name] for name in stage.inputs if plan.stages[name].kind == "student"), None)
        return 20 + (student is not None and "--autocast" in student.command)

    parameters = {"precision": ["float32", "bfloat16"], "kd-weight": [0.5, 0.9]}
    search = {"algorithm": "grid", "teacher-checkpoints": 2, "parameters": parameters}
    engine = Engine()
    engine.score = score
    assert run(tmp_path, monkeypatch, engine, search) == 0
    kinds = Counter((stage.kind, "--autocast" in stage.command) for stage in trained.values())
    assert kinds == {("teacher", False): 1, ("teacher", True): 1, ("student", False): 2, ("student", True): 2}
    report = (tmp_path / "work" / "search.md").read_text()
    assert "| teacher low-loss | " in report and "| teacher low-loss, bfloat16 | " in report
    path = tmp_path / "work" / "chosen.yaml"
    chosen = yaml.safe_load(path.read_text())
    assert chosen["common"] == {"precision": "bfloat16"} and "precision" not in chosen["kd"]
    again = search | {"start": "work/chosen.yaml"}
    assert load_unchecked(tmp_path, monkeypatch, again).start == read_configuration(path)
    with pytest.raises(KDError, match="the parameter precision must be float32 or bfloat16, found 'half'"):
        load_unchecked(tmp_path, monkeypatch, search | {"parameters": {"precision": ["half"]}})
    path.write_text("common: {lr: 1}\nkd: {kd-weight: 0.5}\n")
    with pytest.raises(KDError, match="unknown key 'lr' in common; the nearest valid one is 'precision'"):
        read_configuration(path)


def test_the_signal_of_a_search_says_whether_the_teacher_runs_beside_the_students(tmp_path, monkeypatch):
    search = {"algorithm": "grid", "teacher-checkpoints": 2, "parameters": {"teacher-temperature": [1, 4]}}

    def trained(**changes):
        spec = load_unchecked(tmp_path, monkeypatch, search | changes)
        stages = spec.plan({"one": {"kd-weight": 0.5, "teacher-temperature": 4}}, ["valid"]).stages.values()
        (student,) = (stage for stage in stages if stage.kind == "student")
        return {stage.kind for stage in stages} >= {"cache"}, {"--teacher", "--teacher-cache"} & set(student.command)

    assert trained() == trained(signal="cache") == (True, {"--teacher-cache"})
    assert trained(signal="online") == (False, {"--teacher"})
    with pytest.raises(KDError, match="signal in search has the value 'disk'; it must be cache or online"):
        trained(signal="disk")
    with pytest.raises(KDError, match="signal in search has no effect on the method on-policy; leave it out"):
        trained(method="on-policy", signal="online")
    running = {"start": {"teacher-dtype": "float32"}, "parameters": {"teacher-dtype": ["float32", "float16"]}}
    with pytest.raises(KDError, match="unknown key 'teacher-dtype' in parameters"):
        trained(**running)
    assert trained(**running, signal="online") == (False, {"--teacher"})


def test_the_report_of_a_search_says_at_which_temperatures_caches_leave_out_most_of_the_teacher(tmp_path, monkeypatch):
    class Caching(Engine):
        def __call__(self, plan, work, *rest):
            for stage in plan.stages.values():
                if stage.kind == "cache":
                    temperature = float(stage.command[stage.command.index("--temperature") + 1])
                    manifest = {"k": 16, "temperatures": [temperature], "mean_tail_mass": [temperature / 5]}
                    folder = work / "stages" / stage.name / "cache"
                    folder.mkdir(parents=True, exist_ok=True)
                    write_record(folder / "manifest.json", manifest)
            return super().__call__(plan, work, *rest)

    search = {"algorithm": "grid", "teacher-checkpoints": 2, "parameters": {"teacher-temperature": [1, 4]}}
    run(tmp_path, monkeypatch, Caching(), search)
    (line,) = json.loads((tmp_path / "work" / "search.json").read_text())["limits"]
    assert line.startswith("Truncated teacher at temperature 4: 80 % of its mass is outside of the 16 entries")
    assert f"**{line}**" in (tmp_path / "work" / "search.md").read_text()


def test_a_search_asks_what_becomes_of_the_stages_of_other_versions(tmp_path, monkeypatch, capsys):
    from fairseq_kd.study.state import OlderStages

    real, work = importlib.metadata.version, tmp_path / "work"
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "2.1" if name == "torch" else real(name))
        assert run(tmp_path, patch, Engine()) == 0
    before, engine = read_outputs(work), Engine()
    spec = load_unchecked(tmp_path, monkeypatch, GREEDY)
    monkeypatch.setattr(search_run, "run_stages", engine)
    with pytest.raises(KDError, match="were made by other versions.*--old-stages recompute.*--old-stages reuse"):
        search_run.run_search(replace(spec, older=OlderStages(work, None)), work, RunOptions())
    assert engine.begun == [] and read_outputs(work) == before
    capsys.readouterr()
    assert search_run.run_search(replace(spec, older=OlderStages(work, "reuse")), work, RunOptions()) == 0
    assert engine.begun == [] and "; reused" in capsys.readouterr().err
    assert "were made by other versions" in (work / "search.md").read_text()
    assert search_run.run_search(replace(spec, older=OlderStages(work, "recompute")), work, RunOptions()) == 0
    assert engine.begun and not any(name.startswith("prepare-") for name in engine.begun)
    assert "; recomputed" in capsys.readouterr().err and "versions" not in (work / "search.md").read_text()


def test_a_greedy_search_by_hand(tmp_path, monkeypatch, capsys):
    engine = Engine()
    assert run(tmp_path, monkeypatch, engine) == 0
    found = json.loads((tmp_path / "work" / "search.json").read_text())
    trace = [
        [(*(run["configuration"][name] for name in step["parameters"]), run["validation"]["mean"], run["chosen"])
         for run in step["runs"]]
        for step in found["steps"]
    ]  # fmt: skip
    assert trace == [
        [("low-loss", 20.125, True), ("high-score", 20.125, False)],
        [("kl", 20.125, True), ("mse", 16.125, False)],
        [("same", 20.625, True), (1, 20.125, False)],
        [(0.5, 20.625, False), (0.9, 21.625, True)],
    ]
    assert found["steps"][0]["runs"][0]["validation"]["scores"] == [20.0, 20.25]
    tested = {name: row["test"]["mean"] for name, row in found["finalists"].items()}
    assert tested == {"chosen": 17.625, "start": 20.125, "robust": 20.125}
    costs = {name: (cost["best_value"], cost["worst_value"]) for name, cost in found["costs"].items()}
    assert costs["kd-divergence"] == ("kl", "mse") and costs["kd-weight"] == (0.9, 0.5)
    report = (tmp_path / "work" / "search.md").read_text()
    assert report in capsys.readouterr().out
    assert "| kd-divergence | mse | 16.12 ± 0.18 |  |" in report
    assert "| kd-divergence | kl: 20.12 | mse: 16.12 | 4.00 | 1 |" in report
    (robust,) = [line for line in report.splitlines() if line.startswith("| robust ")]
    assert robust.endswith("| 20.12 ± 0.18 | 20.12 ± 0.18 | -2.50 |")
    assert "Chosen against robust on the test set: -2.50 BLEU, no difference shown (by a paired t-test over " in report
    assert found["tested"] == {"difference": -2.5, "test": "paired_t", "p": None, "verdict": "no difference shown"}
    assert "| teacher low-loss |" in report
    students = [name for name in engine.begun if name.startswith("student-")]
    assert len(students) == len(set(students)) == 2 * (5 + 1)  # the start, one more a step, and robust.yaml


def test_the_report_says_that_a_cost_is_a_maximum_over_groups(tmp_path, monkeypatch):
    """Of the grid of weight and divergence: 1 lies between the weights, with kl and with mse."""
    values = {"kd-weight": [0.5, 0.9], "kd-divergence": ["kl", "mse"]}
    run(tmp_path, monkeypatch, Engine(), {"algorithm": "grid", "teacher-checkpoints": 2, "parameters": values})
    report = (tmp_path / "work" / "search.md").read_text()
    assert "the largest difference, a maximum over the number of groups in the last column" in report
    assert "| kd-weight | 0.9: 21.00 | 0.5: 20.00 | 1.00 | 2 |" in report
    costs = json.loads((tmp_path / "work" / "search.json").read_text())["costs"]
    assert costs["kd-weight"]["groups"] == costs["kd-divergence"]["groups"] == 2


def test_the_choice_is_tested_against_robust_over_seeds(tmp_path, monkeypatch):
    """Differences -2.5 and -2 on the test set: t = -2.25 / 0.25 with one degree of freedom, p = 2/pi arctan(1/9)."""

    class Scattered(Engine):
        def score(self, plan, stage):
            score = Engine.score(plan, stage)
            return score + 0.5 * (score == 17.75)  # the choice, seed 2, on the test set

    run(tmp_path, monkeypatch, Scattered())
    report = (tmp_path / "work" / "search.md").read_text()
    (line,) = [line for line in report.splitlines() if "against robust on the test set" in line]
    assert "-2.25 BLEU, no difference shown" in line and "p = 0.0704" in line


def test_with_one_seed_the_choice_is_tested_against_robust_over_segments(tmp_path, monkeypatch):
    """Six segments of nine differ, all for the worse: 2 of 2^6 exchanges are as far apart."""
    run(tmp_path, monkeypatch, Engine(), GREEDY | {"seeds": [1]})
    found = json.loads((tmp_path / "work" / "search.json").read_text())["tested"]
    assert found == {"difference": -2.5, "test": "approximate_randomisation", "p": 2 / 64, "verdict": "worse"}
    assert "by approximate randomisation, p = 0.0312" in (tmp_path / "work" / "search.md").read_text()


@pytest.mark.parametrize("robust", ["chosen", "failed"])
def test_where_there_is_nothing_to_test_the_report_says_so(tmp_path, monkeypatch, robust):
    search = {"algorithm": "greedy", "teacher-checkpoints": 2, "parameters": {"kd-weight": [0.5, 0.3]}}
    fails = Engine(lambda stage: stage.kind == "student" and robust == "failed" and "0.5" in stage.command)
    run(tmp_path, monkeypatch, fails, search)
    report = (tmp_path / "work" / "search.md").read_text()
    why = "the choice is robust.yaml" if robust == "chosen" else "one of them has no scores on the test set"
    assert f"Chosen against robust on the test set: not tested, {why}." in report


def test_the_choice_is_yaml_that_kd_word_takes_and_a_search_can_start_from(tmp_path, monkeypatch):
    run(tmp_path, monkeypatch, Engine())
    chosen = yaml.safe_load((tmp_path / "work" / "chosen.yaml").read_text())
    assert chosen["select-teacher"] == {"by": "low-loss"}
    words = [word for name, value in chosen["kd"].items() for word in (f"--{name}", value)]
    cfg = parse(tmp_path, "--criterion", "kd_word", "--teacher", "teacher.pt", *words).criterion
    check_options(cfg)
    assert (cfg.kd_weight, cfg.teacher_temperature, cfg.student_temperature) == (0.9, 2.0, 2.0)
    again = {"algorithm": "grid", "start": "work/chosen.yaml", "parameters": {"kd-weight": [0.7, 0.9]}}
    spec = load_search(write_search(tmp_path, again | {"teacher-checkpoints": 2}))
    assert spec.start == read_configuration(tmp_path / "work" / "chosen.yaml")


@pytest.mark.parametrize("search", [GREEDY, OPTUNA], ids=["greedy", "optuna"])
def test_killed_before_each_stage_a_search_continues_to_the_same_bytes(tmp_path, monkeypatch, search):
    spec = load_unchecked(tmp_path, monkeypatch, search | {"seeds": [1]})

    def go_on(work, engine):
        monkeypatch.setattr(search_run, "run_stages", engine)
        return search_run.run_search(spec, work, RunOptions())

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    engine = Engine()
    go_on(whole, engine)
    expected, stages = read_outputs(whole), sorted(engine.begun)
    engine.begun.clear()
    assert go_on(whole, engine) == 0 and engine.begun == []
    assert read_outputs(whole) == expected
    begun, kills = [], 0
    while True:
        engine = Engine(killed_after=1)
        try:
            go_on(killed, engine)
            break
        except KeyboardInterrupt:
            kills += 1
        finally:
            begun += engine.begun
    assert kills == len(stages) - 1 and sorted(begun) == stages
    assert read_outputs(killed) == expected


def test_a_configuration_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    search = {"algorithm": "greedy", "seeds": [1, 2], "teacher-checkpoints": 2, "parameters": WEIGHTS}
    words = ("--kd-weight 0.9", "--seed 2 ")
    fails = Engine(lambda stage: stage.kind == "student" and all(word in " ".join(stage.command) for word in words))
    assert run(tmp_path, monkeypatch, fails, search) == 1
    said = capsys.readouterr()
    assert "failed: student-" in said.err and "out of memory" in said.err and "failed  kd-weight=0.9" in said.out
    found = json.loads((tmp_path / "work" / "search.json").read_text())
    assert [run["validation"] is None for run in found["steps"][0]["runs"]] == [False, False, True]
    assert found["finalists"]["chosen"]["options"]["kd-weight"] == 0.7
    (failed,) = found["failed"]
    assert failed["log"] == "out of memory" and "| kd-weight | 0.9 | failed |" in said.out
    assert run(tmp_path, monkeypatch, Engine(), search) == 0  # it is tried again, and is the best
    assert read_configuration(tmp_path / "work" / "chosen.yaml")["kd-weight"] == 0.9


def test_a_search_ends_when_all_of_a_step_fail(tmp_path, monkeypatch, capsys):
    search = {"algorithm": "grid", "teacher-checkpoints": 2, "parameters": WEIGHTS}
    with pytest.raises(KDError, match="all combinations failed"):
        run(tmp_path, monkeypatch, Engine(lambda stage: stage.kind == "teacher"), search)
    assert "failed: teacher-" in capsys.readouterr().err
    assert not (tmp_path / "work" / "search.json").exists()


def test_what_was_neither_finished_nor_failed_is_not_taken_for_a_failure(tmp_path, monkeypatch):
    search = {"algorithm": "grid", "teacher-checkpoints": 2, "parameters": WEIGHTS}
    engine = Engine()
    with pytest.raises(KDError, match="ended with neither a result nor a failure: see"):
        run(tmp_path, monkeypatch, lambda plan, work, options: stage_states(plan, work), search)
    assert engine.begun == []


def test_optunas_scores_are_not_taken_over_to_another_budget(tmp_path, monkeypatch):
    engine = Engine()
    run(tmp_path, monkeypatch, engine, OPTUNA)
    engine.begun.clear()
    run(tmp_path, monkeypatch, engine, OPTUNA, budget={"teacher": 4, "student": 5})
    assert sum(name.startswith("student-") for name in engine.begun) >= 2
    assert len(list((tmp_path / "work").glob("optuna-*.db"))) == 2


def test_options_at_their_default_and_their_order_make_no_other_experiment(tmp_path):
    spec = load_search(write_search(tmp_path, GREEDY))
    one = spec.plan({"x": {"kd-weight": 0.7, "teacher-temperature": 2, "kd-select": "all"}}, ["valid"])
    other = spec.plan({"y": {"teacher-temperature": 2, "kd-weight": 0.7}}, ["valid"])
    assert one.stages.keys() == other.stages.keys()


@pytest.mark.parametrize("name", shipped_specs("searches"))
def test_every_shipped_search_can_be_planned_and_starts_near_robust(name):
    spec = load_search(spec_path(name, "searches"))
    assert search_run.most_configurations(spec) > 8
    assert sum(spec.start[option] != value for option, value in spec.robust.items()) <= 1


@pytest.mark.parametrize("recipe", ["multi30k", "iwslt14.de-en"])
def test_the_greedy_search_can_be_planned_with_other_recipes(recipe):
    sections = load_search(spec_path("greedy", "searches"), recipe=recipe).trained.sections
    assert sections["teacher"]["save-interval-updates"] == sections["budget"]["teacher"] // 6


def test_the_shipped_greedy_search_has_the_order_of_the_paper():
    names = [name for name, _ in load_search(spec_path("greedy", "searches")).parameters]
    assert names[:4] == ["teacher-choice", "kd-divergence", "student-temperature", "kd-weight"]


def test_the_command_of_the_page(tmp_path, monkeypatch):
    (block,) = blocks_run_by("test_the_command_of_the_page")
    (line,) = [command.removeprefix("fairseq-kd ") for command in block.commands()]
    monkeypatch.setattr(search_run, "run_stages", Engine())
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 0
    assert (tmp_path / "runs" / "search" / "chosen.yaml").is_file()


def test_the_page_about_searches_shows_a_shipped_search():
    shown = (ROOT / "configs" / "searches" / "greedy.yaml").read_text()
    assert f"```yaml\n{shown}```" in (ROOT / "docs" / "searches.md").read_text()


def test_the_script_names_a_shipped_search():
    script = (ROOT / "scripts" / "search_parameters.sh").read_text()
    (name,) = re.findall(r"^search (\S+)", script, re.M)
    assert name in shipped_specs("searches")


@pytest.mark.parametrize(
    ("search", "changes", "message"),
    [
        (GREEDY, {"serch": {}}, "unknown key 'serch' in the spec; the nearest valid one is 'search'"),
        (GREEDY, {"kd": {"kd-weight": 1}}, "a search has no section kd; give its options in start"),
        (None, {}, "the spec lacks 'search'"),
        (GREEDY | {"algoritm": 1}, {}, "unknown key 'algoritm' in search; the nearest valid one is 'algorithm'"),
        ({"parameters": WEIGHTS}, {}, "search lacks 'algorithm'"),
        (GREEDY | {"algorithm": "gready"}, {}, "unknown algorithm 'gready'; the nearest valid one is 'greedy'"),
        (GREEDY | {"parameters": {"kd-weigth": [1]}}, {}, "in parameters; the nearest valid one is 'kd-weight'"),
        (GREEDY | {"parameters": {"teacher": ["x"]}}, {}, "unknown key 'teacher' in parameters"),
        (GREEDY | {"parameters": {}}, {}, "a search needs parameters"),
        (GREEDY | {"parameters": {"kd-weight": 0.5}}, {}, "the parameter kd-weight needs a list of values"),
        (GREEDY | {"parameters": {"kd-weight": [0.5, 0.5]}}, {}, "parameter kd-weight needs values, each once"),
        (GREEDY | {"parameters": {"kd-weight": [0.7]}}, {}, "the start has kd-weight = 0.5, which is not among"),
        (GREEDY | {"parameters": {"kd-weight": [0.5, 3]}}, {}, "--kd-weight 3.0: must be from 0"),
        (GREEDY | {"parameters": {"kd-divergence": ["kl", "msee"]}}, {}, "msee: unknown; the nearest valid"),
        (GREEDY | {"parameters": {"teacher-choice": ["low-los"]}}, {}, "the nearest valid one is 'low-loss'"),
        (GREEDY | {"parameters": {"kd-weight": [0.5, "same"]}}, {}, "which only student-temperature can have"),
        (GREEDY | {"parameters": {"kd-weight": {"low": 0, "high": 1}}}, {}, "only optuna takes a range"),
        (OPTUNA | {"parameters": {"kd-weight": {"low": 0}}}, {}, "the range lacks 'high'"),
        (OPTUNA | {"parameters": {"kd-weight": {"low": 1, "high": 0}}}, {}, "low must be below high"),
        (OPTUNA | {"parameters": {"kd-weight": {"low": 0.6, "high": 0.9}}}, {}, "which is not within"),
        (OPTUNA | {"trials": 0}, {}, "0 trials in batches of 2"),
        ({name: OPTUNA[name] for name in ("algorithm", "parameters")}, {}, "search lacks 'trials'"),
        (GREEDY | {"trials": 3}, {}, "trials has no effect with the algorithm greedy"),
        (GREEDY | {"start": {"kd-wight": 1}}, {}, "in start; the nearest valid one is 'kd-weight'"),
        (GREEDY | {"start": "nowhere.yaml"}, {}, "nowhere.yaml cannot be read"),
        (GREEDY | {"seeds": [2**32]}, {}, "seeds must be a list of whole numbers from 0, each once, below 2^31"),
        (GREEDY, {"budget": {"teacher": "abc", "student": 3}}, "teacher in budget must be a whole number of updates"),
        (OPTUNA | {"parameters": {"student-temperature": {"low": 0.5, "high": 4}}} | SAME_START, {},
         "the start has student-temperature = same, which is not within"),
        (GREEDY | {"seeds": [1, 1]}, {}, "seeds must be a list of whole numbers from 0, each once"),
        (GREEDY | {"teacher-checkpoints": 9}, {}, "budget must be at least 9 updates"),
        (GREEDY | {"teacher-checkpoints": 1}, {}, "teacher-checkpoints must be a whole number from 2"),
        (GREEDY, {"teacher": {"save-interval-updates": 2}}, "is set by the search; give teacher-checkpoints"),
        (GREEDY, {"teacher": {"checkpoint": "a.pt"}}, "checkpoint in teacher is set by the search; leave it out"),
        (GREEDY, {"evaluate": {"subsets": ["test"]}}, "subsets in evaluate is set by the search; leave it out"),
        (GREEDY, {"student": {"arch": "kd_studnt_3m"}}, "--arch kd_studnt_3m: unknown; the nearest valid one is"),
        (GREEDY, {"budget": {"student": 3}, "recipe": None, "data": {"name": "synthetic"}}, "budget must be"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_wrong_spec_is_one_clear_error(tmp_path, capsys, search, changes, message):
    path = write_search(tmp_path, search, **changes)
    assert main(["search", str(path), "--out", str(tmp_path / "work"), "--cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and line.startswith("fairseq_kd: error:")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "there is no spec nothing: give a file, or one of greedy"),
        (["greedy", "--jobs", "0"], "--jobs 0: must"),
        (["greedy", "--dry-run"], "--dry-run: no effect with search"),
    ],
)
def test_bad_options_are_one_error(tmp_path, words, message, capsys):
    assert main(["search", *words, "--out", str(tmp_path / "work")]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_ours_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert main(["search", "greedy", "--out", str(tmp_path)]) == 2
    assert "is not the folder of a study" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
