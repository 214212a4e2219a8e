"""What the server says to its clients, as values that Flower can send. `jobs.job_of` reads it."""

import json

from fairseq_kd.federated.training import training_options

SENT_VALUES = ("updates", "optimizer", "rounds")


def train_config(plan: dict, number: int, last: list[int], shared: dict) -> dict:
    """The values of the message that asks for the training of a round. The strategy may add proximal-mu.

    last: for each part the last round in which its weights were used. shared: see `weights.shared_names`.
    """
    spec = plan["spec"]
    return {
        "round": number,
        "last-rounds": last,
        "shared": json.dumps(shared),
        "options": json.dumps(training_options(spec)),
        "values": json.dumps({name: spec[name] for name in SENT_VALUES}),
        "weights-by": spec["weights-by"],
        "timeout": float(spec["timeout"]),
    }
