"""A teacher whose products are in bfloat16: caches and their error, measures of losses, online signals, doctor."""

import json

import numpy as np
import pytest
import torch
from helpers import batch, build, write_variant

from fairseq_kd.cache.format import CacheFormat
from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.cache.rounding import _deviations
from fairseq_kd.cache.values import _largest, encoded, encoded_logits
from fairseq_kd.cli import doctor
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.checkpoints import Measurements, nll_of_checkpoint
from fairseq_kd.evaluation.measures import Measures
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.inference import linear, precision
from fairseq_kd.inference.frozen import load_frozen
from fairseq_kd.inference.precision import autocast, check_loss_dtype
from fairseq_kd.loss.rows import kl
from fairseq_kd.loss.weights import Weighting
from fairseq_kd.teacher.online import OnlineSignalSource
from fairseq_kd.teacher.verify import verify_cache

CPU = torch.device("cpu")


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """A CPU with the instructions, where products of any size are in bfloat16; cpu(flags) has other instructions."""

    def write(flags):
        path = tmp_path / f"cpuinfo-{flags}"
        path.write_text(f"flags\t\t: fpu {flags}\n")
        monkeypatch.setattr(precision, "CPUINFO", path)

    write("avx512_bf16")
    monkeypatch.setattr(linear, "SMALLEST_PRODUCT", 0)
    return write


def made(data_bin, teacher, folder, dtype, **how):
    options = CachingOptions("valid", top_k=5, teacher_dtype=dtype, cpu=True, tail_shapes=0)
    return make_cache(data_bin, teacher, folder, options, **how)


def test_deviations_worked_by_hand():
    """Float32: 1/2, 1/4, 1/4. Stored: entries 0 and 1 with 2/4 and 1/4 of 3/4, then tail 1/4; or 1/4, 1/4 and 1/2."""
    lprobs = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]).log()
    ids = torch.tensor([[0, 1], [1, 0]])
    delta = torch.tensor([[0.0, np.log(2)], [0.0, 0.0]])
    largest, divergence, same = _deviations(lprobs, ids, delta, torch.tensor([0.25, 0.5]).log(), 1.0)
    assert largest.tolist() == pytest.approx([0, np.log(2)], abs=1e-6)
    # ln(1/2 : 1/4) / 2 + ln(1/4 : 1/4) / 4 + ln(1/4 : 1/2) / 4
    assert divergence.tolist() == pytest.approx([0, np.log(2) / 4], abs=1e-6)
    assert same.tolist() == [True, False]


def test_rows_from_logits_are_the_rows_from_log_probabilities():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(200, 90, generator=generator)
    logits[0, 1:] = -100.0  # a tail of almost nothing
    before, shapes = logits.clone(), torch.rand(3, 90, generator=generator)
    cache_format = CacheFormat(7, (0.5, 1.0, 3.0), 90, tail_shapes=3)
    expected = encoded(logits.double().log_softmax(-1), cache_format, shapes)
    found = encoded_logits(logits, cache_format, shapes)
    assert torch.equal(logits, before)
    assert torch.equal(found[0][1:], expected[0][1:]) and torch.equal(found[3][1:], expected[3][1:])
    for at in (1, 2):
        assert torch.allclose(found[at].double(), expected[at].double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [200, 203, 20])
