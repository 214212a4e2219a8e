"""On-policy distillation in kd_word: which targets are sampled, the loss, what is logged, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from helpers import batch, build, losses_of_training

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.kd_word import KDWordCriterion
from fairseq_kd.criterions.on_policy import OnPolicy, _sources, on_policy
from fairseq_kd.criterions.on_policy_config import OnPolicyConfig, check_word_options, sampled_share

KD = ("--criterion", "kd_word", "--dropout", "0.0")
PAD, EOS = 1, 2
DICTIONARY = SimpleNamespace(pad=lambda: PAD, eos=lambda: EOS)


def config(**options) -> OnPolicyConfig:
    return OnPolicyConfig(**({"teacher": "t.pt", "sentence_avg": False} | options))


def test_the_schedules_by_hand():
    """ImitKD: 200^(-t/N) is the probability of a gold prefix. At t = N/2 it is 1/√200 = 0.0707107."""
    constant = config(on_policy_rate=0.3)
    assert [sampled_share(constant, update) for update in (0, 1000)] == [0.3, 0.3]
    linear = config(on_policy_rate=0.8, on_policy_schedule="linear", on_policy_schedule_updates=100)
    shares = [sampled_share(linear, update) for update in (0, 25, 50, 100, 150)]
    assert shares == pytest.approx([0, 0.2, 0.4, 0.8, 0.8])
    exponential = config(on_policy_rate=1.0, on_policy_schedule="exponential", on_policy_schedule_updates=100)
    shares = [sampled_share(exponential, update) for update in (0, 50, 100, 150)]
    assert shares == pytest.approx([0, 1 - 0.0707107, 0.995, 0.995], abs=1e-7)


def test_one_decision_for_a_batch_or_for_each_sentence(data_bin):
    """The decision is the first random number of torch's generator, so every rank has the same for its first batch."""
    _, task, *_ = build(data_bin, "--criterion", "cross_entropy")
    found = {}
    for coin in ("batch", "sentence"):
        source = OnPolicy(config(on_policy_rate=0.3, on_policy_coin=coin), task)
        for seed in range(200):
            torch.manual_seed(seed)
            found.setdefault(coin, []).append(source.chosen(8, update=0).tolist())
            torch.manual_seed(seed)
            numbers = torch.rand(1 if coin == "batch" else 8)
            assert found[coin][-1] == (numbers < 0.3).expand(8).tolist()
    assert all(len(set(decisions)) == 1 for decisions in found["batch"])
    assert sum(decisions[0] for decisions in found["batch"]) == pytest.approx(60, abs=26)  # 4 standard deviations
    assert sum(map(sum, found["sentence"])) == pytest.approx(480, abs=74)
    assert any(0 < sum(decisions) < 8 for decisions in found["sentence"])


GOLD = {
    "target": torch.tensor([[4, 5, 6, EOS], [7, 8, EOS, PAD], [9, EOS, PAD, PAD]]),
    "ntokens": 9,
    "net_input": {"prev_output_tokens": torch.tensor([[EOS, 4, 5, 6], [EOS, 7, 8, PAD], [EOS, 9, PAD, PAD]])},
}


@pytest.mark.parametrize("left_pad", [False, True])
def test_samples_replace_targets_by_hand(left_pad):
    """Sentence 0 becomes shorter and sentence 2 longer; then all become shorter than the batch was."""

    def moved(rows):
        return [[*[PAD] * row.count(PAD), *[t for t in row if t != PAD]] if left_pad else row for row in rows]

    def old(rows):
        return torch.tensor(moved(rows.tolist()))

    sample = GOLD | {"target": old(GOLD["target"])}
    sample["net_input"] = {"prev_output_tokens": old(GOLD["net_input"]["prev_output_tokens"])}
    task = SimpleNamespace(target_dictionary=DICTIONARY, cfg=SimpleNamespace(left_pad_target=left_pad))
    source = OnPolicy.__new__(OnPolicy)
    source.dictionary, source.left_pad = task.target_dictionary, left_pad
    drawn = [torch.tensor([EOS]), torch.tensor([9, 9, 9, 9, EOS])]
    mixed = source._with_samples(sample, torch.tensor([0, 2]), drawn)
    target = moved([[EOS, *[PAD] * 4], [7, 8, EOS, PAD, PAD], [9, 9, 9, 9, EOS]])
    prefixes = moved([[EOS, *[PAD] * 4], [EOS, 7, 8, PAD, PAD], [EOS, 9, 9, 9, 9]])
    assert mixed["target"].tolist() == target and mixed["ntokens"] == 9
    assert mixed["net_input"]["prev_output_tokens"].tolist() == prefixes
    short = source._with_samples(sample, torch.arange(3), [torch.tensor([EOS])] * 2 + [torch.tensor([5, EOS])])
    assert short["target"].tolist() == moved([[EOS, PAD], [EOS, PAD], [5, EOS]]) and short["ntokens"] == 4
    assert sample["target"].tolist() == moved(GOLD["target"].tolist())  # the batch of fairseq is as it was


