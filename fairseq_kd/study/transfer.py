"""The setting `transfer`: the sentences from which a student learns what its teachers know.

    own      the training set of the cell: its part, with the gold targets
    union    the source sentences of all parts, which are the whole training set, with targets of the teachers: no gold
             target of a part leaves it
    text     the text of `decode.source-text`, with targets of the teachers

Without this setting a cell learns from its own training set, and `seq` and `word+seq` from the text of
`decode.source-text` if there is one. `union` and `text` have no gold targets. There the methods that learn from the
teacher's distribution learn from it on the teachers' targets.
"""

from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.strategies import STRATEGIES
from fairseq_kd.study.methods import METHODS
from fairseq_kd.study.parts import PARTS

TRANSFER = "transfer"
OWN, UNION, TEXT = "own", "union", "text"
CHOICES = (OWN, UNION, TEXT)
WITHOUT_GOLD = (UNION, TEXT)
LEARNERS = ("word", "seq", "word+seq", "on-policy", "dp", "mutual")
GOLD = "a transfer set has no gold targets"


def is_without_gold(settings: dict) -> bool:
    """Whether the student of a cell learns from a transfer set without gold targets. settings: of the cell."""
    return settings[TRANSFER] in WITHOUT_GOLD and settings["method"] in LEARNERS


def learns_from_decoded(settings: dict) -> bool:
    """Whether the targets of a student are decoded by its teachers, or by its peers."""
    return METHODS[settings["method"]].on_decoded or is_without_gold(settings)


def has_effect(method: str) -> bool:
    """Whether the setting has an effect on the cells of a method, which may be the effect that it is refused."""
    return METHODS[method].trained and (METHODS[method].taught or method in LEARNERS)


def with_transfer(path, settings: dict) -> dict:
    """The settings of a cell with the options of `decode` that its transfer set needs.

    path: of the spec. Raises KDError for a method that cannot learn from the transfer set, and for options that would
    read a gold target.
    """
    transfer, decode = settings[TRANSFER], settings["decode"]
    if transfer is None or not has_effect(settings["method"]):
        return settings
    where = f"{path}: {TRANSFER} {transfer}"
    if transfer == TEXT and "source-text" not in decode:
        raise KDError(f"{where} needs the files of the text: give source-text in decode")
    if transfer != TEXT:
        decode = {name: value for name, value in decode.items() if name != "source-text"}
    if transfer in WITHOUT_GOLD:
        _check_method(where, settings)
    if transfer == UNION:
        _check_decoding(where, decode)
        decode = {"fallback": "drop"} | decode
    return settings | {"decode": decode}


def _check_method(where: str, settings: dict) -> None:
    method = settings["method"]
    if method not in LEARNERS:
        raise KDError(f"{where} and method {method}: {GOLD}, and this method needs them; exclude these cells, or give "
                      f"{', '.join(LEARNERS[:-1])} or {LEARNERS[-1]}")  # fmt: skip
    if method == "mutual" and settings["peers"] != PARTS:
        raise KDError(f"{where} and method mutual: {GOLD}, and new peers cannot make targets; give peers {PARTS}, or "
                      "exclude these cells")  # fmt: skip
    partition = settings["kd"].get("kd-partition", METHODS["dp"].defaults["kd-partition"])
    if method == "dp" and partition == "supervised" and settings["mix-gold"] == 0:
        raise KDError(f"{where} and method dp: {GOLD}, and kd-partition supervised compares the probabilities of gold "
                      "tokens; give kd-partition unsupervised, or mix-gold above 0")  # fmt: skip


def _check_decoding(where: str, decode: dict) -> None:
    if "data-bin" in decode:
        raise KDError(f"{where} and data-bin in decode: nothing shows that its targets hold no gold target of another "
                      "part; leave data-bin out")  # fmt: skip
    strategy = STRATEGIES.get(decode.get("strategy"))
    if strategy and strategy.reads_gold:
        raise KDError(f"{where} and strategy {strategy.name}: it reads gold targets, and those of other parts are "
                      "private; give strategy beam, greedy or sample")  # fmt: skip
    if decode.get("select") == "closest":
        raise KDError(f"{where} and select closest: it compares with gold targets, and those of other parts are "
                      "private; leave select out")  # fmt: skip
    if decode.get("fallback") == "reference":
        raise KDError(f"{where} and fallback reference: it takes gold targets, and those of other parts are private; "
                      "give fallback drop or error")  # fmt: skip
