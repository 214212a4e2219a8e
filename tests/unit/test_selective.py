import torch

from fairseq_kd.loss.objective import RecentTokens, hardest

NLL = torch.tensor([0.5, 3.0, 1.0, 2.0])


def test_the_hardest_half_of_a_batch():
    assert hardest(NLL, 0.5).tolist() == [False, True, False, True]


def test_at_least_one_token_and_at_most_all():
    assert hardest(NLL, 0.01).tolist() == [False, True, False, False]
    assert hardest(NLL, 1.0).all()
    assert hardest(NLL[:0], 0.5).tolist() == []


def test_recent_tokens_set_the_threshold():
    recent = RecentTokens(8)
    recent.push(torch.tensor([2.5, 2.6, 2.7, 2.8]))
    recent.push(NLL)  # the hardest half of all eight begins at 2.6
    assert recent.hardest(NLL, 0.5).tolist() == [False, True, False, False]


def test_the_oldest_tokens_fall_out():
    recent = RecentTokens(4)
    recent.push(torch.tensor([9.0, 9.0, 9.0]))
    recent.push(NLL)
    assert sorted(recent.values.div(2**16).tolist()) == [0.5, 1.0, 2.0, 3.0]
    recent.push(torch.arange(10.0))  # more than it holds
    assert sorted(recent.values.div(2**16).tolist()) == [6.0, 7.0, 8.0, 9.0]


def test_state_survives_a_state_dict_and_half_precision():
    recent, other = RecentTokens(8), RecentTokens(8)
    recent.push(NLL)
    other.load_state_dict(recent.state_dict())
    assert other.half().hardest(NLL, 0.5).tolist() == recent.hardest(NLL, 0.5).tolist()
    other.push(NLL + 10)
    assert int(other.seen) == 8 and other.values.max().item() == 13 * 2**16


def test_nothing_and_what_is_not_finite_leave_the_recent_tokens_alone():
    recent = RecentTokens(4)
    assert recent.hardest(NLL[:0], 0.5).tolist() == []
    recent.push(NLL[:0])
    recent.push(torch.tensor([float("nan"), float("inf"), 1.0]))
    assert int(recent.seen) == 1 and recent.values.tolist() == [2**16, 0, 0, 0]
