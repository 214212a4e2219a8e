"""When tuning pays: what the best options of kd gain over the default ones, against the gap before distillation.

    group       the students of one method that differ in options of `kd` and in their seeds only
    setting     one combination of these options; the default one has the values of the section `kd`, else the defaults
                of the criterion
    choice      the setting with the highest mean BLEU on the validation set, if the study evaluates it; otherwise, for
                each seed, the setting with the highest mean over the other seeds. So the scores that are reported
                choose nothing
    gain        BLEU of the chosen setting minus that of the default setting, mean over seeds
    gap         BLEU of the teacher, mean over the seeds where it is another one for each, minus that of the student of
                `ce` with the same other factors

arXiv 2402.14922 says that tuning matters less between models of equal quality.
"""

from dataclasses import dataclass
from statistics import mean

from fairseq_kd.study.factors import assignments, settings_of_value
from fairseq_kd.study.methods import METHODS, SCHEDULE
from fairseq_kd.study.report.good_teachers import VALIDATION, reported_set
from fairseq_kd.study.report.parts import HEAD, TESTS, WEAK, Part, Related, scatter, tested, why_untested
from fairseq_kd.study.report.plots import METRIC
from fairseq_kd.study.report.rows import METRICS, Row, Study, label
from fairseq_kd.study.report.tables import BASELINE, NOT_DONE, Table, baseline_of
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.teachers import NO_SCHEDULE

TITLE = "When tuning pays"
KD = "kd."
SHOWN = 3  # chosen settings in a cell of the table


@dataclass(frozen=True)
class Tuned:
    """A group that can be reported.

    settings: number of complete settings. default: mean score of the default setting. gain: by tuning. chosen: the
    chosen settings, as text. gap: None without a score of the teacher or of `ce`.
    """

    method: str
    factors: dict
    settings: int
    seeds: int
    default: float
    gain: float
    chosen: list
    gap: float | None


def tuning(study: Study, spec: Spec) -> Part:
    """The part of the report."""
    names = [name for name in study.factors if name != "method" and is_kd_factor(spec, name)]
    if not names:
        return Part(TITLE, absent="no factor of the study varies options of kd, such as alpha or temperature")
    on, groups, missing = reported_set(study), [], []
    for rows in _groups(study, names):
        method = rows[0].factors.get("method", _values(spec, "method")[0])
        varied = [name for name in names if any(name in row.factors for row in rows)]
        defaults = {name: default_values(spec, name, method) for name in varied}
        missing += [f"the factor {name} has no default value of {method}" for name in varied if not defaults[name]]
        groups.append(_tuned(study, on, rows, defaults))
    groups = [one for one in groups if one is not None]
    if not groups:
        return Part(TITLE, absent=f"{missing[0]}: add it" if missing else _why_absent(study, on))
    related = tested(_related(groups))
    figures = [_figure(study, on, related)] if any(one.pairs for one in related) else []
    return Part(TITLE, _lines(study, on, groups, related), _tables(groups, related, on), figures)


def is_kd_factor(spec: Spec, name: str) -> bool:
    """Whether all values of a factor are about options of the section kd and nothing else."""
    return all(one.startswith(KD) for value in _values(spec, name) for one in settings_of_value(spec, name, value))


def default_values(spec: Spec, name: str, method: str) -> list:
    """The values of a factor that assign the default to each of their settings, for one method."""
    return [
        value
        for value in _values(spec, name)
        if all(given == _default(spec, one, method) for one, given in assignments(spec, name, value))
    ]


def _values(spec: Spec, name: str) -> list:
    given = spec.factors[name]
    return list(given) if isinstance(given, dict | list) else [given]


