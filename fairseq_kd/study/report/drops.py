"""Drop tables: how many points of a metric are lost by noise, in the training set or in the source of the test set."""

from statistics import mean, stdev

from fairseq_kd.study.report.rows import METRICS, Row, Study, digits, entry_of
from fairseq_kd.study.report.tables import NOT_DONE, Table

NOISE = "noise"
NOTE = (
    "Drop: how much worse the score is than without noise, mean ± one standard deviation over seeds. Relative drop: "
    "the drop as a share of the score without noise."
)


def drop_tables(study: Study, metric: str) -> list[Table]:
    """One table per evaluation set for noise in the training set, and one per subset for noise in its source."""
    return [*_by_training_noise(study, metric), *_by_test_noise(study, metric)]


def _by_training_noise(study: Study, metric: str) -> list[Table]:
    levels = study.factors.get(NOISE, [])
    if 0 not in levels or len(levels) < 2:
        return []
    others = [name for name in study.factors if name != NOISE]
    clean = [row for row in [*study.teachers, *study.rows] if row.factors.get(NOISE) == 0]
    tables = []
    for on in study.sets:
        lines = []
        for start in clean:
            for words, rows in _same_others(study, start, others).items():
                found = {level: _by_seed(row, metric, on) for level, row in rows.items()}
                lines.append((list(words), found))
        title = f"Drop of {METRICS.get(metric, metric)} on {on} by noise in the training set"
        name = f"drop-{metric}-training-noise-{on}"
        tables.append(_table(study, title, others, metric, levels, lines, name))
    return tables


def _same_others(study: Study, clean: Row, others: list) -> dict:
    """Values of the other factors, as text -> {level: row}. A row with noise may have factors that clean rows lack."""
    found = {}
    for row in [*study.teachers, *study.rows]:
        same = all(row.factors.get(name) == value for name, value in clean.factors.items() if name != NOISE)
        if same and row.factors.get(NOISE, 0) != 0:
            words = tuple(str(row.factors.get(name, "")) for name in others)
            found.setdefault(words, {0: clean})[row.factors[NOISE]] = row
    return found


def _by_test_noise(study: Study, metric: str) -> list[Table]:
    tables = []
    for subset in dict.fromkeys(on.partition("@")[0] for on in study.sets):
        sets = {float(on.partition("@")[2] or 0): on for on in study.sets if on.partition("@")[0] == subset}
        rows = [*study.teachers, *study.rows]
        if len(sets) > 1:
            found = [{level: _by_seed(row, metric, on) for level, on in sets.items()} for row in rows]
        else:
            found = [_measured(row, metric, subset) for row in rows]
        levels = sorted({level for one in found for level in one})
        if 0 in levels and len(levels) > 1:
            words = [[str(row.factors.get(name, "")) for name in study.factors] for row in rows]
            title = f"Drop of {METRICS.get(metric, metric)} by noise in the source of {subset}"
            lines = list(zip(words, found, strict=True))
            name = f"drop-{metric}-{subset}-noise"
            tables.append(_table(study, title, list(study.factors), metric, levels, lines, name))
    return tables


def _measured(row: Row, metric: str, subset: str) -> dict:
    """{level: {seed: score}} from the entry `robustness` of the results."""
    found = {}
    for run in row.runs:
        for level in ((run.results.get(subset) or {}).get("robustness") or {}).get("levels", []):
            if metric in METRICS and metric in level:
                found.setdefault(float(level["percent"]), {})[run.seed] = level[metric]["score"]
    return found


def _by_seed(row: Row, metric: str, on: str) -> dict:
    results = {run.seed: run.results.get(on) for run in row.runs}
    return {seed: entry["score"] for seed, found in results.items() if found and (entry := entry_of(found, metric))}


def _table(study: Study, title: str, others: list, metric: str, levels: list, lines: list, name: str) -> Table:
    """lines: [(values of the other factors as text, {level: {seed: score}})]."""
    noisy = [level for level in levels if level != 0]
    head = [*others, "no noise"]
    for level in noisy:
        head += [f"drop at {level:g} %", f"relative at {level:g} %"]
    rows, sign, places = [], -1 if study.lower_is_better(metric) else 1, digits(metric)
    for words, found in lines:
        clean = found.get(0, {})
        cells = [cell for level in noisy for cell in _drop(clean, found.get(level, {}), sign, places)]
        rows.append([*words, f"{mean(clean.values()):.{places}f}" if clean else NOT_DONE, *cells])
    return Table(title, head, rows, len(others), [NOTE], name)


def _drop(clean: dict, noisy: dict, sign: int, places: int) -> tuple[str, str]:
    """(absolute drop, relative drop) as text. Runs are paired by their seeds where both have the same seeds.

    sign: -1 for a metric where lower scores are better, else 1. places: digits after the point.
    """
    if not clean or not noisy:
        return NOT_DONE, NOT_DONE
    before, after = mean(clean.values()), mean(noisy.values())
    text = f"{sign * (before - after):.{places}f}"
    if clean.keys() == noisy.keys() and len(clean) > 1:
        text += f" ± {stdev([clean[seed] - noisy[seed] for seed in clean]):.{places}f}"
    return text, f"{sign * (before - after) / before:.1%}" if before > 0 else NOT_DONE
