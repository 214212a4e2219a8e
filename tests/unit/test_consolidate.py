"""fairseq-kd consolidate: the study that it plans, its result, and what it refuses."""

import json
import shutil

import pytest
import torch
from helpers import write_checkpoint, write_variant
from study_helpers import completing, given
from test_study_plan import kinds

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.study import run as study_run
from fairseq_kd.study.api import write_spec
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.consolidation import Consolidation, consolidation_spec
from fairseq_kd.study.show import write_results

SECTIONS = {"common": {"max-tokens": 400}, "cache": {"top-k": 4}, "evaluate": {"max-len-b": 5, "max-len-a": 1}}
SECTIONS |= {"select": {"max-len-b": 5, "max-len-a": 1}}


@pytest.fixture(scope="module")
def models(data_bin, teacher, tmp_path_factory):
    """Two transformers of one shape, and a deeper one."""
    folder = tmp_path_factory.mktemp("models")
    write_variant(teacher, folder / "a.pt", 0.0, 40)
    write_variant(teacher, folder / "b.pt", 0.1, 40)
    write_checkpoint(folder / "deep.pt", data_bin, "--encoder-layers", "2")
    return {path.stem: str(path) for path in folder.glob("*.pt")}


@pytest.fixture
def request_of(data_bin, models):
    """A request with these changes; `models` are names."""

    def make(names="a b", **changes):
        known = {"data_bin": str(data_bin), "start": "best-score", "weights": "equal", "transfer": "own", "updates": 2}
        return Consolidation(
            **known | {"models": tuple(models[name] for name in names.split()), "sections": {}} | changes
        )

    return make


def plan_of(request, folder):
    return open_plan(write_spec(consolidation_spec(request)[0], folder / "spec.yaml"), folder / "work")


def test_the_study_has_the_student_and_its_rivals_and_the_student_has_the_options_of_the_models(request_of, tmp_path):
    plan = plan_of(request_of(weights="adaptive"), tmp_path)
    assert kinds(plan) == {"select": 1, "average": 1, "cache": 1, "student": 1, "evaluate": 2 + 3 + 1, "compare": 3}
    (student,) = (stage for stage in plan.stages.values() if stage.kind == "student")
    (cache,) = (stage for stage in plan.stages.values() if stage.kind == "cache")
    assert given(cache)["teacher-weights"] == "adaptive"
    words = given(student)
    assert (words["arch"], words["encoder-embed-dim"], words["dropout"], words["max-update"]) == (
        *("transformer", "16", "0.1"),
        "2",
    )  # of the shared teacher
    assert words["finetune-from-model"].endswith("/teacher.pt") and words["warmup-updates"] == "1"


def test_the_dropout_of_the_student_does_not_depend_on_the_order_of_the_models(request_of, models, tmp_path):
    state = torch.load(models["b"])
    state["cfg"]["model"].dropout = 0.3
    torch.save(state, tmp_path / "dropped.pt")
    both = (models["a"], str(tmp_path / "dropped.pt"))
    for order in (both, both[::-1]):
        with pytest.raises(KDError, match=r"other values of dropout \(0\.\d and 0\.\d\): give dropout in the section"):
            consolidation_spec(request_of(models=order))
    content, _ = consolidation_spec(request_of(models=both, sections={"student": {"dropout": 0.2}}))
    assert content["student"]["dropout"] == 0.2
    consolidation_spec(request_of(models=both, start=models["a"]))


def test_the_seed_is_that_of_the_student_and_of_the_choice_at_random(request_of, tmp_path):
    for seed in (1, 7):
        (tmp_path / str(seed)).mkdir()
        plan = plan_of(request_of(start="random", seed=seed), tmp_path / str(seed))
        words = {kind: [given(s) for s in plan.stages.values() if s.kind == kind] for kind in ("student", "select")}
        drawn = [one for one in words["select"] if one["by"] == "random"]
        assert [one["seed"] for one in words["student"] + drawn] == [str(seed)] * 2
    assert "seed" not in consolidation_spec(request_of())[0]["factors"]  # specs of earlier versions stay the same


def test_models_of_other_shapes_teach_if_the_start_is_named_and_have_no_mean(request_of, models, tmp_path):
    content, why = consolidation_spec(request_of("a b deep", start=models["b"]))
    assert content["student"]["finetune-from-model"] == models["b"] and "init" not in content["factors"]
    assert content["factors"]["method"] == ["best", "ensemble", "word"]
    assert why == f"{models['deep']} and {models['a']} have different shapes (encoder_layers)"
    assert "average" not in kinds(plan_of(request_of("a b deep", start=models["b"]), tmp_path))
    with pytest.raises(
        KDError, match=r"--start best-score: .*deep.pt and .* have different shapes \(encoder_layers\), so"
    ):
        consolidation_spec(request_of("a b deep"))


