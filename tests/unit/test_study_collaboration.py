"""Studies over parts of the data: which stages local models, transfer sets and consolidation need and share, by hand,
and what is refused before anything runs."""

import json
from collections import Counter

import pytest
from docs_helpers import blocks_run_by
from study_helpers import SHORT, given, spec_on, student, write_spec
from test_study_plan import kinds, plan_of

from fairseq_kd.core.errors import KDError
from fairseq_kd.search.spec import load_search
from fairseq_kd.study.cells import make_cells
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.report.words import about_value
from fairseq_kd.study.spec import load_spec

THREE = {"parts": 3, "by": "length"}
WITHOUT = {"teacher": None, "decode": None, "budget": {"student": 30}}  # sections that local models do not need


def planned(folder, **changes):
    """A checked plan on three parts, whose teachers are local models."""
    return open_plan(write_spec(folder, **WITHOUT | {"partition": THREE} | changes), folder / "work")


def of_kind(plan, kind: str) -> list:
    return [stage for stage in plan.stages.values() if stage.kind == kind]


def made_by(plan, word: str):
    """The stage that makes a file."""
    return plan.stages[word.split("/")[2]]


def named(word: str) -> list[str]:
    """The names of the stages in a word that names several files."""
    return [part.split("/")[2] for part in word.split(":")]


def test_the_local_models_of_the_other_parts_are_the_students_of_method_ce(tmp_path):
    """By hand: three local models; three students, each with a cache of two of them; the models alone and in pairs."""
    factors = {"part": [1, 2, 3], "method": ["ce", "word"], "teachers": {"others": "others"}}
    plan = planned(tmp_path, factors=factors)
    assert kinds(plan) == {"prepare": 1, "partition": 1, "student": 6, "cache": 3, "evaluate": 3 + 3 + 3}
    local = {part: student(plan, part=part, method="ce").name for part in (1, 2, 3)}
    (divided,) = of_kind(plan, "partition")
    assert divided.command[1:3] == ["partition", of_kind(plan, "prepare")[0].path("data-bin")]
    assert (given(divided)["parts"], given(divided)["by"], given(divided)["out"]) == ("3", "length", "@out/parts")
    for part in (1, 2, 3):
        own = student(plan, part=part, method="word")
        assert own.command[1] == plan.stages[local[part]].command[1] == divided.path(f"parts/part{part}")
        cache = made_by(plan, given(own)["teacher-cache"])
        assert cache.command[2] == divided.path(f"parts/part{part}")  # it teaches on the own data of the part
        assert named(given(cache)["teacher"]) == [local[other] for other in (1, 2, 3) if other != part]
    whole = of_kind(plan, "prepare")[0].path("data-bin")
    assert {stage.command[2] for stage in of_kind(plan, "evaluate")} == {whole}
    assert {row.get("name") for row in plan.teachers if ":" not in row["checkpoint"]} == {
        f"part {part}, seed 1" for part in (1, 2, 3)
    }


