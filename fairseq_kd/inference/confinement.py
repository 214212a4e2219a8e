"""fairseq's `eval`, confined to literals.

Many models and optimizers of fairseq pass options to Python's `eval`. Options can come from a checkpoint that somebody
else made, and this package lets torch load such files. So every module of fairseq gets a global name `eval` that
evaluates literals only (`literals.evaluate`). Honest options keep their value. It holds for stock commands with
`--user-dir` too.
"""

import builtins
import contextlib
import sys

from fairseq_kd.core.literals import NotALiteral, evaluate

PACKAGES = ("fairseq", "fairseq_cli")


def confine() -> None:
    """Confine all modules of fairseq that are loaded; can be called again."""
    for module in _modules():
        vars(module).setdefault("eval", evaluate)


@contextlib.contextmanager
def confined(trust: bool = False):
    """Confine fairseq inside the block, or with `trust` give it Python's own `eval` there.

    Confined, it reads no other checkpoint either: options can name one, which nobody has looked at.
    """
    from fairseq import checkpoint_utils

    confine()
    if not trust:
        load, checkpoint_utils.load_checkpoint_to_cpu = checkpoint_utils.load_checkpoint_to_cpu, _refuse_another
        try:
            yield
        finally:
            checkpoint_utils.load_checkpoint_to_cpu = load
        return
    released = [module for module in _modules() if vars(module).get("eval") is evaluate]
    for module in released:
        module.eval = builtins.eval
    try:
        yield
    finally:
        for module in released:
            module.eval = evaluate


def _refuse_another(path, *_, **__):
    raise NotALiteral(f"its options name another checkpoint, {path}, which fairseq would read")


def _modules() -> list:
    return [module for name, module in list(sys.modules.items()) if module and name.partition(".")[0] in PACKAGES]
