"""kd_hybrid: its limits g = 1 and g = 0, its weights, its gates, one pass of the encoder, and what it refuses."""

import math

import pytest
import torch
from conftest import TINY_MODEL
from helpers import batch, build, losses_of_training

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.hybrid_config import KDHybridConfig, LearnedGate, check_hybrid_options, scheduled
from fairseq_kd.criterions.kd_hybrid import two_passes
from fairseq_kd.inference.supported import unwrapped

COMMON = ("--label-smoothing", "0.1", "--dropout", "0.0")
IMPLEMENTATIONS = ["fused", "reference"]


@pytest.fixture
def hybrid(distilled, teacher):
    """Options of a kd_hybrid that has a teacher."""
    task = ("--task", "kd_translation", "--distilled", distilled)
    return (*task, "--criterion", "kd_hybrid", "--teacher", teacher, *COMMON)


def computed(built, indices=range(6)):
    """(loss, logging output, {name: gradient}) of a batch."""
    _, task, model, criterion = built
    model.zero_grad()
    loss, _, logged = criterion(model, batch(task, indices))
    loss.backward()
    return loss.item(), logged, {name: value.grad.clone() for name, value in model.named_parameters()}


def assert_close(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], **(tolerance or {"rtol": 1e-4, "atol": 1e-5}))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_g_of_one_equals_kd_word(data_bin, teacher, hybrid, implementation):
    options = ("--kd-implementation", implementation)
    loss, logged, gradients = computed(build(data_bin, *hybrid, *options, "--hybrid-weight", "1"))
    plain = build(data_bin, "--criterion", "kd_word", "--teacher", teacher, *COMMON, *options)
    word_loss, word_logged, word_gradients = computed(plain)
    assert loss == word_loss
    for name, value in word_logged.items():
        assert float(logged[name]) == float(value)
    # the order of two sums differs: the weight is applied between the matrix products and the terms
    assert_close(gradients, word_gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_g_of_zero_equals_label_smoothed_cross_entropy_on_the_distilled_data_bin(
    data_bin, distilled, hybrid, implementation
):
    options = ("--kd-implementation", implementation, "--hybrid-weight", "0")
    loss, logged, gradients = computed(build(data_bin, *hybrid, *options))
    plain = build(distilled, "--criterion", "label_smoothed_cross_entropy", *COMMON)
    plain_loss, plain_logged, plain_gradients = computed(plain)
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    assert_close(gradients, plain_gradients)
    # the sums are equal; what the trainer divides them by is the gold's number of tokens
    assert logged["distilled_tokens"] == plain_logged["sample_size"] != logged["sample_size"]
    assert logged["sentence_loss"].item() == pytest.approx(plain_logged["nll_loss"].item(), rel=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_each_sentence_has_a_weight_of_its_own(data_bin, distilled, teacher, hybrid, implementation, monkeypatch):
    built = build(data_bin, *hybrid, "--kd-implementation", implementation)
    criterion = built[3]
    indices, weights = [3, 0, 5], {3: 0.2, 0: 0.9, 5: 0.0}
    monkeypatch.setattr(
        criterion, "sentence_weights", lambda sample, _: torch.tensor([weights[i] for i in sample["id"].tolist()])
    )
    loss, _, gradients = computed(built, indices)
    token = build(data_bin, "--criterion", "kd_word", "--teacher", teacher, *COMMON)
    sentence = build(distilled, "--criterion", "label_smoothed_cross_entropy", *COMMON)
    expected, expected_gradients = 0.0, {name: torch.zeros_like(value) for name, value in gradients.items()}
    for number, weight in weights.items():
        for limit, share in ((token, weight), (sentence, 1 - weight)):
            part, _, part_gradients = computed(limit, [number])
            expected += share * part
            for name, value in part_gradients.items():
                expected_gradients[name] += share * value
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_close(gradients, expected_gradients)


def test_a_sentence_weighs_the_same_in_every_batch(data_bin, hybrid):
    built = build(data_bin, *hybrid, "--hybrid-weight", "0.3")
    alone = sum(computed(built, [i])[0] for i in range(5))
    assert computed(built, [4, 1, 0, 3, 2])[0] == pytest.approx(alone, rel=1e-5)


def test_one_pass_of_the_encoder_has_the_gradients_of_two_whole_passes(data_bin, hybrid):
    _, task, model, _ = build(data_bin, *hybrid)
    sample, passes, model = batch(task, range(6)), [], model.double()
    model.encoder.register_forward_hook(lambda *_: passes.append(1))
    net_input, fed = sample["net_input"], sample["distilled"]["prev_output_tokens"]
    results = []
    for function in (
        lambda: two_passes(model, net_input, fed)[:2],
        lambda: (model(**net_input), model(**net_input | {"prev_output_tokens": fed})),
    ):
        passes.clear()
        model.zero_grad()
        first, second = function()
        (first[0].square().sum() + 3 * second[0].square().sum()).backward()
        gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
        results.append((first[0].detach(), second[0].detach(), gradients, len(passes)))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])
    assert_close(results[0][2], results[1][2])
    assert (results[0][3], results[1][3]) == (1, 2)
    assert len(model.encoder._forward_hooks) == 1  # ours was removed


