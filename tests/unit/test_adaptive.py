"""kd_adaptive: gates, the penalty beside any criterion, the same gates everywhere, resume, and targets out of reach."""

import math

import pytest
import torch
from helpers import batch, build, losses_of_training
from student_helpers import SMALL, build_student, size, some_input

from fairseq_kd.core.errors import KDError
from fairseq_kd.models.capacity import INITIAL_LAMBDA2, Capacity, CapacityOptions
from fairseq_kd.models.gates import GatedLinear, HardConcreteGate

ADAPTIVE = ("--arch", "kd_adaptive", "--capacity-target", "0.6")
CROSS_ENTROPY = ("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1")


def set_log_alpha(gate, *values):
    with torch.no_grad():
        gate.score.copy_(torch.tensor(values) / 10)


def test_a_fixed_gate_is_open_closed_or_between_by_hand():
    gate = HardConcreteGate(5).eval()
    set_log_alpha(gate, -9.0, -math.log(11), 0.0, math.log(11), 9.0)
    # sigmoid(±log 11) = 11/12 and 1/12: times 1.2, less 0.1, that is 1 and 0
    torch.testing.assert_close(gate(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]), rtol=0, atol=1e-6)


def test_gates_are_open_at_the_start_and_are_not_drawn_in_the_warm_up():
    gate = HardConcreteGate(7).train()
    assert torch.equal(gate(), torch.ones(7))
    assert gate.open_probability()[0].item() > 0.98


def test_the_share_of_drawn_gates_that_are_not_closed_is_their_probability():
    gate = HardConcreteGate(1).train()
    for log_alpha in (-2.0, 0.0, 1.5):
        set_log_alpha(gate, log_alpha)
        gate.noise = torch.logit(torch.rand(200_000, generator=torch.Generator().manual_seed(1)))
        assert (gate() > 0).float().mean().item() == pytest.approx(gate.open_probability().item(), abs=0.005)


def test_a_gated_layer_multiplies_each_group_of_inputs():
    layer = GatedLinear(2, 3, 4).eval()
    set_log_alpha(layer.gates, 0.0, -9.0)
    x = torch.randn(5, 6)
    expected = 0.5 * x[:, :3] @ layer.weight[:, :3].T + layer.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("ffn", ["plain", "glu"])
def test_parameters_are_counted_as_those_that_compacting_would_leave(ffn):
    options = (*SMALL, "--ffn-type", ffn)
    plain, model = build_student("--arch", "kd_student", *options), build_student(*ADAPTIVE, *options)
    assert model.capacity.total == size(plain)
    for gate in model.capacity.gates.values():
        set_log_alpha(gate, *[99.0] * len(gate.score))
    width = model.encoder.layers[1].shape.ffn_width
    set_log_alpha(model.capacity.gates["encoder.1.channels"], *[-99.0] * 5, *[99.0] * (width - 5))
    set_log_alpha(model.capacity.gates["decoder.0.cross_heads"], -99.0, 99.0, 99.0, -99.0)
    widths = ("--encoder-ffn-widths", f"{width},{width - 5}", "--decoder-cross-heads", "2,4")
    smaller = size(build_student("--arch", "kd_student", *options, *widths))
    assert model.capacity.expected_share().item() * size(plain) == pytest.approx(smaller, rel=1e-6)
    assert model.capacity.report()["capacity_kept"] * size(plain) == pytest.approx(smaller, rel=1e-6)


def test_with_open_gates_it_is_the_plain_student():
    plain, model = build_student("--arch", "kd_student", *SMALL), build_student(*ADAPTIVE, *SMALL)
    weights = model.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    torch.testing.assert_close(model.eval()(**some_input())[0], plain.eval()(**some_input())[0], rtol=1e-4, atol=1e-5)


def criterion_options(name, teacher):
    return CROSS_ENTROPY if name == "cross-entropy" else ("--criterion", "kd_word", "--teacher", teacher, *KD[name])


KD = {
    "fused": ("--kd-implementation", "fused"),
    "reference": ("--kd-implementation", "reference"),
    "sentence-avg": ("--sentence-avg",),
}


