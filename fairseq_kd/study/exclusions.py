"""Exclusions: patterns of factor values. An exclusion removes the cells that agree with all of its values."""

from fnmatch import fnmatchcase

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import check_keys, nearest
from fairseq_kd.study.spec import Spec


class Exclusion:
    """A pattern: factor -> value, text with wildcards, or a list of them. It removes the cells that agree with all."""

    def __init__(self, spec: Spec, number: int, pattern, factors: dict):
        self.where = f"exclusion {number}"
        check_keys(spec.path, self.where, pattern, valid=tuple(factors))
        if not pattern:
            raise KDError(f"{spec.path}: {self.where} is empty, so it would remove every cell; name a factor")
        self.pattern = {name: value if isinstance(value, list) else [value] for name, value in pattern.items()}
        for name, wanted in self.pattern.items():
            for value in wanted:
                if isinstance(value, list | dict) or value is None:
                    raise KDError(f"{spec.path}: {self.where}: {name} must be a value or a list of values")
                if not any(_agrees(value, known) for known in factors[name]):
                    raise KDError(f"{spec.path}: {self.where}: the factor {name} has no value {value!r}; the nearest "
                                  f"is {nearest(value, factors[name])!r}")  # fmt: skip

    def removes(self, values: dict) -> bool:
        """Whether the pattern agrees with the cell that has these values of factors."""
        return all(
            name in values and any(_agrees(value, values[name]) for value in wanted)
            for name, wanted in self.pattern.items()
        )


def read_exclusions(spec: Spec, factors: dict) -> list[Exclusion]:
    """The exclusions of a spec. Raises KDError for an unknown factor or value, naming the nearest."""
    if not isinstance(spec.exclude, list):
        raise KDError(f"{spec.path}: exclude must be a list of patterns, found {type(spec.exclude).__name__}")
    return [Exclusion(spec, number, pattern, factors) for number, pattern in enumerate(spec.exclude, start=1)]


def _agrees(pattern, value) -> bool:
    if isinstance(pattern, str) and isinstance(value, str):
        return fnmatchcase(value, pattern)
    return pattern == "*" or (pattern == value and isinstance(pattern, bool) == isinstance(value, bool))


def check_exclusions(spec: Spec, factors: dict, exclusions: list, effective: list, kept: list) -> None:
    """Raises KDError for exclusions that remove nothing, everything, or every cell with one value.

    effective: for each combination of values, the settings that have an effect. kept: the combinations that are not
    excluded.
    """
    for exclusion in exclusions:
        if not any(exclusion.removes(values) for values in effective):
            raise KDError(f"{spec.path}: {exclusion.where} contradicts itself: no cell has {exclusion.pattern}, "
                          "because one of these factors has no effect where the other has that value")  # fmt: skip
    if not kept:
        count = len({tuple(values.items()) for values in effective})
        raise KDError(f"{spec.path}: the exclusions remove all {count} cells; leave one of them out")
    for name, values in factors.items():
        if not any(name in cell for cell in effective):
            raise KDError(f"{spec.path}: the factor {name} has no effect with method "
                          f"{', '.join(factors['method'])}; leave it out")  # fmt: skip
        for value in values:
            if not any(cell.get(name) == value for cell in effective):
                raise KDError(f"{spec.path}: the value {value} of the factor {name} has no effect with method "
                              f"{', '.join(factors['method'])}; leave it out")  # fmt: skip
            if not any(cell.get(name) == value for cell in kept):
                raise KDError(f"{spec.path}: the exclusions contradict the factors: together they leave no cell with "
                              f"{name} {value}; take it out of the factor, or out of an exclusion")  # fmt: skip
