"""Studies whose students learn from the teacher's translations of monolingual text: what is planned, what changes a
key, and what is refused before anything runs."""

import gzip
import json
import shutil

import pytest
from study_helpers import SHORT, spec_on, write_spec

from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.durations import _data_of
from fairseq_kd.study.report.words import about_value
from fairseq_kd.study.stage import resolve


@pytest.fixture
def text(tmp_path):
    """Two files of text in the teacher's source language, the first of them compressed."""
    paths = tmp_path / "news.gz", tmp_path / "web.txt"
    paths[0].write_bytes(gzip.compress(b"wu na kilo\ntose wu\n", mtime=0))
    paths[1].write_text("kilo na\n")
    return [str(path) for path in paths]


@pytest.fixture
def plan(data_bin, teacher, tmp_path):
    """Plan a spec on the shared data-bin and teacher, or on others."""

    def make(on=data_bin, **changes):
        changes = {"factors": {"method": ["seq"]}} | changes
        return open_plan(spec_on(on, teacher, tmp_path, **changes), tmp_path / "work")

    return make


def of_kind(plan, kind: str) -> list:
    return [stage for stage in plan.stages.values() if stage.kind == kind]


def after(command: list, option: str, words: int = 1) -> list:
    at = command.index(option) + 1
    return command[at : at + words]


def test_the_teacher_translates_the_text_in_place_of_the_training_set(plan, text, data_bin, teacher):
    found = plan(decode=SHORT | {"source-text": text}, factors={"method": ["ce", "word", "seq", "word+seq"]})
    (decoding,) = of_kind(found, "decode")
    command = resolve(decoding.command, "WORK", "FOLDER", None, found.as_dict()["existing"])
    assert command[:2] == ["fairseq-kd", "decode"] and after(command, "--source-text", 3) == [*text, "--like"]
    assert after(command, "--like") == [str(data_bin)] and after(command, "--teacher") == [str(teacher)]
    assert after(command, "--max-len-b") == ["5"] and str(data_bin) not in command[2:3]
    translated = decoding.path("data-bin")
    trained_on = {name: found.stages[cell["student"]].command[1] for name, cell in found.cells.items()}
    gold = found.existing.add("data-bin", data_bin)
    trained = {"ce": gold, "word": gold, "seq": translated, "word+seq": translated}
    assert trained_on == {f"method={method}": data for method, data in trained.items()}
    caches = {stage.command[2] for stage in of_kind(found, "cache")}
    assert caches == {gold, translated}  # word+seq: of the data that the student is trained on
    assert _data_of(found, found.stages[found.cells["method=seq"]["student"]]) == gold


def test_the_text_joins_the_gold_data_by_mix_gold(plan, text):
    found = plan(decode=SHORT | {"source-text": text[0]}, factors={"method": ["seq"], "mix-gold": [0, 2]})
    (decoding,), (mixed,) = of_kind(found, "decode"), of_kind(found, "mix")
    assert mixed.command[2:4] == [mixed.command[2], decoding.path("data-bin")]
    assert mixed.command[2].startswith("@existing/data-bin-") and after(mixed.command, "--times", 2) == ["2", "1"]
    assert len({found.stages[cell["student"]].command[1] for cell in found.cells.values()}) == 2


@pytest.mark.parametrize("short", [False, True])
def test_text_and_the_own_training_set_are_values_of_one_factor(plan, text, short):
    name, news = ("decode.source-text", text) if short else ("transfer", {"decode.source-text": text})
    factors = {"method": ["word", "seq"], name: {"own": {}, "news": news}}
    found = plan(decode=SHORT, factors=factors)
    assert list(found.cells) == ["method=word", f"method=seq,{name}=own", f"method=seq,{name}=news"]
    assert sorted("--source-text" in stage.command for stage in of_kind(found, "decode")) == [False, True]
    meaning = about_value(found.spec, name, "news")
    assert meaning == f"decode.source-text {text[0]} and {text[1]}"
    assert about_value(found.spec, name, "own") == "the default of these options"


