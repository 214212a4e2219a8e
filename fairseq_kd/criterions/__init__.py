"""fairseq criterions: fetch the student's output and the teacher's signal, call `loss`, weigh, log; nothing else."""
