"""The stages of a cell: its data, its teachers, its student, and the evaluations of both."""

from fairseq_kd.study.cells import Cell
from fairseq_kd.study.federated_stages import FINAL, FederatedStages
from fairseq_kd.study.methods import FEDERATED, METHODS, needs_teacher
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.state import OlderStages


class CellStages(FederatedStages):
    """The stages of cells.

    cells: name -> {"factors", "student", "results"}. The student is the stage of its training; None for the method
    ensemble, which trains no student. Cells of the method federated have "rounds" too: see `FederatedStages`.
    """

    def __init__(self, spec: Spec, older: OlderStages | None = None):
        super().__init__(spec, older)
        self.cells = {}

    def _add_cell(self, cell: Cell) -> None:
        settings, teacher, student, rounds = cell.settings, "", None, {}
        clean = self._prepared(settings)
        data = self._training_set(clean, settings)
        if needs_teacher(settings["method"], settings["init"]):
            teacher = self._taught_by(data, clean, settings, cell.name)
        if settings["method"] == FEDERATED:
            student, rounds = self._federated(clean, settings)
            checkpoint = student.path(FINAL)
        elif METHODS[settings["method"]].trained:
            student, checkpoint = self._student(data, clean, teacher, settings)
        else:
            checkpoint = self._untrained(clean, teacher, settings)
        if settings["compact"]:
            checkpoint = self._tool("compact", ["compact", checkpoint], {"out": "@out/model.pt"}).path("model.pt")
        results = self._evaluations(checkpoint, clean, settings, teacher if student else "")
        found = {"factors": cell.factors, "student": student and student.name, "results": results}
        self.cells[cell.name] = found | ({"rounds": rounds} if rounds else {})
