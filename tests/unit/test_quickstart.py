import fcntl
import os
import select
import struct
import termios
import threading
from dataclasses import replace

import pytest
import torch
import yaml
from conftest import ROOT
from fairseq import options

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress, format_seconds
from fairseq_kd.corpus.corpora import CORPORA, usual_options
from fairseq_kd.federated.spec import load_spec as load_federated
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.models.student import SIZES, dimensions
from fairseq_kd.quickstart import run as quickstart
from fairseq_kd.quickstart.recipe import available_recipes, find_recipe, load_recipe
from fairseq_kd.quickstart.run import (
    DISTILLED,
    PLAIN,
    TEACHER,
    _training_arguments,
    _training_options,
    check_trainings,
    run_quickstart,
)
from fairseq_kd.quickstart.table import format_table
from fairseq_kd.study.spec import load_spec, shipped_specs
from fairseq_kd.training.arguments import RESERVED, to_arguments, training_arguments
from fairseq_kd.training.run import restore_last_checkpoint

DATA = {"name": "text", "source-lang": "qaa", "target-lang": "qab", "vocab-size": 1000}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_of_configs_is_read_by_what_uses_it(path):
    if path.parent.name in ("quickstart", "datasets"):
        recipe = load_recipe(path)
        assert recipe.teacher["encoder-embed-dim"] > recipe.student["encoder-embed-dim"]
    elif path.name == "students.yaml":
        assert all(dimensions(size)["embed_dim"] % dimensions(size)["attention_heads"] == 0 for size in SIZES)
    elif path.parent.name == "kd":
        assert yaml.safe_load(path.read_text()).keys() == {"select-teacher", "kd"}  # more in test_robust.py
    elif path.parent.name == "studies":
        assert load_spec(path).name in shipped_specs()
    elif path.parent.name == "searches":
        assert path.stem in shipped_specs("searches")  # more in test_search_command.py
    elif path.parent.name == "federated":
        assert load_federated(path).values["recipe"] in available_recipes()
    else:
        assert path.parent.name == "hydra", "say here who reads this file"
        assert yaml.safe_load(path.read_text())["criterion"]["_name"] == path.stem


def test_recipes_are_found_by_name():
    assert available_recipes() == sorted(CORPORA.keys() - {"text"})
    assert all(find_recipe(name).stem == load_recipe(find_recipe(name)).data["name"] for name in available_recipes())


@pytest.mark.parametrize("name", sorted(name for name, corpus in CORPORA.items() if corpus.usual))
@pytest.mark.parametrize("model", [TEACHER, PLAIN, DISTILLED])
def test_recipes_of_corpora_are_understood_by_fairseq(name, model, tmp_path):
    """Every option reaches the configuration as the recipe gives it."""
    recipe = load_recipe(find_recipe(name))
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "teacher.pt").write_bytes(b"")
    signal = tmp_path if recipe.signal == "cache" else tmp_path / "teacher.pt"
    arguments, _ = _training_options(recipe, model, tmp_path, signal, 1, cpu=True)
    parsed = vars(options.parse_args_and_arch(options.get_training_parser(), arguments))
    section = recipe.teacher if model == TEACHER else recipe.student
    for option, value in (recipe.common | section | (recipe.kd if model == DISTILLED else {})).items():
        found = parsed[option.replace("-", "_")]
        assert found == ([value] if isinstance(found, list) else value), option
    # teacher and student are named by architectures of fairseq, whose sizes the recipe repeats or changes
    assert parsed["decoder_embed_dim"] == parsed["encoder_embed_dim"]
    given = {key.replace("-", "_"): recipe.data[key] for key in ("vocab-size", "form") if key in recipe.data}
    usual = usual_options(name, given)
    assert usual == usual_options(name, {}), "the corpus is prepared as `fairseq-kd prepare` does it"