def test_a_wrapped_model_is_run_through_its_wrapper_once(data_bin, hybrid):
    """DistributedDataParallel arms its reduction of gradients in its own forward pass."""

    class Wrapper(torch.nn.Module):
        passes = 0

        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **kwargs):
            self.passes += 1
            return self.module(**kwargs)

    class FullyShardedWrapper(Wrapper):
        pass

    _, task, model, _ = build(data_bin, *hybrid)
    sample = batch(task, range(3))
    fed = sample["distilled"]["prev_output_tokens"]
    expected = two_passes(model, sample["net_input"], fed)
    for kind, passes in ((Wrapper, 1), (FullyShardedWrapper, 2)):
        wrapped = kind(model)
        assert unwrapped(wrapped) is model
        found = two_passes(wrapped, sample["net_input"], fed)
        assert wrapped.passes == passes
        torch.testing.assert_close(found[1][0], expected[1][0])


def test_fused_and_reference_agree_with_a_learned_gate(data_bin, hybrid):
    results = []
    for implementation in IMPLEMENTATIONS:
        options = ("--hybrid-gate", "learned", "--hybrid-weight", "0.3", "--kd-implementation", implementation)
        built = build(data_bin, *hybrid, *options)
        loss, logged, gradients = computed(built)
        gate = {name: value.grad for name, value in built[3].gate.named_parameters()}
        results.append((loss, logged, gradients | gate))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for name in ("gate", "sentence_loss", "kd_loss", "nll_loss"):
        assert float(results[0][1][name]) == pytest.approx(float(results[1][1][name]), rel=1e-5)
    assert_close(results[0][2], results[1][2])


def test_the_unreduced_loss_has_one_value_a_position_of_both_targets(data_bin, hybrid):
    _, task, model, criterion = build(data_bin, *hybrid, "--hybrid-gate", "learned")
    sample = batch(task, range(4))
    values = criterion(model, sample, reduce=False)[0]
    assert values.shape == (sample["target"].numel() + sample["distilled"]["target"].numel(), 1)
    assert values.sum().item() == pytest.approx(criterion(model, sample)[0].item(), rel=1e-5)


def test_the_gradient_of_the_gate_prefers_the_smaller_loss(data_bin, hybrid):
    """By hand: d loss / d b = Σ g (1 - g) (L_token - L_sentence), with g = 1/2 at the start."""
    _, task, model, criterion = build(data_bin, *hybrid, "--hybrid-gate", "learned")
    computed((_, task, model, criterion), [2])
    token, sentence = (computed(build(data_bin, *hybrid, "--hybrid-weight", weight), [2])[0] for weight in ("1", "0"))
    assert criterion.gate.bias.grad.item() == pytest.approx(0.25 * (token - sentence), rel=1e-4)
    sample = batch(task, [2])
    mean = model.encoder(sample["net_input"]["src_tokens"])["encoder_out"][0].mean(dim=0)[0]
    torch.testing.assert_close(criterion.gate.weight.grad, 0.25 * (token - sentence) * mean, rtol=1e-4, atol=1e-5)


def test_the_gate_averages_the_states_of_real_tokens_and_is_not_felt_by_the_encoder():
    gate = LearnedGate(2, 0.2)
    states = torch.tensor([[[1.0, 2.0], [9.0, 9.0]], [[3.0, 6.0], [1.0, -1.0]]], requires_grad=True)  # (S, B, d)
    padding = torch.tensor([[False, False], [True, False]])  # (B, S)
    torch.testing.assert_close(gate(states, padding), torch.tensor([0.2, 0.2]))
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([1.0, 0.5]))
        gate.bias.zero_()
    g = gate(states, padding)
    # sentence 0: mean (2, 4), 2 + 2 = 4; sentence 1, its first state is padding: (1, -1), 1 - 1/2 = 1/2
    torch.testing.assert_close(g, torch.tensor([4.0, 0.5]).sigmoid())
    g.sum().backward()
    assert states.grad is None and gate.weight.grad is not None


