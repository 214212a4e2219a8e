"""Federated runs: the rounds on the server, with clients that answer in this process."""

import math
import os
import shutil
import tomllib

import numpy as np
import pytest
import torch
from federated_helpers import LANGUAGES, TINY, LocalGrid, write_parts, write_spec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import config_folder
from fairseq_kd.evaluation.segments import read_segments
from fairseq_kd.federated import app, serving
from fairseq_kd.federated import plan as of_plan
from fairseq_kd.federated import rounds as of_rounds
from fairseq_kd.federated.arrays import BadWeights, check_arrays, load_arrays, save_arrays
from fairseq_kd.federated.collect import CONFIG, METRICS
from fairseq_kd.federated.engine import environment_of
from fairseq_kd.federated.packing import ARRAYS, LAYOUT, PACKED, unpack
from fairseq_kd.federated.plan import FILE, make_plan, read_plan
from fairseq_kd.federated.report import draw, table
from fairseq_kd.federated.rounds import complete_rounds, drawn, folder_of, run_rounds
from fairseq_kd.federated.run import prepare_run, write_federation
from fairseq_kd.federated.sent import check_sent
from fairseq_kd.federated.serving import find_clients, join_clients, result_of
from fairseq_kd.federated.spec import load_spec
from fairseq_kd.federated.start import write_start
from fairseq_kd.federated.strategies import STRATEGIES
from fairseq_kd.federated.training import continued, training_options
from fairseq_kd.federated.weights import shared_names, to_arrays, with_arrays
from fairseq_kd.inference.checkpoint import read_checkpoint

ALL = bool(os.environ.get("FAIRSEQ_KD_FAULTS"))  # `make faults`
GROUPS = (range(0, 200), range(200, 300), range(300, 400))
SIZES = {1: 200, 2: 100, 3: 100}


@pytest.fixture(scope="module")
def parts(data_bin, tmp_path_factory):
    return write_parts(data_bin, tmp_path_factory.mktemp("parts"), GROUPS)


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Messages can be made in this process, as in a process that Flower has started for a task."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="module")
def start(data_bin, parts, tmp_path_factory):
    """The folder of a round 0 with random weights."""
    here = tmp_path_factory.mktemp("start")
    keys = {"rounds": 1, "updates": 1, "evaluate": {"every": 0}}
    plan = make_plan(load_spec(write_spec(here / "spec.yaml", data_bin, parts, **keys)), here / "run", cpu=True)
    folder = folder_of(plan["out"], 0)
    write_record(folder / of_rounds.RECORD, write_start(plan, folder))
    return folder


@pytest.fixture
def planned(data_bin, parts, start, tmp_path):
    """planned(keys of the spec) -> a plan whose round 0 is complete, in a folder of its own."""

    def make(name="run", **keys):
        keys = {"rounds": 3, "updates": 5, "timeout": 0.3, "evaluate": {"every": 0}} | keys
        spec = load_spec(write_spec(tmp_path / "spec.yaml", data_bin, parts, **keys))
        plan = make_plan(spec, tmp_path / name, cpu=True)
        shutil.copytree(start, folder_of(plan["out"], 0))
        return plan

    return make


def moved(part, message, change=lambda part, name, value: value + part) -> Message:
    """A client that adds the number of its part to every weight, in place of a training."""
    arrays = {name: change(part, name, array.numpy()) for name, array in message.content[ARRAYS].items()}
    size = SIZES[part] * (10 if message.content[CONFIG]["weights-by"] == "tokens" else 1)
    numbers = {"num-examples": size, "sentences": SIZES[part], "updates": 5, "seconds": 1.0}
    record = ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})
    return Message(RecordDict({ARRAYS: record, METRICS: MetricRecord(numbers)}), reply_to=message)


