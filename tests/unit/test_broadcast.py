"""What of a checkpoint goes from rank 0 to the others, and that nothing more can be read from a file for it."""

import io
import pickle

import pytest
import torch
from fairseq.distributed import utils as distributed
from omegaconf import OmegaConf

import fairseq_kd  # noqa: F401


class OneProcess:
    """A message that rank 0 has sent, as the next rank takes it: torch.distributed.broadcast by turns."""

    def __init__(self, monkeypatch):
        self.rank, self.sent = 0, []
        monkeypatch.setattr(distributed, "get_rank", lambda group: self.rank)
        monkeypatch.setattr(distributed, "broadcast", self.broadcast)

    def broadcast(self, tensor, src, group):
        if self.rank == src:
            self.sent.append(tensor.clone())
        else:
            tensor.copy_(self.sent.pop(0).view_as(tensor))


def test_a_message_arrives_with_its_tensors_and_plain_options(monkeypatch):
    channel = OneProcess(monkeypatch)
    options = {"task": {"data": "${oc.env:HOME}", "sizes": [1, 2]}}
    state = {"cfg": OmegaConf.create(options), "model": {"w": torch.ones(2, 3), "b": [torch.arange(4)]}, "epoch": 3}
    cpu = torch.device("cpu")
    distributed.broadcast_object(state, 0, None, cpu)
    channel.rank = 1
    found = distributed.broadcast_object(None, 0, None, cpu)
    assert found["cfg"] == options and type(found["cfg"]) is dict  # the reader's environment is not looked up
    assert found["epoch"] == 3
    torch.testing.assert_close(found["model"]["w"], torch.ones(2, 3))
    torch.testing.assert_close(found["model"]["b"][0], torch.arange(4))
    assert channel.sent == []


def test_a_file_still_holds_neither_placeholders_nor_omegaconf():
    for content in (distributed._TensorPlaceholder(0), OmegaConf.create({"a": 1})):
        file = io.BytesIO()
        torch.save({"model": content}, file)
        file.seek(0)
        with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
            torch.load(file)