def test_a_learned_gate_is_trained_saved_and_restored(data_bin, hybrid, tmp_path):
    options = (*hybrid, "--hybrid-gate", "learned", "--hybrid-weight", "0.4")
    whole, _ = losses_of_training(data_bin, *options, updates=8)
    begun, trainer = losses_of_training(data_bin, *options, updates=4)
    gate = trainer.get_criterion().gate
    assert begun == whole[:4]
    assert gate.bias.item() != pytest.approx(math.log(0.4 / 0.6), abs=1e-4) and gate.weight.abs().min() > 0
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "c.pt"), {"train_iterator": {"epoch": 1}})
    _, resumed = losses_of_training(data_bin, *options, updates=0)
    resumed.load_checkpoint(str(tmp_path / "c.pt"))
    restored = resumed.get_criterion().gate
    assert torch.equal(restored.weight, gate.weight) and torch.equal(restored.bias, gate.bias)
    moments = [resumed.optimizer.optimizer.state[parameter]["exp_avg"] for parameter in restored.parameters()]
    assert all(moment.abs().sum() > 0 for moment in moments)


def test_in_bfloat16_only_rounding_changes_and_the_gate_stays_exact(data_bin, hybrid):
    options = ("--hybrid-gate", "learned", "--hybrid-weight", "0.3")
    exact = computed(build(data_bin, *hybrid, *options))
    cfg, task, model, criterion = build(data_bin, *hybrid, *options)
    rounded = computed((cfg, task, model.bfloat16(), criterion.bfloat16()))
    assert rounded[0] == pytest.approx(exact[0], rel=0.02)
    assert float(rounded[1]["gate"]) == pytest.approx(6 * 0.3, rel=5e-3)  # the bias has 8 bits
    assert all(parameter.grad.isfinite().all() for parameter in criterion.parameters())


@pytest.mark.parametrize("select", [(), ("--kd-select", "global")])
def test_a_checkpoint_without_a_gate_lets_it_begin(data_bin, hybrid, caplog, select):
    *_, criterion = build(data_bin, *hybrid, *select, "--hybrid-gate", "learned", "--hybrid-weight", "0.2")
    criterion.load_state_dict(None)
    assert "has no learned gate" in caplog.text
    assert criterion.gate.bias.item() == pytest.approx(math.log(0.25))


def test_a_schedule_goes_in_a_straight_line_and_stays():
    assert [scheduled(0.8, 0.2, 10, update) for update in (0, 5, 10, 99)] == pytest.approx([0.8, 0.5, 0.2, 0.2])


def test_the_schedule_follows_the_updates_and_survives_resume(data_bin, hybrid, tmp_path):
    schedule = ("--hybrid-weight", "1", "--hybrid-weight-end", "0", "--hybrid-schedule-updates", "4")
    options = (*hybrid, "--hybrid-gate", "schedule", *schedule, "--update-freq", "1")

    def recorded(updates, checkpoint=None):
        from fairseq_kd.criterions.kd_hybrid import KDHybridCriterion

        found = []
        original = KDHybridCriterion.sentence_weights
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                KDHybridCriterion,
                "sentence_weights",
                lambda self, *given: found.append(original(self, *given)) or found[-1],
            )
            _, trainer = losses_of_training(data_bin, *options, updates=0 if checkpoint else updates)
            if checkpoint:
                trainer.load_checkpoint(checkpoint)
                trainer.train_step([batch(trainer.task, [0, 1])])
        return [g[0].item() for g in found], trainer

    weights, trainer = recorded(3)
    assert weights == pytest.approx([1.0, 0.75, 0.5])
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "c.pt"), {"train_iterator": {"epoch": 1}})
    assert recorded(0, str(tmp_path / "c.pt"))[0] == pytest.approx([0.25])


def test_mean_gate_and_sentence_loss_are_logged(data_bin, distilled, hybrid):
    from fairseq.logging import metrics

    _, task, model, criterion = build(data_bin, *hybrid, "--hybrid-weight", "0.3")
    with metrics.aggregate() as logged:
        criterion.reduce_metrics([criterion(model, batch(task, indices))[2] for indices in ([0, 1, 2], [3])])
    values = logged.get_smoothed_values()
    assert values["gate"] == pytest.approx(0.3, abs=1e-3)
    assert {"loss", "nll_loss", "kd_loss", "agreement"} <= values.keys()
    _, plain_task, plain_model, plain = build(distilled, "--criterion", "label_smoothed_cross_entropy", *COMMON)
    parts = [plain(plain_model, batch(plain_task, [i]))[2] for i in range(4)]
    bits = sum(part["nll_loss"].item() for part in parts) / sum(part["ntokens"] for part in parts) / math.log(2)
    assert values["sentence_loss"] == pytest.approx(bits, abs=1e-3)


