import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from process_helpers import Process


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The recipe of the quickstart with tiny models and a corpus of its own."""
    from fairseq_kd.corpus.synthetic import CorpusSpec, write_corpus

    folder = tmp_path_factory.mktemp("recipe")
    write_corpus(CorpusSpec(pairs=400, valid=30, test=30), folder)
    content = yaml.safe_load((ROOT / "configs/quickstart/synthetic.yaml").read_text())
    content["data"] = {"name": "text", "source-lang": "qaa", "target-lang": "qab", "vocab-size": 120}
    content["common"] |= {"max-tokens": 400, "save-interval-updates": 20, "keep-interval-updates": 1}
    for section in ("teacher", "student"):
        size = 32 if section == "teacher" else 16
        content[section] |= dict.fromkeys(
            ("encoder-embed-dim", "decoder-embed-dim", "encoder-ffn-embed-dim", "decoder-ffn-embed-dim"), size
        ) | {"max-update": 60}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(recipe, folder):
    words = ["quickstart", "--recipe", recipe, "--raw", recipe.parent, "--cpu"]
    return Process("-m", "fairseq_kd.cli.main", *words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_killed_in_the_middle_of_a_training_it_continues_and_then_repeats_nothing(recipe, tmp_path):
    process = start(recipe, tmp_path)
    runs = tmp_path / "runs" / "quickstart-tiny"
    deadline = time.monotonic() + 300
    while not list(runs.glob("student-ce-1/checkpoints/checkpoint_*_20.pt")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    teacher_made = (runs / "teacher" / "train.json").stat().st_mtime_ns
    assert not (runs / "student-ce-1" / "train.json").exists()

    out, err = start(recipe, tmp_path).communicate(timeout=300)
    assert "distilled - plain:" in out, err[-3000:]
    assert "BLEU|nrefs:1" in out and "chrF2|nrefs:1" in out
    assert "[8/8] score student-kd-1" in err
    assert (runs / "teacher" / "train.json").stat().st_mtime_ns == teacher_made
    log = (runs / "student-ce-1" / "train.log").read_text()
    assert "Loaded checkpoint" in log  # it did not begin again
    for name in ("teacher", "student-ce-1", "student-kd-1"):
        record = json.loads((runs / name / "train.json").read_text())
        assert record["updates"] == 60 and record["seconds"] > 0
        assert record["command"].startswith("fairseq-train ")
    assert "--criterion kd_word --teacher-cache" in record["command"]
    assert record["inputs"].keys() == {"data", "teacher-cache"}
    plain = json.loads((runs / "student-ce-1" / "train.json").read_text())["command"]
    assert "--criterion kd_word --kd-weight 0 " in plain and "--teacher" not in plain
    assert "kd_word computes its loss by the fused implementation" in log

    (runs / "student-ce-1" / "train.json").unlink()  # as if it had been killed between its last update and the record
    again, err = start(recipe, tmp_path).communicate(timeout=300)
    assert again == out, err[-3000:]
    assert json.loads((runs / "student-ce-1" / "train.json").read_text())["updates"] == 60


def test_a_training_that_is_continued_in_any_epoch_ends_with_the_same_weights(data_bin, tmp_path, monkeypatch):
    from fairseq_kd.training import running
    from fairseq_kd.training.arguments import training_arguments
    from fairseq_kd.training.run import train

    monkeypatch.setattr(running, "start_python", lambda words, output, threads: Process("-m", *words, output=output))
    sizes = ("encoder-embed-dim", "decoder-embed-dim", "encoder-ffn-embed-dim", "decoder-ffn-embed-dim")
    options = {"arch": "transformer", "encoder-layers": 1, "decoder-layers": 1, **dict.fromkeys(sizes, 16)}
    options |= {"encoder-attention-heads": 2, "decoder-attention-heads": 2, "share-all-embeddings": True}
    options |= {"optimizer": "adam", "lr": 0.01, "max-tokens": 1600, "save-interval-updates": 14, "dropout": 0.1}
    options |= {"criterion": "label_smoothed_cross_entropy", "max-update": 40, "seed": 1}
    arguments = training_arguments(data_bin, "qaa", "qab", options, cpu=True)
    train(tmp_path / "whole", arguments, {}, 40, "whole")
    last = torch.load(tmp_path / "whole" / "checkpoints" / "checkpoint_last.pt")["model"]
    kept = sorted((tmp_path / "whole" / "checkpoints").glob("checkpoint_*_*.pt"))
    assert {path.name.split("_")[1] for path in kept} >= {"2", "3"}, kept
    for checkpoint in kept:
        folder = tmp_path / checkpoint.stem
        (folder / "checkpoints").mkdir(parents=True)
        shutil.copyfile(checkpoint, folder / "checkpoints" / "checkpoint_last.pt")
        assert train(folder, arguments, {}, 40, "continued")["updates"] == 40
        found = torch.load(folder / "checkpoints" / "checkpoint_last.pt")["model"]
        assert all(torch.equal(found[name], last[name]) for name in last), checkpoint.name


def test_a_complete_run_whose_checkpoint_is_gone_is_an_error(tmp_path):
    from fairseq_kd.core.errors import KDError
    from fairseq_kd.training.run import train

    command = ["fairseq-train", "data", "--save-dir", str(tmp_path / "checkpoints")]
    (tmp_path / "request.json").write_text(json.dumps({"command": command, "inputs": {}}))
    record = {"checkpoint": "gone.pt", "checkpoint_sha256": "x", "seconds": 1.0, "updates": 1}
    (tmp_path / "train.json").write_text(json.dumps(record))
    with pytest.raises(KDError, match="was removed or changed"):
        train(tmp_path, ["data"], {}, 1, "x")


def test_another_recipe_in_the_same_folder_is_refused(recipe, tmp_path):
    from fairseq_kd.core.errors import KDError
    from fairseq_kd.training.run import train

    command = ["fairseq-train", "data", "--lr", "0.1", "--save-dir", str(tmp_path / "checkpoints")]
    (tmp_path / "request.json").write_text(json.dumps({"command": command, "inputs": {"data": "a" * 64}}))
    with pytest.raises(KDError, match=r"was made with command\.--lr \['0.1'\], this command has \['0.2'\]:"):
        train(tmp_path, ["data", "--lr", "0.2"], {"data": "a" * 64}, 1, "x")
    with pytest.raises(KDError, match=r"was made with inputs\.data a{32}\.\.\., this command has b{32}\.\.\.:"):
        train(tmp_path, ["data", "--lr", "0.1"], {"data": "b" * 64}, 1, "x")


def test_a_request_that_another_process_records_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    from fairseq_kd.core.errors import KDError
    from fairseq_kd.training import run

    other = {"command": ["other"], "inputs": {}}
    record = json.dumps(other)
    monkeypatch.setattr(run, "_train", lambda *_: pytest.fail("another run is in the folder"))
    is_file = Path.is_file

    def looked_before_the_other_wrote(path):
        found = is_file(path)
        if path.name == "request.json" and not found:
            path.write_text(record)
        return found

    def wrote_before_this(path, name):
        Path(name).write_text(record)
        raise FileExistsError(name)

    monkeypatch.setattr(Path, "is_file", looked_before_the_other_wrote)
    monkeypatch.setattr(os, "link", wrote_before_this)
    with pytest.raises(KDError, match="was made with command"):
        run.train(tmp_path, ["data"], {}, 1, "x")
    assert json.loads((tmp_path / "request.json").read_text()) == other


def test_a_training_that_fails_shows_the_end_of_its_log(tmp_path):
    from fairseq_kd.core.errors import KDError
    from fairseq_kd.training.run import train

    with pytest.raises(KDError, match="(?s)ended with status .*missing-folder"):
        train(tmp_path, ["missing-folder", "--arch", "transformer", "--max-tokens", "9"], {}, 1, "x")
    assert not (tmp_path / "train.json").exists()
