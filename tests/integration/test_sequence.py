"""Sequence-level distillation as a user runs it: `fairseq-kd decode`, `mix`, then stock fairseq-train."""

import json

import process_helpers
import pytest
from conftest import PACKAGE, TINY_MODEL, run_fairseq


def run_kd(*words):
    result = process_helpers.run_kd(*words)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def train(data, save_dir, *arguments, user_dir=None):
    result = run_fairseq(
        "train", data, *TINY_MODEL, "--save-dir", save_dir, "--max-update", 3, *arguments, user_dir=user_dir
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.mark.parametrize("strategy", ["beam", "greedy", "teacher-forcing", "sample"])
def test_fairseq_train_reads_what_each_strategy_makes(data_bin, teacher, tmp_path, strategy):
    limits = [] if strategy == "teacher-forcing" else ["--max-len-b", 20]
    out = tmp_path / "decoded"
    result = run_kd("decode", data_bin, "--teacher", teacher, "--strategy", strategy, "--out", out, "--cpu", *limits)
    assert "400 pairs of 400 sentences" in result.stdout
    train(out, tmp_path / "student", "--criterion", "label_smoothed_cross_entropy")
    student, result = tmp_path / "student" / "checkpoint_last.pt", tmp_path / "result.json"
    run_kd("evaluate", out, "--checkpoint", student, "--cpu", "--out", result)
    assert json.loads(result.read_text())["sentences"] == 30


def test_hybrid_distillation_reads_what_the_teacher_made(data_bin, teacher, tmp_path):
    run_kd("decode", data_bin, "--teacher", teacher, "--strategy", "greedy", "--max-len-b", 20, "--out", tmp_path / "d")
    options = (
        "--task",
        "kd_translation",
        "--distilled",
        tmp_path / "d",
        "--criterion",
        "kd_hybrid",
        "--teacher",
        teacher,
    )
    log = train(data_bin, tmp_path / "student", *options, user_dir=PACKAGE)
    assert "sentence_loss" in log.stdout + log.stderr


def test_original_and_distilled_data_mix_and_word_level_distillation_runs_on_them(data_bin, teacher, tmp_path):
    run_kd("decode", data_bin, "--teacher", teacher, "--strategy", "greedy", "--max-len-b", 20, "--out", tmp_path / "d")
    result = run_kd("mix", data_bin, tmp_path / "d", "--times", 1, 0.5, "--out", tmp_path / "mixed")
    assert "400 + 200 = 600 pairs" in result.stdout
    run_kd("cache", tmp_path / "mixed", "--teacher", teacher, "--top-k", 4, "--out", tmp_path / "cache", "--cpu")
    options = ("--criterion", "kd_word", "--teacher-cache", tmp_path / "cache")
    log = train(tmp_path / "mixed", tmp_path / "student", *options, user_dir=PACKAGE)
    assert "kd_loss" in log.stdout + log.stderr
