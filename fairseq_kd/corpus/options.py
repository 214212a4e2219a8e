"""How a corpus is cleaned, segmented and binarised."""

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
    """Checked when it is made: raises KDError for a value out of range and for one that would have no effect."""

    subword: str = "sentencepiece"
    vocab_size: int = DEFAULT_VOCAB_SIZE
    joint: bool = True
    subword_model: str | None = None  # reuse this model file
    like: str | None = None  # reuse subword model and dictionaries of this data-bin
    rules: CleaningRules = field(default_factory=CleaningRules)
    workers: int = 1
    form: str = "cased"  # of the text: as it is, tokenised, or tokenised and lower-cased
    sample: int = DEFAULT_SAMPLE  # pairs that subwords are learned from, evenly spaced
    count_tokens: bool = False  # the lengths of `rules` are Moses tokens even if the text is not tokenised
    normalisation: str | None = None  # of the text by SentencePiece; None: DEFAULT_NORMALISATION where it is trained
    valid_every: int | None = None  # every so many of the training pairs kept become the validation set

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
        if self.subword_model and (self.subword == "none" or not self.joint):
            raise KDError("--subword-model reuses one joint model, so --subword none and --separate cannot go with it")
        if self.vocab_size != DEFAULT_VOCAB_SIZE and (self.subword_model or self.subword == "none"):
            raise KDError(f"--vocab-size {self.vocab_size} has no effect: no subword model is trained")
        if self.like and any(getattr(self, f.name) != f.default for f in fields(self) if f.name in LIKE_DECIDES):
            raise KDError(
                "--like takes subword model and dictionaries from another data-bin, so --subword, --vocab-size, "
                "--separate and --subword-model would have no effect beside it"
            )

    def _check_normalisation(self) -> None:
        if self.normalisation is None:
            return
        if self.normalisation not in NORMALISATIONS:
            raise KDError(f"--normalisation {self.normalisation}: must be one of {', '.join(NORMALISATIONS)}")
        if not self._trains_sentencepiece():
            raise KDError(
                f"--normalisation {self.normalisation} has no effect: it is built into a SentencePiece model when that "
                "is trained, and none is trained here"
            )

    def _trains_sentencepiece(self) -> bool:
        return self.subword == "sentencepiece" and not self.like and not self.subword_model

    def rule_of_normalisation(self) -> str | None:
        """One of NORMALISATIONS where a SentencePiece model is trained, else None."""
        return (self.normalisation or DEFAULT_NORMALISATION) if self._trains_sentencepiece() else None

    def as_dict(self) -> dict:
        """What changes the result, for the manifest. The later options are left out at their defaults.

        So the data-bins that were made before an option was there keep their manifests. Then SentencePiece always
        normalised by nmt_nfkc.
        """
        later = ("form", "sample", "count_tokens", "valid_every")
        described = asdict(self) | {"normalisation": self.rule_of_normalisation()}
        del described["workers"]
        if described["normalisation"] in (None, "nmt_nfkc"):
            del described["normalisation"]
        for option in fields(self):
            if option.name in later and described[option.name] == option.default:
                del described[option.name]
        return described
