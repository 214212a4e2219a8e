"""Training curves, from the log of fairseq-train."""

import json
from pathlib import Path

MARK = " | valid | {"
LOSS, UPDATES = "valid_nll_loss", "valid_num_updates"


def validation_curve(log: Path) -> list[tuple[int, float]]:
    """(updates, loss in bits a token) of each validation, by updates; empty where there is no log.

    A training that was killed and continued has some validations twice: the last counts.
    """
    if not log.is_file():
        return []
    curve = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        _, mark, entry = line.partition(MARK)
        if mark:
            values = _parse("{" + entry)
            if LOSS in values and UPDATES in values:
                curve[int(values[UPDATES])] = float(values[LOSS])
    return sorted(curve.items())


def _parse(entry: str) -> dict:
    """A line of the log; nothing of one that was cut off when the training was killed."""
    try:
        return json.loads(entry)
    except json.JSONDecodeError:
        return {}
