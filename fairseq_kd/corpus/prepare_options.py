"""The options of `fairseq-kd prepare`: how a corpus is cleaned, segmented and binarised."""

from dataclasses import asdict, dataclass, field, fields

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.sentencepiece_model import DEFAULT_NORMALISATION, NORMALISATIONS
from fairseq_kd.corpus.subword import KINDS
from fairseq_kd.corpus.text import CleaningRules

DEFAULT_VOCAB_SIZE = 8000
LIKE_DECIDES = ("subword", "vocab_size", "joint", "subword_model")
FORMS = ("cased", "tokenised", "lower-cased")
DEFAULT_SAMPLE = 1_000_000


@dataclass(frozen=True)
class PrepareOptions:
    """Checked at construction: raises KDError for a value out of range and for a value without an effect."""

    subword: str = "sentencepiece"
    vocab_size: int = DEFAULT_VOCAB_SIZE
    joint: bool = True
    subword_model: str | None = None  # reuse this model file
    like: str | None = None  # reuse subword model and dictionaries of this data-bin
    rules: CleaningRules = field(default_factory=CleaningRules)
    workers: int = 1
    form: str = "cased"  # the text is unchanged, tokenised, or tokenised and lower-cased
    sample: int = DEFAULT_SAMPLE  # pairs from which subwords are learned, evenly spaced
    count_tokens: bool = False  # the lengths of `rules` are Moses tokens even if the text is not tokenised
    normalisation: str | None = None  # for a new SentencePiece model; None: DEFAULT_NORMALISATION
    valid_every: int | None = None  # every n-th kept training pair is a validation pair
    reserve: int = 0  # tokens that the dictionaries hold besides those of the text, see `reserved`

    def __post_init__(self):
        if self.subword not in KINDS:
            raise KDError(f"--subword {self.subword}: must be one of {', '.join(KINDS)}")
        if self.vocab_size < 1:
            raise KDError(f"--vocab-size {self.vocab_size}: must be at least 1")
        if self.workers < 1:
            raise KDError(f"--workers {self.workers}: must be at least 1")
        if self.form not in FORMS:
            raise KDError(f"--form {self.form}: must be one of {', '.join(FORMS)}")
        if self.sample < 1:
            raise KDError(f"--subword-sample {self.sample}: must be at least 1")
        if self.sample != DEFAULT_SAMPLE and (self.like or self.subword_model or self.subword == "none"):
            raise KDError(f"--subword-sample {self.sample} has no effect: no subword model is trained")
        self._check_normalisation()
        if self.reserve < 0:
            raise KDError(f"--reserve {self.reserve}: must be at least 0")
        if self.reserve and self.like:
            raise KDError(
                f"--reserve {self.reserve} has no effect with --like, whose data-bin decides the reserved tokens;  "
                "leave it out"
            )
        if self.subword_model and (self.subword == "none" or not self.joint):
            raise KDError("--subword-model reuses one joint model, so --subword none and --separate cannot go with it")
        if self.vocab_size != DEFAULT_VOCAB_SIZE and (self.subword_model or self.subword == "none"):
            raise KDError(f"--vocab-size {self.vocab_size} has no effect: no subword model is trained")
        if self.like and any(getattr(self, f.name) != f.default for f in fields(self) if f.name in LIKE_DECIDES):
            raise KDError(
                "--like takes subword model and dictionaries from another data-bin, so --subword, --vocab-size, "
                "--separate and --subword-model have no effect with it"
            )

    def _check_normalisation(self) -> None:
        if self.normalisation is None:
            return
        if self.normalisation not in NORMALISATIONS:
            raise KDError(f"--normalisation {self.normalisation}: must be one of {', '.join(NORMALISATIONS)}")
        if not self._trains_sentencepiece():
            raise KDError(
                f"--normalisation {self.normalisation} has no effect: a SentencePiece model takes it up when the "
                "model is trained, and none is trained here"
            )

    def _trains_sentencepiece(self) -> bool:
        return self.subword == "sentencepiece" and not self.like and not self.subword_model

    def rule_of_normalisation(self) -> str | None:
        """One of NORMALISATIONS where a SentencePiece model is trained, else None."""
        return (self.normalisation or DEFAULT_NORMALISATION) if self._trains_sentencepiece() else None

    def as_dict(self) -> dict:
        """The options that change the result, for the manifest. Later options at their defaults are not in it.

        So data-bins that were made before an option existed keep their manifests. Before --normalisation existed,
        SentencePiece always normalised by nmt_nfkc.
        """
        later = ("form", "sample", "count_tokens", "valid_every", "reserve")
        described = asdict(self) | {"normalisation": self.rule_of_normalisation()}
        del described["workers"]
        if described["normalisation"] in (None, "nmt_nfkc"):
            del described["normalisation"]
        for option in fields(self):
            if option.name in later and described[option.name] == option.default:
                del described[option.name]
        return described
