"""The questions that `fairseq-kd study init` writes a spec for: the factors that answer them, and what they claim."""

import math
from dataclasses import dataclass, field

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.models_of_spec import SIDES, Models

TEACHER_SIZE, INITIALISATION = "teacher-size", "initialisation"


@dataclass(frozen=True)
class Question:
    """A question of the literature.

    text: the question in one line. factors: the factors except seed, or a function of `Models` that returns them.
    claims: statements that the study tests. sections: options that the question needs, section -> options.
    """

    text: str
    factors: object
    claims: tuple = ()
    sections: dict = field(default_factory=dict)

    def factors_for(self, models: Models) -> dict:
        """The factors for these models. Raises KDError for models with which the question cannot be asked."""
        return self.factors(models) if callable(self.factors) else dict(self.factors)


def sized(args, width: int, prefix: str = "") -> dict:
    """Options for a transformer of another width with the proportions of `args`. prefix: of each name."""
    found = {}
    for side in SIDES:
        own = getattr(args, f"{side}_embed_dim")
        found[f"{side}-embed-dim"] = width
        found[f"{side}-ffn-embed-dim"] = max(1, getattr(args, f"{side}_ffn_embed_dim") * width // own)
        found[f"{side}-attention-heads"] = math.gcd(width, getattr(args, f"{side}_attention_heads"))
    return {f"{prefix}{name}": value for name, value in found.items()}


def _width_of(args, who: str) -> int:
    width = getattr(args, "encoder_ffn_embed_dim", None) and args.encoder_embed_dim
    if not width:
        raise KDError(
            f"this question varies the width of a transformer, and the {who} is none: choose another question"
        )
    return width


def _capacity(models: Models) -> dict:
    width = _width_of(models.student, "student")
    widths = [width // 2, width, 2 * width]
    return {"width": {each: sized(models.student, each) for each in widths}, "method": ["ce", "word", "seq"]}


def _teacher_size(models: Models) -> dict:
    if len(models.checkpoints) == 1:
        raise KDError(f"--question {TEACHER_SIZE} compares teachers: give two or more files to --teacher, or none")
    if models.checkpoints:
        return {"teacher.checkpoint": models.checkpoints, "method": ["word", "seq"]}
    width = _width_of(models.teacher, "teacher")
    sizes = {"half": sized(models.teacher, width // 2, "teacher."), "full": sized(models.teacher, width, "teacher.")}
    return {"teacher-width": sizes, "method": ["word", "seq"]}


def _teachers(models: Models) -> dict:
    if models.checkpoints:
        raise KDError("--question teachers compares teachers of several seeds, which the study trains: leave --teacher "
                      "out, or give checkpoints in the factor teachers of your spec")  # fmt: skip
    return {"teachers": {"one": 1, "three": [1, 2, 3]}, "method": ["ce", "word", "seq", "ensemble"]}


DECODINGS = {
    "beam": {"strategy": "beam", "decode.beam": 5},
    "closest of 5": {"strategy": "beam", "decode.beam": 5, "decode.nbest": 5, "decode.select": "closest"},
    "greedy": {"strategy": "greedy"},
    "sample": {"strategy": "sample", "decode.sampling-topk": 10},
}
QUESTIONS = {
    "word-vs-seq": Question(
        "Does word-level or sequence-level distillation give the better student?",
        {"method": ["ce", "word", "seq"]},
        ("word > ce by bleu", "seq > ce by bleu", "seq > word by bleu"),
    ),
    "combination": Question(
        "Is the combination of word-level and sequence-level distillation better than each of them?",
        {"method": ["ce", "word", "seq", "word+seq"]},
        ("word+seq > word by bleu", "word+seq > seq by bleu"),
    ),
    "noise": Question(
        "How much does noise in the training sources cost each kind of student?",
        {"noise": [0, 10, 30], "method": ["ce", "word", "seq"]},
        ("seq > word at noise 0 by bleu", "seq > word at noise 30 by bleu"),
        {"evaluate": {"noise": [0, 10]}},
    ),
    "capacity": Question("How much does a student of each width gain from its teacher?", _capacity),
    INITIALISATION: Question(
        "Does a student gain from weights of its teacher at the beginning?",
        {"init": ["random", "skip", "first", "last"], "method": ["ce", "word"]},
        ("skip > random at method ce by bleu", "skip > random at method word by bleu"),
    ),
    "divergence": Question(
        "Which divergence between teacher and student gives the best student?",
        {"method": ["ce", "word"], "divergence": ["kl", "reverse_kl", "js", "tvd", "mse"]},
    ),
    "temperature": Question(
        "Which temperature gives the best student?", {"method": ["ce", "word"], "temperature": [1, 2, 4]}
    ),
    "weight": Question(
        "How much weight should the teacher's distribution have?",
        {"method": ["ce", "word"], "alpha": [0.3, 0.5, 0.7, 0.9]},
    ),
    "decoding": Question(
        "Which way to make the teacher's targets gives the best student?",
        {"method": ["ce", "seq"], "decoding": DECODINGS},
    ),
    "methods": Question(
        "Which method gives the best student?",
        {"method": ["ce", "word", "seq", "word+seq", "hybrid", "on-policy", "mutual"]},
        ("hybrid > word by bleu", "on-policy > word by bleu", "mutual > ce by bleu"),
    ),
    "teachers": Question(
        "Is a mixture of three teachers worth more than one teacher?",
        _teachers,
        ("three > one at method word by bleu", "three > one at method seq by bleu"),
    ),
    TEACHER_SIZE: Question("Which teacher gives the best student?", _teacher_size),
}
