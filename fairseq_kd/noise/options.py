"""What noise is asked for."""

from dataclasses import asdict, dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.text import normalise_spaces

LEVELS = ("word", "subword", "char")
SUBSTITUTES = ("unigram", "uniform")
OPERATIONS = ("delete", "substitute", "swap")
TOKENIZERS = ("spaces", "char")


@dataclass(frozen=True)
class NoiseOptions:
    """Rates are shares of all units (words, subwords or characters), 0 to 1; a unit meets one operation at most.

    Raises KDError when it is made, for values out of range and for options without effect.
    """

    delete: float = 0.0
    substitute: float = 0.0
    swap: float = 0.0
    swap_window: int = 1  # a unit changes places with one of so many to its right
    substitute_from: str = "unigram"
    level: str = "word"
    sentence_share: float = 1.0  # of the sentences that get any noise
    word_tokenizer: str = "spaces"  # "char": each character of a script without spaces is a word by itself
    protect: tuple[str, ...] = ()  # words that are never touched, nor put in; they do not count for the rates

    def __post_init__(self):
        for name in (*OPERATIONS, "sentence_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise KDError(f"{_option(name)} {getattr(self, name)}: must be between 0 and 1")
        if self.total == 0 or self.sentence_share == 0:
            raise KDError("no noise is asked for: give --delete, --substitute or --swap above 0")
        if self.total > 1 + 1e-9:
            raise KDError(
                f"--delete {self.delete:g}, --substitute {self.substitute:g} and --swap {self.swap:g} sum to "
                f"{self.total:g}: each is a share of all units, and a unit meets one of them at most, so together they "
                "must not exceed 1"
            )
        for name, known in (
            ("level", LEVELS),
            ("substitute_from", SUBSTITUTES),
            ("word_tokenizer", TOKENIZERS),
        ):
            if getattr(self, name) not in known:
                raise KDError(f"{_option(name)} {getattr(self, name)}: must be one of {', '.join(known)}")
        if self.swap_window < 1:
            raise KDError(f"--swap-window {self.swap_window}: must be at least 1")
        if self.swap_window > 1 and not self.swap:
            raise KDError(f"--swap-window {self.swap_window} has no effect without --swap")
        if self.substitute_from != "unigram" and not self.substitute:
            raise KDError(f"--substitute-from {self.substitute_from} has no effect without --substitute")

        if self.word_tokenizer != "spaces" and self.level != "word":
            raise KDError(f"--word-tokenizer {self.word_tokenizer} has no effect with --level {self.level}")
        object.__setattr__(self, "protect", tuple(sorted(set(self.protect or ()))))
        for symbol in self.protect:
            if not symbol or normalise_spaces(symbol) != symbol or " " in symbol:
                raise KDError(f"--protect {symbol!r}: must be a word without spaces, as it stands in the text")

    @property
    def total(self) -> float:
        """The share of units that meet an operation."""
        return self.delete + self.substitute + self.swap

    def as_dict(self) -> dict:
        """For the manifest. Options that its format did not have at first are in it where they are used."""
        values = asdict(self) | {"protect": list(self.protect)}
        unused = {"word_tokenizer": "spaces", "protect": []}
        return {name: value for name, value in values.items() if name not in unused or value != unused[name]}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