def in_one_process(plan) -> None:
    """The start, all rounds with `moved` clients, and the result: final.pt and result.json."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        patch.setattr(serving, "find_clients", lambda grid, plan, lost: grid.nodes)
        folder = folder_of(plan["out"], 0)
        write_record(folder / of_rounds.RECORD, write_start(plan, folder))
        serving.serve_rounds(LocalGrid(3, moved), plan, set)


def rounds_of(plan, answer=moved):
    grid = LocalGrid(3, answer)
    return run_rounds(grid, plan, grid.nodes), grid


def model_of(plan, number: int) -> dict:
    return torch.load(folder_of(plan["out"], number) / "global.pt")["model"]


NAME = "encoder.layers.0.fc1.weight"


def test_the_global_model_is_the_mean_of_the_clients_weighted_by_their_sentences(planned):
    plan = planned()
    before = model_of(plan, 0)
    records, _ = rounds_of(plan)
    shift = (1 * 200 + 2 * 100 + 3 * 100) / 400
    first = planned("once", rounds=1)
    rounds_of(first)
    for name, value in model_of(first, 1).items():
        torch.testing.assert_close(value, before[name] + shift, rtol=0, atol=1e-6)
    assert [record["round"] for record in records] == [0, 1, 2, 3]
    after = model_of(plan, 3)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value + 3 * shift, rtol=0, atol=1e-5)
    state = torch.load(folder_of(plan["out"], 3) / "global.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 15
    assert not (folder_of(plan["out"], 0) / "global.pt").exists()  # keep-rounds is 2
    assert not (folder_of(plan["out"], 1) / "global.pt").exists() and folder_of(plan["out"], 2).joinpath("global.pt")


def test_bytes_are_those_of_all_arrays_and_tied_weights_are_sent_once(planned):
    plan = planned(rounds=1)
    (start, record), _ = rounds_of(plan)
    model = model_of(plan, 0)
    assert start["shared"] == {
        "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
        "decoder.output_projection.weight": "encoder.embed_tokens.weight",
    }
    values = sum(value.numel() for name, value in model.items() if name not in start["shared"])
    assert record["bytes_sent"] == record["bytes_received"] == 3 * (4 * values + 128)  # .npy has 128 bytes more
    assert record["updates"] == 15


@pytest.mark.parametrize("name", STRATEGIES if ALL else ("FedProx", "FedAdam", "Krum"))
def test_a_run_that_is_interrupted_ends_with_the_same_weights(planned, name):
    plan = planned(strategy={"name": name} | ({"server-momentum": 0.5} if name == "FedAvgM" else {}))
    rounds_of(plan)
    expected = model_of(plan, 3)
    other = planned("other", strategy=plan["spec"]["strategy"])
    dead = {"calls": 0}

    def dies(part, message):
        dead["calls"] += 1
        if dead["calls"] == 8:  # in round 3
            raise KeyboardInterrupt
        return moved(part, message)

    with pytest.raises(KeyboardInterrupt):
        rounds_of(other, dies)
    assert len(complete_rounds(other["out"])) == 3
    rounds_of(other)
    for key, value in model_of(other, 3).items():
        assert torch.equal(value, expected[key]), key


def test_momentum_worked_by_hand(planned):
    """Δ = mean - w, m = 0.5 m + (w - mean), w' = w - m: shifts 1.75, then 1.75 + 0.875, then 1.75 + 1.3125."""
    plan = planned(strategy={"name": "FedAvgM", "server-momentum": 0.5})
    before = model_of(plan, 0)[NAME]
    rounds_of(plan)
    torch.testing.assert_close(model_of(plan, 3)[NAME], before + 1.75 + 2.625 + 3.0625, rtol=0, atol=1e-5)


def test_fedprox_with_mu_0_is_fedavg_and_the_clients_get_mu(planned):
    plan = planned(rounds=1)
    rounds_of(plan)
    heard = []

    def listens(part, message):
        heard.append(message.content[CONFIG]["proximal-mu"])
        return moved(part, message)

    for mu in (0.0, 0.1):
        other = planned(f"mu{mu}", rounds=1, strategy={"name": "FedProx", "proximal-mu": mu})
        rounds_of(other, listens)
        assert torch.equal(model_of(other, 1)[NAME], model_of(plan, 1)[NAME])
    assert heard == [0.0] * 3 + [0.1] * 3