def _default(spec: Spec, setting: str, method: str):
    """The value of an option without the factor: of the section kd, of the method, or of its criterion."""
    from fairseq_kd.criterions.hybrid_config import KDHybridConfig  # and with it fairseq
    from fairseq_kd.criterions.mutual_config import KDMutualConfig
    from fairseq_kd.criterions.on_policy_config import OnPolicyConfig

    option, known = setting.removeprefix(KD), {"kd_hybrid": KDHybridConfig, "kd_mutual": KDMutualConfig}
    given = METHODS[method].defaults | spec.sections["kd"]
    if option in given:
        return given[option]
    if option == SCHEDULE:
        return NO_SCHEDULE
    return getattr(known.get(METHODS[method].criterion, OnPolicyConfig)(), option.replace("-", "_"), None)


def _groups(study: Study, names: list) -> list[list[Row]]:
    """The rows of distilled students, by method and other factors."""
    found = {}
    for row in study.rows:
        if any(name in row.factors for name in names):
            key = tuple((name, value) for name, value in row.factors.items() if name not in names)
            found.setdefault(key, []).append(row)
    return list(found.values())


def _tuned(study: Study, on: str, rows: list[Row], defaults: dict) -> Tuned | None:
    """None where the default setting or another one is not complete, or where nothing can choose."""
    usual = [row for row in rows if _is_default(row, defaults)]
    validated = VALIDATION in study.sets and on != VALIDATION
    if len(usual) != 1 or not usual[0].found(on):
        return None
    complete = [row for row in rows if all(len(row.found(one)) == len(row.runs) for one in _needed(on, validated))]
    scores = {id(row): _by_seed(row, on) for row in complete}
    rows = [row for row in complete if scores[id(row)].keys() == _by_seed(usual[0], on).keys()]
    seeds = list(_by_seed(usual[0], on))
    if usual[0] not in rows or len(rows) < 2 or not (validated or len(seeds) > 1):
        return None
    rows = [usual[0], *(row for row in rows if row is not usual[0])]  # of equal settings the default is chosen
    if validated:
        chosen = [max(rows, key=lambda row: row.mean(METRIC, VALIDATION))] * len(seeds)
    else:
        chosen = [max(rows, key=lambda row: _mean_without(scores[id(row)], seed)) for seed in seeds]
    default = scores[id(usual[0])]
    gain = mean(scores[id(row)][seed] - default[seed] for row, seed in zip(chosen, seeds, strict=True))
    others = {name: value for name, value in usual[0].factors.items() if name not in (*defaults, "method")}
    named = [label({name: row.factors[name] for name in defaults if name in row.factors}) for row in chosen]
    known = (len(rows), len(seeds), mean(default.values()), gain, list(dict.fromkeys(named)))
    return Tuned(usual[0].factors.get("method", ""), others, *known, _gap(study, on, usual[0]))


def _needed(on: str, validated: bool) -> tuple:
    return (on, VALIDATION) if validated else (on,)


def _is_default(row: Row, defaults: dict) -> bool:
    return all(row.factors[name] in values for name, values in defaults.items() if name in row.factors)


def _by_seed(row: Row, on: str) -> dict:
    return {run.seed: run.results[on][METRIC]["score"] for run in row.runs if run.results[on] is not None}


def _mean_without(scores: dict, seed) -> float:
    return mean(score for other, score in scores.items() if other != seed)


def _gap(study: Study, on: str, row: Row) -> float | None:
    """The BLEU of the teachers of the row minus that of `ce`.

    Models that teach together are one teacher, whose members have no part in the mean. Local models are other ones for
    each seed.
    """
    number, plain = study.rows.index(row), baseline_of(study, row)
    teachers = [one for one, users in zip(study.teachers, study.users, strict=True) if number in users]
    stages = [set(one.runs[0].stages) for one in teachers]
    whole = [one for one, own in zip(teachers, stages, strict=True) if not any(own < other for other in stages)]
    found = [teacher.mean(METRIC, on) for teacher in whole]
    theirs = plain.mean(METRIC, on) if plain else None
    return None if not found or None in (*found, theirs) else mean(found) - theirs