@pytest.mark.parametrize("name", ["cross-entropy", *KD])
def test_the_penalty_reaches_the_gates_and_not_the_reported_loss(data_bin, teacher, name):
    """gradient = d criterion / d gate + sample_size · d penalty / d gate, as the trainer divides by the sample size."""
    options = criterion_options(name, teacher)
    _, task, model, criterion = build(data_bin, *ADAPTIVE, *options, "--dropout", "0.0")
    sample = batch(task, range(5))
    model.train()
    results = []
    for multipliers in ((0.0, 0.0), (1.7, 2.5)):
        model.zero_grad()
        model.set_num_updates(0)
        model.capacity.multipliers = torch.tensor(multipliers, dtype=torch.float64)
        loss, sample_size, logged = criterion(model, sample)
        loss.backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
        results.append((loss.item(), logged["loss"].item(), gradients))
    (plain, logged_plain, before), (total, logged_total, after) = results
    assert sample_size == (5 if name == "sentence-avg" else sample["ntokens"])
    assert logged_total == logged_plain == pytest.approx(plain)
    share = model.capacity.expected_share()
    excess = share - 0.6
    penalty = 1.7 * excess + 2.5 * excess**2
    assert total - plain == pytest.approx(sample_size * penalty.item(), rel=1e-4)
    for gate_name, gate in model.capacity.gates.items():
        (expected,) = torch.autograd.grad(penalty, gate.score, retain_graph=True)
        found = next(key for key, value in model.named_parameters() if value is gate.score)
        torch.testing.assert_close(
            after[found] - before[found], sample_size * expected, rtol=1e-3, atol=1e-3, msg=gate_name
        )
    for key, value in before.items():
        if not key.endswith("score"):
            assert torch.equal(value, after[key]), key


def test_every_update_has_the_penalty_once_and_no_hook_is_left_behind(data_bin):
    from torch.nn.modules.module import _global_forward_hooks

    _, task, model, criterion = build(data_bin, *ADAPTIVE, *CROSS_ENTROPY)
    sample, before = batch(task, range(3)), len(_global_forward_hooks)
    model.train()
    for update in (0, 0, 1, 2, 3):  # --update-freq 2 in the first
        model.set_num_updates(update)
        loss, sample_size, logged = criterion(model, sample)
        added = loss.item() - logged["loss"].item()
        assert added == pytest.approx(sample_size * model.capacity.penalty().item(), rel=1e-3)
        assert len(_global_forward_hooks) == before
    model.set_num_updates(4)
    model.set_num_updates(5)  # the criterion of update 4 was never called
    model.eval()
    loss, _, logged = criterion(model, sample)
    assert loss.item() == logged["loss"].item()
    model.train()
    assert criterion(model, sample)[0].item() > criterion(model, sample)[0].item()
    assert len(_global_forward_hooks) == before


def test_the_criterion_of_another_model_gets_no_penalty(data_bin):
    _, task, model, criterion = build(data_bin, *ADAPTIVE, *CROSS_ENTROPY)
    *_, other, other_criterion = build(data_bin, *CROSS_ENTROPY)
    sample = batch(task, range(3))
    model.train()
    model.set_num_updates(0)
    loss, _, logged = other_criterion(other.train(), sample)
    assert loss.item() == logged["loss"].item()
    loss, _, logged = criterion(model, sample)
    assert loss.item() > logged["loss"].item()


def test_gates_depend_on_the_update_alone_and_leave_torchs_random_numbers_alone():
    first, second = (build_student(*ADAPTIVE, *SMALL, seed=seed).train() for seed in (1, 2))
    drawn = []
    for model, updates in ((first, (0, 1, 2, 2)), (second, (2,))):
        for update in updates:
            state = torch.get_rng_state()
            model.set_num_updates(update)
            assert torch.equal(torch.get_rng_state(), state)
            drawn.append(torch.cat([gate.noise for gate in model.capacity.gates.values()]))
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    assert torch.equal(drawn[2], drawn[3]) and torch.equal(drawn[2], drawn[4])


def test_multipliers_climb_once_an_update_by_hand():
    gate = HardConcreteGate(10)
    # 100 parameters, 80 behind gates of probability 1/2: s = 0.6, t = 0.5
    set_log_alpha(gate, *[(2 / 3) * math.log(0.1 / 1.1)] * 10)
    capacity = Capacity({"a": (gate, 8)}, 100, CapacityOptions(0.5, warmup=2, rate=0.5))
    for update in (0, 1, 2, 2, 3):  # twice in update 2: --update-freq 2
        capacity.begin(update)
    first, second = capacity.multipliers.tolist()
    assert (first, second) == pytest.approx((2 * 0.5 * 0.1, INITIAL_LAMBDA2 + 2 * 0.5 * 0.01), rel=1e-4)
    assert capacity.penalty().item() == pytest.approx(first * 0.1 + second * 0.01, rel=1e-4)