def test_the_largest_entries_are_those_of_topk(columns):
    values = torch.randperm(40 * columns, generator=torch.Generator().manual_seed(1)).view(40, columns).float()
    for found, expected in zip(_largest(values, 5), values.topk(5), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_manifest_records_how_the_teacher_ran_and_the_error(data_bin, teacher, tmp_path, cpu, dtype):
    manifest = made(data_bin, teacher, tmp_path / "c", dtype)
    exact = made(data_bin, teacher, tmp_path / "exact", "float32")
    assert "rounding" not in exact and exact["teacher"].keys() == {"path", "sha256", "dtype"}
    assert manifest["teacher"].get("rounded") == ("products" if dtype == "bfloat16" else None)
    found = manifest["rounding"]
    assert found["sentences"] > 0 and 0 < found["tokens"] <= manifest["tokens"]
    assert 0 < found["kl"] < 1e-3 and 0 < found["largest"] < 0.2 and 0.9 < found["same_first"] <= 1
    assert verify_cache(tmp_path / "c", cpu=True).largest < 0.15
    assert verify_cache(tmp_path / "exact", cpu=True).largest < 0.01


def test_a_mixture_records_the_error_of_the_mixture(data_bin, teacher, tmp_path, cpu):
    write_variant(teacher, tmp_path / "other.pt", noise=0.05, updates=1)
    both, weighting = f"{teacher}:{tmp_path / 'other.pt'}", Weighting("adaptive")
    manifest = made(data_bin, both, tmp_path / "c", "bfloat16", weighting=weighting)
    made(data_bin, both, tmp_path / "exact", "float32", weighting=weighting)
    assert manifest["teacher"]["rounded"] == "products" and len(manifest["teacher"]["members"]) == 2
    assert 0 < manifest["rounding"]["kl"] < 1e-3 and 0 < manifest["rounding"]["largest"] < 0.2
    found, exact = (np.fromfile(tmp_path / name / "gold.bin", dtype="<f4") for name in ("c", "exact"))
    assert 0 < np.abs(found - exact).max() < 0.2
    assert verify_cache(tmp_path / "c", cpu=True).largest < 0.15


def test_the_error_is_of_the_stored_rows_and_measured_once(data_bin, teacher, tmp_path, cpu, monkeypatch):
    from fairseq_kd.cache import make

    calls, measure = [], make.measure_rounding
    monkeypatch.setattr(make, "measure_rounding", lambda *args: calls.append(1) or measure(*args))
    whole = made(data_bin, teacher, tmp_path / "whole", "bfloat16", block_tokens=200)
    assert made(data_bin, teacher, tmp_path / "c", "bfloat16", shard=(0, 2), block_tokens=200) is None
    assert len(calls) == 1
    shared = made(data_bin, teacher, tmp_path / "c", "bfloat16", shard=(1, 2), block_tokens=200)
    assert len(calls) == 2 and shared == whole
    assert made(data_bin, teacher, tmp_path / "c", "bfloat16", block_tokens=200) == whole and len(calls) == 2


def test_a_cache_with_bfloat16_weights_is_not_continued_with_products(data_bin, teacher, tmp_path, cpu, monkeypatch):
    with monkeypatch.context() as former:  # the request as it was when the weights were bfloat16
        former.setattr(CachingOptions, "rounds_products", lambda self: False)
        made(data_bin, teacher, tmp_path / "c", "bfloat16", shard=(0, 2), block_tokens=200)
    with pytest.raises(KDError, match="teacher.rounded nothing, this command has products"):
        made(data_bin, teacher, tmp_path / "c", "bfloat16", block_tokens=200)


def test_without_instructions_nothing_is_written(data_bin, teacher, tmp_path, cpu, capsys):
    cpu("avx2")
    with pytest.raises(KDError, match="--teacher-dtype bfloat16: this CPU has no instructions"):
        made(data_bin, teacher, tmp_path / "c", "bfloat16")
    assert not (tmp_path / "c").exists()
    with pytest.raises(KDError, match="--loss-dtype bfloat16: this CPU has no instructions"):
        Measurements(tmp_path / "m", data_bin, "valid", TranslateOptions(cpu=True), loss_dtype="bfloat16")
    assert not (tmp_path / "m").exists()


def test_the_command_prints_the_error_in_one_line(data_bin, teacher, tmp_path, cpu, capsys):
    words = ["cache", str(data_bin), "--teacher", str(teacher), "--subset", "valid", "--cpu"]
    assert main([*words, "--out", str(tmp_path / "c"), "--teacher-dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out.count("bfloat16 against float32, on ") == 1
    assert main([*words, "--out", str(tmp_path / "f")]) == 0
    assert "against float32" not in capsys.readouterr().out


def test_losses_with_products_in_bfloat16(data_bin, teacher, tmp_path, cpu):
    how = {"max_tokens": 4000, "device": CPU}
    exact, _ = nll_of_checkpoint(data_bin, teacher, "valid", **how)
    rounded, _ = nll_of_checkpoint(data_bin, teacher, "valid", dtype="bfloat16", **how)
    assert rounded != exact and rounded == pytest.approx(exact, rel=1e-3)
    plain, narrow = (
        Measurements(tmp_path, data_bin, "valid", TranslateOptions(cpu=True), **options)
        for options in ({}, {"loss_dtype": "bfloat16"})
    )
    assert narrow.made_from == plain.made_from | {"loss_dtype": "bfloat16"}
    with pytest.raises(KDError, match="--loss-dtype bfloat16 is for the CPU"):
        check_loss_dtype(torch.device("cuda"), "bfloat16")
    with pytest.raises(KDError, match="--loss-dtype half: must be"):
        check_loss_dtype(CPU, "half")


def test_evaluate_records_the_type_of_the_losses(data_bin, teacher, tmp_path, cpu, capsys):
    found = []
    for number, options in enumerate(((), ("--loss-dtype", "bfloat16"))):
        out = tmp_path / f"{number}.json"
        words = ["evaluate", str(data_bin), "--checkpoint", str(teacher), "--subset", "valid", "--cpu", "--beam", "1"]
        assert main([*words, "--max-len-b", "3", "--calibration", "--gap", *options, "--out", str(out)]) == 0
        found.append(json.loads(out.read_text()))
    exact, rounded = found
    for name, value in (("calibration", "nll_bits"), ("gap", "gap_bits")):
        assert "dtype" not in exact[name] and rounded[name]["dtype"] == "bfloat16"
        assert rounded[name][value] != exact[name][value]
        assert rounded[name][value] == pytest.approx(exact[name][value], rel=0.01, abs=0.005)
    assert rounded["hypotheses"] == exact["hypotheses"]
    assert capsys.readouterr().out.count("products in bfloat16") == 1
    assert main(["evaluate", str(data_bin), "--checkpoint", str(teacher), "--loss-dtype", "bfloat16"]) == 2
    assert "--loss-dtype has no effect without --calibration or --gap" in capsys.readouterr().err
    assert Measures().loss_dtype == "float32"


@pytest.fixture(scope="module")
def asked(data_bin):
    """(student, task, sample, keep)."""
    _, task, model, _ = build(data_bin, "--criterion", "cross_entropy")
    task.load_dataset("train")
    sample = batch(task, range(30))
    return model, task, sample, sample["target"].ne(1)


def test_an_online_teacher_in_bfloat16_is_near_the_exact_one(teacher, asked, cpu, caplog):
    model, task, sample, keep = asked
    caplog.set_level("INFO", logger="fairseq_kd")
    signals = []
    for dtype in ("float32", "bfloat16"):
        source = OnlineSignalSource(teacher, task, dtype=dtype)
        source.choose_dtype(model)
        source.choose_dtype(model)
        signals.append(source.signal(sample, keep, 1.0).rows())
    assert not torch.equal(*signals)
    assert kl(*signals).mean() < 1e-3
    assert [record.getMessage() for record in caplog.records if "the teacher runs in" in record.getMessage()] == [
        "the teacher runs in float32 (--teacher-dtype float32)",
        "the teacher runs in float32 with products in bfloat16 (--teacher-dtype bfloat16)",
    ]
    cpu("avx2")
    with pytest.raises(KDError, match="--teacher-dtype bfloat16: this CPU has no instructions"):
        OnlineSignalSource(teacher, task, dtype="bfloat16").choose_dtype(model)


def test_the_autocast_of_a_training_does_not_change_a_float32_teacher(teacher, asked, cpu):
    _, _, sample, keep = asked
    frozen = load_frozen(teacher, signals_only=True)
    alone = frozen.signal(sample, keep).rows()
    with autocast("cpu", "bfloat16"):
        inside = frozen.signal(sample, keep).rows()
        narrow = torch.nn.functional.linear
    assert torch.equal(alone, inside)
    assert isinstance(narrow, linear._NarrowLinear)


@pytest.mark.parametrize(
    ("flags", "gain", "text"),
    [
        ("avx2", 9.0, "this CPU has no instructions for it"),
        ("amx_bf16 avx512_bf16", 4.0, "has amx_bf16, avx512_bf16; a product takes 0.25 of its time in float32: train "),
        ("avx512_bf16", 1.0, "takes 1.00 of its time in float32, so bfloat16 is not faster here"),
    ],
)
def test_doctor_says_what_bfloat16_brings(cpu, monkeypatch, flags, gain, text):
    cpu(flags)
    monkeypatch.setattr(precision, "gain_of_products", lambda: gain)
    assert text in doctor._bfloat16_on_cpu()


def test_the_measured_gain_is_a_ratio_of_times():
    assert 0.01 < precision.gain_of_products(rows=64, repetitions=2) < 100
