"""kd_hybrid inside stock fairseq commands, and under torch's DistributedDataParallel."""

import json
import os
import shlex
import shutil
import socket

import torch
from conftest import ROOT, TINY_MODEL, assert_user_error, run_fairseq
from distilled_helpers import rewrite
from docs_helpers import blocks_run_by, with_user_dir
from process_helpers import Process


def logged(result, name):
    lines = [line for line in result.stdout.splitlines() + result.stderr.splitlines() if f"| {name} |" in line]
    return [json.loads(line.split(f"| {name} | ")[1]) for line in lines]


def test_a_learned_gate_is_trained_resumed_validated_and_decoded(data_bin, distilled, teacher, tmp_path):
    """With the command of docs/hybrid.md. The distilled data-bin is needed for training alone."""
    folder, student = shutil.copytree(distilled, tmp_path / "distilled"), tmp_path / "student"
    (block,) = blocks_run_by("test_a_learned_gate_is_trained_resumed_validated_and_decoded")
    (line,) = with_user_dir(block.commands())
    places = {"data-bin/distilled": folder, "teacher/checkpoint_best.pt": teacher}
    options = [places.get(word, word) for word in shlex.split(line.split(" ... ")[1])]
    options += ["--label-smoothing", "0.1", "--save-dir", student]

    def train(updates):
        return run_fairseq("train", data_bin, *TINY_MODEL, *options, "--max-update", updates)

    first = train(3)
    assert first.returncode == 0, first.stderr[-3000:]
    last = logged(first, "train")[-1]
    assert {"train_gate", "train_sentence_loss", "train_kd_loss", "train_nll_loss"} <= last.keys()
    assert "valid_gate" not in logged(first, "valid")[-1]
    checkpoint = student / "checkpoint_last.pt"
    saved = torch.load(checkpoint)
    assert saved["criterion"].keys() == {"gate.weight", "gate.bias"}
    second = train(5)
    assert second.returncode == 0, second.stderr[-3000:]
    assert [int(entry["num_updates"]) for entry in logged(second, "train_inner")] == [4, 5]
    gates = [float(entry["gate"]) for entry in logged(first, "train_inner") + logged(second, "train_inner")]
    assert gates[0] == 0.5 and abs(gates[3] - gates[2]) < abs(gates[3] - gates[0])  # it goes on, not from the start
    assert torch.load(checkpoint)["criterion"]["gate.bias"] != saved["criterion"]["gate.bias"]

    rewrite(folder, "qaa", lambda number, tokens: tokens.flip(0) if number == 11 else tokens)
    assert_user_error(train(7), "the source of sentence 11 of subset 'train'")
    shutil.rmtree(folder)
    assert_user_error(train(7), "does not exist")
    for command, *more in (
        ("validate", "--task", "translation", "--max-tokens", "400"),
        ("generate", "--gen-subset", "test", "--required-batch-size-multiple", "1", "--max-tokens", "400"),
    ):
        result = run_fairseq(command, data_bin, "--path", checkpoint, "--cpu", *more)
        assert result.returncode == 0, result.stderr[-2000:]


RANK = """
import os, sys
import torch
from fairseq.distributed import ModuleProxyWrapper
from helpers import batch, build

data_bin, distilled, rank, port = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
OPTIONS = ("--task", "kd_translation", "--distilled", distilled, "--criterion", "kd_hybrid", "--kd-weight", "0",
           "--hybrid-gate", "learned", "--dropout", "0.0")

def gradients(indices, wrap):
    _, task, model, criterion = build(data_bin, *OPTIONS)
    wrapped, wrapped_criterion = wrap(model), wrap(criterion)
    for _ in range(2):  # a reduction that was not armed, or not finished, shows in the next pass
        model.zero_grad(), criterion.zero_grad()
        wrapped_criterion(wrapped, batch(task, indices))[0].backward()
    return [p.grad for p in [*model.parameters(), *criterion.parameters()]]

os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
whole = gradients(range(8), lambda module: module)
for unused in (False, True):
    parallel = torch.nn.parallel.DistributedDataParallel
    half = gradients(range(4 * rank, 4 * rank + 4),
                     lambda module: ModuleProxyWrapper(parallel(module, find_unused_parameters=unused)))
    for one, other in zip(half, whole, strict=True):
        torch.testing.assert_close(2 * one, other, rtol=1e-3, atol=1e-3)
print("EQUAL")
"""


def test_two_processes_have_the_gradients_of_one_for_student_and_gate(data_bin, distilled):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    processes = [Process("-c", RANK, data_bin, distilled, rank, port, env=environment) for rank in (0, 1)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert all("EQUAL" in out for out, _ in outputs), "\n".join(error[-2000:] for _, error in outputs)
