"""The stages of the method `federated`: a run of `fairseq-kd federated` whose clients are all parts of the data.

Each run is one stage, which starts the engine of Flower on the loopback interface. The model with which the rounds
begin comes from stages that cells of other methods share: the local models, the choice among them, their mean, or the
student that the method `word` consolidates from them. The section `federated` has keys of the spec of a federated run,
and

    every, subset    which rounds are evaluated, and on which entry of `evaluate.subsets` (the first one)
    target           {share: 0.95, of: centralised} or {bleu: X}: the report says when a run has reached it
"""

import json

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import check_keys, is_number
from fairseq_kd.federated.spec import EVALUATE
from fairseq_kd.study.architectures import left_out
from fairseq_kd.study.effects import as_consolidation
from fairseq_kd.study.key import with_files
from fairseq_kd.study.methods import CHOSEN, CONSOLIDATED, FEDERATED, RANDOM, SOUP
from fairseq_kd.study.parts import PART, WHOLE, number_of_parts
from fairseq_kd.study.refresh import RoundStages
from fairseq_kd.study.stages import BEST, Stage
from fairseq_kd.study.transfer import OWN, TRANSFER, with_transfer

RUN = "run"  # folder of the run in the folder of its stage
FINAL = f"{RUN}/final.pt"  # the global model after the last round
STARTS = (RANDOM, *CHOSEN, SOUP, CONSOLIDATED)
TARGET, SUBSET, EVERY, CENTRALISED = "target", "subset", "every", "centralised"
SERVER_KD = "server-kd"
# options of evaluate that change a score and that the rounds do not have
NOT_IN_ROUNDS = ("backend", "fp16", "reference", "post-process")


