"""A new spec from a few answers: which data, which teacher, which question. `fairseq-kd study init` writes it.

A spec that is returned here has been planned, so `fairseq-kd study plan` accepts it.
"""

import os
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import yaml

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.corpora import CORPORA
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.models_of_spec import Models, shaped_like
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.questions import INITIALISATION, QUESTIONS, TEACHER_SIZE
from fairseq_kd.study.spec import read_sections

UPDATES, VOCABULARY = 20_000, 8000
TEACHER, STUDENT = "kd_student_37m", "kd_student_5m"
TRAINING = {
    "optimizer": "adam",
    "adam-betas": "(0.9, 0.98)",
    "lr": 0.0007,
    "lr-scheduler": "inverse_sqrt",
    "warmup-updates": 2000,
    "clip-norm": 1.0,
    "dropout": 0.1,
    "label-smoothing": 0.1,
    "max-tokens": 4096,
    "save-interval-updates": 1000,
    "keep-interval-updates": 1,
}
WIDTH = 116
COMMENTS = {
    "question": "What the study asks. The report shows this line.",
    "recipe": "Data, models, updates and beam of a recipe. Every section below changes it key by key.",
    "data": "The data. Relative paths are relative to the folder in which the command is given.",
    "common": "Options of fairseq-train for every training.",
    "teacher": "The teacher: options of fairseq-train, or the checkpoint that exists.",
    "student": "Options of fairseq-train for the students.",
    "budget": "Updates of each training.",
    "kd": "Options of the criterion kd_word.",
    "evaluate": "Options of fairseq-kd evaluate; `noise` is the percentage of noised words in the test sources.",
    "factors": "What is varied: a cell for each combination of values. More seeds make the tests stronger.",
    "claims": "Statements that the study tests: A > B [at FACTOR VALUE, ...] by METRIC.",
}


@dataclass(frozen=True)
class Answers:
    """The answers of the user.

    data: the name of a corpus, a data-bin, or a folder of aligned text. question: one of QUESTIONS. teachers: paths of
    checkpoints; empty: the study trains its teacher. seeds: number of seeds. updates: of each training; None: as in the
    recipe, or UPDATES. languages: (source, target), needed for aligned text.
    """

    data: str
    question: str
    teachers: tuple = ()
    seeds: int = 3
    updates: int | None = None
    languages: tuple = (None, None)

    def __post_init__(self):
        """Raises KDError for answers that do not fit together."""
        if self.seeds < 1:
            raise KDError(f"--seeds {self.seeds}: must be at least 1")
        if self.updates is not None and self.updates < 1:
            raise KDError(f"--updates {self.updates}: must be at least 1")
        if len(self.teachers) > 1 and self.question != TEACHER_SIZE:
            raise KDError(f"--teacher names {len(self.teachers)} files, and --question {self.question} needs one: "
                          f"give one, or --question {TEACHER_SIZE}")  # fmt: skip
        if self.is_text and not all(self.languages):
            raise KDError(f"{self.data} is a folder of text: give its languages by --source-lang and --target-lang")

    @property
    def is_data_bin(self) -> bool:
        """Whether `data` is an existing data-bin."""
        return bool(list(Path(self.data).glob("dict.*.txt")))

    @property
    def is_text(self) -> bool:
        """Whether `data` is a folder of aligned text. Raises KDError when it is no data at all."""
        if self.is_data_bin or self.data in CORPORA:
            return False
        if not Path(self.data).is_dir():
            named = ", ".join(name for name in CORPORA if name != "text")
            raise KDError(f"--data {self.data} is neither a folder nor a known corpus: give a data-bin, a folder of "
                          f"aligned text, or one of {named}")  # fmt: skip
        return True


def write_spec(answers: Answers, name: str) -> tuple[str, Plan]:
    """(the text of a commented spec, its plan). name: of the study.

    Raises KDError when the spec cannot be planned, for instance because the teacher does not fit the data.
    """
    with tempfile.TemporaryDirectory(prefix="fairseq_kd-") as folder:
        path = Path(folder) / f"{name}.yaml"
        try:
            text = _as_yaml(_content(answers, path))
            path.write_text(text, encoding="utf-8")
            return text, open_plan(path, Path(folder) / "work")
        except KDError as error:
            raise KDError(str(error).removeprefix(f"{path}: ")) from error


def _content(answers: Answers, path: Path) -> dict:
    question, labelled = QUESTIONS[answers.question], labels(answers.teachers)
    content = _sections(answers, labelled)
    models = Models(path, content, labelled)
    if answers.question == INITIALISATION:  # the student must be as wide as the teacher
        student = {k: v for k, v in content.get("student", {}).items() if k != "separate-embeddings"}
        content["student"] = student | shaped_like(models.teacher, content.get("common", {}))
    for section, options in question.sections.items():
        content[section] = content.get(section, {}) | options
    factors = question.factors_for(models) | {"seed": list(range(1, answers.seeds + 1))}
    if "word" not in "".join(factors["method"]):
        content.pop("kd", None)  # it would have no effect
    content = {"question": question.text} | content | {"factors": factors}
    return content | ({"claims": list(question.claims)} if question.claims else {})


