"""Federated runs as a method of studies: which stages they need and share, by hand; what is refused; and the section of
the report, on invented rounds."""

import json
from types import SimpleNamespace

import pytest
import yaml
from docs_helpers import blocks_run_by
from report_helpers import finish_stage
from study_helpers import given, student
from test_study_collaboration import made_by, of_kind, planned
from test_study_plan import kinds

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.report.federated import Rounds, federated_rounds
from fairseq_kd.study.report.federated_saved import of_the_paper
from fairseq_kd.study.report.rows import read_study
from fairseq_kd.study.report.words import about_value
from fairseq_kd.study.report.write import write_report
from fairseq_kd.study.show import write_results

SHORT = {"rounds": 4, "updates": 5}
SHARE = SHORT | {"target": {"share": 0.95, "of": "centralised"}}


def of_rounds(folder, factors=None, **changes):
    """A checked plan of federated cells on three parts."""
    changes = {"federated": SHORT, "decode": None} | changes
    return planned(folder, factors={"method": ["federated"]} | (factors or {}), **changes)


def value(stage, option: str):
    """The value of an option of a federated run."""
    return yaml.safe_load(given(stage)[option])


def test_a_run_has_all_parts_as_clients_and_is_one_stage(tmp_path):
    plan = of_rounds(tmp_path, {"seed": [1, 7]})
    assert kinds(plan) == {"prepare": 1, "partition": 1, "federated": 2, "evaluate": 2}
    (divided,), (run, other) = of_kind(plan, "partition"), of_kind(plan, "federated")
    assert run.command[:2] == ["fairseq-kd", "federated"] and run.command[2] == "--parts"
    assert given(run)["parts"] == divided.path("parts") and given(run)["data"] == divided.command[2]
    assert (given(run)["seed"], given(other)["seed"], given(run)["out"]) == ("1", "7", "@out/run")
    assert value(run, "evaluate") == {"subset": "test", "beam": 5, "lenpen": 1.0, "max-len-a": 1, "max-len-b": 5}
    assert value(run, "student")["encoder-layers"] == 1 and "max-update" not in value(run, "student")
    assert "start" not in given(run) and run.updates == 4 * 5
    assert [given(stage)["checkpoint"] for stage in of_kind(plan, "evaluate")] == [
        f"@/stages/{one.name}/run/final.pt" for one in (run, other)
    ]


def test_each_start_shares_the_stages_of_cells_of_other_methods(tmp_path):
    """By hand, per seed: three local models and the consolidated student, which cells of `word` train too."""
    starts = {name: {"init": name} for name in ("random", "best-score", "soup", "consolidated")}
    factors = {"method": ["ce", "word", "soup", "federated"], "start": starts, "teachers": {"all": "all"}}
    factors |= {"part": [1, 2, 3], "transfer": ["union"]}
    exclude = [
        {"method": "ce", "start": ["best-score", "soup", "consolidated"]},
        {"method": "word", "start": ["random", "soup", "consolidated"]},
    ]
    plan = of_rounds(tmp_path, factors, exclude=exclude)
    assert kinds(plan) == {
        **{"prepare": 1, "partition": 1, "student": 3 + 1, "select": 1, "decode": 1, "cache": 1, "average": 1},
        **{"federated": 4, "evaluate": 3 + 1 + 1 + 1 + 4},  # with the ensemble of the teachers of `word`
    }
    runs = {name: student(plan, method="federated", start=name) for name in starts}
    assert "start" not in given(runs["random"])
    assert given(runs["best-score"])["start"] == f"@/stages/{of_kind(plan, 'select')[0].name}/teacher.pt"
    assert given(runs["soup"])["start"] == of_kind(plan, "average")[0].path("model.pt")
    consolidated = student(plan, method="word")
    assert given(runs["consolidated"])["start"] == consolidated.path("checkpoints/checkpoint_best.pt")
    assert {len(cell["factors"]) for cell in plan.cells.values() if "rounds" in cell} == {2, 3}  # part has no effect


