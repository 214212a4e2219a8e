"""What the program derives from the registry of divergences: options, checks, factors, parameters of a search, scale.

And where the temperatures act.
"""

import pytest
import torch
from test_divergence import ALL, random_logits

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import DEFAULTS, KDWordConfig, check_options
from fairseq_kd.loss.divergences import DIVERGENCES, PARAMETERS
from fairseq_kd.loss.objective import Objective, divergence, temperature_scale
from fairseq_kd.loss.rows import temper
from fairseq_kd.loss.signal import DenseSignal
from fairseq_kd.search.space import option_names
from fairseq_kd.search.strategies import resolve_kd_word
from fairseq_kd.study.factors import settings_of


def test_parameters_are_options_with_their_range():
    for parameter in PARAMETERS:
        assert DEFAULTS[parameter.name] == parameter.default
        for value in (parameter.low, parameter.high, float("nan")):
            with pytest.raises(KDError, match=f"--{parameter.option} {value}: must be above"):
                parameter.check(value)


def test_options_factors_and_searches_know_every_divergence_and_parameter():
    described = KDWordConfig.__dataclass_fields__["kd_divergence"].metadata["help"]
    for name, known in DIVERGENCES.items():
        assert f"{name} = {known.formula}" in described
        options = {"kd_divergence": name} | {p.name: (p.low + p.high) / 3 for p in known.parameters}
        check_options(KDWordConfig(teacher="t.pt", sentence_avg=False, **options))
        words = {key.replace("_", "-"): value for key, value in options.items()}
        assert resolve_kd_word(words | {p.option: p.default for p in PARAMETERS if p.name not in options}) == words
        for parameter in set(PARAMETERS) - set(known.parameters):
            with pytest.raises(KDError, match=f"--{parameter.option} .* has no effect with --kd-divergence {name}"):
                check_options(KDWordConfig(teacher="t.pt", kd_divergence=name, **{parameter.name: parameter.high / 3}))
    for parameter in PARAMETERS:
        assert settings_of(parameter.option) == (f"kd.{parameter.option}",) and parameter.option in option_names()


@pytest.mark.parametrize(
    ("policy", "teacher", "student", "expected"),
    [("auto", 1, 1, 1), ("auto", 2, 2, 4), ("auto", 2, 1, 1), ("none", 3, 3, 1), ("2.5", 2, 2, 2.5)],
)
def test_temperature_scale(policy, teacher, student, expected):
    assert temperature_scale(policy, teacher, student) == expected


@ALL
@pytest.mark.parametrize("kind", ["dense", "top_k"])
def test_a_temperature_acts_on_both_sides_or_is_said_to_have_no_effect(name, kind):
    """At temperature 2 the value equals the value of the tempered distributions at temperature 1."""
    student, teacher = random_logits(1).log_softmax(-1), random_logits(2).log_softmax(-1)
    hot = [temper(lprobs, 2) for lprobs in (student, teacher)]
    found = []
    for (own, theirs), temperature in (((student, teacher), 2), (hot, 1)):
        signal = DenseSignal(theirs, None, temperature)
        signal = signal.truncate(7) if kind == "top_k" else signal
        objective = Objective(divergence=DIVERGENCES[name](), student_temperature=temperature)
        found.append(divergence(own, signal, objective)[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, known in DIVERGENCES.items() if known.takes_temperatures])
def test_auto_scale_keeps_the_size_of_the_gradient_at_high_temperature(name):
    """For tie, whose two parts fall at different rates, of its first part."""
    found = DIVERGENCES[name]()
    sizes = []
    for temperature in (100.0, 400.0):
        z = random_logits(8).requires_grad_()
        value = found.value(*(temper(logits.log_softmax(-1), temperature) for logits in (z, random_logits(9))))
        scale = temperature_scale("auto", temperature, temperature, found.temperature_power)
        sizes.append(torch.autograd.grad(scale * value.sum(), z)[0].norm())
    assert sizes[0] / sizes[1] == pytest.approx(1, abs=0.05)
