"""Rules that look at one pair, in the order in which they are applied. A pair counts for the first that drops it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairseq_kd.sequence.answers import Answer
from fairseq_kd.sequence.filters.length_model import LengthModel
from fairseq_kd.sequence.filters.opus import OpusRule
from fairseq_kd.sequence.texts import Texts

NGRAM = 4


@dataclass(frozen=True)
class Pair:
    """source: token ids without EOS. answer: its chosen hypothesis is the target."""

    source: Sequence[int]
    answer: Answer

    @property
    def target(self) -> Sequence[int]:
        """Token ids without EOS."""
        return self.answer.best.tokens


@dataclass(frozen=True)
class Rule:
    """name: in the manifest. drops: whether a pair is dropped."""

    name: str
    drops: Callable[[Pair], bool]


def rules_of(filters: dict, same_symbols: Callable, texts: Texts | None, lengths: LengthModel | None) -> list[Rule]:
    """The rules that are on, in their order. filters: option name -> value, see `DecodeOptions.filters`.

    same_symbols(source ids, target ids): whether both are the same text. texts, lengths: for the rules that need them.
    Raises KDError for filters of OpusFilter that cannot be used.
    """
    ratio, repeats, deviation = (
        filters.get(name) for name in ("max_length_ratio", "max_repeats", "max_length_deviation")
    )
    qe, chrf = filters.get("min_qe"), filters.get("min_round_trip_chrf")
    found = {
        "empty": filters.get("drop_empty") and (lambda pair: not (len(pair.source) and len(pair.target))),
        "length_ratio": ratio and (lambda pair: is_beyond(ratio, len(pair.source), len(pair.target))),
        "copy": filters.get("drop_copies") and (lambda pair: same_symbols(pair.source, pair.target)),
        "repeats": repeats is not None and (lambda pair: more_repeats(pair.source, pair.target) > repeats),
        "length_deviation": deviation and (lambda pair: deviates(lengths, pair, deviation)),
    }
    rules = [Rule(name, drops) for name, drops in found.items() if drops]
    rules += [opus_rule(OpusRule(text), texts) for text in filters.get("opusfilter", ())]
    measured = {"qe": qe, "round_trip": chrf}
    return rules + [at_least(name, least) for name, least in measured.items() if least is not None]


def is_beyond(ratio: float, *lengths: int) -> bool:
    """Whether the longer side has more than `ratio` tokens per token of the shorter side."""
    return max(lengths) > ratio * max(min(lengths), 1)


def more_repeats(source: Sequence[int], target: Sequence[int]) -> int:
    """How much more often the most frequent 4-gram of the target occurs than the most frequent one of the source.

    Source: Raunak et al. 2021; Guerreiro et al. 2023 call a translation with 2 or more an oscillatory hallucination.
    """
    return most_frequent(target) - most_frequent(source)


def most_frequent(tokens: Sequence[int]) -> int:
    """How often the most frequent 4-gram occurs; 0 for fewer than four tokens."""
    tokens = list(tokens)
    counts = Counter(tuple(tokens[at : at + NGRAM]) for at in range(len(tokens) - NGRAM + 1))
    return max(counts.values(), default=0)


def deviates(lengths: LengthModel, pair: Pair, most: float) -> bool:
    """Whether the length of the target is more than `most` standard deviations away from the expected one."""
    return bool(len(pair.source)) and abs(lengths.deviation(len(pair.source), len(pair.target))) > most


def opus_rule(rule: OpusRule, texts: Texts) -> Rule:
    """A rule of OpusFilter, which reads text."""
    return Rule(rule.name, lambda pair: rule.drops(texts.source(pair.source), texts.target(pair.target)))


def at_least(name: str, least: float) -> Rule:
    """A rule for a measurement of the chosen hypothesis; a gold target, which has none, stays."""
    return Rule(name, lambda pair: pair.answer.measured.get(name, least) < least)
