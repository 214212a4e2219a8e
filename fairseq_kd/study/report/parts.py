"""A part of a report with a heading of its own: sentences, tables and plots; and how correlations are shown in one."""

from dataclasses import dataclass, field

from fairseq_kd.evaluation.estimates import ALPHA
from fairseq_kd.evaluation.significance import holm
from fairseq_kd.study.report.correlate import FEWEST, Correlation, line_through, pearson, smallest_p, spearman
from fairseq_kd.study.report.draw import Series, picture
from fairseq_kd.study.report.plots import Figure, slug
from fairseq_kd.study.report.styles import styles_of
from fairseq_kd.study.report.tables import NOT_DONE

HEAD = ("Spearman (95 %)", "p", "p, Holm", "Pearson (95 %)", "p", "p, Holm")
NOT_MEASURED = "not measured"
TESTS = (
    "Correlations: the coefficient with its 95 % interval (percentiles of a bootstrap over {units}) and p of a "
    "permutation test. Holm's correction is for the {tests}, for each coefficient on its own. "
    f"“Supported” means: Spearman's p is below {ALPHA} after the correction."
)
WEAK = (
    "A correlation over few {units} is weak evidence: its interval is too narrow for such a small number, and it does "
    "not show that one of the two causes the other."
)


@dataclass(frozen=True)
class Part:
    """lines: sentences. absent: the reason why the study has no such part, else empty."""

    title: str
    lines: list = field(default_factory=list)
    tables: list = field(default_factory=list)
    figures: list = field(default_factory=list)
    absent: str = ""


@dataclass(frozen=True)
class Related:
    """The relation of a value x to a value y over several units, such as the teachers of a study.

    name: of x. label: of the series in a plot. pairs: [(x, y)] of the units that have both. measured: whether any unit
    has x. p: Holm's p of Spearman and Pearson; None without a test.
    """

    name: str
    label: str
    pairs: list
    measured: bool = True
    rank: Correlation | None = None
    linear: Correlation | None = None
    p: tuple = (None, None)

    @property
    def supported(self) -> bool:
        """Whether Spearman's correlation is significant after Holm's correction."""
        return self.p[0] is not None and self.p[0] < ALPHA

    def cells(self) -> list[str]:
        """The cells of a table below HEAD."""
        if not self.measured:
            return [NOT_MEASURED, *[NOT_DONE] * 5]
        found = []
        for one, p in zip((self.rank, self.linear), self.p, strict=True):
            found += [NOT_DONE] * 3 if one is None else [str(one), f"{one.p:.4f}", f"{p:.4f}"]
        return found


def tested(several: list[Related]) -> list[Related]:
    """The relations with their correlations. Holm's correction is for those that are tested here together."""
    found = []
    for one in several:
        xs, ys = [x for x, _ in one.pairs], [y for _, y in one.pairs]
        found.append((one, spearman(xs, ys), pearson(xs, ys)))
    corrected = [holm([pair[which] and pair[which].p for pair in found]) for which in (1, 2)]
    return [
        Related(one.name, one.label, one.pairs, one.measured, rank, linear, p)
        for (one, rank, linear), *p in zip(found, *corrected, strict=True)
    ]


def why_untested(several: list[Related], units: str) -> list[str]:
    """Sentences about relations that no test can support, or that have no test. units: such as "teachers"."""
    lines = []
    tests = sum(one.rank is not None for one in several)
    fewest = min((len(one.pairs) for one in several if one.rank is not None), default=0)
    if tests and smallest_p(fewest) * tests >= ALPHA:
        count = f"{fewest} {units} and {tests} {'tests' if tests > 1 else 'test'}"
        p = min(1, smallest_p(fewest) * tests)
        lines.append(f"With {count} no correlation can be supported: the smallest possible p after Holm's correction "
                     f"is {p:.2g}.")  # fmt: skip
    few = [one.name for one in several if one.measured and one.rank is None]
    if few:
        needed = f"{FEWEST} {units} or more, with different values and gains"
        lines.append(f"No test of {', '.join(few)}: a test needs {needed}.")
    return lines


def scatter(name: str, title: str, caption: str, several: list[Related], axes: tuple, study) -> Figure:
    """Points of several series, with a line through those whose correlation is supported. axes: labels of x and y."""
    styles = styles_of(study, [{"method": one.label} for one in several])

    def paint(drawn):
        drawn.axhline(0, **Series("", []).look() | {"marker": "", "linestyle": ":", "linewidth": 0.8})
        for one, style in zip(several, styles, strict=True):
            look = Series("", [], style).look() | {"markersize": 7}
            xs, ys = [x for x, _ in one.pairs], [y for _, y in one.pairs]
            drawn.plot(xs, ys, label=one.label, clip_on=False, **look | {"linestyle": ""})
            if one.supported:
                slope, intercept = line_through(xs, ys)
                ends = [min(xs), max(xs)]
                drawn.plot(ends, [slope * x + intercept for x in ends], **look | {"marker": "", "linewidth": 1.2})
        drawn.set(xlabel=axes[0], ylabel=axes[1])

    return Figure(slug(name), title, caption, picture(slug(name), paint))
