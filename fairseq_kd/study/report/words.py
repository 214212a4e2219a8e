"""What the methods, factors and languages of a study mean in plain words, for readers who do not know this package.

Every method and factor without an entry gets generic words, which say only what the spec says.
"""

from dataclasses import dataclass

from fairseq_kd.corpus import synthetic
from fairseq_kd.study.factors import settings_of
from fairseq_kd.study.sections import PROGRAMS, SHARES
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.teachers import TEACHERS, describe

METHODS = {
    "ce": "learns from the gold targets alone (cross-entropy), without a teacher",
    "word": "word level: learns from the gold targets and from the teacher's probabilities for each target token",
    "seq": "sequence level: learns from the teacher's translations, which replace the gold targets",
    "word+seq": "both levels: learns from the teacher's translations, and its probabilities for each of their tokens",
    "hybrid": "both targets: learns from the gold targets with the teacher's probabilities, and from its translations",
    "on-policy": "learns from the gold targets, and from the teacher's probabilities on samples of the student itself",
    "semi-on-policy": "learns in rounds from the gold targets and from its own last translations of the training "
    "sources, with the teacher's probabilities on both",
    "dp": "goes on from a trained student: each token has the probabilities of the teacher or of that student",
    "mutual": "learns from the gold targets and from the probabilities of other students, which learn at the same time",
    "ensemble": "no student: the teachers themselves translate together",
    "soup": "no student: a model whose weights are the mean of the weights of the teachers",
    "best": "no student: the teacher with the highest BLEU on the validation set",
    "federated": "one model for all parts: in each round every part trains it on its own data, and the weights are "
    "averaged",
}


@dataclass(frozen=True)
class Words:
    """What a factor is about, and its values: value -> words, or one text with `{}` for the value.

    short: for the axis of a plot.
    """

    about: str
    values: object
    short: str = ""


_PRECISIONS = {
    "float32": "32 bits for all numbers",
    "bfloat16": "16 bits (bfloat16) for most matrix products, 32 bits for the weights",
}
FACTORS = {
    "method": Words("what a student learns from", METHODS),
    "noise": Words("noise in the training set", {}, "noise in the training set, % of the words"),
    "teacher-noise": Words(
        "the teacher's data, where the students' training set has noise",
        {"same": "the teacher is trained with the same noise", "clean": "the teacher is trained without noise"},
    ),
    "teacher-choice": Words(
        "which checkpoint of the teacher's training is the teacher",
        {"low-loss": "the one with the lowest validation loss", "high-score": "the one with the highest score"},
    ),
    "signal": Words(
        "how the student gets the teacher's probabilities",
        {"cache": "the teacher runs once, and a file keeps them", "online": "the teacher runs beside the student"},
    ),
    "mix-gold": Words(
        "gold data that are added to the teacher's translations", "the gold data are added {} times", "times gold data"
    ),
    "refresh": Words(
        "the updates after which the student translates the training sources again", "every {} updates", "updates"
    ),
    "compact": Words(
        "whether closed parts of a student are removed",
        {True: "what the student's gates have closed is removed before the evaluation", False: "nothing is removed"},
    ),
    "init": Words(
        "the weights with which the student's training begins",
        {
            "random": "random weights",
            "skip": "the weights of some of the teacher's layers, evenly spaced",
            "first": "the weights of the teacher's first layers",
            "last": "the weights of the teacher's last layers",
            "ce": "the weights of a student that was trained on the gold targets",
            "best-score": "the weights of the model with the highest validation score, among the teachers and its own",
            "lowest-loss": "the weights of the model with the lowest validation loss, among the teachers and its own",
            "largest": "the weights of the largest model, among the teachers and its own",
            "random-model": "the weights of a model that is drawn by chance, among the teachers and its own",
            "soup": "the mean of the weights of the local models",
            "consolidated": "the weights of a student that has learnt from the local models of all parts",
        },
    ),
    "strategy": Words(
        "how the teacher translates the training set",
        {
            "beam": "beam search",
            "greedy": "the most probable token at each step",
            "sample": "tokens are drawn at random",
            "teacher-forcing": "the teacher's most probable token after each beginning of the gold target",
        },
    ),
    "teachers": Words("the teachers of a student; of several their mean probabilities, or weighted ones", {}),
    "peers": Words(
        "the students that learn from each other: their number, the architectures of the others, or the local models "
        "of all parts",
        "{}",
        "students",
    ),
    "part": Words("the part of the training set that the student has", {"whole": "the whole training set"}),
    "transfer": Words(
        "the sentences from which a student learns what its teachers know",
        {
            "own": "its own training set, with the gold targets",
            "union": "the source sentences of all parts, with targets of the teachers",
            "text": "other text, with targets of the teachers",
        },
    ),
    "partition.by": Words("the rule by which the training set is divided into parts", "{}"),
    "teacher-weights": Words("the weights of several teachers", "{}"),
    "on-policy-rate": Words("the share of targets that are samples of the student", "{}"),
    "hybrid-weight": Words("the weight of the gold targets, against the teacher's translations", "{}"),
    "divergence": Words("how the distance between teacher and student is measured", "{}"),
    "alpha": Words("the weight of the teacher's probabilities in the loss", "{}", "weight of the teacher (alpha)"),
    "kd-weight": Words("the weight of the teacher's probabilities in the loss", "{}"),
    "temperature": Words("how far the probabilities of teacher and student are flattened", "{}"),
    "teacher-temperature": Words("how far the teacher's probabilities are flattened", "{}"),
    "student-temperature": Words("how far the student's probabilities are flattened", "{}"),
    "decode.source-text": Words("the text that the teacher translates", "{}"),
    "precision": Words("the precision of the numbers in all trainings", _PRECISIONS),
    "teacher.precision": Words("the precision of the numbers in the teacher's training", _PRECISIONS),
    "student.precision": Words("the precision of the numbers in the student's training", _PRECISIONS),
    "budget.student": Words("the length of the student's training", "{} updates", "updates of the student"),
    "budget.teacher": Words("the length of the teacher's training", "{} updates", "updates of the teacher"),
    "teacher.seed": Words("the random seed of the teacher's training", "{}"),
    "arch": Words("the architecture of the student", "{}"),
    "dropout": Words("the dropout of the student", "{}"),
    "lr": Words("the learning rate of the student", "{}"),
    "evaluate.beam": Words("the beam size of the evaluation", "{}"),
    "evaluate.backend": Words("the program that runs the beam search of the evaluation", "{}"),
    "decode.beam": Words("the beam size with which the teacher translates the training set", "{}"),
}
CHANGES = dict(zip(SHARES, ("deleted", "substituted", "swapped"), strict=True))
LEVELS = {"word": "words", "subword": "subwords", "char": "characters"}
TRAINED = {"common": "all models", "teacher": "the teacher", "student": "the student", "kd": "word-level distillation"}


