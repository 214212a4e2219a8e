"""Searches: what they ask for, what they choose, what they say a wrong choice costs, and going on after a kill."""

import itertools
import random
import signal

import pytest
from process_helpers import run_python

from fairseq_kd.core.errors import KDError
from fairseq_kd.search.space import Range, optuna_search
from fairseq_kd.search.strategies import SAME, drive, greedy, grid, resolve_kd_word

WEIGHTS = ("kd-weight", (0.5, 0.7, 0.9))
PAPER = [  # the order of arXiv 2401.06356; cross-entropy to the teacher is kl but for a constant
    ("teacher-choice", ("low-loss", "high-score")),
    ("kd-divergence", ("kl", "mse")),
    ("student-temperature", (SAME, 1.0)),
    WEIGHTS,
]
START = {"teacher-choice": "low-loss", "kd-divergence": "kl", "student-temperature": 1.0, "kd-weight": 0.5}
START |= {"teacher-temperature": 2.0}
BONUS = {"high-score": 1.0, "mse": -2.0, SAME: 0.25, 2.0: 0.25, 0.7: 0.5, 0.9: -1.0}


def bleu(options):
    """A score to which each value adds something of its own, so that greedy search finds the best of all."""
    return 30.0 + sum(BONUS.get(value, 0.0) for name, value in options.items() if name != "teacher-temperature")


class Validation:
    """Scores batches and remembers them."""

    def __init__(self, score=bleu):
        self.score, self.batches = score, []

    def __call__(self, batch):
        self.batches.append(batch)
        return [self.score(options) for options in batch]

    @property
    def trained(self):
        return [tuple(sorted(options.items())) for batch in self.batches for options in batch]


def test_greedy_search_of_the_paper_by_hand():
    validate = Validation()
    outcome = drive(greedy(PAPER, START, resolve_kd_word), validate)
    assert outcome.best.configuration == START | {
        "teacher-choice": "high-score",
        "student-temperature": SAME,
        "kd-weight": 0.7,
    }
    assert outcome.best.score == 31.75 and outcome.start.score == 30.0
    assert outcome.best.options["student-temperature"] == 2.0
    assert [len(batch) for batch in validate.batches] == [2, 1, 1, 2]  # the value held so far is known already
    assert "student-temperature" not in validate.batches[1][0]  # mse has no temperature
    costs = {name: (cost.best_value, cost.worst_value, cost.difference) for name, cost in outcome.costs.items()}
    assert costs == {
        "teacher-choice": ("high-score", "low-loss", 1.0),
        "kd-divergence": ("kl", "mse", 2.0),
        "student-temperature": (SAME, 1.0, 0.25),
        "kd-weight": (0.7, 0.9, 1.5),
    }


def test_temperatures_are_not_trained_where_they_do_nothing():
    validate = Validation(lambda options: 40.0 if options["kd-divergence"] == "mse" else 30.0)
    outcome = drive(greedy(PAPER, START, resolve_kd_word), validate)
    assert outcome.best.options["kd-divergence"] == "mse" and outcome.costs["student-temperature"].difference == 0
    assert [len(batch) for batch in validate.batches] == [2, 1, 2]
    validate = Validation()
    drive(greedy(PAPER, START | {"teacher-temperature": 1.0}, resolve_kd_word), validate)
    assert [len(batch) for batch in validate.batches] == [2, 1, 2]  # "same" is 1


def random_space(seed):
    draw = random.Random(seed)
    parameters = [(f"p{n}", tuple(range(draw.randint(1, 4)))) for n in range(draw.randint(1, 4))]
    table = {}

    def score(options):
        key = tuple(sorted(options.items()))
        return table.setdefault(key, draw.choice([None, *range(8)]) if seed % 3 == 0 else draw.random())

    return parameters, {name: draw.choice(values) for name, values in parameters}, score


@pytest.mark.parametrize("seed", range(60))
def test_greedy_trains_nothing_twice_and_is_never_worse_than_what_it_passed(seed):
    parameters, start, score = random_space(seed)
    validate = Validation(score)
    try:
        outcome = drive(greedy(parameters, start), validate)
    except KDError as error:
        assert "failed, so the search cannot choose one" in str(error) and seed % 3 == 0
        assert [score(options) for options in validate.batches[-1]].count(None) == len(validate.batches[-1])
        return
    assert len(set(validate.trained)) == len(validate.trained)
    assert len(validate.trained) == 1 + sum(len(values) - 1 for _, values in parameters)
    scores = [run.score for run in outcome.runs if run.score is not None]
    assert outcome.best.score == max(scores) == score(outcome.best.options)
    assert outcome.start.configuration == start


