"""Distillation on the server: the aggregated model learns from the round's client models (FedDF, arXiv 2006.07242)."""

from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.federated.training import server_arguments
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.training.run import remove_other, train


def distil(plan: dict, number: int, folder: Path, teachers: list[Path], aggregated: Path) -> dict:
    """The state dict of the aggregated model after the updates of `server-kd` on the transfer data-bin.

    The teachers are the models that the clients have sent in this round, as `--teacher A:B` of kd_word. A killed
    training is continued.
    """
    spec = plan["spec"]
    words = server_arguments(plan["languages"], spec, teachers, number, cpu=plan["cpu"], start=aggregated)
    inputs = {path.name: sha256_file(path) for path in (*teachers, aggregated)}
    remove_other(folder, words, inputs)  # other clients may have answered since a kill
    record = train(folder, words, inputs, spec["server-kd"]["updates"], f"distillation of round {number}")
    return read_checkpoint(record["checkpoint"])["model"]
