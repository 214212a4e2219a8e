"""The process that trains for a client of Flower: `python -m fairseq_kd.cli.federated_client JOB.json`.

With `describe DATA_BIN OUT.json` in place of JOB.json it counts the training set. It is no command for users.
"""

import sys

from fairseq_kd.core.errors import exit_on_user_error


def main(words: list[str]) -> None:
    """Do the job, or describe the data. A user error is one line, and exit status 2."""
    from fairseq_kd import register
    from fairseq_kd.federated.client import describe, do_job

    with exit_on_user_error():
        register()
        if words[0] == "describe":
            describe(*words[1:])
        else:
            do_job(words[0])


if __name__ == "__main__":
    main(sys.argv[1:])
