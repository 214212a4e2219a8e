"""Plans with the methods beside ce, word, seq and word+seq, and with several teachers."""

import json
import re
from collections import Counter

import pytest
from helpers import write_variant
from study_helpers import given, spec_on, student, write_spec
from test_study_plan import kinds, plan_of, with_version

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.search.spec import load_search
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.peers import of_first_peer
from fairseq_kd.study.show import format_plan
from fairseq_kd.study.stage import resolve

ALL = ["ce", "word", "seq", "word+seq", "hybrid", "on-policy", "dp", "mutual", "ensemble"]
SETS = {"one": 1, "three": [1, 2, 3]}
OWN = {"teachers": SETS, "method": ALL}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    return open_plan(write_spec(folder, factors=OWN), folder / "work")


def test_what_methods_share_is_one_stage(plan, tmp_path):
    """By hand. Caches: of gold and of decoded data, by one teacher and by three. Students: ce and mutual have no
    teacher, six methods have one or three. Evaluations: the students, three teachers, and the ensemble of three."""
    assert kinds(plan) == {
        **{"prepare": 1, "teacher": 3, "decode": 2, "cache": 4, "student": 2 + 6 * 2, "split": 1},
        "evaluate": 14 + 3 + 1,
    }
    assert "split " in format_plan(plan, tmp_path)
    for teachers in SETS:
        word, seq, hybrid = (student(plan, teachers=teachers, method=name) for name in ("word", "seq", "hybrid"))
        options = given(hybrid)
        assert options["teacher-cache"] == given(word)["teacher-cache"] and hybrid.command[1] == word.command[1]
        assert options["distilled"] == seq.command[1] != hybrid.command[1]
        assert (options["criterion"], options["task"]) == ("kd_hybrid", "kd_translation")


def test_a_teacher_is_the_same_stage_with_and_without_the_factor(plan, tmp_path):
    plain = plan_of(tmp_path, factors={"method": ALL})
    assert plain.stages.keys() <= plan.stages.keys() and kinds(plain)["teacher"] == 1
    assert [one.get("name") for one in plain.teachers] == [None]


def test_on_policy_and_dp_run_the_teachers_and_dp_begins_with_the_student_of_ce(plan):
    three = [stage.path("checkpoints/checkpoint_best.pt") for stage in plan.stages.values() if stage.kind == "teacher"]
    sampled, partition = (given(student(plan, teachers="three", method=name)) for name in ("on-policy", "dp"))
    assert sampled["teacher"] == partition["teacher"] == ":".join(three)
    assert sampled["on-policy-rate"] == "0.5" and partition["kd-partition"] == "supervised"
    start = student(plan, method="ce").path("checkpoints/checkpoint_best.pt")
    assert partition["finetune-from-model"] == start and "finetune-from-model" not in sampled
    assert not {"teacher-cache", "distilled"} & (sampled | partition).keys()


def test_a_mutual_training_is_chosen_split_and_evaluated_by_its_first_peer(plan):
    stage = student(plan, method="mutual")
    options = given(stage)
    assert (options["arch"], options["criterion"]) == ("kd_mutual", "kd_mutual")
    assert options["peer-archs"] == "kd_student:kd_student" and options["best-checkpoint-metric"] == "nll_loss_peer1"
    (split,) = (one for one in plan.stages.values() if one.kind == "split")
    assert split.inputs == [stage.name] and stage.inputs == [inputs for inputs in stage.inputs if "prepare" in inputs]
    (cell,) = (one for one in plan.cells.values() if one["factors"]["method"] == "mutual")
    scored = given(plan.stages[cell["results"]["test"]])["checkpoint"]
    assert scored == split.path("peers/peer1/checkpoint_best.pt")