@pytest.mark.parametrize("seed", range(1, 40, 3))
def test_grid_finds_the_best_of_all_and_its_costs_are_those_of_a_search_over_pairs(seed):
    parameters, start, score = random_space(seed)
    validate = Validation(score)
    outcome = drive(grid(parameters, start), validate)
    names = [name for name, _ in parameters]
    everything = [dict(zip(names, values, strict=True)) for values in itertools.product(*(v for _, v in parameters))]
    assert validate.batches == [everything]
    assert outcome.best.score == max(map(score, everything))
    for name in names:
        gaps = [
            score(one) - score(other)
            for one, other in itertools.permutations(everything, 2)
            if all(one[n] == other[n] for n in names if n != name)
        ]
        cost = outcome.costs[name]
        assert (cost is None) == (not gaps)
        assert cost is None or cost.difference == pytest.approx(max(gaps))


def test_tuned_kd_keeps_the_other_options_and_of_equals_takes_the_first():
    parameters = [("teacher-temperature", (1.0, 2.0)), WEIGHTS]
    validate = Validation(lambda options: 20.0)
    outcome = drive(grid(parameters, START), validate)
    assert len(validate.trained) == 6 and {dict(key)["kd-divergence"] for key in validate.trained} == {"kl"}
    assert outcome.best.configuration == START | {"teacher-temperature": 1.0}


def test_a_training_that_failed_does_not_lose_the_others():
    validate = Validation(lambda options: None if options["kd-weight"] == 0.7 else bleu(options))
    outcome = drive(greedy([WEIGHTS], START), validate)
    assert outcome.best.configuration["kd-weight"] == 0.5
    assert [run.score for run in outcome.runs] == [30.0, None, 29.0]
    assert (outcome.costs["kd-weight"].worst_value, outcome.costs["kd-weight"].difference) == (0.9, 1.0)


def test_the_steps_say_how_the_choice_was_made():
    outcome = drive(greedy(PAPER, START, resolve_kd_word), Validation())
    assert [step.names for step in outcome.steps] == [(name,) for name, _ in PAPER]
    assert [[run.configuration[step.names[0]] for run in step.runs] for step in outcome.steps] == [
        list(values) for _, values in PAPER
    ]
    assert [step.chosen.configuration[step.names[0]] for step in outcome.steps] == ["high-score", "kl", SAME, 0.7]
    assert all(step.chosen.score == max(run.score for run in step.runs) for step in outcome.steps)
    (step,) = drive(grid(PAPER[:2], START), Validation()).steps
    assert step.names == ("teacher-choice", "kd-divergence") and len(step.runs) == 4
    assert step.chosen.configuration["teacher-choice"] == "high-score"


def test_options_without_effect_are_left_out():
    options = {"kd-divergence": "js", "js-beta": 0.3, "kd-select": "global", "kd-select-rate": 0.4, "kd-queue-size": 9}
    assert resolve_kd_word(options) == options
    assert "js-beta" not in resolve_kd_word(options | {"kd-divergence": "kl"})
    assert resolve_kd_word(options | {"kd-select": "batch"}) == {
        name: value for name, value in (options | {"kd-select": "batch"}).items() if name != "kd-queue-size"
    }
    assert resolve_kd_word(options | {"kd-select": "all"}).keys() == {"kd-divergence", "js-beta", "kd-select"}


@pytest.mark.parametrize(
    ("parameters", "start", "message"),
    [
        ([], START, "found none"),
        ([WEIGHTS, WEIGHTS], START, "each once; found kd-weight, kd-weight"),
        ([("kd-weight", ())], START, "parameter kd-weight needs values"),
        ([("kd-weight", (0.5, 0.5))], START, "needs values, each once"),
        ([("kd-weight", (0.7,))], START, "kd-weight = 0.5, which is not among"),
        ([("kd-weigth", (0.7,))], START, "kd-weigth = None"),
    ],
)
def test_what_cannot_be_searched_is_one_clear_error(parameters, start, message, tmp_path):
    for search in (
        greedy(parameters, start),
        grid(parameters, start),
        optuna_search(parameters, start, 1, tmp_path / "x"),
    ):
        with pytest.raises(KDError) as raised:
            next(search)
        assert message in str(raised.value)
    assert not list(tmp_path.iterdir())


