"""fairseq_kd: knowledge distillation for neural machine translation, as a `--user-dir` of stock fairseq.

Word-level distillation, in the order of the data:

    teacher checkpoint -> checkpoint.read_checkpoint   refuses whatever fairseq does not write
                       -> teacher.loading.Teacher      frozen, own dtype, dictionaries compared
                       -> teacher.signal               what the teacher says about a batch
                       -> loss.divergence              pure maths on log-probabilities
                       -> criterions.kd_word           weighs, logs; called by fairseq's own trainer

Around it: `corpus` makes data-bins, `evaluation` scores checkpoints, `quickstart` runs the whole once, `cli` is the
command `fairseq-kd`.

`fairseq-train --user-dir fairseq_kd` imports this module, and with it everything that registers itself. In a notebook
call `fairseq_kd.register()`; the command `fairseq-kd` does not pay for importing fairseq until it needs it.
"""

import sys

from fairseq_kd.version import __version__

__all__ = ["__version__", "register"]


def register() -> None:
    """Register criterions with fairseq and allow-list the types of its checkpoints. Can be called again."""
    import fairseq_kd.checkpoint
    import fairseq_kd.criterions.kd_word  # noqa: F401
    from fairseq_kd.process import install_exit_handling

    install_exit_handling()


if "fairseq" in sys.modules:  # imported by fairseq itself as a --user-dir
    register()
