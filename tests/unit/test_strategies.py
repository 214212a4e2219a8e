"""A decoding strategy is one object: this file adds one to the registry, and every user of the registry knows it."""

import argparse
from types import SimpleNamespace

import pytest

from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence.backend import Backend
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.sequence.strategies import STRATEGIES, Option, Strategy
from fairseq_kd.study.check import check_commands


class Backwards(Strategy):
    """The first tokens of the source, from its end."""

    name = "backwards"
    summary = "the source from its end"
    options = {"keep": Option(3, "tokens that are kept", least=1, most=9)}  # noqa: RUF012
    not_by_ctranslate2 = "it translates, and nothing else"

    def open_fairseq(self, teachers, settings, max_tokens, device):
        return BackwardsBackend(teachers.dataset, settings["keep"])


class BackwardsBackend(Backend):
    name, max_tokens = "fairseq", 1

    def __init__(self, dataset, keep):
        super().__init__(dataset)
        self.keep = keep

    def translate_filled(self, sentences, advance):
        advance(len(sentences))
        return {int(n): [Hypothesis(self.dataset.src[n].numpy()[-2::-1][: self.keep], -1.0)] for n in sentences}


@pytest.fixture(autouse=True)
def backwards(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "backwards", Backwards())


def test_a_new_strategy_decodes_and_is_recorded(data_bin, teacher, tmp_path):
    options = DecodeOptions(strategy="backwards", keep=2, subset="valid", cpu=True)
    manifest = decode(data_bin, str(teacher), tmp_path / "out", options, say=lambda line: None)
    assert (manifest["strategy"], manifest["settings"]) == ("backwards", {"keep": 2})
    assert read_manifest(tmp_path / "out") == manifest
    found = open_data(tmp_path / "out", ("qaa", "qab"), "valid").dataset("valid")
    eos = 2
    for number in range(len(found)):
        last, last_but_one = found.src[number][-2].item(), found.src[number][-3].item()
        assert found.tgt[number].tolist() == [last, last_but_one, eos]


def test_its_option_is_known_to_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["decode", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "backwards: the source from its end" in said
    assert "--keep KEEP tokens that are kept (default 3; for backwards)" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "backwards", "keep": 0}, "--keep 0: must be at least 1"),
        ({"strategy": "backwards", "keep": 10}, "--keep 10: must be at most 9"),
        ({"strategy": "backwards", "beam": 5}, "--beam 5 has no effect with --strategy backwards; .*--strategy beam$"),
        ({"keep": 2}, "--keep 2 has no effect with --strategy beam; leave it out, or give --strategy backwards"),
        ({"strategy": "backwards", "select": "closest"}, "give --nbest 2 or more"),
        ({"strategy": "backwords"}, "must be one of beam, greedy, teacher-forcing, sample, backwards"),
        ({"lenpen": float("nan")}, "--lenpen nan: must be a finite number"),
        ({"max_len_a": float("inf")}, "--max-len-a inf: must be a finite number"),
    ],
)
def test_its_ranges_and_effects_are_checked(given, message):
    with pytest.raises(KDError, match=message):
        DecodeOptions(**given)


def test_a_backend_that_cannot_run_it_says_why(data_bin, teacher, tmp_path):
    options = DecodeOptions(strategy="backwards", backend="ctranslate2", subset="valid", cpu=True)
    with pytest.raises(KDError, match="ctranslate2 cannot do this: it translates, and nothing else; use --backend fai"):
        decode(data_bin, str(teacher), tmp_path / "out", options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "2"], None),
        (["--keep", "0"], "my.yaml: decode: --keep 0: must be at least 1"),
        (["--kep", "2"], "unknown key 'kep'; the nearest valid one is 'keep'"),
    ],
)
def test_a_study_knows_its_option(options, message):
    command = ["fairseq-kd", "decode", "data", "--teacher", "t.pt", "--out", "o", "--strategy", "backwards", *options]
    stage = SimpleNamespace(kind="decode", command=command, inputs=[])
    plan = SimpleNamespace(stages={"decode": stage}, spec=SimpleNamespace(path="my.yaml"))
    if message is None:
        check_commands(plan)
    else:
        with pytest.raises(KDError, match=message):
            check_commands(plan)


def test_every_option_of_the_registry_is_documented_and_has_its_default_in_range():
    for strategy in STRATEGIES.values():
        assert strategy.summary
        for name, option in strategy.options.items():
            option.check(name, option.default)
            assert option.help


def test_samples_are_drawn_as_often_as_hypotheses_are_asked_for():
    """fairseq's Sampling draws one sample per beam."""
    sample = DecodeOptions(strategy="sample", nbest=4, sampling_topk=10, seed=3)
    found = sample.how.fairseq_arguments(sample.settings())
    expected = {"beam": 4, "nbest": 4, "lenpen": 1.0, "max_len_a": 0.0, "max_len_b": 200, "sampling": True}
    expected |= {"sampling_topk": 10, "sampling_topp": -1.0, "temperature": 1.0, "seed": 3}
    assert found == argparse.Namespace(**expected)
    greedy = DecodeOptions(strategy="greedy")
    one_beam = {"beam_size": 1, "num_hypotheses": 1, "length_penalty": 1.0}
    assert greedy.how.ctranslate2_arguments(greedy.settings()) == one_beam
