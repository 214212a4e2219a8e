"""`fairseq-kd study init`: every answer gives a spec that `study plan` accepts, and nothing is overwritten."""

import itertools
import os
import shutil
from argparse import Namespace

import pytest
import torch
from docs_helpers import blocks_run_by

from fairseq_kd.cli.main import main
from fairseq_kd.core.yaml_file import read_yaml
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.questions import QUESTIONS, sized

DATA = ("corpus", "text", "data-bin")
TEACHERS = ("trained", "existing")


@pytest.fixture(scope="module")
def other_teacher(teacher, tmp_path_factory):
    path = shutil.copy(teacher, tmp_path_factory.mktemp("other") / "other.pt")
    torch.save(torch.load(path, weights_only=True) | {"note": "another file"}, path)
    return path


@pytest.fixture
def words(data_bin, corpus, teacher, other_teacher, tmp_path):
    """The command line for a kind of data, of teachers, and a question."""

    def make(data: str, taught: str, question: str) -> list[str]:
        given = {"corpus": ["synthetic"], "data-bin": [data_bin], "text": [corpus, "-s", "qaa", "-t", "qab"]}[data]
        teachers = [teacher, other_teacher] if question == "teacher-size" else [teacher]
        options = ["--teacher", *teachers] if taught == "existing" else []
        spec = tmp_path / "mine.yaml"
        return [str(word) for word in ("study", "init", spec, "--data", *given, "--question", question, *options)]

    return make


KINDS = list(itertools.product(DATA, TEACHERS))
ALL = [(question, *kind) for question in QUESTIONS for kind in KINDS]
# a question per case and every kind of data and teacher; all cases with FAIRSEQ_KD_SLOW=1
SOME = [(question, *KINDS[number % len(KINDS)]) for number, question in enumerate(QUESTIONS)]


@pytest.mark.parametrize(("question", "data", "taught"), ALL if os.environ.get("FAIRSEQ_KD_SLOW") else SOME)
def test_every_question_gives_a_spec_that_is_planned(words, data, taught, question, tmp_path, capsys):
    assert main([*words(data, taught, question), "--seeds", "1"]) == 0
    said = capsys.readouterr().out
    assert f"fairseq-kd study plan {tmp_path / 'mine.yaml'} --out runs/mine" in said
    content = read_yaml(tmp_path / "mine.yaml", "spec")
    assert content["question"] == QUESTIONS[question].text and content["factors"]["seed"] == [1]
    plan = open_plan(tmp_path / "mine.yaml", tmp_path / "work")
    kinds = {stage.kind for stage in plan.stages.values()}
    assert ("teacher" in kinds) == (taught == "trained") and ("prepare" in kinds) == (data != "data-bin")


def test_the_page_writes_a_spec_and_plans_it(tmp_path, monkeypatch, capsys):
    (block,) = blocks_run_by("test_the_page_writes_a_spec_and_plans_it")
    monkeypatch.chdir(tmp_path)
    for command in block.commands():
        assert main(command.split()[1:]) == 0, command
    assert "study mine: 9 cells" in capsys.readouterr().out


def test_the_file_says_what_each_section_is_for(words, tmp_path):
    assert main([*words("data-bin", "existing", "noise"), "--updates", "70"]) == 0
    lines = (tmp_path / "mine.yaml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if line and line[0].isalpha()]
    assert len(keys) > 6 and all(lines[number - 1].startswith("# ") for number in keys)
    content = read_yaml(tmp_path / "mine.yaml", "spec")
    assert content["budget"] == {"student": 70} and content["factors"]["seed"] == [1, 2, 3]


def test_a_width_keeps_the_proportions_of_the_model():
    args = Namespace(**{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (
        ("embed_dim", 48), ("ffn_embed_dim", 96), ("attention_heads", 4))})  # fmt: skip
    found = sized(args, 24)
    assert (found["encoder-embed-dim"], found["decoder-ffn-embed-dim"], found["encoder-attention-heads"]) == (24, 48, 4)
    assert sized(args, 6)["decoder-attention-heads"] == 2  # 6 is not divisible by 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--question": "nosie"}, "--question nosie: unknown; the nearest valid one is 'noise'"),
        ({"--question": None}, "study init needs --question: give word-vs-seq"),
        ({"--data": None}, "study init needs --data: give a corpus"),
        ({"--data": "multi40k"}, "--data multi40k is neither a folder nor a known corpus"),
        ({"--seeds": "0"}, "--seeds 0: must be at least 1"),
        ({"--updates": "-1"}, "--updates -1: must be at least 1"),
        ({"--teacher": "a.pt"}, "a.pt is not there"),
        ({"--out": "work"}, "--out: no effect with study init"),
        ({"spec": "mine"}, "mine is not the name of a spec: give a file that ends with .yaml"),
        ({"--question": "teacher-size", "--teacher": "a.pt"}, "compares teachers: give two or more files"),
        ({"--data": "."}, "is a folder of text: give its languages by --source-lang and --target-lang"),
    ],
    ids=str,
)
def test_an_answer_that_cannot_be_used_is_one_error_and_no_file(tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    given = {"spec": "mine.yaml", "--data": "synthetic", "--question": "noise"} | change
    options = [word for name, value in given.items() if name != "spec" and value is not None for word in (name, value)]
    monkeypatch.setattr("fairseq_kd.study.new_spec._data_of_teacher", lambda data, _: data)
    assert main(["study", "init", given["spec"], *options]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_two_teachers_are_for_the_question_about_teachers(words, other_teacher, capsys):
    assert main([*words("data-bin", "existing", "noise"), str(other_teacher)]) == 2
    assert "--teacher names 2 files, and --question noise needs one" in capsys.readouterr().err


def test_a_file_that_exists_is_kept_unless_it_may_be_replaced(words, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("precious")
    assert main(words("corpus", "trained", "word-vs-seq")) == 2
    assert "mine.yaml exists, and nothing is overwritten" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert main([*words("corpus", "trained", "word-vs-seq"), "--replace"]) == 0
    assert read_yaml(tmp_path / "mine.yaml", "spec")["recipe"] == "synthetic"


@pytest.mark.parametrize("action", ["plan", "run", "status", "report"])
def test_the_other_actions_need_a_folder_and_take_no_answers(action, capsys):
    assert main(["study", action, "smoke"]) == 2
    assert f"study {action} needs --out WORK" in capsys.readouterr().err
    assert main(["study", action, "smoke", "--out", "x", "--question", "noise"]) == 2
    assert f"--question: no effect with study {action}, only with study init" in capsys.readouterr().err
