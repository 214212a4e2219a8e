"""Students with registered names: `--arch kd_student_3m` to `kd_student_146m`, and `kd_adaptive_*` with gates."""
