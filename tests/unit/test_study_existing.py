"""Studies on a data-bin, teachers, caches and distilled data that exist, and students that begin with weights of a
teacher: what is planned, what changes a key, and what is refused before anything runs."""

import json
import shutil

import pytest
import torch
from study_helpers import CONVOLUTION, LSTM, MODEL, SHORT, spec_on

from fairseq_kd.artifacts.manifest import hash_files
from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.durations import _data_of
from fairseq_kd.study.existing import Existing, unchanged
from fairseq_kd.study.show import write_results
from fairseq_kd.study.stage import resolve


@pytest.fixture
def plan(data_bin, teacher, tmp_path):
    """Plan a spec on the shared data-bin and teacher, or on others."""

    def make(on=data_bin, by=teacher, **changes):
        return open_plan(spec_on(on, by, tmp_path, **changes), tmp_path / "work")

    return make


def kinds(plan) -> list[str]:
    return [stage.kind for stage in plan.stages.values()]


def words_after(plan, kind: str, option: str) -> set:
    commands = [stage.command for stage in plan.stages.values() if stage.kind == kind]
    return {command[command.index(option) + 1] for command in commands if option in command}


def test_what_exists_is_not_made_again(plan, data_bin, teacher):
    found = plan(factors={"method": ["ce", "word", "seq"]}, decode=SHORT)
    assert sorted(set(kinds(found))) == ["cache", "decode", "evaluate", "student"]
    (row,) = found.teachers
    command = found.stages[row["results"]["test"]].command
    paths = resolve(command, "WORK", "FOLDER", None, found.as_dict()["existing"])
    assert paths[2] == str(data_bin) and paths[paths.index("--checkpoint") + 1] == str(teacher)
    assert found.spec.sections["data"]["source-lang"] == "qaa"  # from the data-bin
    for stage in found.stages.values():
        if stage.kind in ("cache", "student"):
            assert resolve([_data_of(found, stage)], "WORK", "", None, found.existing.artefacts)[0] == str(data_bin)


def test_results_name_the_existing_teacher_and_what_was_taken(plan, tmp_path, teacher):
    found = plan(question="Does it learn?")
    (tmp_path / "work").mkdir()
    results = write_results(found, tmp_path / "work")
    assert results["question"] == "Does it learn?" and results["teachers"][0]["checkpoint"] == str(teacher)
    assert results["teachers"][0]["stages"] == [] and len(results["existing"]) == 2


def test_a_copy_is_the_same_experiment_and_another_content_is_another_one(plan, data_bin, teacher, tmp_path):
    before = plan().stages.keys()
    copies = shutil.copytree(data_bin, tmp_path / "copy"), shutil.copy(teacher, tmp_path / "other-name.pt")
    (copies[0] / "notes.txt").write_text("not read")
    assert plan(*copies).stages.keys() == before
    assert plan(question="What?").stages.keys() == before
    state = torch.load(copies[1], weights_only=True)
    state["model"]["decoder.embed_tokens.weight"] += 1
    torch.save(state, copies[1])
    assert not plan(*copies).stages.keys() & before
    raw = copies[0] / "raw" / "test.qab"
    manifest = read_record(copies[0] / "manifest.json", "")
    write_record(copies[0] / "manifest.json", manifest | {"note": "made again"})
    assert raw.is_file() and not plan(copies[0], teacher).stages.keys() & before


def test_a_factor_chooses_among_existing_teachers(plan, teacher, tmp_path):
    other = shutil.copy(teacher.with_name("checkpoint_best.pt"), tmp_path / "best.pt")
    state = torch.load(other, weights_only=True)
    torch.save(state | {"note": "another file"}, other)
    factors = {"method": ["ce", "word"], "teacher.checkpoint": {"last": str(teacher), "best": str(other)}}
    found = plan(teacher=None, factors=factors)
    names = [f"method=word,teacher.checkpoint={label}" for label in ("last", "best")]
    assert list(found.cells) == ["method=ce", *names]
    assert len(words_after(found, "cache", "--teacher")) == 2 and len(found.teachers) == 2


def test_a_trained_teacher_and_an_existing_one_are_values_of_one_factor(plan, teacher):
    who = {"trained": {}, "mine": {"teacher.checkpoint": str(teacher)}}
    found = plan(teacher=None, budget=2, factors={"method": ["word"], "who": who})
    assert kinds(found).count("teacher") == 1 and kinds(found).count("cache") == 2


