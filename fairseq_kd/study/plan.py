"""The plan of a study: its stages, and the stages of each cell, teacher and claim.

`stages` explains stages and the words of their commands, `cell_stages` makes those of a cell.
"""

from fairseq_kd.study.cell_stages import CellStages
from fairseq_kd.study.cells import Cells
from fairseq_kd.study.claims import Claim, read_claims
from fairseq_kd.study.maker import KINDS, ON_GPU
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.state import OlderStages

FORMAT = 2  # format number of plan.json
PLAN_NAME = "plan.json"


class Plan(CellStages):
    """Stages by name, and the stages of each cell, teacher and claim."""

    def __init__(self, spec: Spec, cells: Cells, older: OlderStages | None = None):
        """Raises KDError when `older` finds stages of other versions and the user has not chosen what to do."""
        super().__init__(spec, older)
        self.excluded, self.repeated = cells.excluded, cells.repeated
        for cell in cells.cells:
            self._add_cell(cell)
        self._add_members()
        first = next(iter(self.cells.values()))
        factors = {name: cell["factors"] for name, cell in self.cells.items()}
        self.claims = [
            {**claim.as_dict(), "compare": self._compared(claim)}
            for claim in read_claims(spec, factors, list(first["results"]))
        ]
        if older is not None:
            older.check(self.older, len(self.stages), self._versions)

    @property
    def about_older(self) -> str | None:
        """One line about the stages that other versions made; None without such stages."""
        return self._older and self._older.describe(self.older, len(self.stages), self._versions)

    @property
    def takes_older(self) -> bool:
        """Whether the plan uses stages that other versions made."""
        return any(stage.old for stage in self.stages.values())

    def _compared(self, claim: Claim) -> str:
        """Name of the stage that measures the systems of a claim, and tests it if it compares two systems."""
        command = ["fairseq-kd", "compare"]
        for name, runs in claim.systems.items():
            stages = [self.stages[self.cells[cell]["results"][on]] for cell, on in runs]
            command += ["--system", name, *[stage.path("result.json") for stage in stages]]
        return self._add(
            "compare", [*command, "--metric", claim.metric, *claim.options, "--out", "@out/comparison.json"]
        ).name

    def as_dict(self) -> dict:
        """The content of plan.json, which the Snakefile and the processes of the stages read."""
        return {
            "format": FORMAT,
            "kind": "study-plan",
            "name": self.spec.name,
            "kinds": KINDS,
            "on_gpu": ON_GPU,
            "raw": self.spec.sections["data"].get("raw"),
            "existing": self.existing.artefacts,
            "stages": {name: vars(stage) for name, stage in self.stages.items()},
            "cells": self.cells,
            "teachers": self.teachers,
            "claims": self.claims,
        }

    def stages_of(self, cell: str) -> list[str]:
        """Names of all stages of a cell, inputs first."""
        return self.needed(self.cells[cell]["results"].values())