def test_the_draw_depends_on_seed_and_round_alone_and_last_rounds_are_sent(planned):
    assert drawn(1, 1, 10, 0.3) == drawn(1, 1, 10, 0.3) and len(drawn(1, 1, 10, 0.3)) == 3
    assert len({tuple(drawn(1, number, 10, 0.3)) for number in range(1, 9)}) > 4
    assert drawn(1, 5, 4, 1.0) == [1, 2, 3, 4] and len(drawn(1, 1, 4, 0.01)) == 1
    sent = {}

    def listens(part, message):
        config = message.content[CONFIG]
        sent[config["round"]] = list(config["last-rounds"])
        return moved(part, message)

    plan = planned(fraction=0.34, rounds=3)
    _, grid = rounds_of(plan, listens)
    assert grid.asked == [part for number in (1, 2, 3) for part in drawn(1, number, 3, 0.34)]
    last = [0, 0, 0]
    for number in (1, 2, 3):
        assert sent[number] == last
        for part in drawn(1, number, 3, 0.34):
            last[part - 1] = number


def crashed(part, message):
    from flwr.app import Error

    return Message(Error(code=3, reason="out of\nmemory"), reply_to=message)


def of_another_shape(part, message):
    return moved(part, message, lambda part, name, value: value[:-1] if name == NAME else value)


def with_nan(part, message):
    return moved(part, message, lambda part, name, value: value * math.nan if name == NAME else value)


def without_a_weight(part, message):
    reply = moved(part, message)
    del reply.content[ARRAYS][NAME]
    return reply