def test_students_that_begin_with_weights_of_the_teacher_share_them(plan):
    factors = {"method": ["ce", "word"], "init": ["random", "skip"], "seed": [1, 2], "lr": [0.1, 0.2]}
    found = plan(factors=factors)
    assert kinds(found).count("init") == 1 and kinds(found).count("student") == 16
    (start,) = words_after(found, "student", "--finetune-from-model")
    assert start.endswith("/init.pt")
    began = [cell for cell in found.cells if "init" in {found.stages[s].kind for s in found.stages_of(cell)}]
    assert len(began) == 8 and all("init=skip" in cell for cell in began)
    assert len(found.teachers[0]["cells"]) == 12  # also those of ce that begin with its weights


def test_a_teacher_that_the_study_trains_gives_its_weights_too(tmp_path, plan):
    found = plan(teacher={"encoder-layers": 2}, budget=2, factors={"method": ["ce"], "init": ["last"]})
    order = kinds(found)
    assert order.index("teacher") < order.index("init") < order.index("student")


def test_other_architectures_are_values_of_a_factor(plan):
    factors = {"method": ["word"], "model": {"transformer": {}, "lstm": LSTM, "convolution": CONVOLUTION}}
    found = plan(factors=factors)
    students = {words[words.index("--arch") + 1]: words for words in (
        stage.command for stage in found.stages.values() if stage.kind == "student")}  # fmt: skip
    assert students.keys() == {"transformer", "lstm", "fconv"}
    assert "--encoder-attention-heads" in students["transformer"]
    for name in ("lstm", "fconv"):  # they have embeddings, and no heads
        assert "--encoder-embed-dim" in students[name] and "--encoder-attention-heads" not in students[name]


