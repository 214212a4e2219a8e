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

from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.strategies import STRATEGIES
from fairseq_kd.study.key import FILE_OF_STAGE
from fairseq_kd.study.methods import METHODS, REFRESH, STUDENT_DECODE
from fairseq_kd.study.sections import SEEDS
from fairseq_kd.study.stages import BEST, Stage
from fairseq_kd.study.student_stages import StudentStages
from fairseq_kd.study.teachers import TEACHERS
from fairseq_kd.training.schedules import check_by_updates

WEIGHTS = "teacher-weights"
# options of `fairseq-kd decode` for the student: samples as those of --on-policy-rate
DECODING = {"strategy": "sample", "max-len-a": 1.2, "max-len-b": 10}
SEED_STEP = 10_000  # from one round to the next
SCHEDULES = ("fixed", "inverse_sqrt", "polynomial_decay", "cosine")  # depend on the number of updates alone
# options of fairseq-train that set the beginning of a round, or end a training before its last update
NOT_IN_ROUNDS = ("restore-file", "reset-optimizer", "reset-lr-scheduler", "reset-meters", "reset-dataloader")
NOT_IN_ROUNDS += ("max-epoch", "patience", "stop-min-lr", "stop-time-hours")


class RoundStages(StudentStages):
    """The stages that train students, in rounds for a method that has them."""

    def _student(self, data_bin: str, clean: str, teacher: str, settings: dict) -> tuple[Stage, str]:
        """As in `StudentStages`, which trains the students of the other methods. The training is the last round."""
        if not METHODS[settings["method"]].rounds:
            return super()._student(data_bin, clean, teacher, settings)
        where = f"{self.spec.path}: method {settings['method']}"
        ends, options = _ends(where, settings), self._options(settings)
        _check_cell(where, settings, options)
        options = self._begun(data_bin, clean, teacher, settings, options) | _whole_schedule(where, options)
        options["criterion"] = METHODS[settings["method"]].criterion
        taught = self._taught_options(data_bin, teacher, settings)
        student = self._training("student", data_bin, options | taught | {"max-update": ends[0]})
        for number in range(1, len(ends)):
            last, seed = student.path("checkpoints/checkpoint_last.pt"), _seed(settings, number)
            mixed = self._with_decoded(data_bin, last, seed, settings)
            given = _going_on(options, last) | self._taught_options(mixed, teacher, settings)
            given |= {"max-update": ends[number], "seed": seed}
            student = self._training("student", mixed, given, updates=ends[number] - ends[number - 1])
        return student, student.path(BEST)

    def _with_decoded(self, data_bin: str, student: str, seed: int, settings: dict) -> str:
        """The gold data, and as their second part the targets that the student decodes. student: its checkpoint."""
        given = {"teacher": student} | DECODING | settings[STUDENT_DECODE]
        strategy = STRATEGIES.get(given["strategy"])  # None: an unknown name, which the parser refuses
        given |= {"seed": seed} if strategy and "seed" in strategy.options else {}
        decoded = self._tool("decode", ["decode", data_bin], given | {"out": "@out/data-bin"}).path("data-bin")
        times = {"times": [_times_gold(settings), 1], "out": "@out/data-bin"}
        return self._tool("mix", ["mix", data_bin, decoded], times).path("data-bin")


def rounds_of(stages: dict, name: str) -> list[str]:
    """The names of the trainings with which a student's training goes on, and its own, in order. stages: of a plan."""
    found, word = [], f"@/stages/{name}/"
    while match := FILE_OF_STAGE.match(word):
        found.insert(0, match[1])
        command = stages[match[1]].command
        word = command[command.index("--restore-file") + 1] if "--restore-file" in command else ""
    return found


def _ends(where: str, settings: dict) -> list[int]:
    """The number of updates at the end of each round: N, 2N, ..., budget."""
    every, budget = settings[REFRESH], settings["budget"]["student"]
    if every is None:
        raise KDError(f"{where} lacks the factor {REFRESH}: the number of updates between two decodings by the "
                      f"student, such as {REFRESH}: 1000")  # fmt: skip
    if every >= budget:
        raise KDError(f"{where}: {REFRESH} {every} is not below the budget of {budget} updates, so the student would "
                      "never decode: give a smaller number, or method word")  # fmt: skip
    return [*range(every, budget, every), budget]


def _check_cell(where: str, settings: dict, options: dict) -> None:
    if found := [name for name in NOT_IN_ROUNDS if name in options]:
        raise KDError(f"{where}: {found[0]} in student or common cannot go with rounds, which begin with the student "
                      f"of the round before and end after {REFRESH} updates; leave it out")  # fmt: skip
    if "folder" in settings["cache"]:
        raise KDError(f"{where}: folder in cache names one cache, and each round has other data; leave it out, and the "
                      "study makes the caches")  # fmt: skip
    strategy = STRATEGIES.get(settings[STUDENT_DECODE].get("strategy"))
    if strategy and strategy.reads_gold:
        others = " or ".join(name for name, how in STRATEGIES.items() if not how.reads_gold)
        raise KDError(f"{where}: strategy {strategy.name} in {STUDENT_DECODE} reads gold prefixes, and the student "
                      f"must decode by itself: give {others}")  # fmt: skip
    several = len(settings[TEACHERS] or ()) > 1
    if several and "adaptive" in (settings["kd"].get(WEIGHTS), settings["cache"].get(WEIGHTS)):
        raise KDError(f"{where}: {WEIGHTS} adaptive compares the probabilities of the gold tokens, and a token of the "
                      "student is not gold; exclude these cells, or give other weights")  # fmt: skip
    if _times_gold(settings) == 0:
        raise KDError(f"{where}: mix-gold 0 leaves no gold targets; give a number above 0, 1 is the default here")


def _times_gold(settings: dict) -> float:
    return settings["mix-gold"] if "mix-gold" in settings["assigned"] else 1


def _whole_schedule(where: str, options: dict) -> dict:
    """The options by which a schedule of the learning rate spans all rounds, and not the current one."""
    schedule = check_by_updates(where, options, "which each round counts again", SCHEDULES)
    budget = options["max-update"]
    if schedule == "polynomial_decay":
        return {"total-num-update": budget}
    if schedule == "cosine" and "lr-period-updates" not in options:
        return {"lr-period-updates": budget - options.get("warmup-updates", 0)}
    return {}


def _seed(settings: dict, number: int) -> int:
    """The seed of a round: of its batches, and of the samples that the student draws before it."""
    return (settings["seed"] + number * SEED_STEP) % SEEDS


def _going_on(options: dict, last: str) -> dict:
    """The options of a round after the first. last: checkpoint_last.pt of the round before."""
    options = {name: value for name, value in options.items() if name != "finetune-from-model"}
    return options | {"restore-file": last, "reset-dataloader": True, "reset-meters": True, "on-policy-part": 2}