FAILURES = {
    "crashes": (crashed, "out of memory"),
    "hangs": (lambda part, message: None, "has not answered within 0.3 seconds"),
    "shape": (of_another_shape, f"{NAME} has the shape"),
    "nan": (with_nan, "not finite"),
    "lacks": (without_a_weight, f"lacks the weight {NAME}"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_client_that_fails_ends_the_run_or_is_left_out(planned, name, capsys):
    fails, reason = FAILURES[name]

    def answer(part, message):
        return fails(part, message) if part == 2 else moved(part, message)

    with pytest.raises(KDError, match=r"round 1: client 2 has failed: .*on-failure is stop"):
        rounds_of(planned(rounds=1), answer)
    plan = planned("on", rounds=1, **{"on-failure": "go-on", "min-clients": 2})
    before = model_of(plan, 0)[NAME]
    records, _ = rounds_of(plan, answer)
    assert reason in records[1]["failed"]["2"] and set(records[1]["clients"]) == {"1", "3"}
    shift = (1 * 200 + 3 * 100) / 300
    torch.testing.assert_close(model_of(plan, 1)[NAME], before + shift, rtol=0, atol=1e-5)
    with pytest.raises(KDError, match="only 2 of 3 clients have sent weights, and min-clients is 3"):
        rounds_of(planned("three", rounds=1, **{"on-failure": "go-on", "min-clients": 3}), answer)


def test_a_client_whose_process_has_ended_is_not_waited_for(planned):
    plan = planned(rounds=1, timeout=100, **{"on-failure": "go-on"})
    grid = LocalGrid(3, lambda part, message: moved(part, message) if part != 3 else None)
    records = run_rounds(grid, plan, grid.nodes, lambda: {3})
    assert records[1]["failed"] == {"3": "its process has ended"}


def test_the_target_is_reported_with_what_it_took_or_as_not_reached(planned, monkeypatch):
    monkeypatch.setattr(of_rounds, "score", lambda plan, number, checkpoint: 10.0 * number)
    plan = planned(target={"bleu": 15}, evaluate={"beam": 1})
    records, _ = rounds_of(plan)
    result = result_of(plan, records)
    each = records[1]["bytes_sent"] * 2
    assert result["target"]["reached"] | {"seconds": 0} == {"round": 2, "bytes": 2 * each, "updates": 30, "seconds": 0}
    assert "was reached in round 2" in table(result)[-1]
    plan = planned("stops", target={"bleu": 15}, evaluate={"beam": 1}, **{"stop-at-target": True})
    assert [record["round"] for record in rounds_of(plan)[0]] == [0, 1, 2]
    plan = planned("never", target={"bleu": 99}, evaluate={"beam": 1})
    result = result_of(plan, rounds_of(plan)[0])
    assert result["target"] == {"bleu": 99, "reached": None}
    assert table(result)[-1] == "target: BLEU 99.00 was not reached"
    scored = [record | {"bleu": float(record["round"])} for record in records]
    assert draw(scored, result["target"]) == draw(scored, result["target"])


def answered(dictionaries, part_of=lambda part: part):
    def answer(part, message):
        numbers = MetricRecord({"part": part_of(part), "sentences": 1, "tokens": 2})
        words = ConfigRecord({"languages": list(LANGUAGES), "dictionaries": dictionaries})
        return Message(RecordDict({METRICS: numbers, CONFIG: words}), reply_to=message)

    return answer


def test_clients_are_found_by_the_part_that_they_name(planned):
    plan = planned()
    good = plan["dictionaries"]
    assert find_clients(LocalGrid(3, answered(good, lambda part: 4 - part)), plan) == {1: 97, 2: 98, 3: 99}
    with pytest.raises(KDError, match="has other dictionaries than the server"):
        find_clients(LocalGrid(3, answered(["a", "b"])), plan)
    with pytest.raises(KDError, match="a client has the part 1: two clients have this number"):
        find_clients(LocalGrid(3, answered(good, lambda part: 1)), plan)
    with pytest.raises(KDError, match="the clients of part 3 do not answer: out of memory"):
        find_clients(LocalGrid(3, lambda part, m: crashed(part, m) if part == 3 else answered(good)(part, m)), plan)


def test_arrays_come_back_as_they_were_sent(tmp_path):
    tied = torch.randn(3, 2)
    model = {"a.b": tied, "c": tied, "half": torch.ones(2, dtype=torch.float16), "count": torch.tensor(3)}
    shared = shared_names(model)
    assert shared == {"c": "a.b"}
    arrays = to_arrays(model, shared)
    assert [*arrays] == ["a.b", "half"] and {value.dtype.name for value in arrays.values()} == {"float32"}
    save_arrays(tmp_path / "w.npz", arrays)
    new = with_arrays(model, {name: value + 1 for name, value in load_arrays(tmp_path / "w.npz").items()}, shared)
    assert new["c"] is new["a.b"] and torch.equal(new["a.b"], tied + 1)
    assert new["half"].dtype == torch.float16 and new["count"] == 3
    whole = (tmp_path / "w.npz").read_bytes()
    for damaged in (b"no", b"", whole[:100], whole[: len(whole) // 2], b"PK" + whole[200:]):
        (tmp_path / "w.npz").write_bytes(damaged)
        with pytest.raises(KDError, match="is damaged"):
            load_arrays(tmp_path / "w.npz")
    with pytest.raises(BadWeights, match="has the weight x, which the global model lacks"):
        check_arrays(arrays | {"x": np.zeros(1)}, arrays)


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000,), }".ljust(117)
    + b"\n"
)


@pytest.mark.parametrize("data", [b"", b"PK no archive", b"\x93NUMPY", HUGE])
def test_weights_that_cannot_be_read_are_those_of_one_client(data):
    array = Array("float32", (3,), "numpy.ndarray", data)
    content = RecordDict({ARRAYS: ArrayRecord({PACKED: array}), LAYOUT: ConfigRecord({PACKED: '[["w", [3]]]'})})
    with pytest.raises(BadWeights, match="its weights cannot be read"):
        unpack(content)


OPTIONS = {"arch": "transformer", "optimizer": "adam", "lr": 0.1, "encoder-layers": 2, "adam-betas": "(0.9, 0.98)"}


@pytest.mark.parametrize(
    "option",
    [
        {"user-dir": "/x"}, {"user-dir=/x": True}, {"teacher": "x"}, {"teacher-cache": "x"},
        {"encoder-embed-path": "x"}, {"lr": [0.1, "--user-dir", "/x"]}, {"adam-betas": "--user-dir"}, {"like": "x"},
        {"lr": {"a": 1}},
        {"tensorboard-logdir": "x"}, {"kd-start": "x"}, {"bpe": "sentencepiece"}, {"sentencepiece-model": "x"},
        {"arch": "kd_student", "like": "x"}, {"optimizer": "composite", "groups": "{}"}, {"max-update": 9},
        {"arch": "kd_mutual", "peers": "a.pt:b.pt", "trust-checkpoint": "a.pt"}, {"trust-checkpoint": "x"},
        {"arch": "s2t_transformer", "load-pretrained-encoder-from": "x"}, {"arch": "no_such_model"},
        {"arch": "fconv_self_att", "pretrained-checkpoint": "x"}, {"criterion": "kd_mutual"},
    ],
)  # fmt: skip
def test_a_client_takes_no_option_that_could_name_a_file_from_a_server(option):
    check_sent(OPTIONS | {"warmup-init-lr": -1, "lr-scheduler": "inverse_sqrt", "dropout": 0.1})
    with pytest.raises(KDError, match="the server of a federation sends"):
        check_sent(OPTIONS | option)


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_folder() / "quickstart").glob("*.yaml")))
def test_a_client_takes_the_options_of_every_recipe(name, tmp_path):
    check_sent(training_options(load_spec(None, {"recipe": name, "parts": 3, "rounds": 2, "updates": 5}).values))


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "adagrad", "weight-decay": 0.1}, {"max-sentences": 8},
        {"optimizer": "adafactor", "scale-parameter": True}, {"arch": "lstm", "encoder-bidirectional": True},
    ],
)  # fmt: skip
def test_a_client_takes_options_of_older_optimizers_and_models(options):
    check_sent(OPTIONS | {"adam-betas": "(0.9, 0.98)"} | options if "optimizer" not in options else
               {"arch": "transformer", "lr": 0.1} | options)  # fmt: skip