@pytest.mark.parametrize("left_pad", [False, True])
def test_the_sources_of_some_sentences_are_as_wide_as_the_longest_of_them(left_pad):
    """Padding is at one side of each source, and 3 is the first word of all."""
    rows = [[3, 4, 5, 6, EOS], [3, 7, EOS, PAD, PAD], [3, EOS, PAD, PAD, PAD]]
    if left_pad:
        rows = [[*[PAD] * row.count(PAD), *[token for token in row if token != PAD]] for row in rows]
    net_input = {"src_tokens": torch.tensor(rows), "src_lengths": torch.tensor([5, 3, 2])}
    found = _sources(net_input | {"prev_output_tokens": None}, torch.tensor([1, 2]), PAD)
    last = [PAD, 3, EOS] if left_pad else [3, EOS, PAD]
    assert {name: value.tolist() for name, value in found.items()} == {
        "src_tokens": [[3, 7, EOS], last],
        "src_lengths": [3, 2],
    }


def test_without_samples_it_is_kd_word_update_by_update(data_bin, teacher):
    """At rate 0, and where the random decision is always for gold: the dropout of the first also draws the same."""
    common = (*KD[:2], "--teacher", teacher, "--label-smoothing", "0.1")
    for dropout, rate in (("0.1", "0"), ("0.0", "1e-30")):
        found = [
            losses_of_training(data_bin, *common, "--dropout", dropout, *more, updates=5)
            for more in ((), ("--on-policy-rate", rate))
        ]
        assert found[0][0] == found[1][0] and len(found[0][0]) == 5
        for one, other in zip(*(trainer.model.parameters() for _, trainer in found), strict=True):
            assert torch.equal(one, other)


def criterion_of(data_bin, teacher, *options):
    """(task, model, criterion) in the training of a student."""
    _, task, model, criterion = build(data_bin, *KD, "--teacher", teacher, "--on-policy-rate", "1", *options)
    return task, model.train(), criterion


@pytest.mark.parametrize("options", [(), ("--kd-implementation", "reference"), ("--kd-divergence", "js")], ids=str)
def test_a_student_that_copies_the_teacher_has_the_divergence_0_on_its_samples(data_bin, teacher, options):
    task, model, criterion = criterion_of(data_bin, teacher, *options)
    model.load_state_dict(torch.load(teacher)["model"])
    loss, sample_size, logged = criterion(model, batch(task, range(12)))
    loss.backward()
    assert sample_size == logged["sampled_tokens"] > 12 and logged["sampled_sentences"] == 12
    assert loss.item() / sample_size == pytest.approx(0, abs=1e-6)
    assert logged["sampled_kd_loss"].item() / sample_size == pytest.approx(0, abs=1e-6)
    assert max(parameter.grad.abs().max().item() for parameter in model.parameters()) / sample_size < 1e-5
    assert logged["kd_tokens"] == 0 and logged["nll_loss"] == 0  # there are no gold tokens


@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("coin", ["batch", "sentence"])
def test_loss_and_gradient_equal_a_computation_by_torch_alone(data_bin, teacher, coin, implementation):
    """Samples: α λ D without cross-entropy. Gold targets: kd_word. α = 0.7, both temperatures 2, so λ = 4."""
    options = ("--kd-weight", "0.7", "--teacher-temperature", "2", "--student-temperature", "2")
    more = ("--on-policy-rate", "0.5", "--on-policy-coin", coin, "--kd-implementation", implementation)
    task, model, criterion = criterion_of(data_bin, teacher, *options, *more)
    sample = batch(task, range(8))
    seed = 1 if coin == "sentence" else 3  # of a batch that is sampled
    torch.manual_seed(seed)
    mixed = criterion.on_policy.batch(model, sample, 0, lambda: 1000)
    assert mixed.sentences == 8 if coin == "batch" else 0 < mixed.sentences < 8
    torch.manual_seed(seed)
    loss, sample_size, logged = criterion(model, sample)
    loss.backward()
    gradient = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()

    new = mixed.sample
    keep = new["target"].ne(PAD)
    logits = model(**new["net_input"])[0]
    with torch.no_grad():
        teacher_logits = criterion.source.teacher.model(**new["net_input"])[0]
    gold = F.cross_entropy(logits.transpose(1, 2), new["target"], ignore_index=PAD, reduction="none")
    soft = F.kl_div(F.log_softmax(logits / 2, -1), F.softmax(teacher_logits / 2, -1), reduction="none").sum(-1)
    is_gold = ~mixed.is_sampled.unsqueeze(1).expand(keep.shape)
    expected = (0.3 * gold * is_gold + 0.7 * 4 * soft)[keep].sum()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-4, atol=1e-5)
    assert sample_size == int(keep.sum()) == logged["ntokens"]
    assert logged["sampled_tokens"] == int((keep & ~is_gold).sum())
    assert logged["sampled_kd_loss"].item() == pytest.approx(soft[keep & ~is_gold].sum().item(), rel=1e-4)
    assert logged["kd_loss"].item() == pytest.approx(soft[keep & is_gold].sum().item(), rel=1e-4)
    assert logged["nll_loss"].item() == pytest.approx(gold[keep & is_gold].sum().item(), rel=1e-4)