def test_the_target_comes_down_in_a_straight_line():
    capacity = Capacity({"a": (HardConcreteGate(10), 8)}, 100, CapacityOptions(0.5, warmup=10, ramp=20))
    assert [capacity.target_at(update) for update in (10, 20, 30, 99)] == pytest.approx([1.0, 0.75, 0.5, 0.5])


def test_frozen_gates_are_the_highest_scores_that_the_target_has_room_for():
    gates = {"a": (HardConcreteGate(4), 10), "b": (HardConcreteGate(4), 5)}
    set_log_alpha(gates["a"][0], 3.0, -9.0, 0.5, 1.0)
    set_log_alpha(gates["b"][0], -2.0, 2.0, -3.0, 0.0)
    capacity = Capacity(gates, 100, CapacityOptions(0.75, warmup=2, freeze=4))  # 40 behind no gate, room for 35
    for update in range(4):
        capacity.begin(update)
        assert all((gate.decided == -1).all() for gate, _ in gates.values())
    assert capacity.penalty() is not None and gates["a"][0].noise is not None
    for update in (4, 4, 5):
        capacity.begin(update)
        assert [gate.decided.tolist() for gate, _ in gates.values()] == [[1, 0, 1, 1], [0, 1, 0, 0]]
        set_log_alpha(gates["a"][0], -9.0, 9.0, -9.0, -9.0)  # what scores do afterwards decides nothing
        assert gates["a"][0]().tolist() == [1, 0, 1, 1] and capacity.penalty() is None
    assert capacity.report()["capacity"] == capacity.report()["capacity_kept"] == 0.75


def test_a_training_with_frozen_gates_ends_at_its_target_and_resumes(data_bin, tmp_path):
    options = (*ADAPTIVE, *CROSS_ENTROPY, "--capacity-warmup", "1", "--capacity-ramp", "1", "--capacity-freeze", "3")
    _, trainer = losses_of_training(data_bin, *options, updates=5)
    capacity = trainer.get_model().capacity
    largest = capacity.costs.max().item() / capacity.total
    assert 0.6 - largest < capacity.report()["capacity_kept"] <= 0.6
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "c.pt"), {"train_iterator": {"epoch": 1}})
    _, resumed = losses_of_training(data_bin, *options, updates=0)
    resumed.load_checkpoint(str(tmp_path / "c.pt"))
    for each in (trainer, resumed):
        each.train_step([batch(each.task, [5, 12])])
    for name, value in trainer.get_model().state_dict().items():
        assert torch.equal(value, resumed.get_model().state_dict()[name]), name


def test_frozen_gates_stay_decided_in_half_precision():
    model = build_student(*ADAPTIVE, "--capacity-freeze", "1", *SMALL).half().train()
    model.set_num_updates(0)
    model.set_num_updates(1)
    decided = torch.cat([gate.decided for gate in model.capacity.gates.values()])
    assert decided.dtype == torch.int8 and set(decided.tolist()) == {0, 1}


def test_in_the_warm_up_gates_stay_open(data_bin):
    options = (*ADAPTIVE, *CROSS_ENTROPY, "--capacity-warmup", "3")
    _, trainer = losses_of_training(data_bin, *options, updates=3)
    assert all(torch.equal(gate.score, torch.full_like(gate.score, 0.25)) for gate in gates_of(trainer))


def gates_of(trainer):
    return trainer.get_model().capacity.gates.values()


def test_resume_goes_on_with_the_same_gates(data_bin, tmp_path):
    options = (*ADAPTIVE, *CROSS_ENTROPY, "--dropout", "0.1", "--capacity-warmup", "1", "--capacity-ramp", "4")
    sizes = [3, 6]

    def steps(trainer, start):
        found = []
        for update in range(start, sizes[1]):
            trainer.train_step([batch(trainer.task, [update, update + 7])])
            found.append(torch.cat([gate.score.detach().clone() for gate in gates_of(trainer)]))
        return found

    _, whole = losses_of_training(data_bin, *options, updates=0)
    expected = steps(whole, 0)
    _, begun = losses_of_training(data_bin, *options, updates=0)
    sizes[1] = 3
    steps(begun, 0)
    sizes[1] = 6
    begun.consolidate_optimizer()
    begun.save_checkpoint(str(tmp_path / "c.pt"), {"train_iterator": {"epoch": 1}})
    _, resumed = losses_of_training(data_bin, *options, updates=0)
    resumed.load_checkpoint(str(tmp_path / "c.pt"))
    assert all(torch.equal(a, b) for a, b in zip(steps(resumed, 3), expected[3:], strict=True))
    before, after = (trainer.get_model().capacity for trainer in (whole, resumed))
    assert torch.equal(before.multipliers, after.multipliers) and before.update == after.update == 5


