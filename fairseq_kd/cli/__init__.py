"""The command `fairseq-kd`: one small file a sub-command, each with `add_arguments(parser)` and `run(args)`."""
