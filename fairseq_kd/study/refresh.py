"""The method `semi-on-policy`: a student is trained in rounds, and its own translations are renewed between them.

    round 0      gold targets, and the teacher's distribution on them                       `refresh` updates
    round r      the student of round r - 1 decodes the training sources; `mix` puts the gold data beside them; the
                 teacher answers both; the same training goes on with the mixed data        `refresh` updates

until the budget is used; the last round may be shorter. GKD (arXiv 2306.13649) and ImitKD (arXiv 2009.07253) sample
during the training (`fairseq_kd.criterions.on_policy`). Here the samples are at most `refresh` updates old. So they can
be decoded by any strategy and backend of `fairseq-kd decode`, and the teacher can be cached.

Each round is a stage. It goes on from checkpoint_last.pt of the round before: weights, optimizer, number of updates and
learning rate. The schedule of the learning rate is that of the whole budget. The data are other ones, so the epochs are
counted again, and the batches are shuffled with another seed. The best validation loss is also begun again, so
checkpoint_best.pt of the last round is the best of the last round.
"""

from typing import TYPE_CHECKING

from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.strategies import STRATEGIES
from fairseq_kd.study.sections import SEEDS

if TYPE_CHECKING:  # `cell_stages` imports this module
    from fairseq_kd.study.cell_stages import CellStages
    from fairseq_kd.study.stages import Stage

METHOD, SETTING, SECTION = "semi-on-policy", "refresh", "student-decode"
# options of `fairseq-kd decode` for the student: samples as those of --on-policy-rate
DECODING = {"strategy": "sample", "max-len-a": 1.2, "max-len-b": 10}
SEED_STEP = 10_000  # from one round to the next
SCHEDULES = ("fixed", "inverse_sqrt", "polynomial_decay", "cosine")  # depend on the number of updates alone
# options of fairseq-train that set the beginning of a round, or end a training before its last update
NOT_IN_ROUNDS = ("restore-file", "reset-optimizer", "reset-lr-scheduler", "reset-meters", "reset-dataloader")
NOT_IN_ROUNDS += ("max-epoch", "patience", "stop-min-lr", "stop-time-hours")


def train_in_rounds(stages: "CellStages", data_bin: str, teacher: str, settings: dict, options: dict) -> list["Stage"]:
    """The trainings of a cell, one per round. The checkpoints of the last one are those of the whole training.

    options: of the student's training without the teacher's distribution, with `max-update` of the whole budget.
    Raises KDError for a spec that cannot be trained in rounds.
    """
    where = f"{stages.spec.path}: method {METHOD}"
    ends = _ends(where, settings)
    _check_cell(where, settings, options)
    options = options | _whole_schedule(where, options)
    rounds = []
    for number, end in enumerate(ends):
        data, given = data_bin, options | {"max-update": end}
        if rounds:
            last = rounds[-1].path("checkpoints/checkpoint_last.pt")
            data = _mixed(stages, data_bin, last, _seed(settings, number), settings)
            given = _going_on(given, last, _seed(settings, number))
        given |= stages._signal(data, teacher, settings)
        rounds.append(stages._training("student", data, given, end - (ends[number - 1] if number else 0)))
    return rounds


def _ends(where: str, settings: dict) -> list[int]:
    """The number of updates at the end of each round: N, 2N, ..., budget."""
    every, budget = settings[SETTING], settings["budget"]["student"]
    if every is None:
        raise KDError(f"{where} lacks the factor {SETTING}: the number of updates between two decodings by the "
                      f"student, such as {SETTING}: 1000")  # fmt: skip
    if every >= budget:
        raise KDError(f"{where}: {SETTING} {every} is not below the budget of {budget} updates, so the student would "
                      "never decode: give a smaller number, or method word")  # fmt: skip
    return [*range(every, budget, every), budget]


def _check_cell(where: str, settings: dict, options: dict) -> None:
    if found := [name for name in NOT_IN_ROUNDS if name in options]:
        raise KDError(f"{where}: {found[0]} in student or common cannot go with rounds, which begin with the student "
                      f"of the round before and end after {SETTING} updates; leave it out")  # fmt: skip
    if "folder" in settings["cache"]:
        raise KDError(f"{where}: folder in cache names one cache, and each round has other data; leave it out, and the "
                      "study makes the caches")  # fmt: skip
    strategy = settings[SECTION].get("strategy")
    if strategy in STRATEGIES and STRATEGIES[strategy].reads_gold:
        raise KDError(f"{where}: strategy {strategy} in {SECTION} reads gold prefixes, and the student must decode by "
                      f"itself: give {' or '.join(name for name, how in STRATEGIES.items() if not how.reads_gold)}"
                      )  # fmt: skip
    if _times_gold(settings) == 0:
        raise KDError(f"{where}: mix-gold 0 leaves no gold targets; give a number above 0, 1 is the default here")


def _times_gold(settings: dict) -> float:
    return settings["mix-gold"] if "mix-gold" in settings["assigned"] else 1


def _whole_schedule(where: str, options: dict) -> dict:
    """The options by which a schedule of the learning rate spans all rounds, and not the current one."""
    schedule, budget = options.get("lr-scheduler", "fixed"), options["max-update"]
    if schedule not in SCHEDULES:
        raise KDError(f"{where}: lr-scheduler {schedule} may depend on epochs, which each round counts again; give "
                      f"{', '.join(SCHEDULES[:-1])} or {SCHEDULES[-1]}")  # fmt: skip
    if "force-anneal" in options or any(sign in str(options.get("lr", "")) for sign in ",["):
        name = "force-anneal" if "force-anneal" in options else f"lr {options['lr']}"
        raise KDError(f"{where}: {name} sets the learning rate by epochs, which each round counts again; give one "
                      "lr, and a schedule by updates")  # fmt: skip
    if schedule == "polynomial_decay":
        return {"total-num-update": budget}
    if schedule == "cosine" and "lr-period-updates" not in options:
        return {"lr-period-updates": budget - options.get("warmup-updates", 0)}
    return {}


def _seed(settings: dict, number: int) -> int:
    """The seed of a round: of its batches, and of the samples that the student draws before it."""
    return (settings["seed"] + number * SEED_STEP) % SEEDS


def _going_on(options: dict, last: str, seed: int) -> dict:
    """The options of a round after the first. last: checkpoint_last.pt of the round before."""
    options = {name: value for name, value in options.items() if name != "finetune-from-model"}
    own = {"restore-file": last, "reset-dataloader": True, "reset-meters": True, "on-policy-part": 2}
    return options | own | {"seed": seed}


def _mixed(stages: "CellStages", data_bin: str, student: str, seed: int, settings: dict) -> str:
    """The gold data, and as second part the targets that the student decodes."""
    given = {"teacher": student} | DECODING | settings[SECTION]
    strategy = STRATEGIES.get(given["strategy"])  # None: an unknown name, which the parser refuses
    given |= {"seed": seed} if strategy and "seed" in strategy.options else {}
    decoded = stages._tool("decode", ["decode", data_bin], given | {"out": "@out/data-bin"}).path("data-bin")
    times = {"times": [_times_gold(settings), 1], "out": "@out/data-bin"}
    return stages._tool("mix", ["mix", data_bin, decoded], times).path("data-bin")