def test_clients_that_connect_later_and_those_that_begin_again_join_the_next_round(planned):
    plan = planned(rounds=2, **{"on-failure": "go-on", "min-clients": 1})
    grid = LocalGrid(3, answered(plan["dictionaries"]))
    everyone = dict(grid.nodes)
    assert join_clients(grid, plan, {1: everyone[1]}) == everyone
    assert join_clients(grid, plan, everyone | {2: 12345}) == everyone  # its SuperNode has a new number
    assert join_clients(grid, plan, everyone) is everyone
    grid = LocalGrid(3, moved)
    records = run_rounds(grid, plan, {1: everyone[1]}, join=lambda nodes: everyone)
    assert [sorted(record["clients"]) for record in records[1:]] == [["1"], ["1", "2", "3"]]


def test_an_app_for_a_federation_is_written_after_the_check_of_its_options(data_bin, tmp_path):
    keys = {"rounds": 1, "updates": 1, "data": str(data_bin), "evaluate": {"every": 0}}
    said = write_federation(load_spec(write_spec(tmp_path / "s.yaml", data_bin, 3, **keys)), tmp_path / "out", cpu=True)
    assert said.startswith(f"the app for 3 clients is in {tmp_path / 'out' / 'app'}: start SuperLink and SuperNodes")
    project = tomllib.loads((tmp_path / "out" / "app" / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["config"]["plan"] == str(tmp_path / "out" / FILE)
    assert [record["round"] for record in complete_rounds(tmp_path / "out")] == [0]
    keys |= {"student": TINY | {"empty-cache-freq": 5}}
    with pytest.raises(
        KDError, match="common or student: the server of a federation sends the option empty-cache-freq"
    ):
        write_federation(load_spec(write_spec(tmp_path / "s.yaml", data_bin, 3, **keys)), tmp_path / "no", cpu=True)
    assert not (tmp_path / "no").exists()


def test_a_client_describes_its_data_again_when_they_are_other_ones(parts, tmp_path, monkeypatch):
    data = shutil.copytree(parts[0], tmp_path / "part")
    calls = []

    def work(node, words, timeout):
        calls.append(words)
        write_record(words[2], {"sentences": len(calls)})

    monkeypatch.setattr(app, "_work", work)
    node = {"data": str(data), "folder": str(tmp_path / "client")}
    assert [app._about(node, 1)["sentences"] for _ in range(2)] == [1, 1]
    lines = (data / "dict.qab.txt").read_text().splitlines()
    (data / "dict.qab.txt").write_text("\n".join(lines[::-1]) + "\n")
    assert app._about(node, 1)["sentences"] == 2
    assert app._about(node | {"data": str(parts[1])}, 1)["sentences"] == 3


def test_a_run_that_has_failed_goes_on_with_other_options_for_failures(data_bin, parts, tmp_path):
    keys = {"rounds": 3, "updates": 5, "evaluate": {"every": 0}}
    how = {"on-failure": "go-on", "min-clients": 2, "timeout": 50, "keep-rounds": 1}
    for changes in ({}, how):
        spec = load_spec(write_spec(tmp_path / "spec.yaml", data_bin, parts, **keys | changes))
        prepare_run(spec, tmp_path / "out", cpu=True)
    assert {name: read_plan(tmp_path / "out" / FILE)["spec"][name] for name in how} == how
    with pytest.raises(KDError, match=r"was made with spec\.rounds 3, this command has 4"):
        prepare_run(load_spec(write_spec(tmp_path / "s.yaml", data_bin, parts, **keys | {"rounds": 4})),
                    tmp_path / "out", cpu=True)  # fmt: skip


def test_a_round_goes_on_without_a_client_that_is_not_connected(planned, monkeypatch):
    monkeypatch.setattr(serving, "SECONDS_TO_CONNECT", 0.1)
    how = {"rounds": 1, "on-failure": "go-on", "min-clients": 2}
    plan = planned(**how)
    there = LocalGrid(2, answered(plan["dictionaries"]))
    assert sorted(find_clients(there, plan)) == [1, 2]
    grid = LocalGrid(2, moved)
    records = run_rounds(grid, plan, grid.nodes)
    assert records[1]["failed"] == {"3": "its node is not connected"} and set(records[1]["clients"]) == {"1", "2"}
    for name, changes in (("stop", {"on-failure": "stop", "min-clients": 1}), ("three", {"min-clients": 3})):
        with pytest.raises(KDError, match="only 2 of 3 clients have connected"):
            find_clients(there, planned(name, **how | changes))


def test_after_a_loss_the_others_are_not_waited_for_as_long(planned, monkeypatch):
    monkeypatch.setattr(serving, "SECONDS_TO_CONNECT", 1000)
    monkeypatch.setattr(serving, "SECONDS_AFTER_A_LOSS", 0.1)
    plan = planned(**{"on-failure": "go-on", "min-clients": 2})
    there = LocalGrid(2, answered(plan["dictionaries"]))
    assert sorted(find_clients(there, plan, lambda: {3})) == [1, 2]
    with pytest.raises(KDError, match="only 2 of 3 clients have connected"):
        find_clients(there, planned("stop"), lambda: {3})


def test_a_reply_may_come_as_late_as_the_timeout(planned):
    sent = []

    def answer(part, message):
        sent.append(message.metadata.ttl)
        return moved(part, message)

    plan = planned(rounds=1, timeout=100_000.0)
    rounds_of(plan, answer)
    assert sent == [100_600.0] * 3


def test_a_target_of_another_evaluation_is_refused(data_bin, parts, tmp_path, monkeypatch):
    result = {"tokenize": "13a", "references": read_segments(data_bin, "test").references, "bleu": {"score": 40.0}}
    result |= {"decoding": {"beam": 5, "lenpen": 1.0, "max_len_a": 0.0, "max_len_b": 200}}
    target = {"target": {"share": 0.5, "of": "result.json"}, "evaluate": {"subset": "test"}}
    spec = load_spec(write_spec(tmp_path / "spec.yaml", data_bin, parts, rounds=1, updates=1, **target))
    for changes, message in (
        ({}, None),
        ({"tokenize": "char"}, "was scored with the tokeniser char, the rounds have 13a"),
        ({"decoding": result["decoding"] | {"beam": 4}}, "was scored with beam 4, the rounds have 5"),
        ({"references": ["a"]}, "was scored with other references than those of 'test' in"),
    ):
        monkeypatch.setattr(of_plan, "read_result", lambda path, changes=changes: result | changes)
        if message is None:
            assert make_plan(spec, tmp_path / "out", cpu=True)["goal"] == 20.0
        else:
            with pytest.raises(KDError, match=message):
                make_plan(spec, tmp_path / "out", cpu=True)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"round": 3}, "unknown key 'round' in the spec; the nearest valid one is 'rounds'"),
        ({"rounds": 0}, "rounds must be a whole number from 1"),
        ({"fraction": 0}, "fraction must be a number above 0"),
        ({"optimizer": "drop"}, "optimizer has the value 'drop'; it must be keep or reset"),
        ({"strategy": {"name": "FedAverage"}}, "the nearest valid one is 'FedAvg'"),
        ({"strategy": {"name": "FedAvg", "proximal-mu": 1}}, "unknown key 'proximal-mu'"),
        ({"strategy": {"name": "FedProx", "proximal-mu": -1}}, "proximal-mu of strategy FedProx must be a number"),
        ({"strategy": {"name": "FedMedian"}, "weights-by": "tokens"}, "weights-by has no effect"),
        ({"student": TINY | {"max-update": 3}}, "max-update in student cannot be given"),
        ({"student": TINY | {"encoder-layer": 3}}, "unknown key 'encoder-layer'"),
        ({"target": {"bleu": 3}, "evaluate": {"every": 0}}, "target needs the BLEU of the rounds"),
        ({"stop-at-target": True}, "stop-at-target has no effect without target"),
        ({"min-clients": 4, "on-failure": "go-on"}, "min-clients is 4, but each round draws 3 of 3"),
        ({"min-clients": 2}, "min-clients has no effect with on-failure stop"),
        ({"timeout": 0}, "timeout must be a number of seconds"),
        ({"server-kd": {"updates": 2}}, "server-kd lacks 'transfer'"),
        ({"server-kd": {"updates": 2, "transfer": "x", "teacher": "t"}}, "the teachers are the models of the clients"),
        ({"parts": True}, "parts must be a folder"),
        ({"data": None, "parts": -3}, "parts must be a folder"),
        ({"target": {"share": 5, "of": "x.json"}}, "share in target must be at most 1"),
        ({"strategy": {"name": "Krum", "num-malicious-nodes": 1.5}}, "must be a whole number of clients, found 1.5"),
        ({"strategy": {"name": "Krum", "num-malicious-nodes": 3}}, "is 3, but each round draws 3 of 3 clients"),
        (
            {"student": TINY | {"lr-scheduler": "reduce_lr_on_plateau"}},
            "may depend on epochs, which each client counts",
        ),
        ({"student": TINY | {"force-anneal": 3}}, "force-anneal sets the learning rate by epochs"),
        ({"student": TINY | {"lr": "0.1,0.2"}}, "lr 0.1,0.2 sets the learning rate by epochs"),
        ({"data": None, "parts": 3}, "so data must name a data-bin"),
        ({"start": "nothing.pt"}, "nothing.pt is not there"),
    ],
)
def test_a_spec_that_cannot_be_run_is_refused(data_bin, parts, tmp_path, keys, message):
    keys = {"rounds": 1, "updates": 1} | keys
    path = write_spec(tmp_path / "spec.yaml", data_bin, keys.pop("parts", parts), **keys)
    with pytest.raises(KDError, match=message):
        make_plan(load_spec(path), tmp_path / "out", cpu=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "nowhere is not a folder: give a data-bin"),
        ("text.txt", "text.txt is not a folder: give a data-bin"),
        ("empty", "empty has no subset 'train' for qaa-qab"),
    ],
)
def test_a_transfer_set_that_is_no_data_bin_is_refused(data_bin, parts, tmp_path, name, reason):
    (tmp_path / "text.txt").write_text("wu na kilo\n")
    (tmp_path / "empty").mkdir()
    keys = {"rounds": 1, "updates": 1, "server-kd": {"updates": 2, "transfer": str(tmp_path / name)}}
    path = write_spec(tmp_path / "spec.yaml", data_bin, parts, **keys)
    with pytest.raises(KDError, match=f"transfer in server-kd: .*{reason}"):
        make_plan(load_spec(path), tmp_path / "out", cpu=True)
    assert not (tmp_path / "out").exists()