def test_files_are_values_of_a_factor_and_relative_to_the_folder_of_the_command(plan, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan(decode=SHORT, factors={"method": ["seq"], "decode.source-text": ["news.gz", "web.txt"]})
    commands = [resolve(stage.command, "W", "F", None, found.existing.artefacts) for stage in of_kind(found, "decode")]
    assert [after(command, "--source-text") for command in commands] == [[path] for path in text]
    shown = found.as_dict()["existing"]
    assert {entry["path"] for entry in shown.values() if entry["kind"] == "text"} == set(text)


def test_the_content_of_the_text_and_its_order_are_in_the_key_and_its_path_is_not(plan, text, tmp_path):
    before = plan(decode=SHORT | {"source-text": text}).stages.keys()
    moved = [shutil.copy(path, tmp_path / f"moved{number}") for number, path in enumerate(text)]
    assert plan(decode=SHORT | {"source-text": [str(path) for path in moved]}).stages.keys() == before
    ours = {name for name in before if name.partition("-")[0] in ("decode", "student", "evaluate")}
    for other in (text[::-1], text[:1]):  # the order of the files is the order of the sentences
        assert len(ours & plan(decode=SHORT | {"source-text": other}).stages.keys()) == 1  # the teacher's evaluation
    (tmp_path / "web.txt").write_text("kilo na wu\n")
    assert len(ours & plan(decode=SHORT | {"source-text": text}).stages.keys()) == 1


def test_data_and_a_teacher_that_the_study_makes(text, tmp_path):
    factors = {"method": ["seq"], "noise": [0], "teacher-choice": ["high-score"], "mix-gold": [1]}
    section = {"source-text": text, "strategy": "greedy", "max-len-a": 1, "max-len-b": 5}
    changes = {"common": {"save-interval-updates": 10}, "kd": None, "cache": None, "evaluate": {}}
    found = open_plan(write_spec(tmp_path, factors=factors, decode=section, **changes), tmp_path / "work")
    (prepared,), (decoding,), (chosen,) = (of_kind(found, kind) for kind in ("prepare", "decode", "select"))
    assert after(decoding.command, "--like") == [prepared.path("data-bin")]
    assert set(decoding.inputs) == {prepared.name, chosen.name}


def test_noise_in_evaluation_sets_goes_with_text(plan, text):
    found = plan(decode=SHORT | {"source-text": text}, evaluate=SHORT | {"noise": [0, 10]})
    assert len(of_kind(found, "noise")) == 1 and len(of_kind(found, "evaluate")) == 4


SEQ, NOISY = {"method": ["seq"]}, {"method": ["seq"], "noise": [0, 10]}
WRONG = [
    ({"decode": {"source-text": "nowhere"}}, "decode: --source-text nowhere is not there: give files of text"),
    ({"decode": {"source-text": "{folder}"}}, "is not a file that can be read twice: give files of text"),
    ({"decode": {"source-text": ["{web}", "{web}"]}}, "web.txt is given twice"),
    ({"decode": {"source-text": ["{web}", "{copy}"]}}, "copy.txt have the same content"),
    ({"decode": {"source-text": []}}, "source-text in decode must be a file or a list of files, found []"),
    ({"decode": {"source-text": [3]}}, "source-text in decode must be text, found 3"),
    ({"decode": {"source-text": "{web}", "strategy": "teacher-forcing"}},
     "decode: --strategy teacher-forcing reads gold targets, and --source-text has none: give --strategy beam"),
    ({"decode": {"source-text": "{web}", "select": "closest", "nbest": 3}}, "--select closest compares with gold"),
    ({"decode": {"source-text": "{web}", "fallback": "reference"}}, "--fallback reference writes gold targets"),
    ({"decode": {"source-text": "{web}", "like": "{folder}"}}, "like in decode is set by the study; leave it out"),
    ({"decode": {"source-text": "{web}", "data-bin": "{folder}"}}, "source-text in decode has no effect beside data"),
    ({"decode": {"source-text": "{web}"}, "factors": NOISY}, "noise 10 has no effect on the text of source-text"),
    ({"decode": {"source-text": "{web}"}, "factors": {"method": ["word"]}}, "the section decode has no effect"),
    ({"factors": SEQ | {"decode.source-text": [["{web}"]]}}, "or a label such as decode.source-text: {more: [FILE"),
    ({"factors": SEQ | {"decode.source-text": {"more": []}}}, "must be a file or a list of files, found []"),
    ({"factors": SEQ | {"decode.beam": {"more": {"decode.beam": [1, 2]}}}}, "has the value [1, 2]"),
    ({"factors": SEQ | {"t": {"a": {"decode.source-text": "{web}", "decode.data-bin": "{folder}"}}}},
     "source-text has no effect beside data-bin in one value of a factor"),
    ({"factors": SEQ | {"t": {"a": {"decode.source-text": ["{web}"]}, "b": {"decode.source-text": "{copy}"}}}},
     "the cells t=a and t=b are the same experiment"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_does_not_fit_is_one_error_before_anything_runs(plan, text, tmp_path, changes, message):
    copy = shutil.copy(text[1], tmp_path / "copy.txt")
    filled = json.dumps(changes)
    for name, path in (("web", text[1]), ("copy", copy), ("folder", tmp_path)):
        filled = filled.replace(f"{{{name}}}", str(path))
    with pytest.raises(KDError) as error:
        plan(**json.loads(filled))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "work").exists()


def test_a_data_bin_that_does_not_say_how_its_text_became_subwords_is_refused(plan, data_bin, text, tmp_path):
    stock = shutil.copytree(data_bin, tmp_path / "stock")
    (stock / "manifest.json").unlink()  # as fairseq-preprocess leaves it
    references = shutil.move(stock / "raw", tmp_path / "raw")
    shutil.rmtree(stock / "subword")
    evaluate = SHORT | {"post-process": "none", "reference": str(references / "test.qab")}
    with pytest.raises(KDError, match=r"decode: --like .*stock does not say how its text became subwords"):
        plan(stock, decode={"source-text": text}, evaluate=evaluate)


def test_a_data_bin_that_was_made_from_text_exists_already(plan, data_bin, teacher, text, tmp_path):
    out = tmp_path / "translated"
    words = ["--source-text", *text, "--like", str(data_bin), "--teacher", str(teacher), "--strategy", "greedy"]
    assert main(["decode", *words, "--max-len-b", "5", "--cpu", "--out", str(out)]) == 0
    section = {"data-bin": str(out)}
    found = plan(decode=section, factors={"method": ["seq"], "mix-gold": [1]})
    assert sorted({stage.kind for stage in found.stages.values()}) == ["evaluate", "mix", "student"]
    assert of_kind(found, "mix")[0].command[3] == found.existing.add("data-bin", out)
    other = shutil.copytree(data_bin, tmp_path / "other")
    write_record(other / "manifest.json", read_record(other / "manifest.json", "") | {"note": "made again"})
    with pytest.raises(KDError, match=r"translated was made from another manifest\.json than the one in .*other: give"):
        plan(other, decode=section)