class FederatedStages(RoundStages):
    """The stages of federated runs."""

    def _federated(self, clean: str, settings: dict) -> tuple[Stage, dict]:
        """(the run, {"subset", "goal"}). clean: the word for the whole data.

        goal: None, {"bleu": X}, or {"share": X, "result": name of the evaluation of the centralised student}.
        """
        self._check_rounds(settings)
        subset = self._subset(settings)
        divided = self._tool("partition", ["partition", clean], settings["partition"] | {"out": "@out/parts"})
        given = {"parts": divided.path("parts"), "data": clean} | self._start(clean, settings)
        own, depends = self._own_keys(settings, subset)
        given |= {"seed": settings["seed"]} | own | {"out": f"@out/{RUN}"}
        updates = [own[name] for name in ("rounds", "updates") if type(own.get(name)) is int]
        run = self._tool(FEDERATED, [FEDERATED], given, depends, updates[0] * updates[1] if len(updates) == 2 else 0)
        return run, {"subset": subset, "goal": self._goal(clean, subset, settings)}

    def _check_rounds(self, settings: dict) -> None:
        """Raises KDError for settings of other methods that a federated run cannot have."""
        path = self.spec.path
        number_of_parts(path, settings["partition"])
        if settings["init"] not in STARTS:
            raise KDError(f"{path}: init {settings['init']} and method federated: the rounds begin with one model "
                          f"for all parts; give {', '.join(STARTS[:-1])} or {STARTS[-1]}")  # fmt: skip
        if settings["noise-level"]:
            raise KDError(f"{path}: noise {settings['noise-level']:g} and method federated: the clients train on the "
                          "parts as they are; exclude these cells")  # fmt: skip
        if found := [name for name in NOT_IN_ROUNDS if name in settings["evaluate"]]:
            raise KDError(f"{path}: {found[0]} in evaluate and method federated: the rounds would be scored in "
                          "another way than the final model; leave it out")  # fmt: skip

    def _subset(self, settings: dict) -> str:
        """The subset on which the rounds are evaluated, as the final model and the centralised student are."""
        evaluate = settings["evaluate"]
        subset = settings[FEDERATED].get(SUBSET, evaluate["subsets"][0])
        if subset not in evaluate["subsets"] or 0 not in evaluate["noise"]:
            raise KDError(f"{self.spec.path}: the rounds are evaluated on {subset} without noise, and the study does "
                          f"not evaluate its models there: give subsets: [{subset}] and noise: [0] in evaluate, and "
                          "add the others")  # fmt: skip
        return subset

    def _own_keys(self, settings: dict, subset: str) -> tuple[dict, dict | None]:
        """(the options of the command that are not places, the hashes of the files that they name)."""
        own = {name: value for name, value in settings[FEDERATED].items() if name not in (TARGET, SUBSET, EVERY)}
        if isinstance(own.get("strategy"), str):
            own["strategy"] = {"name": own["strategy"]}
        student = left_out(settings["common"] | settings["student"], "student", self.spec, settings)
        self._check_plain(student)
        student, found = with_files(f"{self.spec.path}: student or common", student, self._files)
        files = {"student": found}
        if isinstance(own.get(SERVER_KD), dict):
            own[SERVER_KD], files[SERVER_KD] = with_files(
                f"{self.spec.path}: server-kd in federated", own[SERVER_KD], self._files
            )
        scored = {name: value for name, value in settings["evaluate"].items() if name in EVALUATE}
        scored |= {SUBSET: subset} | {
            name: settings[FEDERATED][name] for name in (EVERY,) if name in settings[FEDERATED]
        }
        own |= {"student": student, "evaluate": scored}
        named = {name: hashes for name, hashes in files.items() if hashes}
        return {name: _word(value) for name, value in sorted(own.items())}, named or None

    def _start(self, clean: str, settings: dict) -> dict:
        """The option that names the model with which the rounds begin; {} for random weights."""
        init, count = settings["init"], number_of_parts(self.spec.path, settings["partition"])
        if init == RANDOM:
            return {}
        models = [self._local(clean, settings | {PART: number, "teacher": {}}) for number in range(1, count + 1)]
        if init in CHOSEN:
            return {"start": self._chosen(clean, models, CHOSEN[init], settings)}
        if init == SOUP:
            return {"start": self._mean_of(models)}
        return {"start": self._consolidated(clean, models, as_consolidation(settings, count))}

    def _consolidated(self, clean: str, models: list[str], settings: dict) -> str:
        """The student of the method `word` that begins with the best of the models, and learns from all of them."""
        path = self.spec.path
        if settings[TRANSFER] == OWN:
            raise KDError(f"{path}: init consolidated and transfer own: the model belongs to no part, so it has no "
                          "own data; give union or text")  # fmt: skip
        if settings["mix-gold"]:
            raise KDError(f"{path}: init consolidated and mix-gold {settings['mix-gold']:g}: gold targets of the "
                          "parts are private; give mix-gold 0")  # fmt: skip
        settings = with_transfer(path, settings | {"teacher": {}})
        return self._student(clean, clean, ":".join(models), settings)[1]

    def _goal(self, clean: str, subset: str, settings: dict) -> dict | None:
        """The target, with the evaluation of the student of `ce` on the whole data where it is a share of its BLEU."""
        path, target = self.spec.path, settings[FEDERATED].get(TARGET)
        if target is None:
            return None
        check_keys(path, "target in federated", target, ("bleu", "share", "of"))
        share = target.keys() == {"share", "of"} and target["of"] == CENTRALISED
        if not (share or target.keys() == {"bleu"}) or not _is_above_0(target["share" if share else "bleu"]):
            raise KDError(f"{path}: target in federated must be {{share: 0.95, of: centralised}} or {{bleu: X}} with a "
                          f"number above 0, found {target!r}")  # fmt: skip
        if settings[FEDERATED].get(EVERY, 1) == 0:
            raise KDError(f"{path}: target in federated needs the BLEU of the rounds, but every is 0")
        if not share:
            return {"bleu": target["bleu"]}
        if "student" not in settings["budget"]:
            raise KDError(f"{path}: target in federated needs the centralised student, and budget lacks its number of "
                          "updates: give student in budget")  # fmt: skip
        whole = settings | {PART: WHOLE, "init": RANDOM}
        found = self._evaluations(self._plain(clean, whole).path(BEST), clean, whole)
        return {"share": target["share"], "result": found[subset]}


def _is_above_0(value) -> bool:
    return is_number(value) and value > 0


def _word(value):
    """A value as a word of the command: YAML in one line, the same for equal values."""
    return (
        value if isinstance(value, int | float) and not isinstance(value, bool) else json.dumps(value, sort_keys=True)
    )
