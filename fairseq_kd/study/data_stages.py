"""The data of a cell: prepared or named by the spec, noised, and with the targets of a teacher."""

import json

from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.selection_options import BY_METRIC, FILTERS
from fairseq_kd.study.existing import Existing
from fairseq_kd.study.key import RawText, raw_text
from fairseq_kd.study.model_check import ModelCheck
from fairseq_kd.study.sections import SHARES, SOURCE_TEXT
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.stages import Stages
from fairseq_kd.study.state import OlderStages
from fairseq_kd.study.teachers import settings_of_each
from fairseq_kd.study.transfer import TRANSFER, UNION

DROPPING = tuple(name.replace("_", "-") for name in FILTERS)  # options of decode that leave sentences out


class DataStages(Stages):
    """The stages that make data-bins. existing: the artefacts that the study takes as they are."""

    def __init__(self, spec: Spec, older: OlderStages | None = None):
        super().__init__(spec, older)
        self.existing, self._raw = Existing(), {}
        self._check = ModelCheck(spec, self.existing)

    def _prepared(self, settings: dict) -> str:
        """The data-bin: the one that `data` names, or the output of `prepare`."""
        data = dict(settings["data"])
        if "data-bin" in data:
            return self._check.data_bin(settings)
        name, raw = data.pop("name"), {"raw": "@raw"} if data.pop("raw", None) else {}
        given = data | raw | {"out": "@out/data-bin"}
        return self._tool("prepare", ["prepare", name], given, self._raw_text(settings).hashes).path("data-bin")

    def _raw_text(self, settings: dict) -> RawText:
        data = settings["data"]
        key = json.dumps(data)
        if key not in self._raw:
            self._raw[key] = raw_text(self.spec.path, data)
        return self._raw[key]

    def _noised(self, data_bin: str, subset: str, level: float, settings: dict) -> str:
        """The data-bin with `level` percent of the words of `subset` changed, divided by the operations' shares."""
        if level == 0:
            return data_bin
        options = dict(settings["noise"])
        shares = {name: options.pop(name) for name in SHARES}
        rates = {name: round(level / 100 * share / sum(shares.values()), 6) for name, share in shares.items() if share}
        given = {"data-bin": data_bin, "subset": subset} | rates | options | {"out": "@out/data-bin"}
        return self._tool("noise", ["noise"], given).path("data-bin")

    def _dictionaries(self, settings: dict) -> dict:
        """The option that names the dictionaries of existing teachers; {} where the study trains all."""
        exists = any("checkpoint" in one["teacher"] for _, one in settings_of_each(self.spec.path, settings))
        return {"teacher-data": self._prepared(settings)} if exists and "data-bin" in settings["data"] else {}

    def _decoded(self, data_bin: str, clean: str, teacher: str, settings: dict) -> str:
        """The data-bin with the teacher's targets. clean: the data-bin before noise; monolingual text gets its form."""
        options = settings["decode"]
        if "data-bin" in options:
            if SOURCE_TEXT in settings["assigned"]:
                raise KDError(f"{self.spec.path}: source-text has no effect beside data-bin in one value of a factor: "
                              "data-bin has the text already; leave one of them out")  # fmt: skip
            decoded = self._check.decoded(options["data-bin"], data_bin, teacher, settings)
        elif "source-text" in options:
            decoded = self._decoded_text(clean, teacher, settings)
        else:
            given = {"teacher": teacher} | self._dictionaries(settings) | options | _scored(settings)
            decoded = self._tool("decode", ["decode", data_bin], given | {"out": "@out/data-bin"}).path("data-bin")
        return decoded

    def _targets(self, data_bin: str, clean: str, teacher: str, settings: dict) -> str:
        """The data-bin with the teacher's targets in place of the gold targets, or with both if gold data are mixed.

        data_bin: of the cell's training set, whose gold targets alone are mixed.
        """
        sources = data_bin
        if settings[TRANSFER] == UNION:
            sources = self._noised(clean, "train", settings["noise-level"], settings)
        decoded = self._decoded(sources, clean, teacher, settings)
        if settings["mix-gold"] == 0:
            return decoded
        times = {"times": [settings["mix-gold"], 1], "out": "@out/data-bin"}
        return self._tool("mix", ["mix", data_bin, decoded], times).path("data-bin")

    def _distilled(self, data_bin: str, clean: str, teacher: str, settings: dict) -> str:
        """The data-bin with one target of the teacher per gold target. Raises KDError for options that drop targets."""
        options = settings["decode"]
        dropping = [name for name in DROPPING if options.get(name)]
        dropping += ["fallback"] if options.get("fallback") == "drop" else []
        if "source-text" in options or dropping:
            name = "source-text" if "source-text" in options else dropping[0]
            raise KDError(f"{self.spec.path}: {name} in decode and method hybrid: hybrid needs one translation per "
                          "sentence of the gold data, in the same order; exclude these cells")  # fmt: skip
        return self._decoded(data_bin, clean, teacher, settings)

    def _decoded_text(self, clean: str, teacher: str, settings: dict) -> str:
        """A data-bin of monolingual text with the teacher's targets."""
        if settings["noise-level"]:
            raise KDError(
                f"{self.spec.path}: noise {settings['noise-level']:g} has no effect on the text of source-text in "
                "decode, so noise would mean something else in these cells: exclude them, or give files whose text "
                "already has the noise"
            )
        options = dict(settings["decode"])
        given = {"source-text": self._check.source_text(options.pop("source-text"), clean), "like": clean}
        given |= {"teacher": teacher} | self._dictionaries(settings) | options
        given |= _scored(settings) | {"out": "@out/data-bin"}
        return self._tool("decode", ["decode"], given).path("data-bin")


def _scored(settings: dict) -> dict:
    """The option --tokenize for a selection by BLEU."""
    options = settings["decode"]
    by_bleu = options.get("select") in BY_METRIC and options.get("metric", "bleu") == "bleu"
    return tokenizer(settings) if by_bleu else {}


def tokenizer(settings: dict) -> dict:
    """The option --tokenize, for a stage that must score text like the evaluations."""
    return {name: settings["evaluate"][name] for name in ("tokenize",) if name in settings["evaluate"]}