def test_consolidation_on_the_union_of_the_sources_is_one_student_for_all_parts(tmp_path):
    """By hand, per seed: three local models, one choice, which is also the best model; targets and cache once; one
    student for each kind of weights. Evaluations: the models, their ensemble, the best, the mean, two students."""
    factors = {
        "part": [1, 2, 3],
        "method": ["ce", "word", "soup", "best", "ensemble"],
        **{"teachers": {"all": "all"}, "init": ["ce", "best-score"], "transfer": ["union"], "seed": [1, 2]},
        "teacher-weights": ["equal", "adaptive"],
    }
    exclude = [{"method": "ce", "init": "best-score"}, {"method": "word", "init": "ce"}]
    plan = planned(tmp_path, factors=factors, exclude=exclude)
    students = 3 + 3 + 2  # the local models, which go on as `ce`; the two consolidated ones
    assert kinds(plan) == {
        **{"prepare": 1, "partition": 1, "student": 2 * students, "select": 2, "decode": 2, "cache": 2 * 2},
        **{"average": 2, "evaluate": 2 * (3 + 3 + 1 + 1 + 1 + 2)},
    }
    counts = Counter(cell["factors"]["method"] for cell in plan.cells.values())
    assert counts == {"ce": 6, "word": 4, "soup": 2, "best": 2, "ensemble": 2}
    begun = student(plan, method="word", seed=1, **{"teacher-weights": "equal"})
    local = named(given(made_by(plan, given(begun)["teacher-cache"]))["teacher"])
    (chosen,) = {stage.name for stage in of_kind(plan, "select") if local[0] in stage.inputs}
    assert given(begun)["finetune-from-model"] == f"@/stages/{chosen}/teacher.pt"
    assert (
        named(given(plan.stages[chosen])["checkpoints"]) == local and given(plan.stages[chosen])["by"] == "high-score"
    )
    (decoding,) = (stage for stage in of_kind(plan, "decode") if stage.name == begun.command[1].split("/")[2])
    assert decoding.command[2] == of_kind(plan, "prepare")[0].path("data-bin")  # the sources of all parts
    assert given(decoding)["fallback"] == "drop" and named(given(decoding)["teacher"]) == local
    best = next(
        cell for cell in plan.cells.values() if cell["factors"] == {"method": "best", "teachers": "all", "seed": 1}
    )
    assert given(plan.stages[best["results"]["test"]])["checkpoint"] == f"@/stages/{chosen}/teacher.pt"
    assert best["student"] is None


def test_the_own_gold_data_can_join_the_union_and_no_other(tmp_path):
    factors = {"part": [1, 2], "method": ["seq"], "teachers": {"all": "all"}, "transfer": ["union"], "mix-gold": [1]}
    plan = planned(tmp_path, factors=factors)
    (divided,), (decoding,), mixed = (of_kind(plan, kind) for kind in ("partition", "decode", "mix"))
    assert [stage.command[2:4] for stage in mixed] == [
        [divided.path(f"parts/part{part}"), decoding.path("data-bin")] for part in (1, 2)
    ]


def test_transfer_own_and_text_choose_whether_the_text_is_used(tmp_path):
    text = tmp_path / "news.txt"
    text.write_text("wu na kilo\n")
    factors = {
        "part": [2],
        "method": ["ce", "word", "seq"],
        "teachers": {"others": "others"},
        "transfer": ["own", "text"],
    }
    plan = planned(tmp_path, factors=factors, decode={"source-text": str(text), "max-len-a": 1})
    (divided,) = of_kind(plan, "partition")
    own, translated = divided.path("parts/part2"), student(plan, method="seq", transfer="text").command[1]
    assert student(plan, method="word", transfer="own").command[1] == own
    assert student(plan, method="word", transfer="text").command[1] == translated
    decoded = {word.split("/")[2] for word in (translated, student(plan, method="seq", transfer="own").command[1])}
    assert sorted("--source-text" in plan.stages[name].command for name in decoded) == [False, True]
    assert [cell["factors"] for cell in plan.cells.values() if cell["factors"]["method"] == "ce"] == [
        {"part": 2, "method": "ce"}
    ]


def test_the_local_models_teach_each_other_in_one_training_on_the_union(tmp_path):
    """By hand: on the own data a training per part; on the union, which is the same for all, one training."""
    factors = {"part": [1, 2, 3], "method": ["mutual"], "peers": ["parts"], "transfer": ["own", "union"]}
    plan = planned(tmp_path, factors=factors)
    assert kinds(plan) == {"prepare": 1, "partition": 1, "student": 3 + 3 + 1, "decode": 1, "split": 4, "evaluate": 6}
    together = student(plan, part=3, transfer="union")
    peers = given(together)["peers"]
    assert given(together)["arch"] == "kd_mutual" and "encoder-layers" not in given(together)
    assert [plan.stages[name].command[1][-5:] for name in named(peers)] == ["part1", "part2", "part3"]
    assert given(made_by(plan, together.command[1]))["teacher"] == peers
    assert student(plan, part=1, transfer="union") == together
    evaluated = [plan.cells[f"part={part},transfer=union"]["results"]["test"] for part in (1, 3)]
    assert [given(plan.stages[name])["checkpoint"].split("/")[4] for name in evaluated] == ["peer1", "peer3"]


