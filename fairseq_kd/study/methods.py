"""Methods: what a student learns from, the stages that each method needs, and which options of `kd` it takes.

    ce          gold targets                                                    criterion kd_word, weight 0
    word        gold targets, and the teacher's distribution                    kd_word
    seq         the teacher's translations                                      kd_word, weight 0
    word+seq    the teacher's translations, and its distribution                kd_word
    hybrid      gold targets with the distribution, and the translations        kd_hybrid
    on-policy   samples of the student, and the teacher's distribution on them  kd_word, the teacher runs
    semi-on-policy  gold targets and translations of the student, with the      kd_word, trained in rounds
                teacher's distribution on both
    dp          a trained student goes on; the teacher or its own start         kd_word, the teacher runs
    mutual      gold targets, and the distributions of other students           kd_mutual, no teacher
    ensemble    no training: the teachers of the cell themselves                -
    soup        no training: the mean of the weights of the teachers            -
    best        no training: the teacher with the highest validation BLEU       -
    federated   rounds on the parts of the data, by fairseq-kd federated        kd_word, weight 0

With several teachers every method takes their mixture.
"""

from dataclasses import dataclass, field

RANDOM, STUDENT = "random", "ce"
OF_TEACHER = ("skip", "first", "last")  # values of `init` that take layers of the teacher
# values of `init` that take one of the models of the cell -> the value of --by of `select-teacher`
CHOSEN = {"best-score": "high-score", "lowest-loss": "low-loss", "largest": "largest", "random-model": "random"}
SOUP, BEST_MODEL, FEDERATED = "soup", "best", "federated"
CONSOLIDATED = "consolidated"
OF_FEDERATED = (SOUP, CONSOLIDATED)  # values of `init` that only the method federated has
INITIALISATIONS = (RANDOM, *OF_TEACHER, STUDENT, *CHOSEN, *OF_FEDERATED)


@dataclass(frozen=True)
class Method:
    """What the cells of one method need.

    taught: a teacher. trained: a student is trained. criterion: of a training that uses distributions; None:
    cross-entropy. cached: `signal` chooses between a cache and a teacher that runs. decoded: translations of the
    teacher. on_decoded: they replace the gold targets. rounds: the student is trained in rounds, see `refresh`.
    defaults: options of the criterion, unless `kd` has them.
    """

    taught: bool = True
    trained: bool = True
    criterion: str | None = None
    cached: bool = False
    decoded: bool = False
    on_decoded: bool = False
    rounds: bool = False
    defaults: dict = field(default_factory=dict)

    def is_online(self, signal: str) -> bool:
        """Whether the teacher runs during the training. signal: the setting of the cell."""
        return self.taught and self.criterion is not None and (signal == "online" or not self.cached)


METHODS = {
    "ce": Method(taught=False),
    "word": Method(criterion="kd_word", cached=True),
    "seq": Method(decoded=True, on_decoded=True),
    "word+seq": Method(criterion="kd_word", cached=True, decoded=True, on_decoded=True),
    "hybrid": Method(criterion="kd_hybrid", cached=True, decoded=True),
    "on-policy": Method(criterion="kd_word", defaults={"on-policy-rate": 0.5}),
    "semi-on-policy": Method(criterion="kd_word", cached=True, rounds=True),
    "dp": Method(criterion="kd_word", defaults={"kd-partition": "supervised"}),
    "mutual": Method(criterion="kd_mutual", taught=False),
    "ensemble": Method(trained=False),
    "soup": Method(trained=False),
    "best": Method(trained=False),
    FEDERATED: Method(taught=False),
}
NAMES = tuple(METHODS)
REFRESH, STUDENT_DECODE = "refresh", "student-decode"  # the setting and the section of methods with rounds
# beginning of an option of the section kd -> the only method that takes it
OF_ONE_METHOD = {"on-policy-": "on-policy", "hybrid-": "hybrid", "kd-partition": "dp", "kd-start": "dp"}
OF_SEVERAL_TEACHERS = ("teacher-weights", "teacher-weight-temperature", "teacher-weights-per")
OF_A_RUNNING_TEACHER = ("teacher-dtype", "kd-top-k")
SCHEDULE = "teacher-schedule"  # in a study its values are the updates at which the next teacher begins
OF_MUTUAL = ("kd-weight", "teacher-temperature", "student-temperature", "kd-scale", "kd-implementation")


def needs_teacher(method: str, init: str) -> bool:
    """Whether a cell has a teacher. init: the setting of the cell. The models of `federated` are those of all parts."""
    if method == FEDERATED:
        return False
    return METHODS[method].taught or (METHODS[method].trained and init in (*OF_TEACHER, *CHOSEN))


def takes_option(method: str, option: str, *, several: bool, online: bool) -> bool:
    """Whether an option of the section kd has an effect on a method. It is True for unknown options of kd_word.

    several: whether the cell has several teachers. online: whether they run during the training.
    """
    if METHODS[method].criterion is None:
        return False
    if method == "mutual":
        return option in OF_MUTUAL
    owners = [owner for start, owner in OF_ONE_METHOD.items() if option.startswith(start)]
    if owners:
        return method in owners
    if option == SCHEDULE:
        return several and not METHODS[method].rounds
    if option in OF_SEVERAL_TEACHERS:
        return several
    return online or option not in OF_A_RUNNING_TEACHER


def taken_options(settings: dict) -> dict:
    """The options of the section kd that the method of a cell takes, after the defaults of the method."""
    name = settings["method"]
    method = METHODS[name]
    how = {"several": len(settings["teachers"] or ()) > 1, "online": method.is_online(settings["signal"])}
    return method.defaults | {key: value for key, value in settings["kd"].items() if takes_option(name, key, **how)}