def test_the_target_is_that_of_the_student_of_ce_on_the_whole_data(tmp_path):
    plan = of_rounds(tmp_path, federated=SHARE)
    (cell,) = plan.cells.values()
    (whole,) = of_kind(plan, "student")
    (result,) = (stage for stage in of_kind(plan, "evaluate") if whole.name in stage.inputs)
    assert whole.command[1] == of_kind(plan, "prepare")[0].path("data-bin")
    assert given(whole)["kd-weight"] == "0" and given(whole)["max-update"] == "30"
    assert cell["rounds"] == {"subset": "test", "goal": {"share": 0.95, "result": result.name}}
    factors = {"part": ["whole", 1], "method": ["ce", "federated"]}
    assert student(of_rounds(tmp_path, factors, federated=SHARE), method="ce", part="whole") == whole
    fixed = of_rounds(tmp_path, federated=SHORT | {"target": {"bleu": 20}}, evaluate={"subsets": ["test", "valid"]})
    assert next(iter(fixed.cells.values()))["rounds"]["goal"] == {"bleu": 20} and "student" not in kinds(fixed)
    assert of_kind(fixed, "federated")[0].name != of_kind(plan, "federated")[0].name  # other lengths of translations


def test_what_only_the_report_reads_is_no_part_of_a_run(tmp_path):
    plain, share = of_rounds(tmp_path), of_rounds(tmp_path, federated=SHARE)
    assert of_kind(plain, "federated") == of_kind(share, "federated")


def test_strategies_are_values_of_factors_by_name_and_by_label(tmp_path):
    labelled = {"FedAvg": {}, "FedProx": {"federated.strategy": {"name": "FedProx", "proximal-mu": 0.1}}}
    plan = of_rounds(tmp_path, {"by": labelled, "federated.updates": [5, 6]})
    runs = [student(plan, by=name, **{"federated.updates": 6}) for name in labelled]
    assert "strategy" not in given(runs[0])
    assert value(runs[1], "strategy") == {"name": "FedProx", "proximal-mu": 0.1} and given(runs[1])["updates"] == "6"
    about = about_value(plan.spec, "by", "FedProx")
    assert about == "federated.strategy FedProx with proximal-mu 0.1"
    plan = of_rounds(tmp_path, {"federated.strategy": ["FedAvg", "FedMedian"]})
    assert [value(run, "strategy") for run in of_kind(plan, "federated")] == [{"name": "FedAvg"}, {"name": "FedMedian"}]


def test_files_count_by_their_content(data_bin, tmp_path):
    kd = {"updates": 2, "transfer": str(data_bin)}
    plan = of_rounds(tmp_path, federated=SHORT | {"server-kd": kd})
    (run,) = of_kind(plan, "federated")
    assert value(run, "server-kd") == {"updates": 2, "transfer": str(data_bin)}
    assert run.name != of_kind(of_rounds(tmp_path), "federated")[0].name


def test_options_of_the_consolidation_have_an_effect_on_its_start_alone(tmp_path):
    factors = {"init": ["random", "consolidated"], "alpha": [0.3, 0.7]}
    plan = of_rounds(tmp_path, factors)
    assert list(plan.cells) == ["init=random", "init=consolidated,alpha=0.3", "init=consolidated,alpha=0.7"]
    starts = [made_by(plan, given(run)["start"]) for run in of_kind(plan, "federated") if "start" in given(run)]
    assert [given(start)["kd-weight"] for start in starts] == ["0.3", "0.7"]


def test_the_shipped_study_has_what_its_comment_says(tmp_path):
    """By hand, per seed: three local models, the centralised and the consolidated student; four starts and FedProx."""
    plan = open_plan("federated", tmp_path / "work")
    assert kinds(plan) == {
        **{"prepare": 1, "partition": 1, "student": 3 * 5, "select": 3, "average": 3, "decode": 3, "cache": 3},
        **{"federated": 3 * 5, "evaluate": 3 * 6, "compare": 4},
    }
    centralised = student(plan, method="ce", seed=2)
    assert {run.updates for run in of_kind(plan, "federated")} == {int(given(centralised)["max-update"])} == {450}
    goals = [cell["rounds"]["goal"] for cell in plan.cells.values() if cell["factors"].items() >= {
        "method": "federated", "seed": 2}.items()]  # fmt: skip
    own = next(cell for cell in plan.cells.values() if cell["factors"].items() >= {"method": "ce", "seed": 2}.items())
    assert goals == [{"share": 0.95, "result": own["results"]["test"]}] * 5


