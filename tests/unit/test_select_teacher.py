"""fairseq-kd select-teacher: its measures, the choice, what is kept between runs, averaging, and refused inputs."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
from helpers import batch, build, write_variant
from process_helpers import run_python

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.cli.main import main
from fairseq_kd.evaluation import checkpoints as measure
from fairseq_kd.evaluation import select_teacher as select
from fairseq_kd.evaluation.checkpoints import nll_of_checkpoint
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.inference.frozen import build_model, configure_own_task, load_frozen

FAST = ("--beam", "1", "--max-len-b", "20", "--cpu")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def written(teacher, tmp_path_factory):
    """The --save-dir of a training: three checkpoints and the two copies that fairseq makes."""
    folder = tmp_path_factory.mktemp("training")
    write_variant(teacher, folder / "checkpoint1.pt", 0.1, 10)
    write_variant(teacher, folder / "checkpoint2.pt", 0.0, 20)
    write_variant(teacher, folder / "checkpoint10.pt", 0.02, 100)
    shutil.copy(folder / "checkpoint2.pt", folder / "checkpoint_best.pt")
    shutil.copy(folder / "checkpoint10.pt", folder / "checkpoint_last.pt")
    return folder


@pytest.fixture
def training(written, tmp_path):
    return shutil.copytree(written, tmp_path / "training")


def run(data_bin, folder, *words, by="low-loss"):
    command = ["select-teacher", data_bin, "--checkpoints", folder, "--by", by, *FAST, *words]
    return main([str(word) for word in command])


def selection(folder):
    return json.loads((folder / "selection" / "selection.json").read_text())


def own_task_and_model(path):
    state = read_checkpoint(path)
    configure_own_task(path, state)
    model, task = build_model(path, state)
    return model.eval(), task


def test_nll_is_the_nll_loss_of_fairseqs_criterion_and_no_matter_of_batches(data_bin, teacher):
    *_, criterion = build(data_bin, "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1")
    model, task = own_task_and_model(teacher)
    with torch.no_grad():
        _, _, log = criterion(model, batch(task, range(30), "valid"))
    expected = float(log["nll_loss"]) / log["ntokens"] / math.log(2)
    for max_tokens in (70, 4000):
        nll, tokens = nll_of_checkpoint(data_bin, teacher, "valid", max_tokens=max_tokens, device=CPU)
        assert tokens == log["ntokens"]
        assert nll == pytest.approx(expected, abs=1e-5)


def test_the_table_has_each_content_once_and_bleu_is_that_of_evaluate(training, data_bin, tmp_path, capsys):
    assert run(data_bin, training) == 0
    printed = capsys.readouterr().out
    found = selection(training)
    names = [os.path.basename(row["checkpoint"]) for row in found["checkpoints"]]
    assert names == ["checkpoint1.pt", "checkpoint2.pt", "checkpoint10.pt"]  # by updates
    assert [row["same"] for row in found["checkpoints"]] == [[], ["checkpoint_best.pt"], ["checkpoint_last.pt"]]
    assert [row["updates"] for row in found["checkpoints"]] == [10, 20, 100]
    lowest = min(found["checkpoints"], key=lambda row: row["nll"])
    assert found["chosen"] == found["low-loss"] == lowest["checkpoint"] == str(training / "checkpoint2.pt")
    assert f"low-loss teacher: {training / 'checkpoint2.pt'}" in printed
    assert "checkpoint_best.pt: the same as checkpoint2.pt" in printed
    assert lowest["signature"] in printed and lowest["signature"].startswith("BLEU|nrefs:1")

    out = tmp_path / "result.json"
    words = ["evaluate", data_bin, "--checkpoint", training / "checkpoint10.pt", "--subset", "valid", "--out", out]
    assert main([str(word) for word in (*words, *FAST)]) == 0
    assert found["checkpoints"][2]["bleu"] == json.loads(out.read_text())["bleu"]["score"]


def test_lowest_loss_and_highest_score_by_hand():
    rows = [
        {"checkpoint": "a", "nll": 3.0, "bleu": 20.0},
        {"checkpoint": "b", "nll": 2.0, "bleu": 25.0},
        {"checkpoint": "c", "nll": 2.5, "bleu": 26.0},
        {"checkpoint": "d", "nll": 2.0, "bleu": 26.0},
    ]
    assert [row["checkpoint"] for row in select.rank(rows, "low-loss")] == ["b", "d", "c", "a"]
    assert [row["checkpoint"] for row in select.rank(rows, "high-score")] == ["c", "d", "b", "a"]


def test_the_largest_and_the_drawn_model_by_hand():
    rows = [{"sha256": name, "parameters": size} for name, size in (("c", 10), ("a", 30), ("b", 30))]
    assert [row["sha256"] for row in select.rank(rows, "largest")] == ["a", "b", "c"]
    chosen = [select.drawn(rows, seed)["sha256"] for seed in range(20)]
    assert set(chosen) == {"a", "b", "c"}
    assert chosen == [select.drawn(rows[::-1], seed)["sha256"] for seed in range(20)]  # the order does not matter


def test_named_models_of_several_folders_are_measured_and_shown_by_their_paths(training, data_bin, tmp_path, capsys):
    paths = [tmp_path / name / "checkpoint_best.pt" for name in ("one", "two")]
    for path, number in zip(paths, (1, 2), strict=True):
        path.parent.mkdir()
        shutil.copy(training / f"checkpoint{number}.pt", path)
    given, out = ":".join(map(str, paths)), tmp_path / "chosen"
    assert run(data_bin, given, "--out", out) == 0
    shown = capsys.readouterr().out
    assert all(str(path) in shown for path in paths) and f"low-loss teacher: {paths[1]}" in shown
    assert run(data_bin, given, "--out", out, "--average", 2, "--out-checkpoint", tmp_path / "mean.pt") == 0
    rows = json.loads((out / "selection.json").read_text())["checkpoints"]
    assert [row["checkpoint"] for row in rows] == [*map(str, paths), str(tmp_path / "mean.pt")]
    assert rows[2]["averaged_from"] == [str(paths[1]), str(paths[0])]
    for seed in (1, 2, 3, 4):  # measured before
        assert run(data_bin, given, "--out", out, "--seed", seed, by="random") == 0
        found = json.loads((out / "selection.json").read_text())
        drawn = select.drawn(found["checkpoints"], seed)["checkpoint"]
        assert (found["by"], found["seed"], found["chosen"]) == ("random", seed, drawn)


def test_overconfidence_parts_the_two_teachers(teacher, data_bin, tmp_path):
    """Greedy output does not change when all logits are multiplied; the loss does."""
    folder = tmp_path / "two"
    folder.mkdir()
    state = torch.load(teacher)
    torch.save(state, folder / "checkpoint2.pt")
    losses = {}
    for scale in (1.0, 6.0):
        for side in ("weight", "bias"):
            state["model"][f"decoder.layers.0.final_layer_norm.{side}"] *= scale
        state["optimizer_history"][-1]["num_updates"] -= 1
        torch.save(state, folder / "checkpoint1.pt")
        assert run(data_bin, folder, by="high-score") == 0
        found = {os.path.basename(row["checkpoint"]): row for row in selection(folder)["checkpoints"]}
        losses[scale] = found["checkpoint1.pt"]["nll"]
        assert found["checkpoint1.pt"]["bleu"] == found["checkpoint2.pt"]["bleu"]
    assert losses[6.0] > losses[1.0] + 0.5
    result = selection(folder)
    assert result["low-loss"].endswith("checkpoint2.pt")
    assert result["chosen"] == result["high-score"] == str(folder / "checkpoint1.pt")  # the earlier of two equal ones


def test_last_restricts_to_the_most_updates(training, data_bin):
    assert run(data_bin, training, "--last", "2") == 0
    assert [row["updates"] for row in selection(training)["checkpoints"]] == [20, 100]


@pytest.fixture
def measured(monkeypatch):
    """The names of the checkpoints that are measured, as it happens."""
    names, original = [], measure.Measurements.measure

    def counted(self, checkpoint, *others, **named):
        names.append(checkpoint.name)
        return original(self, checkpoint, *others, **named)

    monkeypatch.setattr(measure.Measurements, "measure", counted)
    return names


def test_each_checkpoint_is_measured_once_for_what_its_measures_depend_on(training, data_bin, measured, tmp_path):
    assert run(data_bin, training) == 0
    assert measured == ["checkpoint1.pt", "checkpoint2.pt", "checkpoint10.pt"]
    for words in (("--last", "1"), ("--max-tokens", "900")):
        assert run(data_bin, training, *words, by="high-score") == 0
    moved = shutil.copytree(data_bin, tmp_path / "moved")
    assert run(moved, training) == 0
    assert len(measured) == 3
    assert run(data_bin, training, "--last", "1", "--lenpen", "0.5") == 0
    assert measured[3:] == ["checkpoint10.pt"]
    write_variant(training / "checkpoint1.pt", training / "checkpoint1.pt", 0.01, 10)
    assert run(data_bin, training) == 0
    assert measured[4:] == ["checkpoint1.pt"]
    assert run(data_bin, training, "--last", "1", "--subset", "test") == 0
    assert measured[5:] == ["checkpoint10.pt"]


KILLED_AT_THE_SECOND_RENAMING = """
import os, signal, sys
from fairseq_kd.cli.main import main
replace, calls = os.replace, []
def replace_or_die(*names):
    calls.append(names)
    os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 2 else replace(*names)
