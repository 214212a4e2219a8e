"""fairseq's `eval`, confined to literals.

Many models and optimizers of fairseq pass options to Python's `eval`. Options can come from a checkpoint that somebody
else made, and this package lets torch load such files. So every module of fairseq gets a global name `eval` that
evaluates literals only (`literals.evaluate`). It is the one thing that is changed in fairseq, and honest options keep
their value. It holds for stock commands with `--user-dir` too.
"""

import builtins
import contextlib
import sys

from fairseq_kd.literals import evaluate

PACKAGES = ("fairseq", "fairseq_cli")


def confine() -> None:
    """Confine all modules of fairseq that are loaded; can be called again."""
    for module in _modules():
        vars(module).setdefault("eval", evaluate)


@contextlib.contextmanager
def confined(trust: bool = False):
    """Confine fairseq inside the block, or with `trust` give it Python's own `eval` there."""
    confine()
    if not trust:
        yield
        return
    released = [module for module in _modules() if vars(module).get("eval") is evaluate]
    for module in released:
        module.eval = builtins.eval
    try:
        yield
    finally:
        for module in released:
            module.eval = evaluate


def _modules() -> list:
    return [module for name, module in list(sys.modules.items()) if module and name.partition(".")[0] in PACKAGES]
