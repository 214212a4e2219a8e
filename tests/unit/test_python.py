"""docs/python.md: the notebook, the public names of the packages, and errors that name arguments."""

import importlib
import json
import pkgutil
import re
import runpy
import sys

import nbformat
import pytest
from conftest import PACKAGE, ROOT
from docs_helpers import blocks_run_by

from fairseq_kd import KDError
from fairseq_kd.cache import cache_teacher
from fairseq_kd.core.public import COMMAND, lazily, naming_arguments
from fairseq_kd.evaluation import calibrate, compare_results, evaluate_checkpoint, translate_lines
from fairseq_kd.loss import make_divergence
from fairseq_kd.noise import noise_lines
from fairseq_kd.scoring import score_lines
from fairseq_kd.study import plan_study, write_spec
from fairseq_kd.teacher import read_cache, read_teacher

PAGE = ROOT / "docs" / "python.md"
PACKAGES = [path.parent.name for path in sorted(PACKAGE.glob("*/__init__.py")) if "lazily(" in path.read_text()]


def test_the_notebook_runs(data_bin, teacher, tmp_path, monkeypatch, capsys):
    """Cell by cell in one process, with the data and the teacher of the tests where the quickstart puts its own."""
    notebook = nbformat.read(PAGE.with_suffix(".ipynb"), as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert cells == [block.text.strip() for block in blocks_run_by("test_the_notebook_runs")]
    monkeypatch.chdir(tmp_path)
    for path, target in ((("data-bin", "quickstart-synthetic"), data_bin), (TEACHER_PLACE, teacher)):
        tmp_path.joinpath(*path[:-1]).mkdir(parents=True)
        tmp_path.joinpath(*path).symlink_to(target)
    names = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert names["comparison"]["segments"] == 30 and len(names["plan"].cells) == 9
    assert "prefer the same entry for 100.0% of the tokens" in printed
    message = re.search(r"It prints `(.*?)`", PAGE.read_text())[1]
    assert printed.splitlines()[-1] == message and "--" not in message


TEACHER_PLACE = ("runs", "quickstart-synthetic", "teacher", "checkpoints", "checkpoint_best.pt")


def test_the_notebook_is_the_one_of_the_page_and_has_no_outputs():
    notebook_of = runpy.run_path(str(ROOT / "scripts" / "notebook.py"))["notebook_of"]
    notebook = json.loads(PAGE.with_suffix(".ipynb").read_text())
    assert notebook == notebook_of(PAGE.read_text()), "run: python scripts/notebook.py docs/python.md"
    nbformat.validate(notebook)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_exist_and_none_is_the_name_of_a_module(name):
    """After an import of a module, its name in the package means the module and nothing else."""
    package = importlib.import_module(f"fairseq_kd.{name}")
    assert package.__all__ and set(package.__all__) <= set(dir(package))
    assert all(getattr(getattr(package, found), "__doc__", None) for found in package.__all__)
    assert not set(package.__all__) & {module.name for module in pkgutil.iter_modules(package.__path__)}


def test_the_table_of_the_page_names_what_the_packages_export():
    rows = [row.split(" | ")[1:] for row in PAGE.read_text().splitlines() if "`fairseq_kd." in row and row[0] == "|"]
    assert len(rows) == 8
    for functions, packages in rows:
        listed = {f"fairseq_kd.{package}" for package in PACKAGES} & set(re.findall(r"`([\w.]+)`", packages))
        exported = {name for package in listed for name in importlib.import_module(package).__all__}
        assert listed and set(re.findall(r"`(\w+)`", functions)) <= exported


def test_a_module_is_imported_when_one_of_its_names_is_used(tmp_path, monkeypatch):
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "slow.py").write_text("fast = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("lazy_example")
    public, get, names = lazily("lazy_example", {"fast": "slow"})
    assert public == ["fast"] and "fast" in names() and "lazy_example.slow" not in sys.modules
    with pytest.raises(AttributeError, match="'lazy_example' has no attribute 'other'"):
        get("other")
    assert get("fast") == 3 and "lazy_example.slow" in sys.modules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--top-k 3: must be below --kd-top-k", "top_k 3: must be below --kd-top-k"),  # another option
        ("give --top-k (--top-k 8)", "give top_k (top_k 8)"),
        ("run fairseq-kd cache --top-k 8, or give --top-k", "run fairseq-kd cache --top-k 8, or give top_k"),
        ("`fairseq-kd evaluate --top-k`: --top-k", "`fairseq-kd evaluate --top-k`: top_k"),
        ("fairseq-train --top-k 2; --top-k-2", "fairseq-train --top-k 2; --top-k-2"),
    ],
)
def test_options_become_arguments_except_in_commands(text, expected):
    assert naming_arguments(text, {"top-k": "top_k"}) == expected


