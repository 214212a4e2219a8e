"""The cells that the words of a claim name, seed by seed. Every wrong name is one error, before anything runs."""

from dataclasses import dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import is_number, nearest
from fairseq_kd.scoring.score import METRICS

TEST_NOISE = "test-noise"  # in claims: the noise of the evaluation set, as a factor


@dataclass(frozen=True)
class Finder:
    """where: beginning of messages. text: the claim. cells: name -> values of factors. sets: evaluation sets."""

    where: str
    text: str
    cells: dict
    sets: list

    @property
    def quoted(self) -> str:
        """Beginning of messages that show the claim."""
        return f"{self.where}, {self.text!r}"

    def check_metric(self, metric: str) -> str:
        """The metric. Raises KDError for an unknown one, and for a metric of `evaluate --metric`."""
        if metric not in METRICS:
            raise KDError(f"{self.where}: unknown metric {metric!r}; claims know {', '.join(METRICS)}, and the report "
                          "shows other metrics without a test")  # fmt: skip
        return metric

    def evaluation_set(self, on: str | None) -> str:
        """The set after `on`, or else the first set of the study."""
        return self._known("evaluation set", on or self.sets[0], self.sets)

    def factors(self) -> dict:
        """Factor -> text of a value -> value."""
        values = {}
        for cell in self.cells.values():
            for name, value in cell.items():
                values.setdefault(name, {})[str(value)] = value
        return values

    def value_of(self, factor: str, word: str, on: str) -> object:
        """The value of a factor that a word means. on: evaluation set."""
        return self._find(word, {factor: self._values(factor, on)})[1]

    def words_of(self, factor: str, on: str) -> list[str]:
        """The values of a factor as text."""
        return list(self._values(factor, on))

    def compared(self, one: str, other: str) -> tuple:
        """(the factor that has both values, value of `one`, value of `other`)."""
        values = self.factors()
        words = {one.strip(), other.strip()}
        having = [factor for factor, known in values.items() if words <= set(known)]
        if len(having) > 1:
            both = f"both have the values {one} and {other}" if len(words) > 1 else f"both have the value {one}"
            raise KDError(f"{self.where}: {' and '.join(having)} {both}, so it is not clear "
                          "which factor is meant; give the values of one of them other labels")  # fmt: skip
        factor, value = self._find(one, {name: values[name] for name in having} or values)
        return factor, value, self._find(other, {factor: values[factor]})[1]

    def conditions(self, text: str | None, on: str, taken: tuple = ()) -> dict:
        """Factor -> value, from the text of a claim after `at`. taken: the factors that the claim varies."""
        at = {}
        for condition in filter(None, map(str.strip, (text or "").split(","))):
            name, _, value = condition.partition(" ")
            self._values(name, on)
            if name in taken or name in at:
                already = "is the factor that the claim compares" if name in taken else "occurs twice"
                raise KDError(f"{self.where}: {name} after `at` {already}, so one of its values would be lost; "
                              "leave it out")  # fmt: skip
            at[name] = self.value_of(name, value, on)
        return at

    def levels(self, factor: str, wanted: dict, on: str) -> list:
        """The values of a numeric factor that cells with the values `wanted` have, in ascending order, at least two."""
        values = self._values(factor, on).values()
        if words := [str(value) for value in values if not is_number(value)]:
            raise KDError(f"{self.quoted}: {factor} has values that are not numbers ({', '.join(words)}), so they have "
                          "no order; name a factor with numbers")  # fmt: skip
        found = sorted(value for value in values if self.agreeing(wanted | {factor: value}))
        if len(found) < 2:
            raise KDError(f"{self.quoted}: {factor} has {len(found)} value for these cells, and at least two are "
                          "needed; add values to the factor, or name other cells")  # fmt: skip
        return found

    def systems(self, on: str, *groups: list[dict]) -> dict:
        """The systems of a claim: name -> ((cell, set), ...), one per seed, seeds in the same order.

        groups: systems that are compared with each other, as factor -> value. Raises KDError for missing cells, for
        systems with different seeds, and for two systems of a group that share a cell.
        """
        sides = {label(one): self.side(one, on) for wanted in groups for one in wanted}
        (first, seeds), *others = sides.items()
        for name, side in others:
            one_run = len(side) == len(seeds) == 1 and (None in side or None in seeds)  # a side without effect of seeds
            if set(side) != set(seeds) and not one_run:
                raise KDError(f"{self.quoted}: the two sides must have the same seeds, found {list(seeds)} for {first} "
                              f"and {list(side)} for {name}")  # fmt: skip
        for wanted in groups:
            self._check_distinct(wanted, sides)
        return {
            name: tuple(side.get(seed) or next(iter(side.values())) for seed in seeds) for name, side in sides.items()
        }

    def _check_distinct(self, wanted: list[dict], sides: dict) -> None:
        owners = {}
        for one in wanted:
            for run in sides[label(one)].values():
                owner = owners.setdefault(run, one)
                if differ := [factor for factor in one | owner if one.get(factor) != owner.get(factor)]:
                    raise self._same_cell(run[0], " and ".join(differ))

    def side(self, wanted: dict, on: str) -> dict:
        """Seed -> (cell, set) with the wanted values. A factor without effect on a cell is not compared."""
        found, on = {}, self._noised_set(wanted, on)
        for name in self.agreeing(wanted):
            seed = self.cells[name].get("seed")
            if seed in found:
                raise KDError(f"{self.quoted}: {found[seed][0]} and {name} both agree with {wanted}; name more factors "
                              "after `at`")  # fmt: skip
            found[seed] = name, on
        if not found:
            raise KDError(f"{self.quoted}: the study has no cell with {wanted}")
        return found

    def check_pair(self, one: dict, other: dict, factor: str, on: str) -> None:
        """Raises KDError if both sides of a comparison have the same values of factors. factor: the compared one."""
        if one == other:
            cell, _ = next(iter(self.side(one, on).values()))
            raise self._same_cell(cell, factor)

    def _same_cell(self, cell: str, factors: str) -> KDError:
        return KDError(f"{self.quoted}, compares {cell} with itself: {factors} has no effect there, or both sides "
                       "name one value; compare two values, `at` others where they have an effect")  # fmt: skip

    def agreeing(self, wanted: dict) -> list[str]:
        """Names of the cells with the wanted values. A factor without effect on a cell is not compared."""
        named = {factor: value for factor, value in wanted.items() if factor != TEST_NOISE}
        cells = self.cells.items()
        return [name for name, own in cells if all(own.get(f, value) == value for f, value in named.items())]

    def _noised_set(self, wanted: dict, on: str) -> str:
        level = wanted.get(TEST_NOISE)
        return on if level is None else _levels_of(on, self.sets)[level]

    def _values(self, factor: str, on: str) -> dict:
        """Text of a value -> value. Raises KDError for an unknown factor."""
        values = self.factors()
        if factor == TEST_NOISE and factor not in values:
            if "@" in on:
                raise KDError(f"{self.quoted}: {TEST_NOISE} says which noise {on} has, so one of the two would be "
                              "lost; leave it out, or leave out the noise after `on`")  # fmt: skip
            return {str(level): level for level in _levels_of(on, self.sets)}
        if factor not in values:
            raise KDError(f"{self.where}: unknown factor {factor!r}; the nearest valid one is "
                          f"{nearest(factor, values)!r}")  # fmt: skip
        return values[factor]

    def _known(self, kind: str, name: str, names) -> str:
        if name not in names:
            raise KDError(f"{self.where}: unknown {kind} {name!r}; the nearest valid one is {nearest(name, names)!r}")
        return name

    def _find(self, word: str, values: dict) -> tuple:
        """(factor, value) for the text of a value in a claim."""
        for factor, known in values.items():
            if word.strip() in known:
                return factor, known[word.strip()]
        known = [value for factor in values.values() for value in factor]
        raise KDError(f"{self.where}: no factor has the value {word!r}; the nearest is {nearest(word, known)!r}")


def label(wanted: dict) -> str:
    """The name of the system with these values of factors."""
    return ",".join(f"{name}={value}" for name, value in sorted(wanted.items()))


def _levels_of(subset: str, sets: list) -> dict:
    """Noise in percent -> name of the evaluation set, for one subset: `test`, `test@10`."""
    found = {}
    for name in sets:
        base, _, level = name.partition("@")
        if base == subset:
            number = float(level or 0)
            found[int(number) if number == int(number) else number] = name
    return found