def labels(paths) -> dict[str, str]:
    """Label -> absolute path. The label is the name of the file, or of its folder too where names repeat."""
    paths = [Path(os.path.abspath(path)) for path in paths]
    stems = [path.stem for path in paths]
    named = stems if len(set(stems)) == len(stems) else [f"{path.parent.name}-{path.stem}" for path in paths]
    if len(set(named)) < len(named):
        raise KDError(f"--teacher: {', '.join(named)} repeat; give files with other names, or with other folders")
    return dict(zip(named, map(str, paths), strict=True))


def _sections(answers: Answers, teachers: dict) -> dict:
    """The sections without factors, in the order of the file."""
    by_name = not answers.is_data_bin and not answers.is_text
    if by_name and not teachers:
        budget = {} if answers.updates is None else {"budget": answers.updates}
        return {"recipe": answers.data} | budget
    content = _of_recipe(answers) if by_name else _of_folder(answers)
    if not teachers:
        return content
    content["data"] = _data_of_teacher(content["data"], next(iter(teachers.values())))
    one = {"checkpoint": next(iter(teachers.values()))}
    return {"data": content["data"]} | ({"teacher": one} if len(teachers) == 1 else {}) | {
        name: options for name, options in content.items() if name not in ("data", "teacher")
    }  # fmt: skip


def _of_recipe(answers: Answers) -> dict:
    """The sections of the recipe, for a teacher that exists: a spec that names the recipe would train another one."""
    found = read_sections(Path(answers.data), {"recipe": answers.data})
    content = {name: found[name] for name in ("data", "common", "student", "kd", "evaluate")}
    content["evaluate"] = {k: v for k, v in content["evaluate"].items() if k not in ("subsets", "noise", "tokenize")}
    budget = {"student": answers.updates or found["budget"]["student"]}
    return {name: options for name, options in content.items() if options} | {"budget": budget}


def _of_folder(answers: Answers) -> dict:
    given = {"source-lang": answers.languages[0], "target-lang": answers.languages[1]}
    given = {name: lang for name, lang in given.items() if lang}
    path, separate = os.path.abspath(answers.data), {}
    if answers.is_data_bin:
        data = {"data-bin": path} | given
        dictionaries = {file.read_bytes() for file in Path(path).glob("dict.*.txt")}
        separate = {"separate-embeddings": True} if len(dictionaries) > 1 else {}
    else:
        data = {"name": "text", "raw": path} | given | {"vocab-size": VOCABULARY}
    updates = answers.updates or UPDATES
    return {
        "data": data,
        "common": dict(TRAINING),
        "teacher": {"arch": TEACHER} | separate,
        "student": {"arch": STUDENT} | separate,
        "budget": {"student": updates} if answers.teachers else {"teacher": updates, "student": updates},
    }


def _data_of_teacher(data: dict, teacher: str) -> dict:
    """Data that the study prepares get the subword model and the dictionaries of the teacher's data-bin."""
    from fairseq_kd.artifacts.manifest import read_prepared
    from fairseq_kd.inference.checkpoint import read_checkpoint
    from fairseq_kd.inference.frozen import data_folder

    if "data-bin" in data:
        return data
    trained_on = data_folder(read_checkpoint(teacher)["cfg"].task)
    if read_prepared(trained_on) is None:
        raise KDError(
            f"{teacher} was trained on {trained_on}, which has no subword model of fairseq-kd, so other text cannot be "
            "prepared for this teacher: give a data-bin with its dictionaries as --data"
        )
    kept = ("name", "raw", "source-lang", "target-lang")
    return {name: data[name] for name in kept if name in data} | {"like": os.path.abspath(trained_on)}


def _as_yaml(content: dict) -> str:
    return "\n".join(f"# {COMMENTS[name]}\n{_section(name, value)}" for name, value in content.items())


def _section(name: str, value) -> str:
    """One section as YAML, with one line for each of its keys."""
    if isinstance(value, dict):
        return f"{name}:\n" + textwrap.indent("".join(_entry(key, each) for key, each in value.items()), "  ")
    return yaml.safe_dump({name: value}, width=WIDTH, allow_unicode=True)


def _entry(key, value) -> str:
    short = None if isinstance(value, dict | list) else False  # None: [1, 2] and {a: 1} are one line
    return yaml.safe_dump({key: value}, sort_keys=False, width=WIDTH, allow_unicode=True, default_flow_style=short)