def _why_absent(study: Study, on: str) -> str:
    if VALIDATION not in study.sets and all(len(row.runs) == 1 for row in study.rows):
        return (
            "with one seed and without the validation set nothing can choose a setting but the scores that are "
            "reported: give evaluate: {subsets: [valid, test]}, or several seeds"
        )
    return f"no group has the default setting and another one with results on {on} for the same seeds"


def _related(groups: list[Tuned]) -> list[Related]:
    found = []
    for method in dict.fromkeys(one.method for one in groups):
        pairs = [(one.gap, one.gain) for one in groups if one.method == method and one.gap is not None]
        found.append(Related("the gap", method, pairs, measured=bool(pairs)))
    return found


def _lines(study: Study, on: str, groups: list[Tuned], related: list[Related]) -> list[str]:
    if VALIDATION in study.sets and on != VALIDATION:
        how = f"the setting with the highest mean BLEU on {VALIDATION}"
    else:
        how = "for each seed, the setting with the highest mean over the other seeds"
    gained = mean(one.gain for one in groups)
    lines = [
        "A setting is one combination of the options of kd that the study varies. Tuning chooses, within a group of "
        f"students with the same other factors, {how}; so the scores on {on} that are reported here choose nothing. "
        "Its gain is the BLEU of the chosen setting minus that of the default one. The gap is the BLEU of the teacher "
        f"minus that of the student of {BASELINE}, before any distillation.",
        f"Tuning gained {gained:+.2f} BLEU in the mean of {len(groups)} {'group' if len(groups) == 1 else 'groups'}.",
    ]
    for one in related:
        if not one.measured:
            lines.append(f"{one.label}: the gap is not measured; it needs a teacher and students of {BASELINE}.")
        elif one.supported:
            more = "more" if one.rank.value > 0 else "less"
            lines.append(f"{one.label}: in {len(one.pairs)} groups tuning gained {more} where the gap was larger.")
        elif one.rank is not None:
            lines.append(f"{one.label}: over {len(one.pairs)} groups no relation of the gain to the gap is supported. "
                         "This does not show that there is none.")  # fmt: skip
    lines += why_untested(related, "groups")
    return [*lines, "arXiv 2402.14922 says that tuning matters less between equals.", WEAK.format(units="groups")]


def _tables(groups: list[Tuned], related: list[Related], on: str) -> list[Table]:
    names = list(dict.fromkeys(name for one in groups for name in one.factors))
    head = ["method", *names, "chosen", "gap", "default", "gain by tuning", "settings", "seeds"]
    lines = []
    for one in groups:
        chosen = "; ".join(one.chosen[:SHOWN]) + ("; ..." if len(one.chosen) > SHOWN else "")
        gap = NOT_DONE if one.gap is None else f"{one.gap:+.2f}"
        numbers = [gap, f"{one.default:.2f}", f"{one.gain:+.2f}", str(one.settings), str(one.seeds)]
        lines.append([one.method, *(str(one.factors.get(name, "")) for name in names), chosen, *numbers])
    tables = [Table(f"Gain by tuning on {on}", head, lines, len(names) + 2, [], "tuning")]
    if any(one.rank for one in related):
        lines = [[one.label, str(len(one.pairs)), *one.cells()] for one in related]
        title = f"Correlation of the gap with the gain by tuning on {on}"
        about = TESTS.format(units="groups", tests="methods")
        tables.append(Table(title, ["method", "groups", *HEAD], lines, 1, [], "tuning-correlation", about))
    return tables


def _figure(study: Study, on: str, related: list[Related]):
    caption = "A point is one group of students. A line is drawn where a correlation is supported."
    axes = (f"gap before distillation, {METRICS[METRIC]}", f"gain by tuning, {METRICS[METRIC]} on {on}")
    several = [one for one in related if one.pairs]
    return scatter(f"tuning-{on}", f"Gain by tuning on {on} against the gap", caption, several, axes, study)