def test_a_teacher_of_the_section_is_trained_on_the_whole_data_and_once_for_all_parts(tmp_path):
    factors = {"part": [1, 2, "whole"], "method": ["word"], "noise": [10]}
    plan = plan_of(tmp_path, partition=THREE, decode=None, factors=factors)
    assert kinds(plan) == {
        **{"prepare": 1, "partition": 1, "noise": 3, "teacher": 1, "cache": 3, "student": 3, "evaluate": 4}
    }
    (taught,), (divided,) = of_kind(plan, "teacher"), of_kind(plan, "partition")
    noised = made_by(plan, taught.command[1])
    assert given(noised)["data-bin"] == of_kind(plan, "prepare")[0].path("data-bin")
    assert divided.command[2] == given(noised)["data-bin"]  # the data are divided before noise


def test_models_of_other_shapes_teach_and_the_student_gets_the_shape_of_the_chosen_one(tmp_path):
    wide = {"part": 2, "encoder-ffn-embed-dim": 64, "decoder-ffn-embed-dim": 64}
    factors = {"part": [1], "method": ["word"], "teachers": {"wide": [{"part": 1}, wide]}, "init": ["largest"]}
    plan = planned(tmp_path, factors=factors)
    own, other = (plan.stages[name] for name in named(given(of_kind(plan, "select")[0])["checkpoints"]))
    assert [given(one)["encoder-ffn-embed-dim"] for one in (own, other)] == ["32", "64"]
    assert given(other)["seed"] == given(own)["seed"]
    learnt = student(plan)
    assert given(learnt)["arch"] == "kd_student" and given(learnt)["like"] == given(learnt)["finetune-from-model"]
    assert not {"encoder-layers", "encoder-ffn-embed-dim"} & given(learnt).keys()
    same = planned(tmp_path, factors=factors | {"teachers": {"all": "all"}})
    assert "like" not in given(student(same)) and given(student(same))["encoder-layers"] == "1"


@pytest.mark.parametrize(
    ("init", "by"),
    [("best-score", "high-score"), ("lowest-loss", "low-loss"), ("largest", "largest"), ("random-model", "random")],
)
def test_each_start_is_one_way_to_choose_among_the_teachers_and_the_own_model(tmp_path, init, by):
    factors = {"part": [2], "method": ["word"], "teachers": {"others": "others"}, "init": [init], "seed": [7]}
    plan = planned(tmp_path, factors=factors)
    (chosen,) = of_kind(plan, "select")
    assert given(chosen)["by"] == by and given(chosen).get("seed") == ("7" if by == "random" else None)
    parts = [plan.stages[name].command[1][-5:] for name in named(given(chosen)["checkpoints"])]
    assert parts == ["part1", "part2", "part3"]  # in the order of the parts, so all parts share the choice


def test_partitionings_are_values_of_a_factor_and_a_partition_without_effect_adds_no_cell(tmp_path):
    rules = {"uniform": {"partition.by": "uniform"}, "skewed": {"partition.by": "quantity", "partition.alpha": 0.5}}
    factors = {"partitioning": rules, "part": [1, "whole"], "method": ["ce"]}
    plan = planned(tmp_path, partition={"parts": 2}, factors=factors)
    assert list(plan.cells) == ["partitioning=uniform,part=1", "part=whole", "partitioning=skewed,part=1"]
    assert [given(stage).get("alpha") for stage in of_kind(plan, "partition")] == [None, "0.5"]
    described = {value: about_value(plan.spec, "part", value) for value in (1, "whole")}
    assert described == {1: "part 1", "whole": "the whole training set"}
    sets = {"rest": "others", "wide": {"part": "all", "dropout": 0.3}, "two": [{"part": 2}]}
    plan = planned(tmp_path, factors={"part": [1], "method": ["word"], "teachers": sets})
    assert [about_value(plan.spec, "teachers", label) for label in sets] == [
        "the local models of the other parts",
        "the local models of all parts with dropout 0.3",
        "part 2",
    ]