def test_a_changed_transfer_set_is_another_run(data_bin, parts, tmp_path):
    """So the same command does not go on with it: run.json holds the inputs."""
    transfer = shutil.copytree(parts[1], tmp_path / "transfer")
    (transfer / "manifest.json").unlink(missing_ok=True)
    keys = {"rounds": 1, "updates": 1, "server-kd": {"updates": 2, "transfer": str(transfer)}}
    spec = write_spec(tmp_path / "spec.yaml", data_bin, parts, **keys)
    before = make_plan(load_spec(spec), tmp_path / "out", cpu=True)["inputs"]
    for path in [*transfer.glob("train.*.bin"), *transfer.glob("train.*.idx")]:
        path.unlink()
        shutil.copy(parts[0] / path.name, path)
    after = make_plan(load_spec(spec), tmp_path / "out", cpu=True)["inputs"]
    assert [name for name in before if before[name] != after[name]] == ["transfer"]


def test_optimizer_kept_or_reset_and_late_clients_go_on_with_the_schedule(planned, start):
    """A client that was not drawn before has the weights of the round, and no state of the optimizer."""
    state = read_checkpoint(start / "global.pt")
    state["last_optimizer_state"] = {"state": {0: "moments"}, "param_groups": ["group"]}
    new = continued(state, {"w": 1}, 30, keep=True)
    assert new["model"] == {"w": 1} and new["optimizer_history"][-1]["num_updates"] == 30
    assert new["last_optimizer_state"] == state["last_optimizer_state"]
    assert continued(state, {}, 30, keep=False)["last_optimizer_state"] == {"state": {}, "param_groups": ["group"]}


