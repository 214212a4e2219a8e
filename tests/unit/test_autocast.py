"""--autocast bfloat16: the linear layer, the context, trainings and validations, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, build

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import KDWordConfig, check_options
from fairseq_kd.inference import linear, precision
from fairseq_kd.inference.precision import autocast, check_bfloat16, has_bfloat16
from fairseq_kd.loss.products import padded_rows

CROSS_ENTROPY = ("--criterion", "kd_word", "--kd-weight", "0", "--dropout", "0.0")
NARROW = ("--autocast", "bfloat16")


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """A function that makes this CPU one with the given flags."""

    def write(flags: str, name: str = "flags"):
        path = tmp_path / f"cpuinfo-{flags}"
        path.write_text(f"processor\t: 0\n{name}\t\t: fpu {flags} sse\n", encoding="utf-8")
        monkeypatch.setattr(precision, "CPUINFO", path)

    return write


@pytest.fixture
def narrow(cpuinfo, monkeypatch):
    """A CPU with the instructions, where products of any size are in bfloat16."""
    cpuinfo("avx512_bf16")
    monkeypatch.setattr(linear, "SMALLEST_PRODUCT", 0)


def rounded(x):
    return x.detach().bfloat16().double()


def test_products_round_each_operand_once_and_results_to_bfloat16(narrow):
    torch.manual_seed(1)
    x, w, b, g = (torch.randn(shape) for shape in ((3, 7, 48), (40, 48), (40,), (3, 7, 40)))
    x, w, b = (t.requires_grad_() for t in (x, w, b))
    with autocast("cpu", "bfloat16"):
        found = F.linear(x, w, b)
    d_x, d_w, d_b = torch.autograd.grad(found, (x, w, b), g)
    flat_x, flat_g = rounded(x).view(-1, 48), rounded(g).view(-1, 40)
    expected = {
        "result": (found, (flat_x @ rounded(w).t() + rounded(b)).view(3, 7, 40)),
        "d_x": (d_x, (flat_g @ rounded(w)).view(3, 7, 48)),
        "d_w": (d_w, flat_g.t() @ flat_x),
        "d_b": (d_b, g.double().sum(dim=(0, 1))),
    }
    for name, (value, exact) in expected.items():
        assert value.dtype == torch.float32 and value.shape == exact.shape, name
        tolerance = 1e-6 if name == "d_b" else 2**-8  # half a unit of bfloat16 is 2^-9 of a value
        torch.testing.assert_close(value.double(), exact, rtol=tolerance, atol=1e-5, msg=lambda m, name=name: name + m)
    assert not torch.equal(found.detach(), F.linear(x, w, b).detach()), "nothing was rounded"


def test_a_layer_without_bias_and_a_frozen_weight(narrow):
    x, w = torch.randn(5, 16, requires_grad=True), torch.randn(8, 16)
    with autocast("cpu", "bfloat16"):
        F.linear(x, w).sum().backward()
    torch.testing.assert_close(x.grad, w.sum(dim=0).expand(5, 16), rtol=0.02, atol=0.05)
    assert w.grad is None


@pytest.mark.parametrize("count", [1, 15, 16, 17, 255, 257, 512, 3900, 4097])
def test_rows_are_padded_a_little_to_few_shapes(count):
    assert count <= padded_rows(count) <= max(count + 15, count * 17 / 16)
    assert len({padded_rows(n) for n in range(1, 8193)}) < 120


def test_small_products_and_other_types_are_those_of_torch(cpuinfo):
    x, w = torch.randn(8, 64), torch.randn(32, 64)
    with autocast("cpu", "bfloat16"):
        inside, inside_double = F.linear(x, w), F.linear(x.double(), w.double())
    assert torch.equal(inside, F.linear(x, w)) and torch.equal(inside_double, F.linear(x.double(), w.double()))


def test_contexts_nest_and_end_with_an_exception(narrow):
    x, w = torch.randn(4, 16), torch.randn(8, 16)
    exact = F.linear(x, w)
    with pytest.raises(ZeroDivisionError), autocast("cpu", "bfloat16"):
        rounded = F.linear(x, w)
        with autocast("cpu", "none"):
            assert torch.equal(F.linear(x, w), exact)
        assert torch.equal(F.linear(x, w), rounded) and not torch.equal(rounded, exact)
        raise ZeroDivisionError
    assert torch.equal(F.linear(x, w), exact)


def test_an_input_that_was_changed_in_place_is_rounded_again(narrow):
    x, w = torch.randn(4, 16), torch.randn(8, 16)
    with autocast("cpu", "bfloat16"):
        before = F.linear(x, w)
        x.mul_(2)
        assert torch.equal(F.linear(x, w), 2 * before)


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_training_is_rounded_and_validation_is_not(data_bin, narrow, implementation):
    found = {}
    for name, options in (("float32", ()), ("bfloat16", NARROW)):
        _, task, model, criterion = build(data_bin, *CROSS_ENTROPY, "--kd-implementation", implementation, *options)
        sample = batch(task, range(20))
        loss = criterion(model, sample)[0]
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        model.eval()
        with torch.no_grad():
            found[name] = loss.item(), gradient, criterion(model, sample)[0].item()
    assert found["bfloat16"][2] == found["float32"][2]
    assert found["bfloat16"][0] != found["float32"][0]
    assert found["bfloat16"][0] == pytest.approx(found["float32"][0], rel=1e-3)
    difference = (found["bfloat16"][1] - found["float32"][1]).norm() / found["float32"][1].norm()
    assert 0 < difference < 0.02
    assert found["bfloat16"][1].dtype == torch.float32


def test_layers_that_run_again_in_the_backward_pass_give_the_same_gradient(data_bin, narrow):
    gradients = []
    for options in ((), ("--checkpoint-activations",)):
        _, task, model, criterion = build(data_bin, *CROSS_ENTROPY, "--arch", "kd_student", *NARROW, *options)

        class Optimizer:
            @staticmethod
            def backward(loss):
                loss.backward()

        task.train_step(batch(task, range(20)), model, criterion, Optimizer, 0)
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_what_has_no_effect_or_no_instructions_is_refused(data_bin, cpuinfo, capsys):
    cpuinfo("avx512f")
    _, task, model, criterion = build(data_bin, *CROSS_ENTROPY, *NARROW)
    with pytest.raises(SystemExit):
        task.load_dataset("train")
    assert "--autocast bfloat16: this CPU has no instructions for bfloat16" in capsys.readouterr().err
    cpuinfo("avx512_bf16")
    with pytest.raises(SystemExit):
        criterion(model.bfloat16(), batch(task, range(4)))
    assert "--autocast bfloat16 has no effect with --fp16, --bf16 or --amp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "name", "expected"),
    [("avx512_bf16", "flags", True), ("amx_bf16", "flags", True), ("bf16", "Features", True), ("avx2", "flags", False)],
)
def test_instructions_of_the_cpu(cpuinfo, flags, name, expected):
    cpuinfo(flags, name)
    assert has_bfloat16(torch.device("cpu")) is expected
    if not expected:
        with pytest.raises(KDError, match="--x: this CPU has no instructions"):
            check_bfloat16(torch.device("cpu"), "--x")


def test_the_former_option_names_the_new_one():
    with pytest.raises(KDError, match="--kd-matmul-dtype bfloat16 was replaced: give --autocast bfloat16"):
        check_options(KDWordConfig(kd_weight=0.0, kd_matmul_dtype="bfloat16"))