def test_the_spec_of_the_page_can_be_planned(tmp_path):
    (block,) = blocks_run_by("test_the_spec_of_the_page_can_be_planned")
    path = tmp_path / "spec.yaml"
    path.write_text(block.text)
    plan = open_plan(path, tmp_path / "work")
    assert kinds(plan) == {"prepare": 1, "partition": 1, "student": 3 + 3 + 3, "cache": 3, "evaluate": 6 + 3 + 3}


def test_the_shipped_study_has_what_its_comment_says(tmp_path):
    """By hand, per partitioning and seed: 3 local models; per part ce, word plain and tuned, two dp, mutual; two
    consolidated students."""
    plan = open_plan("collaboration", tmp_path / "work")
    groups = 5 * 3
    assert kinds(plan)["student"] == groups * (3 + 3 * (1 + 2 + 2 + 1) + 2)
    assert kinds(plan)["partition"] == 5 and kinds(plan)["select"] == kinds(plan)["average"] == groups
    counts = Counter(cell["factors"]["method"] for cell in plan.cells.values())
    assert counts == {
        **{"ce": groups * 3, "word": groups * (3 * 2 + 2), "dp": groups * 6, "mutual": groups * 3},
        **{"soup": groups, "best": groups, "ensemble": groups},
    }


TWO = {"part": [1, 2], "method": ["word"], "teachers": {"others": "others"}}
UNION = TWO | {"transfer": ["union"]}
WRONG = [
    ({"factors": TWO, "partition": {"parts": 3}}, "partition lacks 'by'"),
    ({"factors": TWO, "partition": None}, "partition lacks 'parts': parts need a section such as partition: {parts"),
    ({"factors": TWO | {"part": [4]}}, "part 4 does not exist: the partition has 3 parts"),
    ({"factors": TWO | {"part": [0]}}, "the factor part has the value 0; a value must be the number of a part from 1"),
    ({"factors": TWO | {"part": ["own"]}}, "the factor part has the value 'own'"),
    ({"factors": TWO, "partition": THREE | {"parts": 1}}, "parts in partition must be a whole number from 2, found 1"),
    ({"factors": TWO, "partition": THREE | {"out": "x"}}, "out in partition is set by the study"),
    ({"factors": TWO, "partition": THREE | {"alhpa": 1}}, "unknown key 'alhpa' in partition; the nearest valid one is"),
    ({"factors": TWO | {"part": ["whole"]}}, "teachers others are the local models of the other parts, and this cell"),
    ({"factors": TWO | {"teachers": {"a": {"part": 9}}}}, "part 9 does not exist: the partition has 3 parts"),
    ({"factors": TWO | {"teachers": {"a": {"part": "x"}}}}, "has the part 'x'; it must be the number of a part"),
    ({"factors": TWO | {"teachers": {"a": {"part": 2, "seed": 3}}}}, "seed in the value 'a' of the factor teachers"),
    ({"factors": TWO | {"teachers": {"a": [{"part": 1}, {"part": 1}]}}}, "names the teacher part 1 twice"),
    ({"factors": {"method": ["ce"]}}, "the section partition has no effect on any cell; leave it out"),
    ({"factors": TWO, "teacher": {"dropout": 0.3}}, "the section teacher has no effect on any cell; leave it out"),
    ({"factors": TWO | {"teachers": {"a": {"part": 1}}, "method": ["soup"]}}, "the factor part has no effect"),
    ({"factors": {"method": ["soup"], "teachers": {"a": {"part": 1}}}}, "method soup needs several models, and"),
    ({"factors": {"method": ["best"], "teachers": {"a": {"part": 1}}}}, "method best needs several models, and"),
    ({"factors": {"method": ["soup"], "teachers": {"a": [{"part": 1}, {"part": 2, "decoder-layers": 2}]}}},
     "method soup needs models of equal shape, and decoder_layers is 1 in teacher 1 and 2 in teacher 2: exclude"),
    ({"factors": {"method": ["soup"], "teachers": {"a": [{"part": 1}, {"part": 2, "arch": "lstm"}]}}},
     "method soup needs models of equal shape, and arch is kd_student in teacher 1 and lstm in teacher 2"),
    ({"factors": TWO | {"teachers": {"a": {"part": 3, "arch": "lstm"}}, "init": ["best-score"]}},
     "init best-score needs models of equal shape, or students of fairseq_kd (kd_student): arch is kd_student"),
    ({"factors": {"method": ["word"], "teachers": {"a": {"part": 3}}, "init": ["largest"]}},
     "init largest chooses among several models, and this cell has one: give several"),
    ({"factors": UNION, "decode": {"fallback": "reference"}}, "transfer union and fallback reference: it takes gold"),
    ({"factors": UNION, "decode": {"strategy": "teacher-forcing"}}, "transfer union and strategy teacher-forcing: it"),
    ({"factors": UNION, "decode": {"select": "closest", "nbest": 2}}, "transfer union and select closest: it comp"),
    ({"factors": UNION, "decode": {"data-bin": "x"}}, "transfer union and data-bin in decode: nothing shows that"),
    ({"factors": UNION | {"method": ["hybrid"]}}, "transfer union and method hybrid: a transfer set has"),
    ({"factors": UNION | {"method": ["dp"]}}, "transfer union and method dp: a transfer set has no gold targets, and"),
    ({"factors": {"part": [1], "method": ["mutual"], "transfer": ["union"]}},
     "transfer union and method mutual: a transfer set has no gold targets, and new peers cannot make targets; give"),
    ({"factors": TWO | {"transfer": ["text"]}}, "transfer text needs the files of the text: give"),
    ({"factors": TWO | {"transfer": ["others"]}}, "the factor transfer has the value 'others'"),
    ({"factors": {"method": ["mutual"], "peers": ["parts"]}}, "peers parts are the local models of all parts, and"),
    ({"factors": {"part": [1], "method": ["mutual"], "peers": ["parts"], "init": ["random"]}},
     "peers parts begin with the local models, so init random has no effect"),
    ({"factors": {"part": [1], "method": ["mutual"], "init": ["best-score"]}}, "init best-score and method mutual"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_what_does_not_fit_is_one_error_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(KDError) as error:
        planned(tmp_path, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


def test_a_search_has_no_parts(tmp_path):
    search = {"algorithm": "grid", "parameters": {"kd-weight": [0.3, 0.7]}, "teachers": "all"}
    path = tmp_path / "search.yaml"
    path.write_text(json.dumps({"recipe": "synthetic", "search": search}))
    with pytest.raises(KDError, match="teachers in search has a part, and a search has no partition: give checkpoints"):
        load_search(path)


def test_existing_teachers_are_consolidated_on_existing_data(data_bin, teacher, tmp_path):
    from helpers import write_variant

    other = tmp_path / "other.pt"
    write_variant(teacher, other, 0.3, 7)
    factors = {"method": ["word", "soup", "best"], "teachers": {"both": [str(teacher), str(other)]}}
    sections = {"select": SHORT, "decode": SHORT}
    factors |= {"init": ["lowest-loss"], "transfer": ["union"]}
    plan = open_plan(spec_on(data_bin, teacher, tmp_path, teacher=None, factors=factors, **sections), tmp_path / "work")
    assert kinds(plan) == {"select": 2, "average": 1, "decode": 1, "cache": 1, "student": 1, "evaluate": 3 + 3}
    assert {given(stage)["max-len-b"] for stage in of_kind(plan, "select")} == {"5"}


def test_cells_of_a_spec_without_parts_have_neither_part_nor_transfer(tmp_path):
    (cell,) = make_cells(load_spec(write_spec(tmp_path, factors={"method": ["ce"]}, teacher=None, decode=None))).cells
    assert (cell.settings["part"], cell.settings["transfer"], cell.settings["partition"]) == ("whole", None, {})