def test_the_peers_can_be_other_architectures_and_trained_students(tmp_path):
    common = {"arch": "kd_student_3m", "optimizer": "adam", "lr": 0.01, "max-tokens": 500}
    recipe = {"recipe": None, "data": {"name": "synthetic", "pairs": 300, "vocab-size": 200}, "teacher": None}
    factors = {"method": ["ce", "mutual"], "peers": ["kd_student_5m", 3], "init": ["random", "ce"], "seed": [1, 2, 3]}
    plan = plan_of(tmp_path, **recipe, common=common, student=None, decode=None, factors=factors)
    new = given(student(plan, method="mutual", peers="kd_student_5m", init="random", seed=1))
    assert new["peer-archs"] == "kd_student_3m:kd_student_5m"
    going_on = given(student(plan, method="mutual", peers=3, init="ce", seed=1))
    plain = [student(plan, method="ce", init="random", seed=seed) for seed in (1, 2, 3)]
    assert going_on["peers"] == ":".join(stage.path("checkpoints/checkpoint_best.pt") for stage in plain)
    assert "peer-archs" not in going_on


@pytest.mark.parametrize(("peers", "init"), [(2, "random"), ("kd_student_3m:kd_student_5m", "random"), (2, "ce")])
def test_the_backend_of_an_evaluation_is_checked_for_the_first_peer(peers, init, tmp_path):
    """The evaluated checkpoint is that of peer 1, which CTranslate2 can run, and not the one of all peers."""
    student = {"arch": "kd_student_3m"}
    factors = {"method": ["mutual"], "peers": [peers], "init": [init]}

    def planned(**changes):
        recipe = {"recipe": None, "data": {"name": "synthetic", "pairs": 300, "vocab-size": 200}, "teacher": None}
        common = {"optimizer": "adam", "lr": 0.01, "max-tokens": 500}
        evaluate = {"backend": "ctranslate2"}
        return plan_of(tmp_path, **recipe, common=common, decode=None, factors=factors, evaluate=evaluate, **changes)

    assert kinds(planned(student=student))["split"] == 1
    with pytest.raises(KDError, match="backend in evaluate: CTranslate2 cannot express the activation function"):
        planned(student=student | {"activation-fn": "linear"})


def test_the_words_of_a_mutual_training_name_its_first_peer():
    assert of_first_peer(["data", "--arch", "kd_student", "--lr", "1"]) == ["data", "--arch", "kd_student", "--lr", "1"]
    mutual = ["data", "--arch", "kd_mutual", "--lr", "1"]
    assert of_first_peer([*mutual, "--peers", "A.pt:B.pt"]) == "A.pt"
    assert of_first_peer([*mutual, "--peer-archs", "a:b"]) == ["data", "--lr", "1", "--arch", "a"]
    like = of_first_peer([*mutual, "--peer-like", "A.pt:B.pt", "--cpu"])
    assert like == ["data", "--lr", "1", "--cpu", "--arch", "kd_student", "--like", "A.pt"]


def test_the_teachers_are_rows_of_their_own_and_the_ensemble_is_a_row_and_a_cell(plan):
    rows = [(one.get("name"), len(one["cells"]), one["checkpoint"].count(":")) for one in plan.teachers]
    assert rows == [(None, 7, 0), (None, 7, 2), ("seed 2", 7, 0), ("seed 3", 7, 0)]
    (cell,) = (one for one in plan.cells.values() if one["factors"] == {"teachers": "three", "method": "ensemble"})
    assert cell["student"] is None and cell["results"] == plan.teachers[1]["results"]
    (cell,) = (one for one in plan.cells.values() if one["factors"] == {"teachers": "one", "method": "ensemble"})
    assert cell["results"] == plan.teachers[0]["results"]


def test_a_word_with_several_files_counts_all_of_them(plan, tmp_path, monkeypatch):
    (cache,) = (
        one
        for one in plan.stages.values()
        if one.name in given(student(plan, teachers="three", method="word"))["teacher-cache"]
    )
    assert Counter(name.split("-")[0] for name in cache.inputs) == {"prepare": 1, "teacher": 3}
    other = plan_of(tmp_path, factors=OWN | {"teachers": {"three": [1, 2, 4]}})
    changed = {name.split("-")[0] for name in {*other.stages} - {*plan.stages}}
    assert changed == {"teacher", "decode", "cache", "student", "evaluate"}
    with_version(monkeypatch, "torch", "9.9")  # the requests hold the requests of the teachers, not their names
    later = plan_of(tmp_path, factors=OWN)
    assert {name.rpartition("-")[0] for name in later.stages} == {name.rpartition("-")[0] for name in plan.stages}