def about_factor(spec: Spec, name: str) -> str:
    """What a factor is about."""
    if name in FACTORS and (name == TEACHERS or not isinstance(spec.factors.get(name), dict)):
        return FACTORS[name].about
    if isinstance(spec.factors.get(name), dict):
        return "several options that change together"
    (setting, *_) = settings_of(name)
    section, _, option = setting.rpartition(".")
    if section in PROGRAMS:
        return f"the option --{option} of fairseq-kd {PROGRAMS[section]}"
    return f"the training option --{option} of {TRAINED.get(section, section)}"


def has_words(spec: Spec, name: str) -> bool:
    """Whether the values of a factor need words, because they are labels or names."""
    if isinstance(spec.factors.get(name), dict) or name == "noise":
        return True
    return name in FACTORS and not isinstance(FACTORS[name].values, str)


def about_value(spec: Spec, name: str, value, distils: bool = True) -> str:
    """What one value of a factor means. distils: whether any student of the study has a teacher."""
    if name == "noise":
        return _noise(spec, value, distils)
    if isinstance(spec.factors.get(name), dict):
        options = spec.factors[name][value]
        if name == TEACHERS:
            return "; ".join(map(describe, options[TEACHERS]))
        return ", ".join(f"{key} {_listed(given)}" for key, given in options.items()) or "the default of these options"
    if name in FACTORS:
        values = FACTORS[name].values
        return values.format(value) if isinstance(values, str) else values.get(value, f"{name} {value}")
    return str(value)


def _listed(given) -> str:
    """The value of an option as text; of a list its entries, of a mapping its keys and values."""
    if isinstance(given, dict):
        return " with ".join(str(value) if key == "name" else f"{key} {value}" for key, value in given.items())
    return " and ".join(given) if isinstance(given, list) else str(given)


def axis_words(name: str) -> str:
    """The name of a factor for the axis of a plot."""
    return FACTORS[name].short or name if name in FACTORS else name


def noisy(spec: Spec, level, where: str) -> str:
    """`level` percent of noise in words. where: the text that has it, such as "the training set"."""
    options = spec.sections["noise"]
    changed = [word for name, word in CHANGES.items() if options[name]]
    listed = " or ".join(filter(None, [", ".join(changed[:-1]), changed[-1]]))
    units = f"{options['side']} {LEVELS[options['level']]}" if options["side"] != "both" else "words of both sides"
    return f"{level} % of the {units} of {where} are {listed}"


def _noise(spec: Spec, level, distils: bool) -> str:
    if level == 0:
        return "the training set is used as it is"
    return noisy(spec, level, "the training set") + (_noise_of_teachers(spec) if distils else "")


def _noise_of_teachers(spec: Spec) -> str:
    """Whether the teachers were trained with the noise of the students; empty where a factor varies that."""
    if "checkpoint" in spec.sections["teacher"]:
        return ", but not for the teacher, which existed before the study"
    options = [given for values in spec.factors.values() if isinstance(values, dict) for given in values.values()]
    if any("teacher.checkpoint" in given for given in options):
        return ", but not for teachers that existed before the study"
    same = tuple(spec.factors.get("teacher-noise", ["same"]) or ["same"])
    return {("same",): ", for the teacher too", ("clean",): ", but not for the teacher"}.get(same, "")


# ISO 639-1: the languages of public corpora of translations
_LANGUAGES = (
    "ar=Arabic bg=Bulgarian bn=Bengali ca=Catalan cs=Czech da=Danish de=German el=Greek en=English es=Spanish "
    "et=Estonian fa=Persian fi=Finnish fr=French gu=Gujarati he=Hebrew hi=Hindi hr=Croatian hu=Hungarian "
    "id=Indonesian is=Icelandic it=Italian ja=Japanese kk=Kazakh ko=Korean lt=Lithuanian lv=Latvian mk=Macedonian "
    "nl=Dutch no=Norwegian pl=Polish pt=Portuguese ro=Romanian ru=Russian sk=Slovak sl=Slovenian sr=Serbian "
    "sv=Swedish ta=Tamil th=Thai tr=Turkish uk=Ukrainian vi=Vietnamese zh=Chinese"
)
LANGUAGES = dict(pair.split("=") for pair in _LANGUAGES.split())


def language(code: str) -> str:
    """The name of a language, with its code; the code alone where the name is not known."""
    if code in (synthetic.SOURCE, synthetic.TARGET):
        return f"invented language {code}"
    return f"{LANGUAGES[code]} ({code})" if code in LANGUAGES else code