def test_all_models_have_one_criterion_and_the_precision_that_the_recipe_gives(tmp_path):
    recipe = load_recipe(find_recipe("synthetic"))
    fast = replace(recipe, common=recipe.common | {"precision": "bfloat16"})
    mixed = replace(fast, student=recipe.student | {"precision": "float32"})
    found = {}
    for model in (TEACHER, PLAIN, DISTILLED):
        usual, *others = (_training_arguments(each, model, "D", "T", 1, True) for each in (recipe, fast, mixed))
        assert usual[usual.index("--criterion") + 1] == "kd_word" and "--autocast" not in usual
        found[model] = [_without(words, "--autocast") == usual and "--autocast" in words for words in others]
        assert usual[usual.index("--kd-weight") + 1] == ("0.7" if model == DISTILLED else "0")
        assert ("--teacher-cache" in usual) == (model == DISTILLED) and "--teacher" not in usual
        online = _training_arguments(replace(recipe, signal="online"), model, "D", "T", 1, True)
        assert online == ["--teacher" if word == "--teacher-cache" else word for word in usual]
    assert found == {TEACHER: [True, True], PLAIN: [True, False], DISTILLED: [True, False]}


def test_a_precision_that_the_cpu_lacks_is_refused_before_anything_runs(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx2\n", encoding="utf-8")
    monkeypatch.setattr("fairseq_kd.inference.precision.CPUINFO", cpuinfo)
    recipe = load_recipe(find_recipe("synthetic"))
    fast = replace(recipe, common=recipe.common | {"precision": "bfloat16"})
    check_trainings(recipe, torch.device("cpu"))
    with pytest.raises(KDError, match="teacher or common: precision bfloat16: this CPU has no instructions"):
        check_trainings(fast, torch.device("cpu"))


@pytest.mark.parametrize(
    ("cores", "cpu", "expected"), [(5, True, [(["a", "b"], 2)]), (1, True, [(["a"], None), (["b"], None)])]
)
def test_students_share_the_threads_of_the_cpu_and_train_in_turn_on_one_core(monkeypatch, cores, cpu, expected):
    calls = []

    def train(trainings, threads=None):
        calls.append((trainings, threads))
        return [f"record of {name}" for name in trainings]

    monkeypatch.setattr(quickstart, "train_side_by_side", train)
    monkeypatch.setattr(quickstart, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert quickstart._train_students(["a", "b"], cpu) == ["record of a", "record of b"]
    assert calls == expected


def test_with_a_cache_the_type_and_temperature_of_the_teacher_reach_the_cache(monkeypatch, tmp_path):
    recipe = load_recipe(find_recipe("synthetic"))
    recipe = replace(recipe, kd=recipe.kd | {"teacher-dtype": "bfloat16", "teacher-temperature": 2})
    given = {}
    monkeypatch.setattr(quickstart, "cache_teacher", lambda *_, **options: given.update(options))
    quickstart._cached(recipe, "D", "T", tmp_path, True)
    assert given == {"temperatures": (2.0,), "cpu": True, "teacher_dtype": "bfloat16"}
    words = _training_arguments(recipe, DISTILLED, "D", "T", 1, True)
    assert "--teacher-dtype" not in words and words[words.index("--teacher-temperature") + 1] == "2"


def _without(words, option):
    at = words.index(option) if option in words else len(words)
    return [*words[:at], *words[at + 2 :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"techer": {}}, "unknown key 'techer' in the recipe; the nearest valid one is 'teacher'"),
        ({"data": {"name": "text", "langs": 1}}, "unknown key 'langs' in data"),
        ({"data": {"name": "text"}}, "data lacks 'source-lang'"),
        ({"data": {"name": "text", "source_land": "de"}}, "unknown key 'source_land' in data; .* is 'source-lang'"),
        (
            {"data": DATA | {"source_lang": "de"}},
            "source-lang is given twice in data, also as source_lang; take one out",
        ),
        ({"corpus": DATA}, "data is given twice in the recipe, also as corpus; take one out"),
        ({"evaluate": {"bem": 5}}, "unknown key 'bem' in evaluate; the nearest valid one is 'beam'"),
        ({"kd": {"max-update": 9}}, "unknown key 'max-update' in kd"),
        ({"common": {"cpu": True}}, "cpu in common is set by the quickstart"),
        ({"common": {"autocast": "bfloat16"}}, "autocast in common is set by the quickstart itself; give precision"),
        ({"student": {"precision": "fp16"}}, "precision in student must be float32 or bfloat16, found 'fp16'"),
        ({"kd": {"precision": "bfloat16"}}, "unknown key 'precision' in kd"),
        ({"kd": None}, "kd must be a mapping, found nothing"),
        ({"teacher": {}}, "max-update is needed"),
        ({"signal": "disk"}, "signal has the value 'disk'; it must be cache .* or online "),
        ({"signal": None}, "signal has the value None; it must be cache"),
    ],
)
def test_a_wrong_recipe_names_the_key(tmp_path, change, message):
    content = yaml.safe_load((ROOT / "configs/quickstart/synthetic.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content | change))
    with pytest.raises(KDError, match=message):
        load_recipe(path)


def test_a_recipe_with_the_keys_of_version_0_1_0_is_read_as_before(tmp_path):
    content = yaml.safe_load((ROOT / "configs/quickstart/synthetic.yaml").read_text())
    former = {name: content[name] for name in ("common", "teacher", "student", "kd")}
    former["corpus"] = {"name": "synthetic", "source_lang": "qaa", "target_lang": "qab", "vocab_size": 1000}
    path = tmp_path / "synthetic.yaml"
    path.write_text(yaml.safe_dump(former | {"decoding": {"beam": 5, "lenpen": 1.0}}))
    now = load_recipe(ROOT / "configs/quickstart/synthetic.yaml")
    assert replace(load_recipe(path), path=now.path) == replace(now, signal="online")
    assert now.data == DATA | {"name": "synthetic"}


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (
            "student",
            {"max_tokens": 9},
            "student or common: unknown key 'max_tokens'; the nearest valid one is 'max",
        ),
        ("teacher", {"arch": "transfomer"}, "teacher or common: --arch transfomer: unknown; the nearest valid one is"),
        ("kd", {"kd-weight": 3}, "student, common or kd: --kd-weight 3.0: must be from 0"),
        ("common", {"kd-weight": 0.5}, "teacher or common: kd-weight has no effect on a training without a teacher"),
        ("student", {"kd-divergence": "js"}, "student or common: --kd-divergence js has no effect without --teacher"),
    ],
)
def test_a_training_that_fairseq_would_refuse_is_refused_before_the_data_are_made(tmp_path, section, options, message):
    content = yaml.safe_load((ROOT / "configs/quickstart/synthetic.yaml").read_text())
    content[section] |= options
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(KDError) as error:
        run_quickstart(load_recipe(path), tmp_path / "data-bin", tmp_path / "out", seeds=1)
    assert str(error.value).startswith(f"{path}: {message}")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_options_become_arguments():
    assert to_arguments({"lr": 0.1, "cpu": True, "fp16": False}) == ["--lr", "0.1", "--cpu"]


