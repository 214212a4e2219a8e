"""The options of `fairseq-kd decode` that choose a hypothesis and drop pairs, checked.

They are fields of `DecodeOptions`, which derives from the two classes.
"""

import json
import math
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError

SELECTIONS = ("best", "closest", "mbr", "model", "qe")
METRICS = ("bleu", "chrf")
BY_METRIC = ("closest", "mbr")
MBR_WEIGHTS = ("uniform", "model")


@dataclass(frozen=True, init=False)
class SelectionOptions:
    """Which hypothesis of a sentence becomes the target; see docs/selection.md."""

    select: str = "best"
    metric: str = "bleu"
    tokenize: str | None = None  # for the metric bleu; None: the default of the target language
    mbr_weights: str | None = None  # one of MBR_WEIGHTS; None: uniform
    select_model: str | None = None  # checkpoints joined by ":"
    qe: str | None = None  # MODULE:CALLABLE


@dataclass(frozen=True, init=False)
class FilterOptions:
    """Which pairs are dropped. In the order in which the rules are applied; see docs/selection.md."""

    drop_empty: bool = False
    max_length_ratio: float | None = None
    drop_copies: bool = False
    max_repeats: int | None = None
    max_length_deviation: float | None = None
    opusfilter: tuple[str, ...] | None = None  # CLASS or CLASS:JSON, each
    min_qe: float | None = None
    min_round_trip_chrf: float | None = None
    drop_unlikely: float | None = None
    max_same_target: int | None = None
    round_trip: str | None = None  # no rule: the checkpoints for min_round_trip_chrf, joined by ":"


FIRST_FILTERS = ("max_length_ratio", "drop_empty", "drop_copies")  # in the order of older manifests
FILTERS = (*FIRST_FILTERS, "max_repeats", "max_length_deviation", "opusfilter", "min_qe", "min_round_trip_chrf")
FILTERS += ("drop_unlikely", "max_same_target")


def filters_of(options: FilterOptions) -> dict:
    """The filters that are on, by option name."""
    values = {name: getattr(options, name) for name in FILTERS}
    chosen = {name: value for name, value in values.items() if value is not None and value is not False}
    return {name: list(value) if name == "opusfilter" else value for name, value in chosen.items()}


def reads_text(options) -> bool:
    """Whether selection or filters read detokenised text."""
    return options.select in BY_METRIC or reads_source_text(options)


def reads_source_text(options) -> bool:
    """Whether selection or filters read detokenised sources, and targets."""
    return any(value is not None for value in (options.qe, options.opusfilter, options.min_round_trip_chrf))


def check_selection(options) -> None:
    """Raises KDError for a selection that lacks what it needs, and for options without an effect on it."""
    select = options.select
    if select != "best" and options.settings().get("nbest", 1) == 1:
        raise KDError(f"--select {select} chooses among several hypotheses: give --nbest 2 or more")
    if select not in BY_METRIC and options.metric != "bleu":
        raise KDError(f"--metric {options.metric} has no effect without --select closest or mbr")
    if options.tokenize is not None and (select not in BY_METRIC or options.metric != "bleu"):
        raise KDError(
            f"--tokenize {options.tokenize} has no effect without --select closest and --metric bleu, or --select mbr "
            "and --metric bleu"
        )
    if options.mbr_weights is not None and select != "mbr":
        raise KDError(f"--mbr-weights {options.mbr_weights} has no effect without --select mbr")
    if options.mbr_weights == "model" and options.strategy == "sample":
        raise KDError(
            "--mbr-weights model has no place with --strategy sample: samples are drawn with the model's "
            "probabilities, so they would count twice; leave it out"
        )
    _needs("--select model", select == "model", "--select-model", options.select_model)
    _needs("--select qe or --min-qe", select == "qe" or options.min_qe is not None, "--qe", options.qe)


def check_filters(options) -> None:
    """Raises KDError for a filter out of its range, or without what it needs."""
    _needs("--min-round-trip-chrf", options.min_round_trip_chrf is not None, "--round-trip", options.round_trip)
    _check("--max-length-ratio", options.max_length_ratio, "at least 1 (longer side / shorter side)", lambda v: v >= 1)
    _check("--max-repeats", options.max_repeats, "at least 0", lambda value: value >= 0)
    _check("--max-length-deviation", options.max_length_deviation, "above 0", lambda value: value > 0)
    _check("--min-qe", options.min_qe, "a finite number", lambda value: True)
    _check("--min-round-trip-chrf", options.min_round_trip_chrf, "above 0 and at most 100", lambda v: 0 < v <= 100)
    _check("--drop-unlikely", options.drop_unlikely, "above 0 and below 1 (a share)", lambda value: 0 < value < 1)
    _check("--max-same-target", options.max_same_target, "at least 1", lambda value: value >= 1)
    for text in options.opusfilter or ():
        opusfilter_of(text)


def opusfilter_of(text: str) -> tuple[str, dict]:
    """(class, parameters) of CLASS or CLASS:JSON. Raises KDError for text of another form."""
    name, _, parameters = text.partition(":")
    try:
        found = json.loads(parameters) if parameters else {}
    except (ValueError, RecursionError):
        found = None
    if not name.isidentifier() or not isinstance(found, dict):
        raise KDError(
            f"""--opusfilter {text}: must be CLASS or CLASS:{{"PARAMETER": VALUE}} with JSON, such as """
            """RepetitionFilter:{"threshold": 2}"""
        )
    return name, found


def _needs(user: str, used: bool, name: str, value) -> None:
    if used and value is None:
        raise KDError(f"{user} needs {name}: give both, or neither")
    if value is not None and not used:
        raise KDError(f"{name} {value} has no effect without {user}")


def _check(name: str, value, condition: str, holds) -> None:
    if value is not None and not (math.isfinite(value) and holds(value)):
        raise KDError(f"{name} {value}: must be {condition}")
