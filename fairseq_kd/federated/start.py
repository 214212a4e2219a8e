"""Round 0: the global model with which the rounds begin."""

from pathlib import Path

from fairseq_kd.federated.rounds import GLOBAL
from fairseq_kd.federated.score import score
from fairseq_kd.federated.training import client_arguments, training_options, write_first_checkpoint
from fairseq_kd.federated.weights import check_start, shared_names
from fairseq_kd.inference.checkpoint import read_checkpoint


def write_start(plan: dict, folder: Path) -> dict:
    """Write global.pt of round 0; return the record of the round.

    The weights are random (by the seed, as fairseq-train makes them), or those of the checkpoint `start`.
    Raises KDError for a checkpoint of another model.
    """
    spec, path, built = plan["spec"], Path(plan["spec"]["start"]), {}
    folder.mkdir(parents=True, exist_ok=True)

    def weights(model: dict) -> dict:
        built.update(shared=shared_names(model))
        if spec["start"] == "random":
            return model
        found = read_checkpoint(path)["model"]
        check_start(path, found, model)
        return found

    words = client_arguments(plan["data"], plan["languages"], training_options(spec), spec, 1, cpu=plan["cpu"])
    write_first_checkpoint(folder / GLOBAL, words, 0, weights)
    nothing = dict.fromkeys(("bytes_sent", "bytes_received", "updates", "seconds"), 0)
    bleu = score(plan, 0, folder / GLOBAL)
    return {"round": 0, "shared": built["shared"], "clients": {}, "failed": {}, "bleu": bleu} | nothing