def test_options_have_an_effect_where_a_method_takes_them(tmp_path):
    factors = OWN | {"teachers": SETS, "teacher-weights": ["equal", "adaptive"], "hybrid-weight": [0.3, 0.7]}
    factors |= {"on-policy-rate": [0.2, 1], "kd-partition-per": ["token", "sentence"], "divergence": ["kl", "js"]}
    factors |= {"method": [name for name in ALL if name != "on-policy"]}
    factors.pop("on-policy-rate")
    plan = plan_of(tmp_path, factors=factors)
    counts = Counter(one["factors"]["method"] for one in plan.cells.values())
    # divergence 2; teachers one + three with two weights; hybrid-weight 2; kd-partition-per 2
    assert counts == {
        **{"ce": 1, "seq": 2, "mutual": 1, "ensemble": 2, "word": 2 * 3, "word+seq": 2 * 3},
        **{"hybrid": 2 * 3 * 2, "dp": 2 * 3 * 2},
    }
    cached = student(plan, teachers="three", method="word", **{"teacher-weights": "adaptive", "divergence": "kl"})
    cache = plan.stages[given(cached)["teacher-cache"].split("/")[2]]
    assert given(cache)["teacher-weights"] == "adaptive" and "teacher-weights" not in given(cached)


def test_options_of_one_method_do_not_reach_the_others(tmp_path):
    kd = {
        "kd-weight": 0.6,
        "on-policy-rate": 0.25,
        "hybrid-weight": 0.4,
        "teacher-weights": "2:1",
        "kd-divergence": "js",
    }
    factors = {"teachers": {"two": [1, 2]}, "method": ["word", "hybrid", "on-policy", "dp", "mutual"]}
    plan = plan_of(tmp_path, kd=kd, factors=factors)
    taken = {name: given(student(plan, method=name)).keys() & kd.keys() for name in factors["method"]}
    shared = {"kd-weight", "kd-divergence"}
    assert taken == {
        **{"word": shared, "hybrid": shared | {"hybrid-weight"}, "mutual": {"kd-weight"}},
        **{"on-policy": shared | {"on-policy-rate", "teacher-weights"}, "dp": shared | {"teacher-weights"}},
    }


