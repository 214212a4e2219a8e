"""What server and clients say to each other, as values that Flower can send."""

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


def job_of(config: dict, part: int, data, languages, cpu: bool) -> dict:
    """The job of a client (`client.prepare_job`) from the values of the message."""
    return {
        "part": part,
        "round": config["round"],
        "last": config["last-rounds"][part - 1],
        "options": json.loads(config["options"]),
        "values": json.loads(config["values"]),
        "shared": json.loads(config["shared"]),
        "mu": float(config.get("proximal-mu", 0.0)),
        "data": str(data),
        "languages": list(languages),
        "cpu": cpu,
    }