os.replace = replace_or_die
main(sys.argv[1:])
"""


def test_killed_it_continues_to_the_same_bytes(training, data_bin, measured, tmp_path):
    out = tmp_path / "out"
    words = ["select-teacher", data_bin, "--checkpoints", training, "--by", "low-loss", "--out", out, *FAST]
    result = run_python("-c", KILLED_AT_THE_SECOND_RENAMING, *words)
    assert result.returncode == -signal.SIGKILL, result.stderr
    (kept,) = (out / "measured").glob("*.json")
    assert list((out / "measured").glob(".*.json.*")) and not (out / "selection.json").exists()
    written_at = kept.stat().st_mtime_ns
    assert run(data_bin, training, "--out", out) == 0
    assert measured == ["checkpoint2.pt", "checkpoint10.pt"] and kept.stat().st_mtime_ns == written_at
    assert run(data_bin, training, "--out", tmp_path / "again") == 0
    assert (out / "selection.json").read_bytes() == (tmp_path / "again" / "selection.json").read_bytes()
    assert not list(out.rglob(".*"))


def test_a_training_may_remove_a_checkpoint_after_it_was_measured(training, data_bin, tmp_path, monkeypatch):
    monkeypatch.setattr(measure.Measurements, "_measured", lambda self, *args: {})
    measurements = measure.Measurements(tmp_path / "measured", data_bin, "valid", TranslateOptions(cpu=True))
    for name in ("checkpoint1.pt", "checkpoint2.pt"):
        measurements.measure(training / name, sha256_file(training / name))
        (training / name).unlink()
    assert len(list((tmp_path / "measured").iterdir())) == 2


def test_the_average_is_that_of_torch_and_is_a_teacher(training, data_bin, measured, tmp_path, capsys):
    from torch.optim.swa_utils import AveragedModel

    out = tmp_path / "deep" / "mean.pt"
    words = ("--average", "2", "--out-checkpoint", out)
    assert run(data_bin, training, *words) == 0
    assert "mean.pt: the average of checkpoint2.pt, checkpoint10.pt" in capsys.readouterr().out
    averaged, task = own_task_and_model(out)
    models = [own_task_and_model(training / name)[0] for name in ("checkpoint2.pt", "checkpoint10.pt")]
    reference = AveragedModel(models[0])
    for model in models:
        reference.update_parameters(model)
    expected = reference.module.state_dict()
    assert not torch.equal(expected["encoder.embed_tokens.weight"], models[0].encoder.embed_tokens.weight)
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
    sample = batch(task, range(4), "valid")
    signal_of = load_frozen(out).signal(sample, sample["target"].ne(task.target_dictionary.pad()))
    assert signal_of.rows().isfinite().all()

    row = selection(training)["checkpoints"][-1]
    assert row["checkpoint"] == str(out) and row["updates"] is None
    assert row["averaged_from"] == ["checkpoint2.pt", "checkpoint10.pt"]
    nll, _ = nll_of_checkpoint(data_bin, out, "valid", max_tokens=4000, device=CPU)
    assert row["nll"] == pytest.approx(nll, abs=1e-6)
    assert out.stat().st_size < (training / "checkpoint2.pt").stat().st_size / 2  # no optimizer, tied weights once
    bytes_before = out.read_bytes()
    assert (
        run(data_bin, training, *words) == 0
    )  # ours, so it may be written again; the same, so it is not measured again
    assert out.read_bytes() == bytes_before and measured.count("mean.pt") == 1


def test_checkpoints_of_different_architectures_are_not_averaged(training, teacher, tmp_path):
    changes = [
        (lambda state: setattr(state["cfg"]["model"], "decoder_attention_heads", 4), "decoder_attention_heads is 4"),
        (lambda state: state["model"].update({"decoder.layers.0.fc1.bias": torch.zeros(3)}), "fc1.bias is (3,)"),
    ]
    first, other = training / "checkpoint2.pt", training / "checkpoint3.pt"
    for change, message in changes:
        state = torch.load(teacher)
        change(state)
        torch.save(state, other)
        with pytest.raises(select.KDError, match="different architectures") as raised:
            select.write_average({path: sha256_file(path) for path in (first, other)}, tmp_path / "x.pt")
        assert message in str(raised.value) and str(other) in str(raised.value)
    assert not (tmp_path / "x.pt").exists()


def test_a_broken_checkpoint_among_good_ones_is_named_before_anything_is_measured(training, data_bin, measured, capsys):
    (training / "checkpoint4.pt").write_bytes((training / "checkpoint1.pt").read_bytes()[:5000])
    (training / "checkpoint5.pt").write_bytes(b"")
    assert run(data_bin, training) == 2
    error = capsys.readouterr().err
    assert error.count("fairseq_kd: error:") == 1 and "2 of 5 checkpoints cannot be used" in error
    assert "checkpoint4.pt" in error and "checkpoint5.pt" in error and "checkpoint1.pt" not in error
    assert measured == []


def test_a_checkpoint_that_diverged_is_named_and_the_others_are_kept(training, data_bin, measured, capsys):
    write_variant(training / "checkpoint1.pt", training / "checkpoint4.pt", float("nan"), 300)
    assert run(data_bin, training) == 2
    assert f"the loss of {training / 'checkpoint4.pt'} on 'valid' is not finite" in capsys.readouterr().err
    assert not (training / "selection" / "selection.json").exists()
    (training / "checkpoint4.pt").unlink()
    assert run(data_bin, training) == 0
    assert measured == ["checkpoint1.pt", "checkpoint2.pt", "checkpoint10.pt", "checkpoint4.pt"]


class RunsCode:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


def test_trust_in_one_checkpoint_does_not_reach_the_file_for_the_average(training, data_bin, tmp_path, capsys):
    average = tmp_path / "average.pt"
    torch.save(torch.load(training / "checkpoint1.pt") | {"more": RunsCode(tmp_path / "ran")}, average)
    words = ["--average", "2", "--out-checkpoint", average, "--trust-checkpoint", training / "checkpoint1.pt"]
    assert run(data_bin, training, *words) == 2
    assert not (tmp_path / "ran").exists()
    assert f"{average} holds an object of type posix.mkdir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoints", "nowhere"], "--checkpoints nowhere is not a folder"),
        (["--checkpoints", "{tmp}"], "has no checkpoint*.pt"),
        (["--out", "/dev/null/x"], "cannot write to /dev/null/x"),
        (["--out", "{data}"], "which this command did not write: choose another --out"),
        (["--subset", "valid2"], "has no subset 'valid2'"),
        (["--last", "0"], "--last 0: must be at least 1"),
        (["--average", "2"], "belong together"),
        (["--average", "1", "--out-checkpoint", "x.pt"], "--average 1: must be at least 2 checkpoints"),
        (["--average", "4", "--out-checkpoint", "{tmp}/x.pt"], "there are only 3 different checkpoints"),
        (["--average", "2", "--out-checkpoint", "/dev/null/x.pt"], "cannot write to /dev/null"),
        (
            ["--average", "2", "--out-checkpoint", "{folder}/checkpoint_avg.pt"],
            "one of the checkpoints of the next run",
        ),
        (["--average", "2", "--out-checkpoint", "{teacher}"], "exists and is not an average"),
        (["--trust-checkpoint", "other.pt"], "other.pt is not one of the checkpoints"),
        (["--beam", "0"], "--beam 0"),
        (["--reference", "x"], "has its own references"),
    ],
)
def test_bad_input_is_one_clear_error(written, teacher, data_bin, tmp_path, capsys, measured, words, message):
    places = {"tmp": tmp_path, "data": data_bin, "folder": written, "teacher": teacher}
    before = sorted(path.name for path in data_bin.iterdir()), teacher.read_bytes()
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    assert run(data_bin, written, *out, *(word.format(**places) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.count("fairseq_kd: error:") == 1 and message in error
    assert (sorted(path.name for path in data_bin.iterdir()), teacher.read_bytes()) == before
    assert not list(tmp_path.glob("out/**/*.json"))


def test_a_damaged_measurement_is_named(training, data_bin, capsys):
    assert run(data_bin, training, "--last", "1") == 0
    (record,) = (training / "selection" / "measured").iterdir()
    record.write_text(record.read_text()[:50])
    assert run(data_bin, training, "--last", "1") == 2
    assert f"{record} is damaged" in capsys.readouterr().err