def test_a_plain_student_can_be_gone_on_with(data_bin, caplog):
    import logging

    caplog.set_level(logging.INFO)
    plain, model = build_student("--arch", "kd_student", *SMALL), build_student(*ADAPTIVE, *SMALL, seed=2)
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model.eval()(**some_input())[0], plain.eval()(**some_input())[0], rtol=1e-4, atol=1e-5)
    assert "no gates" in caplog.text


def test_in_bfloat16_gates_are_computed_in_float32():
    model = build_student(*ADAPTIVE, *SMALL).bfloat16().train()
    model.set_num_updates(0)
    model(**some_input())[0].float().sum().backward()
    assert model.encoder.layers[0].fc2.gates().dtype == torch.float32
    assert model.capacity.expected_share().dtype == torch.float32
    assert model.capacity.multipliers.dtype == torch.float64
    assert all(gate.score.grad.isfinite().all() for gate in model.capacity.gates.values())


def test_what_is_logged(data_bin):
    from fairseq.logging import metrics

    _, _, model, _ = build(data_bin, *ADAPTIVE, *CROSS_ENTROPY)
    model.train()
    with metrics.aggregate() as logged:
        model.set_num_updates(0)
    values = logged.get_smoothed_values()
    names = [f"open_{name}" for name in ("encoder.0.self_heads", "encoder.0.channels", "decoder.0.self_heads")]
    names += ["open_decoder.0.cross_heads", "open_decoder.0.channels"]
    assert [name for name in values if name.startswith("open")] == names
    assert values["open_encoder.0.channels"] == pytest.approx(32 * 0.984, abs=0.1)
    assert values["capacity_parameters"] == pytest.approx(values["capacity"] * model.capacity.total, rel=1e-3)
    assert values["capacity_kept"] == 1.0 and {"capacity_lambda1", "capacity_lambda2"} <= values.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, "needs --capacity-target"),
        ({"target": 0.5, "warmup": 3, "ramp": 4, "freeze": 7}, "--capacity-freeze 7: must be above"),
        ({"target": 0.0}, "--capacity-target 0.0: must be a share in (0, 1] or"),
        ({"target": -3.0}, "--capacity-target -3.0"),
        ({"target": math.nan}, "--capacity-target nan"),
        ({"target": math.inf}, "--capacity-target inf"),
        ({"target": 101.0}, "--capacity-target 101 is more than the 100 parameters"),
        ({"target": 0.1}, "0.1 is 10 parameters, but 20 of 100"),
        ({"target": 15.0}, "15 is 15 parameters, but 20 of 100"),
        ({"target": 0.5, "warmup": -1}, "--capacity-warmup -1"),
        ({"target": 0.5, "ramp": -1}, "--capacity-ramp -1"),
        ({"target": 0.5, "rate": 0.0}, "--capacity-lr 0.0"),
    ],
)
def test_targets_out_of_range_or_reach_are_errors(options, message):
    import re

    with pytest.raises(KDError, match=re.escape(message)):
        Capacity({"a": (HardConcreteGate(10), 8)}, 100, CapacityOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--capacity-target", "1.5"), "out of reach"),
        ((), "needs --capacity-target"),
        (("--capacity-target", "0.5", "--ddp-backend", "fully_sharded"), "fully_sharded"),
        (("--capacity-target", "1e9"), "more than the"),
    ],
)
def test_a_user_error_ends_with_status_2(capsys, options, message):
    with pytest.raises(SystemExit) as raised:
        build_student("--arch", "kd_adaptive", *SMALL, *options)
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert message in error or "have no gate" in error


def test_the_capacity_reaches_its_target_in_training(data_bin):
    options = (*CROSS_ENTROPY, "--arch", "kd_adaptive", "--capacity-target", "0.6", "--capacity-warmup", "5")
    options += ("--capacity-ramp", "60", "--adam-betas", "(0.9, 0.98)", "--capacity-lr", "0.1")
    _, trainer = losses_of_training(data_bin, *options, updates=250)
    report = trainer.get_model().capacity.report()
    assert report["capacity"] == pytest.approx(0.6, rel=0.02)
