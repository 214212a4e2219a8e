"""The stages of a cell: its data, its teachers, its student, and the evaluations of both."""

from fairseq_kd.study.cells import Cell
from fairseq_kd.study.methods import METHODS, needs_teacher
from fairseq_kd.study.refresh import RoundStages
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.state import OlderStages


class CellStages(RoundStages):
    """The stages of cells.

    cells: name -> {"factors", "student", "results"}. The student is the stage of its training; None for the method
    ensemble, which trains no student.
    """

    def __init__(self, spec: Spec, older: OlderStages | None = None):
        super().__init__(spec, older)
        self.cells = {}

    def _add_cell(self, cell: Cell) -> None:
        settings, teacher, student = cell.settings, "", None
        clean = self._prepared(settings)
        data = self._training_set(clean, settings)
        if needs_teacher(settings["method"], settings["init"]):
            teacher = self._taught_by(data, clean, settings, cell.name)
        if METHODS[settings["method"]].trained:
            student, checkpoint = self._student(data, clean, teacher, settings)
        else:
            checkpoint = self._untrained(clean, teacher, settings)
        if settings["compact"]:
            checkpoint = self._tool("compact", ["compact", checkpoint], {"out": "@out/model.pt"}).path("model.pt")
        results = self._evaluations(checkpoint, clean, settings, teacher if student else "")
        self.cells[cell.name] = {"factors": cell.factors, "student": student and student.name, "results": results}