def test_the_table_shows_every_seed_and_the_difference_of_the_means():
    def row(model, seed, bleu):
        result = {"parameters": 1234567, "bleu": {"score": bleu}, "chrf": {"score": 60.0}, "seconds": 2.0}
        return {"model": model, "seed": seed, "result": result, "training": {"seconds": 61.4}}

    rows = [
        row(TEACHER, 1, 40.0),
        row(PLAIN, 1, 30.0),
        row(DISTILLED, 1, 31.0),
        row(PLAIN, 2, 31.0),
        row(DISTILLED, 2, 33.0),
    ]
    table = format_table(rows)
    assert "distilled - plain: +1.50 BLEU (32.00 against 30.50, mean of 2 seeds)" in table
    assert table.count("1,234,567") == 5


def test_no_option_that_every_training_is_given_can_be_set_in_a_recipe_and_lost():
    words = training_arguments("data", "a", "b", {"lr-scheduler": "polynomial_decay", "max-update": 9}, cpu=True)
    given = {word.removeprefix("--") for word in words if word.startswith("--")}
    assert given - {"lr-scheduler", "max-update"} <= set(RESERVED) and "update-epoch-batch-itr" in given


def test_half_a_checkpoint_is_replaced_by_the_newest_whole_one(tmp_path, teacher, capsys):
    last = tmp_path / "checkpoint_last.pt"
    last.write_bytes(teacher.read_bytes()[:2000])
    (tmp_path / "checkpoint_1_20.pt").write_bytes(teacher.read_bytes())
    updates = restore_last_checkpoint(tmp_path)
    assert last.read_bytes() == teacher.read_bytes()
    assert updates == restore_last_checkpoint(tmp_path) == read_checkpoint(last)["optimizer_history"][-1]["num_updates"]
    assert "continuing from checkpoint_1_20.pt" in capsys.readouterr().err
    last.write_bytes(b"")
    (tmp_path / "checkpoint_1_20.pt").unlink()
    assert restore_last_checkpoint(tmp_path) == 0
    assert not last.exists()
    assert "continuing from the beginning" in capsys.readouterr().err


