"""fairseq criterions: they get the student's output and the teacher's signal, call `loss`, weight and log."""
