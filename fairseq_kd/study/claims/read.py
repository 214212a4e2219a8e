"""Read the claims of a spec."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.claims.base import KINDS, Claim, Kind
from fairseq_kd.study.claims.finder import Finder
from fairseq_kd.study.spec import Spec


def read_claims(spec: Spec, cells: dict, sets: list[str]) -> list[Claim]:
    """The claims of a spec. cells: name -> values of factors. sets: the evaluation sets; the first is the default.

    Raises KDError for a claim of another form, and for one about cells that the study does not have.
    """
    if not isinstance(spec.claims, list):
        raise KDError(f"{spec.path}: claims must be a list, found {type(spec.claims).__name__}")
    return [_read(spec, number, text, cells, sets) for number, text in enumerate(spec.claims, start=1)]


def _read(spec: Spec, number: int, text, cells: dict, sets: list[str]) -> Claim:
    finder = Finder(f"{spec.path}: claim {number}", str(text), cells, sets)
    kind = _kind_of(finder.text)
    found = kind and kind.pattern.fullmatch(finder.text.strip())
    if found is None:
        *others, last = KINDS.values()
        form = kind.form if kind else f"{last.form}, nor of another kind ({', '.join(one.name for one in others)})"
        raise KDError(f"{finder.quoted}, is not of the form {form}")
    return kind.read(finder, found)


def _kind_of(text: str) -> Kind | None:
    """The first kind whose hint is in the text."""
    return next((kind for kind in KINDS.values() if kind.hint.search(text.strip())), None)