def test_validation_is_the_students_own_loss_on_the_gold_target(data_bin, distilled, tmp_path):
    task_options = ("--task", "kd_translation", "--distilled", distilled)
    _, task, model, criterion = build(
        data_bin, *task_options, "--criterion", "kd_hybrid", "--teacher", tmp_path / "moved.pt", *COMMON
    )
    *_, plain = build(data_bin, "--criterion", "label_smoothed_cross_entropy", *COMMON)
    model.eval()
    for subset in ("valid", "train"):
        task.load_dataset(subset, task_cfg=task.cfg)  # as commands do that validate
        sample = batch(task, range(4), subset)
        loss, _, logged = criterion(model, sample)
        assert loss.item() == pytest.approx(plain(model, sample)[0].item(), rel=1e-6)
        assert not {"gate", "sentence_loss", "kd_loss"} & logged.keys()


def test_a_criterion_without_distilled_targets_is_one_clear_error(data_bin, hybrid, teacher, capsys):
    message = "kd_hybrid needs a distilled target and a gold target: give --task kd_translation --distilled DATA_BIN"
    with pytest.raises(SystemExit):
        build(data_bin, "--criterion", "kd_hybrid", "--teacher", teacher)
    assert message in capsys.readouterr().err
    _, task, model, criterion = build(data_bin, *hybrid)
    with pytest.raises(SystemExit):
        criterion(model, batch(task, [0, 1], "valid"))  # a batch of another subset, while the model trains
    assert message in capsys.readouterr().err


def test_a_student_that_is_no_transformer_has_no_learned_gate_but_a_constant_one(data_bin, hybrid, capsys):
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    def build_lstm(*more):
        words = [str(data_bin), "--arch", "lstm", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"]
        words += ["--decoder-out-embed-dim", "16", "--optimizer", "adam", "--cpu", "--max-tokens", "400"]
        words += map(str, (*(w for w in hybrid if w not in ("--dropout", "0.0")), *more))
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
        task = tasks.setup_task(cfg.task)
        return task, task.build_model(cfg.model), task.build_criterion(cfg.criterion)

    task, model, criterion = build_lstm()
    loss, _, logged = criterion(model, batch(task, range(4)))
    loss.backward()
    assert logged["sentence_loss"] > 0
    with pytest.raises(SystemExit):
        build_lstm("--hybrid-gate", "learned")
    assert "needs the encoder of one of fairseq's transformers" in capsys.readouterr().err


def test_the_width_of_the_gate_is_that_of_the_encoder(data_bin, hybrid):
    _, task, _, criterion = build(data_bin, *hybrid, "--hybrid-gate", "learned")
    assert task.encoder_width == int(TINY_MODEL[TINY_MODEL.index("--encoder-embed-dim") + 1])
    assert {name: tuple(value.shape) for name, value in criterion.named_parameters()} == {
        "gate.weight": (16,),
        "gate.bias": (1,),
    }


SCHEDULE = {"hybrid_gate": "schedule", "hybrid_weight_end": 0.1, "hybrid_schedule_updates": 10}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hybrid_weight": 1.2}, "--hybrid-weight 1.2"),
        ({"hybrid_weight": -0.1}, "--hybrid-weight -0.1"),
        ({"hybrid_weight": float("nan")}, "--hybrid-weight nan"),
        (SCHEDULE | {"hybrid_weight_end": 2.0}, "--hybrid-weight-end 2.0"),
        (SCHEDULE | {"hybrid_weight_end": None}, "needs --hybrid-weight-end"),
        (SCHEDULE | {"hybrid_schedule_updates": None}, "needs --hybrid-weight-end"),
        (SCHEDULE | {"hybrid_schedule_updates": 0}, "--hybrid-schedule-updates 0"),
        (SCHEDULE | {"hybrid_weight_end": 0.5}, "--hybrid-gate schedule has no effect"),
        ({"hybrid_weight_end": 0.1}, "--hybrid-weight-end 0.1 has no effect without --hybrid-gate schedule"),
        ({"hybrid_gate": "learned", "hybrid_schedule_updates": 5}, "--hybrid-schedule-updates 5 has no effect"),
        ({"hybrid_gate": "learned", "hybrid_weight": 1.0}, "with this initial weight cannot change"),
        ({"teacher": None}, "needs a teacher"),
        ({"kd_weight": 2.0}, "--kd-weight 2.0"),
    ],
)
def test_options_out_of_range_or_without_effect_are_errors(options, message):
    defaults = {"teacher": "t.pt", "sentence_avg": False}
    check_hybrid_options(KDHybridConfig(**defaults))
    check_hybrid_options(KDHybridConfig(**defaults | SCHEDULE))
    # the smoothing of the distilled target is the same
    check_hybrid_options(KDHybridConfig(**defaults | {"kd_weight": 1.0, "label_smoothing": 0.1}))
    with pytest.raises(KDError, match=message.replace(".", r"\.")):
        check_hybrid_options(KDHybridConfig(**(defaults | options)))
