"""The command `fairseq-kd`: one small file per sub-command, each with `add_arguments(parser)` and `run(args)`."""
