"""What keeps a GPU busy: few operations beside the network, no waits for it, and no type that overflows."""

import collections
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import batch, build
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_kd.criterions.hybrid_config import LearnedGate
from fairseq_kd.inference import device as devices
from fairseq_kd.inference.device import Upload, prefer_attention_without_plans, to_host
from fairseq_kd.models.capacity import Capacity, CapacityOptions
from fairseq_kd.models.gates import GatedLinear, HardConcreteGate
from fairseq_kd.teacher.online import OnlineSignalSource, type_of

KD = ("--criterion", "kd_word", "--label-smoothing", "0.1", "--kd-weight", "0.6")
WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")


class Operations(TorchDispatchMode):
    """Counts what torch computes while it is entered."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))

    @property
    def waits(self):
        return sum(self.counts[name] for name in WAITS)


@pytest.mark.parametrize("report_accuracy", [False, True])
def test_a_criterion_asks_once_where_the_tokens_are_before_the_student_runs(data_bin, teacher, report_accuracy):
    options = ("--report-accuracy",) if report_accuracy else ()
    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher, *options)
    sample, waited = batch(task, range(4)), []
    criterion(model.train(), sample)
    source = criterion.source
    signal = source.signal(sample, criterion.kept(sample), 1.0)
    source.request = lambda *_: waited.append(counted.waits) or (lambda: waited.append(counted.waits) or signal)
    with Operations() as counted:
        decoder = model.decoder.register_forward_hook(lambda *_: waited.append("student"))
        _, _, logged = criterion(model, sample)
        decoder.remove()
    before, student, after = waited
    assert (before, student) == (1, "student")  # the places; what waits inside of the student is fairseq's
    assert counted.waits == after, "the loss or the log waits"
    assert type(logged["kd_tokens"]) is int and logged["kd_tokens"] == int(sample["target"].ne(1).sum())
    assert type(logged.get("total", 0)) is int


def capacity_of(parts, freeze=None):
    gates = {f"part{number}": (HardConcreteGate(5), 3) for number in range(parts)}
    return Capacity(gates, 30 * parts, CapacityOptions(0.8, freeze=freeze))


def test_the_capacity_takes_as_many_operations_for_two_layers_as_for_twenty_and_waits_for_none():
    found = []
    for parts in (2, 20):
        capacity = capacity_of(parts)
        capacity.begin(0), capacity.logged()  # constants are made
        with Operations() as counted:
            capacity.begin(1)
            capacity.penalty().backward()
            capacity.logged()
        assert counted.waits == 0
        own = counted.counts
        for name in ("detach", "slice_backward", "slice", "select", "new_empty_strided", "copy_"):  # of each score
            own.pop(name, None)
        found.append(sum(own.values()))
    assert found[0] == found[1] <= 100


def test_scores_stay_in_float32_and_keep_their_digits_in_half_precision():
    layer = GatedLinear(3, 2, 4)
    with torch.no_grad():
        layer.gates.score.fill_(0.123456789)
    layer.half()
    assert layer.weight.dtype == torch.float16 and layer.gates.score.dtype == torch.float32
    assert layer.gates.score.unique().tolist() == [torch.tensor(0.123456789).item()]
    assert layer.double().gates.score.dtype == torch.float64


def test_the_gradient_of_a_gate_over_many_tokens_does_not_overflow_float16():
    """The gate is 1/2 and its derivative by the score 10 · 1/4 · 1.2 = 3; 70,000 tokens of gradient 1 each."""
    layer = GatedLinear(1, 1, 1).half().eval()
    with torch.no_grad():
        layer.gates.score.zero_()
        layer.weight.fill_(1)
    layer(torch.ones(70_000, 1, dtype=torch.float16)).backward(torch.ones(70_000, 1, dtype=torch.float16))
    assert layer.gates.score.grad.tolist() == [210_000.0]


def test_a_gated_layer_has_the_gradients_of_finite_differences():
    layer = GatedLinear(2, 3, 2).double().eval()
    with torch.no_grad():
        layer.gates.score.copy_(torch.tensor([0.02, -0.05]))
    x = torch.randn(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def output(x, score):
        return torch.func.functional_call(layer, {"gates.score": score}, (x,))

    # log α is float32 by design, so differences are coarse
    score, step = layer.gates.score.detach().clone().requires_grad_(), 1e-2
    output(x, score).sum().backward()
    for moved in step * torch.eye(2, dtype=torch.float64):
        slope = (output(x, score + moved).sum() - output(x, score - moved).sum()) / (2 * step)
        assert (score.grad * moved).sum().item() == pytest.approx(step * slope.item(), rel=1e-2)
    gate = layer.gates().double().repeat_interleave(3)
    torch.testing.assert_close(x.grad, (layer.weight.sum(dim=0) * gate).expand(x.shape))


def test_a_learned_gate_is_computed_in_float32_under_autocast():
    gate, states = LearnedGate(2, 0.3), torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([0.123, 4.567]))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gate(states, None)
    assert rounded.dtype == torch.float32 and torch.equal(rounded, gate(states, None))


def student_on(device, dtype):
    return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device(device), dtype=dtype)]))


def test_a_teacher_has_the_type_of_the_student_on_cuda_alone(data_bin, monkeypatch):
    assert type_of(student_on("cpu", torch.bfloat16)) == "float32"
    assert [type_of(student_on("cuda", t)) for t in (torch.float32, torch.float16)] == ["float32", "float16"]
    with monkeypatch.context() as amp:
        amp.setattr(torch, "is_autocast_enabled", lambda device: True)
        amp.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
        assert type_of(student_on("cuda", torch.float32)) == "bfloat16"
    _, task, *_ = build(data_bin)
    for given, expected in (("same", "float16"), ("float32", "float32")):
        source = OnlineSignalSource("unused", task, dtype=given)
        source.choose_dtype(student_on("cuda", torch.float16))
        assert source._arguments["dtype"] == expected


def test_uploaded_arrays_keep_their_values():
    upload = Upload(torch.device("cpu"))
    for dtype, value in (("<u2", 65535), ("<f2", 0.5), ("<i4", -7), ("u1", 255)):
        upload.allocate(2, 3, np.dtype(dtype))[:] = value
    sent = upload.send()
    assert [tensor.unique().tolist() for tensor in sent] == [[65535], [0.5], [-7], [255]]
    assert [tensor.shape for tensor in sent] == [(2, 3)] * 4
    assert [torch.equal(a, b) for a, b in zip(to_host(tuple(sent))(), sent, strict=True)] == [True] * 4


def test_attention_that_builds_plans_is_switched_off_once_and_said(monkeypatch, caplog):
    caplog.set_level("INFO")
    enabled = [True]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: enabled[-1])
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", enabled.append)
    prefer_attention_without_plans()
    prefer_attention_without_plans()
    assert enabled == [True, False] and caplog.text.count("cuDNN's attention is off") == 1
    monkeypatch.setattr(devices.torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert devices.gpu_name(torch.device("cuda", 0)) == "NVIDIA H200" and devices.gpu_name(torch.device("cpu")) is None