HERE = {"teachers": {"two": [1, 2]}}
CHAIN = HERE | {"method": ["word"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": HERE | {"method": ["ce"]}}, "the factor teachers has no effect with method ce"),
        ({"factors": {"teachers": [1, 2], "method": ["word"]}}, "needs a label for each set of teachers, found"),
        ({"factors": {"teachers": {"a": []}, "method": ["word"]}}, "'a' of the factor teachers names no teacher"),
        ({"factors": {"teachers": {"a": [1, {"seed": 1}]}, "method": ["word"]}}, "names the teacher seed 1 twice"),
        ({"factors": {"teachers": {"a": [1.5]}, "method": ["word"]}}, "has the teacher 1.5; a teacher must be a seed"),
        (
            {"factors": {"teachers": {"a": {"criterion": "x"}}, "method": ["word"]}},
            "criterion in the value 'a' .* is set",
        ),
        ({"factors": {"teachers": {"a": {"checkpoint": "x.pt", "seed": 1}}, "method": ["word"]}}, "no effect beside"),
        ({"factors": {"teachers": {"a": "x.pt"}, "method": ["word"]}, "teacher": None}, "x.pt"),
        ({"factors": {"teachers": {"a": -1}, "method": ["word"]}}, "seeds are whole numbers"),
        (
            {"factors": {"teachers": {"a": {"drop-out": 0.1}}, "method": ["word"]}},
            "drop-out'; the nearest .* 'dropout'",
        ),
        (
            {"factors": HERE | {"method": ["word"], "teacher.seed": [3]}},
            "teachers and teacher.seed both set teacher.seed",
        ),
        (
            {"factors": HERE | {"method": ["word"]}, "teacher": {"checkpoint": "x.pt"}},
            "seed 1 .* would be trained, but",
        ),
        (
            {"factors": HERE | {"method": ["word"], "init": ["skip"]}},
            "takes layers of one teacher, and this cell has 2",
        ),
        ({"factors": {"method": ["word"], "on-policy-rate": [0.5]}}, "on-policy-rate has no effect with method word"),
        ({"factors": {"method": ["word"]}, "kd": {"on-policy-rate": 0.5}}, "on-policy-rate in kd has no effect on any"),
        ({"factors": {"method": ["word"], "teacher-weights": ["nll"]}}, "teacher-weights has no effect with method"),
        ({"factors": {"method": ["on-policy"], "signal": ["cache"]}}, "signal has no effect with method on-policy"),
        ({"factors": {"method": ["on-policy"], "on-policy-rate": [1.5]}}, "must be from 0 .gold prefixes only. to 1"),
        ({"factors": {"method": ["dp"], "init": ["random"]}}, "init random and method dp: .* give init ce"),
        ({"factors": {"method": ["mutual"], "init": ["skip"]}}, "all peers would begin with the same weights"),
        (
            {"factors": {"method": ["mutual"], "peers": [1]}},
            "peers has the value 1; a value must be a number .* from 2",
        ),
        (
            {"factors": {"method": ["mutual"], "peers": ["kd_student_3m"]}, "teacher": None},
            "would also be the shape of the peers",
        ),
        ({"factors": {"method": ["ce"], "peers": [2]}}, "peers has no effect with method ce"),
        ({"factors": {"method": ["hybrid"], "mix-gold": [1]}}, "mix-gold has no effect with method hybrid"),
        ({"factors": {"method": ["hybrid"]}, "decode": {"drop-empty": True}}, "drop-empty in decode and method hybrid"),
        (
            {"factors": {"method": ["hybrid"]}, "decode": {"source-text": "x"}},
            "source-text in decode and method hybrid",
        ),
        ({"factors": {"method": ["hybrid"], "hybrid-weight": [2]}}, "must be from 0 .sentence level only. to 1"),
        (
            {"factors": CHAIN | {"teacher-schedule": ["4,6"]}},
            "4,6 does not fit 2 teachers and .*1 incr",
        ),
        (
            {"factors": CHAIN | {"teacher-schedule": [999999]}},
            "schedule 999999 does not fit 2 teachers",
        ),
        ({"factors": CHAIN | {"teacher-schedule": ["x"]}}, "schedule x does not fit 2 teachers"),
        (
            {"factors": CHAIN | {"teacher-schedule": [4]}, "kd": {"teacher-weights": "2:1"}},
            "teacher-weights has no effect beside teacher-schedule 4: one teacher teaches at a time",
        ),
        ({"factors": {"method": ["word"], "teacher-schedule": [4]}}, "teacher-schedule has no effect with method word"),
        ({"factors": {"method": ["ensemble"], "seed": [1, 2]}}, "seed has no effect with method ensemble"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(tmp_path, changes, message, capsys):
    sections = {} if "decode" in changes else {"decode": None}
    spec = write_spec(tmp_path, **sections, **changes)
    assert main(["study", "plan", str(spec), "--out", str(tmp_path / "work")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    with pytest.raises(KDError, match=message):
        raise KDError(said)


def test_existing_teachers_are_known_by_their_contents(data_bin, teacher, tmp_path):
    other = tmp_path / "other.pt"
    write_variant(teacher, other, 0.3, 1)
    factors = {"teachers": {"both": [str(teacher), str(other)]}, "method": ["word", "ensemble"]}
    plan = open_plan(spec_on(data_bin, teacher, tmp_path, teacher=None, factors=factors), tmp_path / "work")
    assert kinds(plan) == {"cache": 1, "student": 1, "evaluate": 1 + 3}
    (cache,) = (stage for stage in plan.stages.values() if stage.kind == "cache")
    artefacts = [plan.existing.of(word)["path"] for word in given(cache)["teacher"].split(":")]
    assert artefacts == [str(teacher), str(other)]
    other.write_bytes(teacher.read_bytes())
    with pytest.raises(KDError, match="two teachers of the cell .* have the same content"):
        open_plan(spec_on(data_bin, teacher, tmp_path, teacher=None, factors=factors), tmp_path / "work")


def test_teachers_follow_each_other_from_caches_or_running_and_the_words_are_paths_when_a_stage_runs(tmp_path):
    factors = {"teachers": SETS, "method": ["word", "dp", "seq"], "teacher-schedule": ["none", "4,6"]}
    plan = plan_of(tmp_path, factors=factors, budget={"teacher": 5, "student": 9})
    best = "checkpoints/checkpoint_best.pt"
    teachers = [stage.path(best) for stage in plan.stages.values() if stage.kind == "teacher"]
    word, dp = (student(plan, teachers="three", method=name, **{"teacher-schedule": "4,6"}) for name in ("word", "dp"))
    assert given(dp)["teacher-schedule"] == f"{teachers[0]}@4,{teachers[1]}@6,{teachers[2]}"
    assert not {"teacher", "teacher-cache"} & (given(dp) | given(word)).keys()
    caches = r"@/stages/cache-[\w-]+/cache"
    assert re.fullmatch(f"{caches}@4,{caches}@6,{caches}", given(word)["teacher-schedule"])
    assert sum(name.startswith("cache-") for name in word.inputs) == 3
    assert {given(plan.stages[name])["teacher"] for name in word.inputs if name.startswith("cache-")} == set(teachers)
    # one teacher and seq have no schedule: the combinations with one are no cells of their own
    assert len(plan.cells) == 3 + 2 * 2 + 1
    resolved = resolve(word.command, "/w", "/w/f", None, {})
    value = resolved[resolved.index("--teacher-schedule") + 1]
    assert value == given(word)["teacher-schedule"].replace("@/", "/w/") and value.startswith("/w/stages/cache-")
    factors["teacher-schedule"] = ["none", "4,7"]
    other = plan_of(tmp_path, factors=factors, budget={"teacher": 5, "student": 9})
    assert len(plan.stages.keys() - other.stages.keys()) == 2 * 2  # the two students and their evaluations


SEARCH = {"recipe": "synthetic", "search": {"algorithm": "grid", "parameters": {"kd-weight": [0.5, 0.7]}}}


@pytest.mark.parametrize("method", ["word", "word+seq", "hybrid", "on-policy", "dp"])
def test_a_search_plans_its_method_with_its_teachers(tmp_path, method):
    own = {"hybrid": {"hybrid-weight": [0.3, 0.5]}, "on-policy": {"on-policy-rate": [0.2, 0.5]}}.get(method, {})
    start = {"kd-weight": 0.5} | dict.fromkeys(own, 0.5) | {"teacher-weights": "equal"}
    parameters = {"kd-weight": [0.5, 0.7], "teacher-weights": ["equal", "2:1"]} | own
    spec = SEARCH["search"] | {"method": method, "teachers": [1, 2], "parameters": parameters, "start": start}
    path = tmp_path / "search.yaml"
    path.write_text(json.dumps(SEARCH | {"search": spec}))
    search = load_search(path)
    plan = search.plan({"a": search.start, "b": search.start | {"teacher-weights": "2:1"}}, ["valid"])
    assert [cell["factors"]["method"] for cell in plan.cells.values()] == [method] * 2
    online = method in ("on-policy", "dp")
    assert kinds(plan)["cache"] == (0 if online else 2) and kinds(plan)["student"] == 2 + (method == "dp")
    found = {word for stage in plan.stages.values() for word in stage.command if word in ("2:1", "equal")}
    assert found == {"2:1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "mutual"}, "method in search has the value 'mutual'"),
        ({"method": "hybrid", "parameters": {"on-policy-rate": [0.5]}}, "on-policy-rate"),
        ({"parameters": {"teacher-weights": ["equal"]}}, "teacher-weights"),
        ({"teachers": []}, "names no teacher"),
    ],
)
def test_a_search_refuses_what_its_method_does_not_take(tmp_path, changes, message):
    path = tmp_path / "search.yaml"
    path.write_text(json.dumps(SEARCH | {"search": SEARCH["search"] | changes}))
    with pytest.raises(KDError, match=message):
        load_search(path)
