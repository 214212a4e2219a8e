"""Students that fairseq knows by name: `--arch kd_student_3m` to `kd_student_146m`, and `kd_adaptive_*` with gates."""