def test_unreduced_losses_are_at_their_positions(data_bin, teacher):
    task, model, criterion = criterion_of(data_bin, teacher, "--on-policy-rate", "0.5", "--on-policy-coin", "sentence")
    sample, found = batch(task, range(6)), []
    for reduce in (False, True):
        torch.manual_seed(1)
        found.append(criterion(model, sample, reduce=reduce)[0])
    torch.manual_seed(1)
    mixed = criterion.on_policy.batch(model, sample, 0, lambda: 1000)
    assert 0 < mixed.sentences < 6
    values = found[0].view(mixed.sample["target"].shape)
    assert torch.equal(values != 0, mixed.sample["target"] != PAD)
    assert values.sum().item() == pytest.approx(found[1].item(), rel=1e-5)


def test_validations_and_dummy_batches_use_the_gold_target(data_bin, teacher):
    task, model, criterion = criterion_of(data_bin, teacher)
    *_, plain = build(data_bin, "--criterion", "cross_entropy")
    sample, state = batch(task, range(4)), torch.get_rng_state()
    model.eval()
    loss, _, logged = criterion(model, sample)
    assert loss.item() == pytest.approx(plain(model, sample)[0].item(), rel=1e-6) and "sampled_tokens" not in logged

    def step(dummy):
        optimizer = SimpleNamespace(backward=lambda loss: loss.backward())
        return task.train_step(sample, model, criterion, optimizer, update_num=3, ignore_grad=dummy)[2]

    dummy = step(True)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn
    expected = step(False)
    assert criterion.calls.update_num == 3
    assert [*dummy] == [*expected]  # fairseq adds the values of all ranks, name by name
    assert [torch.is_tensor(value) for value in dummy.values()] == [torch.is_tensor(v) for v in expected.values()]
    assert dummy["sampled_tokens"] == 0 < expected["sampled_tokens"]


