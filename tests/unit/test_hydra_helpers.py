"""The configurations that tests build (hydra_helpers.py) are those that Hydra composes for fairseq."""

from dataclasses import dataclass

import hydra_helpers
import pytest
from fairseq.dataclass import utils
from fairseq.dataclass.configs import FairseqDataclass
from helpers import parse
from hydra.core.config_store import ConfigStore

COMMANDS = [
    ["--criterion", "kd_word", "--teacher", "a folder/it's (one) [of] {two}.pt:b.pt", "--lr", "0.1,0.2", "--fp16"],
    ["--task", "kd_translation", "--distilled", "x", "--criterion", "kd_hybrid", "--kd-scale", "1e-05"],
    ["--arch", "kd_mutual", "--criterion", "kd_mutual", "--peer-archs", "lstm:kd_student", "--optimizer", "sgd"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[words.index("--criterion") + 1])
def test_it_is_the_configuration_that_hydra_composes(words, monkeypatch):
    found = [parse("data", *words) for _ in range(2)]
    monkeypatch.setattr(utils, "compose", hydra_helpers.hydra_compose)
    expected = parse("data", *words)
    for cfg in found:
        assert cfg == expected and repr(cfg) == repr(expected)
    assert expected.criterion._name == words[words.index("--criterion") + 1]


def test_a_dataclass_that_is_registered_later_is_seen(monkeypatch):
    @dataclass
    class Later(FairseqDataclass):
        sentence_avg: bool = True
        added: int = 7

    group, name = ConfigStore.instance().repo["criterion"], "cross_entropy.yaml"
    before = parse("data", "--criterion", "cross_entropy").criterion
    kept = group[name]
    try:
        ConfigStore.instance().store(name="cross_entropy", group="criterion", node=Later(), provider="fairseq")
        assert parse("data", "--criterion", "cross_entropy").criterion.added == 7
    finally:
        ConfigStore.instance().store(name="cross_entropy", group="criterion", node=kept.node, provider="fairseq")
    assert parse("data", "--criterion", "cross_entropy").criterion == before and "added" not in before
