"""Claims of a spec: statements about scores of cells that the study tests. docs/claims.md describes each kind.

    base          a claim, a kind of claim, the outcome of a test, and the register of kinds
    finder        the cells that the words of a claim name, seed by seed
    read          the claims of a spec -> Claim objects, or one clear error before anything runs
    verdicts      the scores of the cells -> verdicts, sentences and detectable differences, after Holm's correction

Each other module is one kind of claim. A new kind is one such module, in the list of imports below, and its test.
"""

# The order is the order in which they are tried: `comparison` takes what has no word of another kind.
from fairseq_kd.study.claims import drop, crossing, trend, equivalence, best, comparison  # noqa: F401, I001
from fairseq_kd.study.claims.base import KINDS, Claim, Kind, Outcome, register
from fairseq_kd.study.claims.read import read_claims
from fairseq_kd.study.claims.verdicts import ClaimResult, claim_results, power_note, read_claim_results

__all__ = [
    "KINDS",
    "Claim",
    "ClaimResult",
    "Kind",
    "Outcome",
    "claim_results",
    "power_note",
    "read_claim_results",
    "read_claims",
    "register",
]