def test_parts_with_different_dictionaries_are_refused(data_bin, parts, tmp_path):
    other = shutil.copytree(parts[1], tmp_path / "part2")
    lines = (other / "dict.qab.txt").read_text().splitlines()
    lines[3], lines[4] = lines[4], lines[3]
    (other / "dict.qab.txt").write_text("\n".join(lines) + "\n")
    differ = r"the target dictionaries of .* and .*part2 differ: .* at index 7"
    path = write_spec(tmp_path / "spec.yaml", data_bin, [parts[0], other], rounds=1, updates=1)
    with pytest.raises(KDError, match=differ):
        make_plan(load_spec(path), tmp_path / "out", cpu=True)
    keys = {"rounds": 1, "updates": 1, "server-kd": {"updates": 2, "transfer": str(other)}}
    with pytest.raises(KDError, match=f"transfer in server-kd: {differ}"):
        make_plan(load_spec(write_spec(tmp_path / "spec.yaml", data_bin, parts, **keys)), tmp_path / "out", cpu=True)


def test_keys_on_the_command_line_replace_those_of_the_spec(data_bin, parts, tmp_path):
    path = write_spec(tmp_path / "spec.yaml", data_bin, parts, rounds=1, updates=1)
    spec = load_spec(path, {"rounds": 7, "student": {"lr": 0.5}, "strategy": {"name": "FedYogi", "eta": 0.2}})
    assert spec["rounds"] == 7 and spec["student"]["lr"] == 0.5 and spec["student"]["arch"] == "transformer"
    assert spec["strategy"] == {"name": "FedYogi", "eta": 0.2}


