"""fairseq_kd: knowledge distillation for neural machine translation, as a `--user-dir` of stock fairseq.

The packages, from the highest layer to the lowest; imports go downward only (tests/unit/test_layers.py):

    cli                                  the command `fairseq-kd`, one module per sub-command
    search, study, federated, quickstart experiments: many trainings with their data, scores and reports
    evaluation                           checkpoint + subset -> translations -> scores, measures, comparisons
    criterions, tasks, sequence,         what fairseq-train and the data commands do with a teacher;
    noise, partition, pruning            noise in data, parts of data, smaller vocabularies
    export, teacher                      CTranslate2 models; teachers: online, cached, ensembles
    models, training, cache, scoring     students; runs of fairseq-train; the teacher cache; sacreBLEU
    corpus                               raw text -> data-bin
    inference                            checkpoint -> frozen model
    artifacts                            files that are read again: manifests, hashes, resumable blocks
    loss                                 teacher signals, divergences, objective: tensors only, no fairseq
    core                                 errors, progress, processes, paths, YAML

Word-level distillation, in the order of the data:

    checkpoints of a training -> evaluation.select_teacher    which of them is the teacher
    teacher checkpoint -> inference.checkpoint                refuses what fairseq does not write
                       -> inference.frozen.FrozenModel        frozen, own dtype, dictionaries compared
                       -> teacher.online                      runs during the training, or
                       -> cache.make -> teacher.cached        ran once, and its answers come from disk
                       -> loss.signal                         the teacher's answer for a batch
                       -> loss.divergences, .objective        the readable definition, on log-probabilities
                       -> loss.fused                          the same from the decoder features, in chunks
                       -> criterions.kd_word                  weights, logs; called by the trainer of fairseq

On-policy distillation replaces targets of a batch before the teacher runs:

    student + sources -> inference.sampling    samples of the student, which then stays as it was
                      -> criterions.on_policy  a batch with the samples in it, and the loss on them

Sequence-level distillation:

    teacher + data-bin -> sequence.decode, .work              hypotheses in `artifacts.blocks`, one per sentence chosen
                       -> sequence.select, .filters           other hypotheses than the most probable; dropped pairs
                       -> sequence.assemble                   a data-bin for fairseq-train
                       -> sequence.mix                        together with the original data, if asked

Hybrid distillation adds a second, distilled target to each training sentence:

    two data-bins -> tasks.kd_translation    a batch holds both targets, row by row
                  -> criterions.kd_hybrid    token level on the gold, sentence level on the distilled target

Mutual learning trains several students at once, each of which also learns from the others:

    checkpoints or architectures -> models.peers           one model that holds them
                                 -> criterions.kd_mutual   their losses; loss.mutual: the mean of the others
                                 -> models.splitting       one ordinary checkpoint per student

The student is any model of fairseq, or one of this package:

    students.yaml    -> models.student     sizes by name, gated linear units, layers of different shapes
                     -> models.adaptive    gates on channels and heads; the penalty enters the loss of any criterion
                     -> models.compact     closed gates removed: a smaller models.student
                     -> export             a CTranslate2 model

What Python code may use is in `__all__` of this package and of the packages below it (docs/python.md).

Importing this package registers everything with fairseq: that is what `--user-dir fairseq_kd` does, and what a notebook
does. Only the command `fairseq-kd` leaves it out, so that `--help` and `doctor` need no fairseq.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.version import __version__

__all__ = ["KDError", "__version__", "register"]


def register() -> None:
    """Register criterions, models and tasks with fairseq, and allow-list the types of its checkpoints.

    fairseq's `eval` is confined to literals (`fairseq_kd.inference.confinement`). Can be called again.
    """
    import fairseq_kd.criterions.kd_hybrid
    import fairseq_kd.criterions.kd_mutual  # and with it fairseq_kd.models.peers
    import fairseq_kd.criterions.kd_word
    import fairseq_kd.inference.checkpoint
    import fairseq_kd.models.adaptive  # and with it fairseq_kd.models.student
    import fairseq_kd.tasks.kd_translation  # noqa: F401
    from fairseq_kd.core.process import show_fatal_signals
    from fairseq_kd.inference.checkpoint import let_checkpoints_be_sent
    from fairseq_kd.inference.confinement import confine
    from fairseq_kd.inference.language_tokens import give_bart_its_options
    from fairseq_kd.training.memory import prepare_trainings
    from fairseq_kd.training.process import install_exit_handling

    show_fatal_signals()
    confine()
    let_checkpoints_be_sent()
    give_bart_its_options()
    install_exit_handling()
    prepare_trainings()


def _is_command() -> bool:
    """Whether this process is `fairseq-kd` or `python -m` of a module of ours, as far as one can tell before it is.

    While `python -m NAME` imports packages, sys.argv[0] is "-m" whatever NAME is. It is the last word of sys.orig_argv
    before the arguments, alone or behind the letter of the option.
    """
    program = sys.argv[0] if sys.argv else ""
    if program != "-m":
        return Path(program).name in ("fairseq-kd", "flwr-clientapp")  # the latter starts processes that register
    return re.fullmatch(r"(-\w*m)?fairseq_kd\..+", sys.orig_argv[-len(sys.argv)]) is not None


# fairseq compares --user-dir with this list by name, and a package that was imported through a link has two names
__path__ = list(dict.fromkeys([*__path__, *map(os.path.realpath, __path__)]))

if ("fairseq" in sys.modules or not _is_command()) and importlib.util.find_spec("fairseq") is not None:
    register()
