"""--on-policy-part: one part of a mixed data-bin has targets that the student has decoded."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, build

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.on_policy_config import OnPolicyConfig, check_word_options
from fairseq_kd.criterions.on_policy_part import sampled_part
from fairseq_kd.sequence.mix import mix

PAD = 1
KD = ("--criterion", "kd_word", "--dropout", "0.0", "--kd-weight", "0.7", "--label-smoothing", "0.1")


@pytest.fixture(scope="module")
def mixed(data_bin, distilled, tmp_path_factory):
    """400 gold pairs, then 400 pairs with other targets, then 400 gold pairs."""
    folder = tmp_path_factory.mktemp("mixed") / "data-bin"
    assert mix([data_bin, distilled, data_bin], [1, 1, 1], folder)["pairs_of_each"] == [400, 400, 400]
    return folder


@pytest.mark.parametrize("reduce", [True, False])
def test_the_sentences_of_the_part_have_the_teachers_term_alone(mixed, teacher, reduce):
    """0.7 · KL on each token of a sample, kd_word on a gold token. The part is 400 to 799."""
    _, task, model, criterion = build(mixed, *KD, "--teacher", teacher, "--on-policy-part", "2")
    *_, plain = build(mixed, *KD, "--teacher", teacher)
    gold, samples = [3, 399, 800, 1100], [400, 401, 402, 799]
    model.train()
    sample = batch(task, [*samples, *gold])
    loss, sample_size, logged = criterion(model, sample, reduce=reduce)
    of_gold, gold_size, gold_logged = plain(model, batch(task, gold))

    decoded = batch(task, samples)
    keep = decoded["target"].ne(PAD)
    with torch.no_grad():
        student, taught = (net(**decoded["net_input"])[0] for net in (model, criterion.source.teacher.model))
    soft = F.kl_div(F.log_softmax(student, -1), F.softmax(taught, -1), reduction="none").sum(-1)[keep].sum().item()
    assert loss.sum().item() == pytest.approx(of_gold.item() + 0.7 * soft, rel=1e-5)
    assert sample_size == gold_size + int(keep.sum())
    assert (logged["sampled_tokens"], logged["sampled_sentences"]) == (int(keep.sum()), 4)
    assert logged["sampled_kd_loss"].item() == pytest.approx(soft, rel=1e-5)
    assert logged["nll_loss"].item() == pytest.approx(gold_logged["nll_loss"].item(), rel=1e-5)


def test_batches_without_samples_and_validations_are_those_of_kd_word(mixed, teacher):
    _, task, model, criterion = build(mixed, *KD, "--teacher", teacher, "--on-policy-part", "2")
    *_, plain = build(mixed, *KD, "--teacher", teacher)
    for mode, numbers in ((True, [0, 399, 800]), (False, [400, 401])):
        sample = batch(task, numbers)
        model.train(mode)
        (loss, size, logged), (expected, expected_size, _) = criterion(model, sample), plain(model, sample)
        assert (loss.item(), size) == (expected.item(), expected_size)
        assert logged.get("sampled_tokens") == (0 if mode else None)  # each rank logs the same names


def test_data_that_do_not_say_which_targets_are_samples_are_refused(mixed, data_bin, distilled):
    def part(folder, number):
        return sampled_part(
            SimpleNamespace(on_policy_part=number), SimpleNamespace(cfg=SimpleNamespace(data=str(folder)))
        )

    assert (part(mixed, 3).start, part(mixed, 3).end) == (800, 1200) and part(data_bin, 0) is None
    for folder, kind in ((data_bin, "'data-bin'"), (distilled, "None")):
        with pytest.raises(KDError, match=f"was not made by fairseq-kd mix .the manifest says {kind}."):
            part(folder, 1)
    with pytest.raises(KDError, match="--on-policy-part 4: .* was mixed from 3 data-bins; give a number from 1 to 3"):
        part(mixed, 4)
    with pytest.raises(KDError, match="--on-policy-part with the data .* names 2 data-bins"):
        part(f"{mixed}:{mixed}", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_policy_part": -1}, "--on-policy-part -1: must be 0"),
        ({"on_policy_rate": 0.5}, "--on-policy-part 2 cannot go with --on-policy-rate"),
        ({"on_policy_topk": 5}, "--on-policy-topk 5 has no effect without --on-policy-rate"),
        ({"kd_weight": 0.0}, "--on-policy-part 2 has no effect with --kd-weight 0"),
        ({"kd_select": "batch"}, "--kd-select batch cannot go with --on-policy-part"),
        ({"ignore_prefix_size": 1}, "--ignore-prefix-size 1 cannot go with --on-policy-part"),
        (
            {"teacher": "a:b", "teacher_weights": "adaptive"},
            "--teacher-weights adaptive cannot go with --on-policy-part",
        ),
        ({"kd_partition": "supervised", "kd_start": "s"}, "--kd-partition supervised cannot go with --on-policy-part"),
    ],
)
def test_options_that_need_a_gold_token_everywhere_are_errors(options, message):
    given = {"teacher": "t.pt", "sentence_avg": False, "on_policy_part": 2}
    check_word_options(OnPolicyConfig(**given))
    check_word_options(OnPolicyConfig(**given | {"teacher": None, "teacher_cache": "c"}))
    with pytest.raises(KDError, match=message):
        check_word_options(OnPolicyConfig(**given | options))