def test_a_checkpoint_is_the_start_unless_it_is_another_model(planned, start, tmp_path):
    state = torch.load(start / "global.pt")
    state["model"][NAME] = state["model"][NAME] + 1
    torch.save(state, tmp_path / "start.pt")
    plan = planned(start=str(tmp_path / "start.pt"))
    record = write_start(plan, folder_of(plan["out"], 0))
    assert torch.equal(model_of(plan, 0)[NAME], state["model"][NAME]) and record["bleu"] is None
    state["model"][NAME] = torch.zeros(7)
    torch.save(state, tmp_path / "start.pt")
    with pytest.raises(KDError, match=rf"start.pt is another model than that of the spec: {NAME} has the shape \(7,\)"):
        write_start(plan, folder_of(plan["out"], 0))


def test_the_record_of_a_round_is_written_last(planned):
    plan = planned(rounds=1)
    records, _ = rounds_of(plan)
    assert read_record(folder_of(plan["out"], 1) / "round.json", "") == records[1]


def test_the_last_global_model_is_in_a_fixed_place(planned):
    plan = planned(rounds=2)
    in_one_process(plan)
    final = folder_of(plan["out"], 2).parents[1] / "final.pt"
    assert final.read_bytes() == (folder_of(plan["out"], 2) / "global.pt").read_bytes()
    assert read_record(final.with_name("result.json"), "")["rounds"][-1]["round"] == 2


def test_the_processes_of_an_engine_do_not_ask_the_server_of_a_study(monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRSEQ_KD_PRELOADED", "the server of a study")
    assert "FAIRSEQ_KD_PRELOADED" not in environment_of(tmp_path)