def test_the_study_of_the_page_on_federated_training_can_be_planned(tmp_path):
    (block,) = blocks_run_by("test_the_study_of_the_page_on_federated_training_can_be_planned")
    path = tmp_path / "spec.yaml"
    path.write_text(block.text)
    plan = open_plan(path, tmp_path / "work")
    assert kinds(plan)["federated"] == 2 * 3 and kinds(plan)["student"] == 3 * 5


FEDERATED = {"method": ["federated"]}
DATA = {"name": "synthetic", "pairs": 300, "vocab-size": 200}
NO_BUDGET = {"factors": FEDERATED, "federated": SHARE, "budget": None, "recipe": None, "data": DATA}
FEW = SHORT | {"min-clients": 4, "on-failure": "go-on"}
WRONG = [
    ({"factors": FEDERATED, "federated": FEW}, "min-clients is 4, but each round draws 3 of 3 clients"),
    ({"factors": FEDERATED, "federated": {"rounds": 3}}, "federated: the options: the spec lacks 'updates'"),
    ({"factors": FEDERATED, "federated": SHORT | {"fraction": 2}}, "fraction must be a number above 0 and at most 1"),
    ({"factors": FEDERATED, "federated": SHORT | {"start": "random"}}, "start in federated is set by the study; vary"),
    ({"factors": FEDERATED, "federated": SHORT | {"roundz": 2}}, "unknown key 'roundz' in federated; the nearest"),
    ({"factors": FEDERATED, "federated": SHORT | {"strategy": "FedAvgg"}}, "FedAvg"),
    ({"factors": FEDERATED, "partition": None}, "partition lacks 'parts': parts need a section such as partition"),
    ({"factors": FEDERATED | {"init": ["ce"]}}, "init ce and method federated: the rounds begin with one model"),
    ({"factors": FEDERATED | {"init": ["first"]}}, "init first and method federated: the rounds begin with one model"),
    ({"factors": {"method": ["ce"], "init": ["soup"]}, "partition": None}, "init soup and method ce: only federated"),
    ({"factors": {"method": ["mutual"], "init": ["soup"]}, "partition": None}, "init soup and method mutual: all"),
    ({"factors": FEDERATED | {"noise": [10]}}, "noise 10 and method federated: the clients train on the parts as"),
    ({"factors": FEDERATED, "evaluate": {"backend": "ctranslate2"}}, "backend in evaluate and method federated"),
    ({"factors": FEDERATED, "federated": SHORT | {"subset": "valid"}}, "the rounds are evaluated on valid without"),
    ({"factors": FEDERATED, "evaluate": {"noise": [10]}}, "the rounds are evaluated on test without noise, and"),
    ({"factors": FEDERATED, "federated": SHORT | {"target": {"share": 0.9}}}, "target in federated must be {share"),
    ({"factors": FEDERATED, "federated": SHORT | {"target": {"bleu": 0}}}, "target in federated must be {share"),
    ({"factors": FEDERATED, "federated": SHARE | {"every": 0}}, "target in federated needs the BLEU of the rounds"),
    (NO_BUDGET, "needs the centralised student, and budget lacks"),
    ({"factors": FEDERATED | {"init": ["consolidated"], "transfer": ["own"]}}, "transfer own: the model belongs"),
    ({"factors": FEDERATED | {"init": ["consolidated"], "mix-gold": [1]}}, "mix-gold 1: gold targets of the parts"),
    ({"factors": FEDERATED | {"federated.target": [3]}}, "target in federated is the same for all cells"),
    ({"factors": FEDERATED, "student": {"patience": 3}}, "patience in student cannot be given, because the rounds"),
    ({"factors": FEDERATED, "student": {"encoder-layerz": 3}}, "unknown key 'encoder-layerz'"),
    ({"factors": {"method": ["ce"]}, "federated": SHORT, "partition": None}, "the section federated has no effect on"),
    ({"factors": FEDERATED, "federated": SHORT | {"server-kd": {"updates": 1, "transfer": "no"}}}, "no does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_what_does_not_fit_is_one_error_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(KDError) as error:
        planned(tmp_path, **{"federated": SHORT if "federated" in str(changes["factors"]) else None} | changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


def test_flower_is_missed_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("fairseq_kd.federated.run.importlib.util.find_spec", lambda name: None)
    with pytest.raises(KDError, match="federated needs Flower, which is not installed"):
        of_rounds(tmp_path)


def test_the_command_takes_all_keys_as_options_and_names_a_missing_one(tmp_path, capsys):
    assert main(["federated", "--rounds", "3", "--updates", "2", "--out", str(tmp_path / "run")]) == 2
    assert "the options: the spec lacks 'parts'" in capsys.readouterr().err
    words = ["--parts", str(tmp_path / "parts: 3"), "--rounds", "3", "--updates", "2"]  # a path, not a mapping of YAML
    assert main(["federated", *words, "--out", str(tmp_path / "run")]) == 2
    assert "parts: 3 must have the folders part1, part2" in capsys.readouterr().err and not (tmp_path / "run").exists()


MB = 1_000_000
BLEU = {  # by start and seed: of the rounds 0 to 3. The centralised student has 20 with seed 1, and 40 with seed 2
    "random": {1: [0, 10, 18, 19.5], 2: [1, 20, 30, 38]},  # the targets are 19 and 38
    "soup": {1: [12, 19, 19.2, 21], 2: [2, 25, 37.9, 39]},
    "consolidated": {1: [19, 20, 21, 22], 2: [30, 31, 36, 37]},
}


def record(number: int, bleu) -> dict:
    """Three clients with 5 updates, which get and send 1 MB each."""
    sent = 3 * MB if number else 0
    return {"round": number, "bytes_sent": sent, "bytes_received": sent, "updates": 15 if number else 0, "bleu": bleu}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(plan, work) of a study with three starts and two seeds, and invented rounds."""
    folder = tmp_path_factory.mktemp("federated")
    factors = {"method": ["ce", "federated"], "start": {name: {"init": name} for name in BLEU}, "seed": [1, 2]}
    exclude = [{"method": "ce", "start": ["soup", "consolidated"]}]
    plan, work = of_rounds(folder, factors, federated=SHARE | {"rounds": 3}, exclude=exclude), folder / "work"
    for name in plan.stages:
        finish_stage(plan, work, name, 1.0)
    for cell in plan.cells.values():
        seed, start = cell["factors"]["seed"], cell["factors"]["start"]
        score = 20.0 * seed
        if "rounds" in cell:
            score = BLEU[start][seed][-1]
            write_rounds(work, cell, [record(*one) for one in enumerate(BLEU[start][seed])])
        for stage in cell["results"].values():
            content = {"bleu": {"score": score, "signature": "BLEU|nrefs:1"}}
            (work / "stages" / stage / "result.json").write_text(json.dumps(content))
    return plan, work


def write_rounds(work, cell, records) -> None:
    folder = work / "stages" / cell["student"] / "run"
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"kind": "federated", "rounds": records}))


def part_of(plan, work):
    return federated_rounds(plan, read_study(write_results(plan, work), work), work)


def test_rounds_bytes_and_updates_to_the_target_are_counted_by_hand(finished):
    """The target is reached by random in round 3 and 3, by soup in 1 and 3, by consolidated in 0 and never. 90 updates
    train the local models, 30 more the consolidated student."""
    plan, work = finished
    part = part_of(plan, work)
    means, seeds = part.tables
    assert means.head[2:] == [
        "seeds", "reached", "rounds", "MB", "updates", "fewer rounds than random", "BLEU on test (95 %)"
    ]  # fmt: skip
    random, soup, consolidated = (line[2:] for line in means.rows)
    assert random[:6] == ["2", "2 of 2", "3.0", "18.00", "45", "–"]
    assert soup[:6] == [
        "2",
        "2 of 2",
        "2.0",
        "12.00",
        f"{90 + 30:,}",
        "33 % (-390 to 100)",
    ]  # 1 - 1/3 and 1 - 3/3, t = 12.706
    assert consolidated[:6] == ["2", "1 of 2", "0.0", "0.00", "120", "100 %; 1 of 2 seeds"]
    # the mean of 22 and 37 is 29.5, with 12.706 · 7.5 on both sides (t of one degree of freedom)
    assert consolidated[6] == "29.50 (-65.80 to 124.80)"
    assert [line[2:] for line in seeds.rows] == [
        ["1", "19.00", "3", "18.00", "45", "0", "19.50"],
        ["2", "38.00", "3", "18.00", "45", "0", "38.00"],
        ["1", "19.00", "1", "6.00", "105", "90", "21.00"],
        ["2", "38.00", "3", "18.00", "135", "90", "39.00"],
        ["1", "19.00", "0", "0.00", "120", "120", "22.00"],
        ["2", "38.00", "not reached", "–", "–", "120", "37.00"],
    ]
    assert "5 of 6 runs reached the target." in part.lines
    assert part.lines[0].startswith("The target is 95 % of the BLEU on test of the centralised student: the student of")
    verdict = "soup: fewer rounds than random by 33 % (-390 to 100); the interval contains 60.6 %."
    assert [line for line in part.lines if "60.6" in line][1:] == [f"start {verdict}"]


def test_the_report_has_the_section_and_the_same_bytes_twice(finished):
    plan, work = finished
    write_report(plan, work, latex=True)
    markdown, plot = (work / "report.md").read_text(), work / "plots" / "federated-bleu-test-by-round.svg"
    section = markdown.partition("## Federated rounds\n")[2].partition("\n## ")[0]
    assert "| 5 of 6 runs" not in section and "5 of 6 runs reached the target." in section
    assert f"](plots/{plot.name})" in section and "one model for all parts" in markdown
    first = plot.read_bytes()
    assert all(
        word in first.decode() for word in (">start random<", ">start consolidated<", ">target, mean over seeds<")
    )
    assert (work / "tables" / "federated-rounds.tex").is_file()
    write_report(plan, work)
    assert plot.read_bytes() == first and (work / "report.md").read_text() == markdown
    assert "<h2>Federated rounds</h2>" in (work / "report.html").read_text()


def test_a_target_that_no_run_reached_and_runs_that_are_missing_are_said(finished, tmp_path):
    plan, work = finished
    plan = of_rounds(tmp_path, {"seed": [1, 2]}, federated=SHORT | {"target": {"bleu": 50}})
    work = tmp_path / "work"
    assert part_of(plan, work).absent.startswith("no federated run is done")
    cell = next(iter(plan.cells.values()))
    finish_stage(plan, work, cell["student"], 1.0)
    write_rounds(work, cell, [record(0, None), record(1, 30)])
    part = part_of(plan, work)
    assert part.lines[:2] == ["The target is 50 BLEU on test.", "0 of 1 runs reached the target."]
    assert part.tables[0].rows[0][1:] == ["1 of 2", "0 of 1", "not reached", "–", "–", "–", "30.00"]


def test_a_study_without_rounds_says_nothing_about_them(tmp_path):
    plan = planned(tmp_path, partition=None, factors={"method": ["ce"]})
    write_report(plan, tmp_path / "work")
    assert "Federated" not in (tmp_path / "work" / "report.md").read_text()


def test_only_models_made_of_several_are_compared_with_the_paper_also_without_an_interval():
    def runs(saved, merged):
        return [SimpleNamespace(saved=one, one_of_several=merged) for one in saved]

    rows = [SimpleNamespace(factors={"start": name}) for name in ("best", "soup", "consolidated")]
    found = [*zip(rows, (runs([0.5, 0.7], False), runs([0.1, 0.2, None], True), runs([1, 1], True)), strict=True)]
    assert of_the_paper(found)[1:] == [
        "start soup: fewer rounds than random by 15 % (-49 to 79) in the 2 of 3 seeds that have a number; the interval "
        "contains 60.6 %.",
        "start consolidated: fewer rounds than random by 100 %; all seeds save the same share.",
    ]
    assert of_the_paper(found[:1]) == []


def test_a_run_saves_nothing_where_one_of_both_has_no_number():
    def run(scores, other=None):
        return Rounds(1, [record(*one) for one in enumerate(scores)], 10.0, 0, other)

    assert run([5, 10], run([0, 5, 6, 10])).saved == pytest.approx(2 / 3)
    assert run([5, 9], run([0, 10])).saved is None and run([5, 10], run([0, 9])).saved is None
    assert run([10], run([10, 11])).saved is None and run([10]).saved is None
