"""The method semi-on-policy in plans of studies: rounds, their stages, the schedule of the learning rate, errors."""

from collections import Counter

import pytest
from study_helpers import write_spec

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.durations import _without_teacher, shape
from fairseq_kd.study.refresh import rounds_of

ROUNDS = {"method": ["semi-on-policy"], "refresh": 12}  # of the 30 updates of the spec smoke


def plan_of(folder, factors, **changes):
    return open_plan(str(write_spec(folder, factors=factors, decode=None, **changes)), folder / "work")


def rounds(plan, cell="method=semi-on-policy") -> list:
    return [plan.stages[name] for name in rounds_of(plan.stages, plan.cells[cell]["student"])]


def option(stage, name):
    return stage.command[stage.command.index(f"--{name}") + 1]


def test_the_rounds_end_at_multiples_and_at_the_budget_and_go_on_from_each_other(tmp_path):
    plan = plan_of(tmp_path, ROUNDS)
    kinds = Counter(stage.kind for stage in plan.stages.values())
    made = {"prepare": 1, "teacher": 1, "cache": 3, "student": 3, "decode": 2, "mix": 2, "evaluate": 2}
    assert kinds == made
    first, second, third = trained = rounds(plan)
    assert [option(stage, "max-update") for stage in trained] == ["12", "24", "30"]
    assert [stage.updates for stage in trained] == [12, 12, 6]
    assert {option(stage, "total-num-update") for stage in trained} == {"30"}  # polynomial_decay
    assert [option(stage, "seed") for stage in trained] == ["1", "10001", "20001"]
    for before, stage in ((first, second), (second, third)):
        last = before.path("checkpoints/checkpoint_last.pt")
        assert option(stage, "restore-file") == last and option(stage, "on-policy-part") == "2"
        assert {"--reset-dataloader", "--reset-meters"} < set(stage.command)
        assert not {"--reset-optimizer", "--reset-lr-scheduler", "--finetune-from-model"} & set(stage.command)
        (mixed,) = (plan.stages[name] for name in stage.inputs if plan.stages[name].kind == "mix")
        (decoded,) = (plan.stages[name] for name in mixed.inputs if plan.stages[name].kind == "decode")
        assert option(decoded, "teacher") == last and option(decoded, "seed") == option(stage, "seed")
        words = ["mix", option_of_prepare(plan), decoded.path("data-bin"), "--times", "1", "1"]
        assert mixed.command[1:7] == words
        assert stage.command[1] == mixed.path("data-bin")  # and the cache is of the same data
        (cache,) = (plan.stages[name] for name in stage.inputs if plan.stages[name].kind == "cache")
        assert cache.command[2] == mixed.path("data-bin")
    assert not {"--restore-file", "--on-policy-part"} & set(first.command)
    assert shape(second) == shape(third) != shape(first)  # one measured round shows the time of the next
    kept = _without_teacher(third.command)
    assert not [word for word in kept if word.startswith(("--reset", "--restore", "--on-policy", "@/stages/student"))]


def option_of_prepare(plan) -> str:
    (prepare,) = (stage for stage in plan.stages.values() if stage.kind == "prepare")
    return prepare.path("data-bin")


def test_the_first_round_is_the_student_of_word_with_as_many_updates(tmp_path):
    common = {"max-tokens": 1000, "lr-scheduler": "inverse_sqrt"}
    word = plan_of(tmp_path, {"method": ["word"]}, budget={"teacher": 30, "student": 12}, common=common)
    semi = plan_of(tmp_path, ROUNDS, common=common)
    (student,) = (name for name, stage in word.stages.items() if stage.kind == "student")
    assert rounds(semi)[0].name == student


def test_a_cosine_spans_all_rounds_and_gold_data_and_decoding_can_be_chosen(tmp_path):
    options = {"lr-scheduler": "cosine", "warmup-updates": 5, "mix-gold": 3, "signal": "online", "init": "skip"}
    plan = plan_of(tmp_path, ROUNDS | options, **{"student-decode": {"strategy": "beam", "beam": 3}})
    trained = rounds(plan)
    assert {option(stage, "lr-period-updates") for stage in trained} == {"25"}
    assert ["--finetune-from-model" in stage.command for stage in trained] == [True, False, False]
    assert all("--teacher" in stage.command and "--teacher-cache" not in stage.command for stage in trained)
    for stage in plan.stages.values():
        if stage.kind == "mix":
            assert stage.command[stage.command.index("--times") :][1:3] == ["3", "1"]
        if stage.kind == "decode":
            assert (
                option(stage, "beam") == "3" and option(stage, "max-len-a") == "1.2" and "--seed" not in stage.command
            )


DECODE = "student-decode"


@pytest.mark.parametrize(
    ("factors", "sections", "message"),
    [
        ({"refresh": 0}, {}, "the factor refresh must be a whole number of updates from 1, found 0"),
        ({"refresh": 2.5}, {}, "the factor refresh must be a whole number of updates from 1, found 2.5"),
        ({"refresh": 30}, {}, "refresh 30 is not below the budget of 30 updates"),
        ({"refresh": None}, {}, "method semi-on-policy lacks the factor refresh"),
        ({"method": ["word"]}, {}, "the factor refresh has no effect with method word"),
        ({"mix-gold": 0}, {}, "mix-gold 0 leaves no gold targets"),
        ({"patience": 2}, {}, "patience in student or common cannot go with rounds"),
        ({"restore-file": "checkpoint_last.pt"}, {}, "restore-file in student or common cannot go with rounds"),
        ({"lr-scheduler": "reduce_lr_on_plateau"}, {}, "lr-scheduler reduce_lr_on_plateau may depend on epochs"),
        ({"force-anneal": 2}, {}, "force-anneal sets the learning rate by epochs"),
        ({"lr": "0.1,0.2"}, {}, "lr 0.1,0.2 sets the learning rate by epochs"),
        ({"kd-select": "batch"}, {}, "--kd-select batch cannot go with --on-policy-part"),
        ({}, {"cache": {"folder": "x"}}, "folder in cache names one cache, and each round has other data"),
        ({}, {DECODE: {"strategy": "teacher-forcing"}}, "strategy teacher-forcing in student-decode reads gold"),
        ({}, {DECODE: {"beam": 3}}, "student-decode: --beam 3 has no effect with --strategy sample"),
        ({}, {DECODE: {"seed": 3}}, "seed in student-decode is set by the study"),
        ({"method": ["word"], "refresh": None}, {DECODE: {"strategy": "beam"}}, "student-decode has no effect on any"),
        (
            {"teachers": {"two": [1, 2]}},
            {"kd": {"teacher-weights": "adaptive"}},
            "teacher-weights adaptive compares the probabilities of the gold tokens",
        ),
    ],
)
def test_specs_that_cannot_be_trained_in_rounds_are_errors(tmp_path, factors, sections, message):
    given = {name: value for name, value in (ROUNDS | factors).items() if value is not None}
    with pytest.raises(KDError, match=message) as error:
        plan_of(tmp_path, given, **sections)
    assert str(error.value).count("\n") == 0