WRONG = [
    ({"data": {"data-bin": "nowhere"}}, "data: data-bin nowhere is not a folder"),
    ({"data": {"data-bin": "{data}", "vocab-size": 9}}, "vocab-size in data has no effect beside data-bin"),
    ({"data": {"data-bin": "{data}", "source-lang": "xx", "target-lang": "qab"}}, "dict.xx.txt"),
    ({"evaluate": {"subsets": ["tset"]}}, "'tset', which the data lack; the nearest subset of the data is 'test'"),
    ({"evaluate": {"reference": "x", "post-process": "none"}}, "evaluate: "),
    ({"teacher": {"checkpoint": "nothing.pt"}}, "checkpoint in teacher: checkpoint nothing.pt is not there"),
    ({"teacher": {"checkpoint": "{teacher}", "dropout": 0.1}}, "dropout in teacher has no effect beside checkpoint"),
    ({"budget": {"student": 2, "teacher": 3}}, "teacher in budget has no effect, because checkpoint in teacher is"),
    ({"select": {"beam": 3}}, "beam in select has no effect, because checkpoint in teacher is given"),
    ({"factors": {"method": ["word"], "teacher.dropout": [0.1, 0.2]}}, "the factor teacher.dropout has no effect"),
    ({"factors": {"method": ["word"], "teacher-choice": ["low-loss"]}}, "the factor teacher-choice has no effect"),
    ({"cache": {"folder": "nowhere"}}, "folder in cache: teacher cache nowhere does not exist"),
    ({"cache": {"folder": "nowhere", "top-k": 3}}, "top-k in cache has no effect beside folder"),
    ({"decode": {"data-bin": "{data}"}, "factors": {"method": ["seq"]}}, "was not made by fairseq-kd decode"),
    ({"factors": {"method": ["word"], "teacher.checkpoint": [3]}}, "in the factor teacher.checkpoint must be text"),
    ({"factors": {"method": ["ce"], "init": ["frist"]}}, "'frist'; the nearest valid one is 'first'"),
    ({"factors": {"method": ["ce"], "init": ["skip"], "encoder-layers": [2]}}, "init skip: the student has 2 layers"),
    ({"factors": {"method": ["ce"], "init": ["skip"], "model": {"l": LSTM}}}, "architecture lstm, which is no transf"),
    ({"factors": {"method": ["ce"], "init": ["skip"], "decoder-ffn-embed-dim": [64]}}, "64 channels, the teacher's 32"),
    ({"factors": {"method": ["ce"], "init": ["skip"], "encoder-attention-heads": [4]}}, "encoder_attention_heads is 2"),
    ({"student": {"finetune-from-model": "{teacher}"}, "factors": {"method": ["ce"], "init": ["skip"]}},
     "init skip and finetune-from-model both say with which weights the student begins"),
    ({"question": ["a", "b"]}, "question must be one line of text"),
    ({"common": MODEL | {"encoder-haeds": 2}, "factors": {"method": ["word"], "model": {"t": {}, "l": LSTM}}}, "haeds"),
    ({"factors": {"method": ["word"], "model": {"l": LSTM | {"encoder-ffn-embed-dim": 3}}}}, "encoder-ffn-embed-dim"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_does_not_fit_is_one_error_before_anything_runs(plan, data_bin, teacher, tmp_path, changes, message):
    filled = json.loads(json.dumps(changes).replace("{data}", str(data_bin)).replace("{teacher}", str(teacher)))
    with pytest.raises(KDError) as error:
        plan(**filled)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


def test_a_teacher_with_other_dictionaries_is_refused(plan, data_bin, teacher, tmp_path):
    copy = shutil.copytree(data_bin, tmp_path / "copy")
    for name in ("dict.qaa.txt", "dict.qab.txt"):
        lines = (copy / name).read_text().splitlines()
        (copy / name).write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    manifest = read_record(copy / "manifest.json", "")
    write_record(copy / "manifest.json", manifest | {"files": hash_files(copy)})
    with pytest.raises(KDError, match=r"checkpoint in teacher: the source dictionaries of .* differ"):
        plan(copy)


@pytest.fixture
def made(data_bin, teacher, tmp_path):
    """A cache and a distilled data-bin of the shared teacher."""
    words = ["--teacher", str(teacher), "--cpu"]
    assert main(["cache", str(data_bin), *words, "--top-k", "2", "--out", str(tmp_path / "cache")]) in (0, None)
    words += ["--strategy", "teacher-forcing"]
    assert main(["decode", str(data_bin), *words, "--out", str(tmp_path / "distilled")]) in (0, None)
    return tmp_path / "cache", tmp_path / "distilled"


def test_a_cache_and_distilled_data_must_be_of_this_teacher_and_these_data(plan, data_bin, teacher, made, tmp_path):
    cache, distilled = made
    sections = {"cache": {"folder": str(cache)}, "decode": {"data-bin": str(distilled)}}
    found = plan(factors={"method": ["word", "seq"]}, **sections)
    assert sorted(set(kinds(found))) == ["evaluate", "student"]
    assert words_after(found, "student", "--teacher-cache") == {found.existing.add("cache", cache)}
    other = shutil.copy(teacher, tmp_path / "other.pt")
    torch.save(torch.load(other, weights_only=True) | {"note": 1}, other)
    for section, method, what in (("cache", "word", "the cache"), ("decode", "seq", "the distilled data-bin")):
        only = {section: sections[section], "factors": {"method": [method]}}
        with pytest.raises(KDError, match=f"{what} .* was made by .*, which is not the content of .*other.pt"):
            plan(data_bin, other, **only)
        noisy = only | {"factors": {"method": [method], "noise": [10]}}
        with pytest.raises(KDError, match="because the study makes the data itself"):
            plan(**noisy)
        with pytest.raises(KDError, match="because the study makes the teacher itself"):
            plan(**only | {"teacher": None, "budget": 2})
    with pytest.raises(KDError, match="was made for the temperature 1, the training asks for 2"):
        plan(cache=sections["cache"], factors={"method": ["word"], "temperature": [2]})


def test_a_file_that_changes_during_a_study_is_an_error(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("dict.a.txt", "train.a-b.a.bin"):
        (tmp_path / "bin" / name).write_text("one")
    existing = Existing()
    word = existing.add("data-bin", tmp_path / "bin")
    with unchanged(["x", word], existing.artefacts):
        pass
    changed = "was changed or replaced while it was read"
    with pytest.raises(KDError, match=changed), unchanged([word], existing.artefacts):
        (tmp_path / "bin" / "dict.a.txt").write_text("other")
    with (
        pytest.raises(KDError, match=r"dict\.a\.txt was changed since the study was planned"),
        unchanged([word], existing.artefacts),
    ):
        pytest.fail("the block must not run")
    (tmp_path / "bin" / "dict.a.txt").write_text("one")
    (tmp_path / "bin" / "train1.a-b.a.bin").write_text("more")
    with pytest.raises(KDError, match=r"train1\.a-b\.a\.bin is new"), unchanged([word], existing.artefacts):
        pytest.fail("the block must not run")
