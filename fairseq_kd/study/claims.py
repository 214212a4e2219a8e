"""Claims of a spec, such as `seq > word at noise 30 by bleu`: which cells each claim compares, seed by seed."""

import re
from dataclasses import asdict, dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import nearest
from fairseq_kd.study.spec import Spec

METRICS = ("bleu", "chrf", "ter")
FORM = "A > B [at FACTOR VALUE, ...] [on SET] by METRIC"
PATTERN = re.compile(r"(?P<better>.+?) > (?P<worse>.+?)(?: at (?P<at>.+?))?(?: on (?P<on>\S+))? by (?P<metric>\S+)")


@dataclass(frozen=True)
class Claim:
    """The claim that one value of `factor` scores better than another, in the cells with the values `at`.

    text: as written. on: evaluation set. cells_better, cells_worse: names of cells, one per seed, seeds in the same
    order.
    """

    text: str
    factor: str
    better: object
    worse: object
    at: dict
    on: str
    metric: str
    cells_better: tuple = ()
    cells_worse: tuple = ()

    def as_dict(self) -> dict:
        """For results.json."""
        return asdict(self)


def read_claims(spec: Spec, cells: dict, sets: list[str]) -> list[Claim]:
    """The claims of a spec. cells: name -> values of factors. sets: the evaluation sets; the first is the default.

    Raises KDError for a claim of another form, and for one about cells that the study does not have.
    """
    if not isinstance(spec.claims, list):
        raise KDError(f"{spec.path}: claims must be a list, found {type(spec.claims).__name__}")
    return [_read(spec, number, text, cells, sets) for number, text in enumerate(spec.claims, start=1)]


def _read(spec: Spec, number: int, text, cells: dict, sets: list[str]) -> Claim:
    where = f"{spec.path}: claim {number}"
    found = PATTERN.fullmatch(str(text).strip())
    if found is None:
        raise KDError(f"{where}, {text!r}, is not of the form {FORM}")
    metric, on = found["metric"], found["on"] or sets[0]
    for kind, name, names in (("metric", metric, METRICS), ("evaluation set", on, sets)):
        if name not in names:
            raise KDError(f"{where}: unknown {kind} {name!r}; the nearest valid one is {nearest(name, names)!r}")
    values = _values(cells)
    factor, better, worse = _compared(where, found["better"], found["worse"], values)
    at = _conditions(where, found["at"] or "", factor, values)
    sides = [_side(f"{where}, {text!r}", cells, {factor: value} | at) for value in (better, worse)]
    if set(sides[0]) != set(sides[1]):
        raise KDError(f"{where}, {text!r}: the two sides must have the same seeds, found {list(sides[0])} and "
                      f"{list(sides[1])}")  # fmt: skip
    if shared := set(sides[0].values()) & set(sides[1].values()):
        raise KDError(f"{where}, {text!r}, compares {min(shared)} with itself: {factor} has no effect there, or both "
                      "sides name one value; compare two values, `at` others where they have an effect")  # fmt: skip
    pairs = tuple(sides[0].values()), tuple(sides[1][seed] for seed in sides[0])
    return Claim(str(text), factor, better, worse, at, on, metric, *pairs)


def _compared(where: str, better: str, worse: str, values: dict) -> tuple:
    """(the factor that has both values, its better value, its worse value)."""
    having = [factor for factor, known in values.items() if {better.strip(), worse.strip()} <= set(known)]
    if len(having) > 1:
        raise KDError(f"{where}: {' and '.join(having)} both have the values {better} and {worse}, so it is not clear "
                      "which factor is meant; give the values of one of them other labels")  # fmt: skip
    factor, value = _find(where, better, {name: values[name] for name in having} or values)
    return factor, value, _find(where, worse, {factor: values[factor]})[1]


def _conditions(where: str, text: str, factor: str, values: dict) -> dict:
    """Factor -> value, from the text of a claim after `at`."""
    at = {}
    for condition in filter(None, map(str.strip, text.split(","))):
        name, _, value = condition.partition(" ")
        if name not in values:
            raise KDError(f"{where}: unknown factor {name!r}; the nearest valid one is {nearest(name, values)!r}")
        if name == factor or name in at:
            already = "is the factor that the claim compares" if name == factor else "occurs twice"
            raise KDError(f"{where}: {name} after `at` {already}, so one of its values would be lost; leave it out")
        at[name] = _find(where, value, {name: values[name]})[1]
    return at


def _side(where: str, cells: dict, wanted: dict) -> dict:
    """Seed -> name of the cell with the wanted values. A factor without effect on a cell is not compared."""
    found = {}
    for name, factors in cells.items():
        if all(factors.get(factor, value) == value for factor, value in wanted.items()):
            seed = factors.get("seed")
            if seed in found:
                raise KDError(
                    f"{where}: {found[seed]} and {name} both agree with {wanted}; name more factors after `at`"
                )
            found[seed] = name
    if not found:
        raise KDError(f"{where}: the study has no cell with {wanted}")
    return found


def _values(cells: dict) -> dict:
    """Factor -> text of a value -> value."""
    values = {}
    for cell in cells.values():
        for name, value in cell.items():
            values.setdefault(name, {})[str(value)] = value
    return values


def _find(where: str, word: str, values: dict) -> tuple:
    """(factor, value) for the text of a value in a claim."""
    for factor, known in values.items():
        if word.strip() in known:
            return factor, known[word.strip()]
    known = [value for factor in values.values() for value in factor]
    raise KDError(f"{where}: no factor has the value {word!r}; the nearest is {nearest(word, known)!r}")
