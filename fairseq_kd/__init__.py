"""fairseq_kd: knowledge distillation for neural machine translation, as a `--user-dir` of stock fairseq.

Word-level distillation, in the order of the data:

    checkpoints of a training -> teacher.measure, .select, .average    which one is the teacher
    teacher checkpoint -> checkpoint.read_checkpoint   refuses whatever fairseq does not write
                       -> teacher.loading.Teacher      frozen, own dtype, dictionaries compared
                       -> teacher.online               it runs beside the student, or
                       -> teacher.caching, .cached     it ran once, and its answers come from disk
                       -> teacher.signal               what it says about a batch
                       -> loss.divergence, .objective  pure maths on log-probabilities
                       -> loss.fused                   the same from the student's features, chunk by chunk
                       -> criterions.kd_word           weighs, logs; called by fairseq's own trainer

Sequence-level distillation:

    teacher + data-bin -> sequence.backend, .ctranslate2_backend, .forcing    hypotheses, in `resumable.blocks`
                       -> sequence.select                                     one of them a sentence
                       -> sequence.assemble                                   a data-bin for fairseq-train
                       -> sequence.mix                                        together with the original, if asked

Hybrid distillation adds a second, distilled target to each training sentence:

    two data-bins -> tasks.kd_translation    a batch holds both targets, row by row
                  -> criterions.kd_hybrid    token level on the gold, sentence level on the distilled target
                  -> criterions.gate         how much of each, for each sentence

The student is any model of fairseq, or one of ours:

    configs/students -> models.student     sizes by name, gated linear units, layers of different shapes
                     -> models.adaptive    gates on channels and heads; the penalty enters any criterion's loss
                     -> models.compact     closed gates cut out: a smaller models.student
                     -> export             a CTranslate2 model, and what that costs and gains

Noise of known rates, in text and in data-bins:

    lines or ids -> noise.units         where the words, characters or subwords of a block are
                 -> noise.vocabulary    what they are replaced by
                 -> noise.block         deleted, replaced, swapped: a block in arrays
                 -> noise.text, .data_bin

Around it: `corpus` makes data-bins, `evaluation` scores checkpoints, `training` runs fairseq-train,
`quickstart` runs the whole once, `study` many times over, `cli` is the command `fairseq-kd`.

Importing this package registers everything with fairseq: that is what `--user-dir fairseq_kd` does, and what a notebook
does. Only the command `fairseq-kd` leaves it out, so that `--help` and `doctor` need no fairseq.
"""

import importlib.util
import re
import sys
from pathlib import Path

from fairseq_kd.version import __version__

__all__ = ["__version__", "register"]


def register() -> None:
    """Register criterions, models and tasks with fairseq, and allow-list the types of its checkpoints.

    fairseq's `eval` is confined to literals (`fairseq_kd.confinement`). Can be called again.
    """
    import fairseq_kd.checkpoint
    import fairseq_kd.criterions.kd_hybrid
    import fairseq_kd.criterions.kd_word
    import fairseq_kd.models.adaptive  # and with it fairseq_kd.models.student
    import fairseq_kd.tasks.kd_translation  # noqa: F401
    from fairseq_kd.broadcast import let_checkpoints_be_sent
    from fairseq_kd.confinement import confine
    from fairseq_kd.process import install_exit_handling

    confine()
    let_checkpoints_be_sent()
    install_exit_handling()


def _is_command() -> bool:
    """Whether this process is `fairseq-kd` or `python -m` of a module of ours, as far as one can tell before it is.

    While `python -m NAME` imports packages, sys.argv[0] is "-m" whatever NAME is. It is the last word of sys.orig_argv
    before the arguments, alone or behind the letter of the option.
    """
    program = sys.argv[0] if sys.argv else ""
    if program != "-m":
        return Path(program).name == "fairseq-kd"
    return re.fullmatch(r"(-\w*m)?fairseq_kd\..+", sys.orig_argv[-len(sys.argv)]) is not None


if ("fairseq" in sys.modules or not _is_command()) and importlib.util.find_spec("fairseq") is not None:
    register()