def test_text_and_the_sources_of_a_data_bin_are_transfer_sets(request_of, data_bin, tmp_path):
    (tmp_path / "news.txt").write_text("wu na kilo\n")
    plan = plan_of(request_of(transfer=[str(tmp_path / "news.txt")]), tmp_path)
    assert sum("--source-text" in stage.command for stage in plan.stages.values()) == 1
    union = shutil.copytree(data_bin, tmp_path / "union")
    (decoding,) = (s for s in plan_of(request_of(transfer=str(union)), tmp_path).stages.values() if s.kind == "decode")
    assert given(decoding)["fallback"] == "drop"
    (union / "raw" / "valid.qab").write_text("other\n")
    with pytest.raises(KDError, match=r"--transfer .*union: its raw/valid.qab is not that of .* so checkpoints would"):
        plan_of(request_of(transfer=str(union)), tmp_path)


def test_the_result_names_every_model_the_winner_and_the_tests(models, data_bin, tmp_path, monkeypatch, capsys):
    run, out, asked = completing(monkeypatch), tmp_path / "out", []

    def in_process(plan, work, options):
        run(plan, work)
        write_results(plan, work)
        asked.append(options.cpu)
        return 0

    monkeypatch.setattr(study_run, "run_study", in_process)
    (tmp_path / "sections.yaml").write_text(json.dumps(SECTIONS))
    words = ["--models", f"{models['a']}:{models['b']}", "--updates", "1", "--out", str(out), "--cpu"]
    words += ["--sections", str(tmp_path / "sections.yaml")]
    assert main(["consolidate", str(data_bin), *words]) == 0
    result = json.loads((out / "result.json").read_text())
    names = ["a", "b", "best model", "mean of weights", "ensemble", "consolidated"]
    assert [row["name"] for row in result["rows"]] == names and asked == [True]
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["ensemble"]["parameters"] == 2 * rows["a"]["parameters"] == 2 * rows["consolidated"]["parameters"]
    chosen = result["selections"][0]["chosen"]
    assert rows["best model"]["bleu"] == next(row["bleu"] for row in result["rows"] if row.get("checkpoint") == chosen)
    assert result["winner"] == max(result["rows"], key=lambda row: row["bleu"])["name"]
    assert [test["text"] for test in result["tests"]] == [
        f"word > {name} by bleu" for name in ("best", "soup", "ensemble")
    ]
    assert all(0 <= test["p"] <= test["p_holm"] <= 1 for test in result["tests"])
    assert (out / "consolidated.pt").is_file()
    shown = capsys.readouterr().out
    assert f"the highest BLEU: {result['winner']}" in shown and all(name in shown for name in names)


WRONG = [
    (["--models", "{a}"], "give two or more checkpoints, joined by :"),
    (["--models", "{a}:nowhere.pt"], "--models {a}:nowhere.pt: nowhere.pt is not a file: give checkpoints that exist"),
    (["--start", "first"], "--start first is no file: give best-score, lowest-loss, largest, random or a checkpoint"),
    (["--updates", "0"], "--updates 0: must be at least 1"),
    (["--seed", "-1"], "consolidate: --seed has the value -1; seeds are whole numbers from 0"),
    (["--transfer", "own", "{a}"], "give own, one data-bin, or files of text"),
    (["--transfer", "nowhere.txt"], "--source-text {tmp}nowhere.txt is not there"),
    (["--sections", "{yaml}"], "unknown key 'factors' in the file; the nearest valid one is"),
    (["--out", "{data}"], "exists and was not written by fairseq-kd consolidate: choose another --out"),
    (["--dry-run"], "--dry-run: no effect with consolidate"),
    (["--jobs", "0"], "--jobs 0: must be at least 1"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_bad_input_is_one_clear_error(models, data_bin, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text("factors: {}\n")
    places = models | {"data": data_bin, "yaml": tmp_path / "s.yaml", "tmp": f"{tmp_path}/"}
    usual = {"--models": f"{models['a']}:{models['b']}", "--updates": "2", "--out": str(tmp_path / "out")}
    usual |= {"--cpu": None}
    usual.pop(words[0], None)
    given_words = [word for pair in usual.items() for word in pair if word is not None]
    assert main(["consolidate", str(data_bin), *given_words, *(word.format(**places) for word in words)]) == 2
    said = capsys.readouterr().err
    assert message.format(**places) in said and said.count("\n") == 1