def test_a_checkpoint_that_was_refused_is_kept(tmp_path, teacher):
    last, other = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_1_20.pt"
    torch.save(torch.load(teacher) | {"more": KDError("a type that fairseq does not write")}, last)
    other.write_bytes(teacher.read_bytes())
    before = last.read_bytes()
    with pytest.raises(KDError, match=r"checkpoint_last\.pt holds an object of type fairseq_kd\.core\.errors\.KDError"):
        restore_last_checkpoint(tmp_path)
    assert last.read_bytes() == before


def test_progress_on_a_terminal_is_one_line_that_fits_and_is_cleared():
    """A terminal of 60 columns: every text begins at the first column, and none is longer than the line."""
    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    threads = threading.active_count()
    with open(writer, "w") as stream:
        progress = Progress("decoding", 500, "sentences", stream=stream)
        for done in (100, 250):
            progress._last_shown = -1
            progress.reach(done, "a note that is longer than what is left of the line")
        assert threading.active_count() == threads  # the processes that are forked meanwhile would inherit a lock
        progress.finish()
        unknown = Progress("reading", None, "lines", stream=stream)
        unknown.advance(7)
        unknown.finish()
        shown = ""
        while select.select([reader], [], [], 1)[0]:  # a terminal gives what it has got so far
            shown += os.read(reader, 10_000).decode()
    os.close(reader)
    assert "\n" not in shown
    lines = [line for line in shown.split("\r") if line.strip()]
    assert len(lines) == 3 and all(len(line) < 60 for line in lines)
    assert lines[0].startswith("decoding: 100/500 sentences, ") and lines[1].startswith("decoding: 250/500 sentences, ")
    assert lines[2].startswith("reading: 7 lines") and shown.endswith(" \r")  # blanks over the last text


def test_progress_counts_only_new_work_for_its_rate(capsys):
    progress = Progress("training", 100, "updates", done=90)
    progress.reach(95, "loss 2.0")
    shown = capsys.readouterr().err
    assert shown.startswith("training: 95/100 updates, ") and shown.endswith("loss 2.0\n")
    expected = {5: "5 s", 65: "1 min 05 s", 3599.6: "1 h 00 min", 3700: "1 h 01 min", 90000: "25 h 00 min"}
    assert {seconds: format_seconds(seconds) for seconds in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds 0"),
        (["--raw", "x"], "--raw has no effect with the synthetic corpus"),
        (["--recipe", "nothing.yaml"], "nothing.yaml cannot be read"),
        (["--recipe", "nothing.yaml", "--data", "multi30k"], "give one of them"),
    ],
)
def test_bad_options_are_one_error(words, message, capsys):
    assert main(["quickstart", *words]) == 2
    assert message in capsys.readouterr().err