HERE = ROOT / "tests" / "unit"
MISTAKES = {
    "noise, range": (lambda d, t: noise_lines(["a b"], delete=1.5), "delete 1.5: must be between 0 and 1"),
    "noise, nothing": (lambda d, t: noise_lines(["a b"]), "no noise is requested: give delete, substitute or swap"),
    "noise, model": (
        lambda d, t: noise_lines(["a b"], delete=0.1, subword_model="m.spm"),
        "subword_model has no effect with level word",
    ),
    "noise, no spaces": (
        lambda d, t: noise_lines(["我你他喜欢吃看书的了在是不大小"] * 9, delete=0.1),
        r"9 of 9 source sentences .*; give word_tokenizer char \(each .*\), or level char or subword",
    ),
    "noise, one text": (lambda d, t: noise_lines("a b", delete=0.1), "lines is one text, and its characters would"),
    "teacher, subset": (lambda d, t: read_teacher(d, t, subset="test7"), r".* has no subset 'test7' .*\(subset\)"),
    "teacher, trust": (
        lambda d, t: read_teacher(d, t, trust_checkpoint="x.pt"),
        "trust_checkpoint x.pt is not the teacher /",
    ),
    "cache, batch": (lambda d, t: cache_teacher(d, t, HERE / "no", max_tokens=0), "max_tokens 0: must be at least 1"),
    "cache, length": (
        lambda d, t: cache_teacher(d, t, HERE / "no", max_tokens=2),
        "max_tokens 2: the longest sentence",
    ),
    "cache, entries": (lambda d, t: cache_teacher(d, t, HERE / "no", top_k=0), "top_k 0"),
    "cache, temperatures": (lambda d, t: cache_teacher(d, t, HERE / "no", temperatures=[0]), "temperatures? 0"),
    "cache, folder": (lambda d, t: cache_teacher(d, t, HERE, cpu=True), ".* choose another out$"),
    "read cache": (lambda d, t: read_cache(HERE / "no", None), "teacher cache .* does not exist: make it with "),
    "loss, parameter": (lambda d, t: make_divergence("js", js_beta=2), "js_beta 2: must be above 0 and below 1"),
    "loss, name": (lambda d, t: make_divergence("jss"), "there is no divergence 'jss'; it must be one of kl, "),
    "loss, unknown": (
        lambda d, t: make_divergence("kl", beta=1),
        "the divergence kl has no parameter 'beta'; it has none",
    ),
    "score, counts": (lambda d, t: score_lines(["a"], []), "1 hypotheses and 0 references cannot be scored"),
    "score, intervals": (lambda d, t: score_lines(["a"], ["a"], resamples=1), "resamples 1: give 0 "),
    "score, tokeniser": (lambda d, t: score_lines(["a"], ["a"], tokenize="x"), "tokenize x: must be one of 13a"),
    "score, no spaces": (lambda d, t: score_lines(["我"], ["我"]), ".*; give tokenize zh or ja-mecab or char"),
    "translate, beam": (lambda d, t: translate_lines(["a"], t, d, beam=0), "beam 0: must be at least 1"),
    "translate, data": (lambda d, t: translate_lines(["a"], "x.pt"), "x.pt is a checkpoint.*data DATA_BIN"),
    "evaluate, beam": (lambda d, t: evaluate_checkpoint(d, t, beam=0), "beam 0: must be at least 1"),
    "evaluate, intervals": (lambda d, t: evaluate_checkpoint(d, t, resamples=1), "resamples 1: give 0"),
    "evaluate, noise": (lambda d, t: evaluate_checkpoint(d, t, noise_levels=[200]), "noise_levels 200: levels are"),
    "evaluate, latency": (
        lambda d, t: evaluate_checkpoint(d, t, latency=99, cpu=True),
        "latency 99: the subset has 30",
    ),
    "evaluate, reference": (
        lambda d, t: evaluate_checkpoint(d, t, reference="r.txt", post_process="none"),
        ".* its own references and subword model; reference and post_process are for",
    ),
    "evaluate, trust": (
        lambda d, t: evaluate_checkpoint(d, t, trust_checkpoint="x.pt"),
        "trust_checkpoint x.pt is not the checkpoint /",
    ),
    "evaluate, moved": (
        lambda d, t: evaluate_checkpoint(d, t, teacher_data="d"),
        "teacher_data has no effect without teacher",
    ),
    "calibrate, bins": (lambda d, t: calibrate(d, t, bins=0), "bins 0: must be at least 1"),
    "compare, one": (lambda d, t: compare_results({"a": "a.json"}), "give at least two systems to compare"),
    "compare, alpha": (lambda d, t: compare_results({}, alpha=2), "alpha 2: must be between 0 and 1"),
    "compare, trials": (lambda d, t: compare_results({}, trials=0), "trials 0: must be at least 1"),
    "study, folder": (lambda d, t: plan_study("smoke", HERE), ".* is not the folder of a study; choose another work"),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_errors_name_arguments(call, message, request):
    needs_files = any(name in request.node.callspec.id for name in ("teacher", "cache", "evaluate", "calibrate"))
    files = [request.getfixturevalue(name) for name in ("data_bin", "teacher")] if needs_files else [None, None]
    with pytest.raises(KDError, match=f"^{message}") as error:
        call(*files)
    assert "--" not in COMMAND.sub("", str(error.value))


def test_a_spec_is_written_as_it_is_given_and_checked_by_the_plan(tmp_path):
    width = {"encoder-embed-dim": 32}
    spec = {"recipe": "synthetic", "factors": {"size": {"a": width, "b": width}, "method": ["ce", "on", "yes"]}}
    path = write_spec(spec, tmp_path / "s.yaml")
    text = path.read_text()
    assert text.index("recipe") < text.index("size") < text.index("method") and "&" not in text
    assert "- 'on'" in text  # YAML reads on as true
    with pytest.raises(KDError, match=r"s.yaml: .*'on'"):
        plan_study(path, tmp_path / "work")
    with pytest.raises(KDError, match=r"spec .*s.yaml cannot be written .*: use text, numbers"):
        write_spec({"recipe": tmp_path}, path)
    assert path.read_text() == text and not (tmp_path / "work").exists()