WIDE = [
    ("kd-divergence", ("kl", "mse")),
    ("kd-weight", Range(0.1, 1.0)),
    ("teacher-temperature", Range(0.5, 4, log=True)),
]


def smooth(options):
    return 30 - 20 * (options["kd-weight"] - 0.8) ** 2 - (options["kd-divergence"] == "mse")


def wide_search(storage, **changes):
    named = {"trials": 12, "storage": storage, "batch": 3, "seed": 5} | changes
    return optuna_search(WIDE, START, **named)


def test_optuna_begins_at_the_start_and_stays_in_the_space(tmp_path):
    validate = Validation(smooth)
    outcome = drive(wide_search(tmp_path / "search.db"), validate)
    assert validate.batches[0][0] == START == outcome.start.configuration
    assert [len(batch) for batch in validate.batches] == [3, 3, 3, 3] and len(outcome.runs) == 12
    assert all(options[name] in values for batch in validate.batches for options in batch for name, values in WIDE)
    assert outcome.best.score == max(run.score for run in outcome.runs) > outcome.start.score
    nothing = Validation(smooth)
    assert drive(wide_search(tmp_path / "search.db"), nothing) == outcome and nothing.batches == []
    more = drive(wide_search(tmp_path / "search.db", trials=14), nothing)
    assert [len(batch) for batch in nothing.batches] == [2] and more.runs[:12] == outcome.runs


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests/unit")
sys.path.insert(0, "tests")
from test_search import drive, smooth, wide_search
calls = []
def validate(batch):
    calls.append(batch)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return [smooth(options) for options in batch]
drive(wide_search(sys.argv[1]), validate)
"""


def test_optuna_killed_asks_again_for_what_it_waited_for_and_ends_the_same(tmp_path):
    whole = Validation(smooth)
    expected = drive(wide_search(tmp_path / "whole.db"), whole)
    killed = run_python("-c", KILLED, tmp_path / "killed.db")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    rest = Validation(smooth)
    assert drive(wide_search(tmp_path / "killed.db"), rest) == expected
    assert rest.batches == whole.batches[1:]


def test_optuna_stopped_between_two_tells_goes_on(tmp_path, monkeypatch):
    import optuna

    whole = Validation(smooth)
    expected = drive(wide_search(tmp_path / "whole.db"), whole)
    tell, told = optuna.Study.tell, []

    def tell_five(self, *arguments, **named):
        told.append(arguments)
        if len(told) == 6:
            raise KeyboardInterrupt
        return tell(self, *arguments, **named)

    monkeypatch.setattr(optuna.Study, "tell", tell_five)
    with pytest.raises(KeyboardInterrupt):
        drive(wide_search(tmp_path / "stopped.db"), Validation(smooth))
    rest = Validation(smooth)
    assert drive(wide_search(tmp_path / "stopped.db"), rest) == expected
    assert rest.batches == [whole.batches[1][2:], *whole.batches[2:]]


def test_optuna_does_not_train_a_repetition_and_passes_over_failures(tmp_path):
    validate = Validation(lambda options: None if options["kd-weight"] == 0.7 else bleu(options))
    outcome = drive(optuna_search([WEIGHTS], START, 9, tmp_path / "search.db", batch=2), validate)
    assert len(set(validate.trained)) == len(validate.trained) <= 3
    assert outcome.best.score == 30.0
    again = Validation(bleu)
    assert drive(optuna_search([WEIGHTS], START, 9, tmp_path / "search.db", batch=2), again) == outcome
    assert again.batches == []  # a failure is remembered


def test_what_optuna_cannot_go_on_with_is_one_clear_error(tmp_path):
    storage = tmp_path / "search.db"
    search = wide_search(storage)
    next(search)
    with pytest.raises(KDError, match="another process is working on"):
        next(wide_search(storage))
    search.close()
    with pytest.raises(KDError, match="was made with seed = 5, now it is 6"):
        next(wide_search(storage, seed=6))
    (tmp_path / "other").write_text("no database " * 100)
    with pytest.raises(KDError, match=r"other cannot be read as the storage of a search \(.*remove it, or choose"):
        next(wide_search(tmp_path / "other"))
    with pytest.raises(KDError, match="0 trials in batches of 3"):
        next(wide_search(storage, trials=0))
    with pytest.raises(KDError, match="is not within Range"):
        next(optuna_search([("kd-weight", Range(0.6, 0.9))], START, 1, storage))
    with pytest.raises(KDError, match="low must be below high"):
        Range(1, 1)
