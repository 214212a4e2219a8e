"""What the program derives from the registry of divergences: options, checks, factors, parameters of a search."""

import pytest

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import DEFAULTS, KDWordConfig, check_options
from fairseq_kd.loss.divergences import DIVERGENCES, PARAMETERS
from fairseq_kd.loss.objective import temperature_scale
from fairseq_kd.search.strategies import resolve_kd_word
from fairseq_kd.search.values import option_names
from fairseq_kd.study.routes import routes


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
        assert routes(parameter.option) == (f"kd.{parameter.option}",) and parameter.option in option_names()


@pytest.mark.parametrize(
    ("policy", "teacher", "student", "expected"),
    [("auto", 1, 1, 1), ("auto", 2, 2, 4), ("auto", 2, 1, 1), ("none", 3, 3, 1), ("2.5", 2, 2, 2.5)],
)
def test_temperature_scale(policy, teacher, student, expected):
    assert temperature_scale(policy, teacher, student) == expected
