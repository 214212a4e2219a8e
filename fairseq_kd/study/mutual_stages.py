"""The trainings of the method `mutual`: new or trained students, or the local models of all parts, teach each other."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.architectures import of_the_model
from fairseq_kd.study.chosen_stages import ChosenStages
from fairseq_kd.study.methods import CHOSEN, OF_FEDERATED, OF_TEACHER, STUDENT, taken_options
from fairseq_kd.study.parts import PART, PARTS, WHOLE, number_of_parts
from fairseq_kd.study.peers import CHOSEN_BY, architectures
from fairseq_kd.study.stages import BEST, Stage
from fairseq_kd.study.teachers import TEACHERS
from fairseq_kd.study.transfer import learns_from_decoded

FROM_A_FILE = ("finetune-from-model", "restore-file")  # options that also say with which weights a student begins


class MutualStages(ChosenStages):
    """The stages that train several students together."""

    def _mutual(self, data_bin: str, clean: str, settings: dict) -> tuple[Stage, str]:
        """(the training of all peers, the word for the checkpoint of the peer that is the student of the cell)."""
        options = self._options(settings)
        self._check_plain(options)
        if settings["peers"] == PARTS:
            return self._mutual_of_parts(data_bin, clean, settings, options)
        archs = architectures(self.spec.path, settings["peers"], options)
        given = self._peers(data_bin, archs, settings, options)
        options = {name: value for name, value in options.items() if name not in given["not"]} | given["options"]
        options = CHOSEN_BY | options | {"criterion": "kd_mutual"} | taken_options(settings)
        student = self._training("student", data_bin, options)
        split = self._tool("split", ["split", student.path(BEST)], {"out": "@out/peers"})
        return student, split.path("peers/peer1/checkpoint_best.pt")

    def _mutual_of_parts(self, data_bin: str, clean: str, settings: dict, options: dict) -> tuple[Stage, str]:
        """As `_mutual`, for the local models of all parts, which go on together; peer i is that of part i.

        On a transfer set without gold targets they decode the targets together. The evaluated checkpoint has the lowest
        mean loss of the peers, so the cells of all parts share a training on the same transfer set.
        """
        self._check_peers_of_parts(settings, options)
        count = number_of_parts(self.spec.path, settings["partition"])
        peers = ":".join(self._local(clean, settings | {PART: number}) for number in range(1, count + 1))
        if learns_from_decoded(settings):
            data_bin = self._targets(data_bin, clean, peers, settings | {"teacher": {}, TEACHERS: None})
        of_model = of_the_model(self.spec, options)
        options = {name: value for name, value in options.items() if name not in of_model}
        options = {"best-checkpoint-metric": "nll_loss"} | options | {"arch": "kd_mutual", "peers": peers}
        student = self._training("student", data_bin, options | {"criterion": "kd_mutual"} | taken_options(settings))
        split = self._tool("split", ["split", student.path(BEST)], {"out": "@out/peers"})
        return student, split.path(f"peers/peer{settings[PART]}/checkpoint_best.pt")

    def _check_peers_of_parts(self, settings: dict, options: dict) -> None:
        where = f"{self.spec.path}: peers {PARTS}"
        if settings[PART] == WHOLE:
            raise KDError(f"{where} are the local models of all parts, and the cell needs one of them as its student: "
                          f"give the factor {PART}")  # fmt: skip
        begun = [f"init {settings['init']}"] if "init" in settings["assigned"] and settings["init"] != STUDENT else []
        if begun := begun + [name for name in FROM_A_FILE if name in options]:
            raise KDError(f"{where} begin with the local models, so {begun[0]} has no effect: exclude these cells, or "
                          "give init ce")  # fmt: skip

    def _peers(self, data_bin: str, archs: list[str], settings: dict, options: dict) -> dict:
        """{"options": those that name the peers, "not": the student's own that do not belong beside them}."""
        named = [name for name in FROM_A_FILE if name in options]
        if settings["init"] in (*OF_TEACHER, *CHOSEN, *OF_FEDERATED) or named:
            what = named[0] if named else f"init {settings['init']}"
            raise KDError(f"{self.spec.path}: {what} and method mutual: all peers would begin with the same weights, "
                          "and cannot learn from each other; exclude these cells, or give init ce")  # fmt: skip
        arch = {"arch": "kd_mutual"}
        if settings["init"] == STUDENT:
            starts = [self._plain(data_bin, _as_peer(settings, number, one)) for number, one in enumerate(archs)]
            peers = ":".join(start.path(BEST) for start in starts)
            return {"options": arch | {"peers": peers}, "not": of_the_model(self.spec, options).keys() - {"arch"}}
        if "like" in options:
            return {"options": arch | {"peer-like": ":".join([str(options["like"])] * len(archs))}, "not": {"like"}}
        return {"options": arch | {"peer-archs": ":".join(archs)}, "not": set()}


def _as_peer(settings: dict, number: int, arch: str) -> dict:
    """The settings of the cell for a peer that begins as a student of its own. number: 0 for the student of the cell.

    Its seed is the seed with which a new peer of this number would begin.
    """
    own = {} if number == 0 else {"student": settings["student"] | {"arch": arch}}
    return settings | own | {"seed": settings["seed"] + number}