def test_a_sample_fits_the_positions_of_the_teacher(data_bin, teacher, monkeypatch):
    task, model, criterion = criterion_of(data_bin, teacher)
    sample, widths = batch(task, range(8)), []
    model.register_forward_pre_hook(
        lambda module, args, inputs: widths.append(inputs["prev_output_tokens"].size(1)), with_kwargs=True
    )
    criterion(model, sample)
    monkeypatch.setattr(criterion.online.teacher.model, "max_positions", lambda: (1024, 3))
    short = sample | {"net_input": dict(sample["net_input"])}
    criterion(model, short)
    assert widths[0] > 3 and widths[1] == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_student_samples_and_learns(data_bin, teacher, dtype):
    task, model, criterion = criterion_of(data_bin, teacher, "--on-policy-coin", "batch")
    model.to(dtype)
    loss, sample_size, _ = criterion(model, batch(task, range(4)))
    loss.backward()
    assert sample_size > 4 and torch.isfinite(loss) and loss > 0
    assert all(parameter.dtype == dtype and torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def logged(outputs) -> dict:
    with metrics.aggregate(new_root=True) as found:
        KDWordCriterion.reduce_metrics(outputs)
    return json.loads(json.dumps(found.get_smoothed_values()))


def test_logged_values_by_hand():
    """Sums in nats are multiples of ln 2, so the values per token are simple in bits."""
    bit = 0.6931471805599453
    first = {"loss": 60 * bit, "nll_loss": 0.0, "ntokens": 30, "nsentences": 6, "sample_size": 30, "kd_loss": 0.0}
    first |= {"n_agreed": 0, "kd_tokens": 0, "sampled_kd_loss": 15 * bit, "sampled_tokens": 30, "sampled_sentences": 6}
    second = {"loss": 20 * bit, "nll_loss": 30 * bit, "ntokens": 10, "nsentences": 2, "sample_size": 10}
    second |= {"kd_loss": 5 * bit, "n_agreed": 4, "kd_tokens": 10}
    second |= {"sampled_kd_loss": 0.0, "sampled_tokens": 0, "sampled_sentences": 0}
    both = {"loss": 2.0, "nll_loss": 3.0, "ppl": 8.0, "kd_loss": 0.5, "agreement": 40.0}
    of_samples = {"sampled_tokens": 75.0, "sampled_length": 5.0, "sampled_kd_loss": 0.5}
    assert logged([first, second]) == pytest.approx(both | of_samples)
    assert logged([first]) == pytest.approx({"loss": 2.0} | of_samples | {"sampled_tokens": 100.0})
    assert logged([second]) == pytest.approx(both | {"sampled_tokens": 0.0})


class FullyShardedStudent(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


def test_what_only_the_task_or_the_student_shows_is_refused(data_bin):
    _, task, model, _ = build(data_bin, "--criterion", "cross_entropy")
    size = len(task.target_dictionary)
    with pytest.raises(KDError, match=f"--on-policy-topk {size}: the target dictionary has only {size} tokens"):
        on_policy(config(on_policy_rate=1.0, on_policy_topk=size), task)
    source = on_policy(config(on_policy_rate=1.0, on_policy_topk=size - 1), task)
    with pytest.raises(KDError, match="--ddp-backend fully_sharded divides it"):
        source.batch(FullyShardedStudent(model), batch(task, range(2)), 0, lambda: 1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_policy_rate": 1.5}, "--on-policy-rate 1.5: must be from 0"),
        ({"on_policy_rate": -0.1}, "--on-policy-rate -0.1: must be from 0"),
        ({"on_policy_rate": float("nan")}, "--on-policy-rate nan: must be from 0"),
        ({"on_policy_topk": 5, "on_policy_rate": 0.0}, "--on-policy-topk 5 has no effect without --on-policy-rate"),
        ({"on_policy_coin": "sentence", "on_policy_rate": 0.0}, "no effect without --on-policy-rate"),
        ({"on_policy_schedule": "linear", "on_policy_rate": 0.0}, "no effect without --on-policy-rate"),
        ({"on_policy_max_len_b": 20, "on_policy_rate": 0.0}, "no effect without --on-policy-rate"),
        ({"on_policy_topk": -1}, "--on-policy-topk -1"),
        ({"on_policy_max_len_a": -1.0}, "--on-policy-max-len-a -1.0"),
        ({"on_policy_max_len_a": float("inf")}, "--on-policy-max-len-a inf"),
        ({"on_policy_max_len_b": 0}, "--on-policy-max-len-b 0"),
        ({"on_policy_schedule": "linear"}, "--on-policy-schedule linear needs --on-policy-schedule-updates"),
        ({"on_policy_schedule": "exponential", "on_policy_schedule_updates": 0}, "--on-policy-schedule-updates 0"),
        ({"on_policy_schedule_updates": 9}, "--on-policy-schedule-updates 9 has no effect without"),
        ({"teacher_cache": "c"}, "needs a teacher that runs"),
        ({"teacher_cache": "c", "teacher": None}, "needs a teacher that runs"),
        ({"kd_weight": 0.0}, "--on-policy-rate 0.5 has no effect with --kd-weight 0"),
        ({"teacher": None}, "needs a teacher"),
        ({"kd_select": "batch"}, "--kd-select batch cannot go with --on-policy-rate"),
        ({"ignore_prefix_size": 1}, "--ignore-prefix-size 1 cannot go with --on-policy-rate"),
        ({"on_policy_rate": 1.0, "on_policy_coin": "sentence"}, "no effect with --on-policy-rate 1"),
        (
            {"on_policy_rate": 1.0, "label_smoothing": 0.1},
            "--label-smoothing 0.1 has no effect with --on-policy-rate 1",
        ),
    ],
)
def test_options_out_of_range_or_without_effect_are_errors(options, message):
    check_word_options(config(on_policy_rate=0.5))
    schedule = {"on_policy_schedule": "linear", "on_policy_schedule_updates": 9, "on_policy_coin": "sentence"}
    check_word_options(config(on_policy_rate=1.0, label_smoothing=0.1, **schedule))
    with pytest.raises(KDError, match=message.replace(".", r"\.")):
        check_word_options(config(**({"on_policy_rate": 0.5} | options)))
