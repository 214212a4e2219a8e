"""Nothing that a checkpoint says is run, hangs, or takes much memory: not by our commands, not by stock ones."""

import argparse
import ast
import codecs
import os
import sys
import time
import zipfile
from functools import cache
from pathlib import Path

import fairseq
import pytest
import torch
from conftest import TINY_MODEL, assert_user_error, run_fairseq
from hostile_helpers import CALLS, OPTIONS, values, write_hostile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.inference.frozen import load_frozen

SLOW = os.environ.get("FAIRSEQ_KD_SLOW") == "1"
SECONDS = 5  # processor time for one file
CASES = st.sampled_from([(arch, option) for arch, options in OPTIONS.items() for option in options])
loaded = cache(torch.load)


def fuzz(examples: int):
    """Settings of a test that writes `examples` hostile checkpoints."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks, derandomize=True, database=None)


def check_refused(data, teacher, folder: Path, open_it) -> None:
    """Write one hostile checkpoint and hold that `open_it(path)` refuses it soon and runs nothing."""
    arch, option = data.draw(CASES)
    marker, path = folder / "ran", folder / "hostile.pt"
    write_hostile(loaded(teacher), path, arch, option, data.draw(values(marker)))
    began = time.process_time()
    open_it(path)
    assert time.process_time() - began < SECONDS
    assert not marker.exists()


@given(data=st.data())
@fuzz(10_000 if SLOW else 100)
def test_the_loader_refuses_every_hostile_option(data, teacher, data_bin, tmp_path):
    def open_it(path):
        with pytest.raises(KDError):
            load_frozen(path, data=data_bin)

    check_refused(data, teacher, tmp_path, open_it)


@pytest.fixture(scope="module")
def teacher_cache(teacher, data_bin, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached") / "cache"
    words = ["cache", data_bin, "--teacher", teacher, "--out", folder, "--subset", "valid", "--top-k", "4", "--cpu"]
    assert main([*map(str, words)]) == 0
    return folder


def commands(data_bin, folder, teacher="", cached="") -> dict:
    """name -> words of a command that opens the checkpoint {path}."""
    out = folder / "out"
    by = ("--by", "low-loss", "--out", out, "--cpu")
    beside = ("--checkpoint", teacher, "--max-len-b", "3", "--beam", "1", "--cpu")
    return {
        "evaluate": ["evaluate", data_bin, "--checkpoint", "{path}", "--cpu"],
        "evaluate beside a teacher": ["evaluate", data_bin, *beside, "--teacher", "{path}"],
        "verify-cache": ["verify-cache", cached, "--teacher", "{path}", "--data-bin", data_bin, "--cpu"],
        "cache": ["cache", data_bin, "--teacher", "{path}", "--out", out, "--cpu"],
        "decode": ["decode", data_bin, "--teacher", "{path}", "--out", out, "--cpu", "--teacher-data", data_bin],
        "decode by CTranslate2": ["decode", data_bin, "--teacher", "{path}", "--out", out, "--backend", "ctranslate2"],
        "init-student": ["init-student", "--teacher", "{path}", "--arch", "kd_student_3m", "--out", out / "x.pt"],
        "select-teacher": ["select-teacher", data_bin, "--checkpoints", "{folder}", *by],
        "split": ["split", "{path}", "--out", out],
        "compact": ["compact", "{path}", "--out", out / "x.pt"],
        "export": ["export", "{path}", "--out", out, "--data", data_bin, "--to", "ctranslate2"],
    }


@pytest.mark.parametrize("name", sorted(commands(".", Path())))
@given(data=st.data())
@fuzz(50 if SLOW else 5)
def test_every_command_refuses_every_hostile_option(name, data, teacher, data_bin, teacher_cache, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir(exist_ok=True)

    def open_it(path):
        path = path.rename(tmp_path / "checkpoints" / "checkpoint1.pt")
        words = commands(data_bin, tmp_path, teacher, teacher_cache)[name]
        words = [str(word).format(path=path, folder=path.parent) for word in words]
        assert main(words) == 2
        assert str(path) in capsys.readouterr().err

    check_refused(data, teacher, tmp_path, open_it)


@pytest.mark.parametrize("kind", [str, str.encode])
def test_stock_generate_with_the_plugin_runs_nothing(kind, teacher, data_bin, tmp_path):
    path = tmp_path / "hostile.pt"
    value = kind(CALLS[0].format(marker=str(tmp_path / "ran")))
    write_hostile(loaded(teacher), path, "transformer", "xformers_att_config", value)
    result = run_fairseq("generate", data_bin, "--path", path, "--cpu", "--results-path", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    if kind is str:
        assert_user_error(result, "only literals are evaluated")
    else:  # fairseq takes this option as it is where it is not text
        assert result.returncode != 0


def test_a_training_with_a_hostile_teacher_runs_nothing(teacher, data_bin, tmp_path):
    path = tmp_path / "hostile.pt"
    value = CALLS[2].format(marker=tmp_path / "ran")
    write_hostile(loaded(teacher), path, "transformer", "adaptive_softmax_cutoff", value)
    words = ["--criterion", "kd_word", "--teacher", path, "--max-update", "1", "--save-dir", tmp_path / "out"]
    assert_user_error(run_fairseq("train", data_bin, *TINY_MODEL, *words), str(path), "only literals are evaluated")
    assert not (tmp_path / "ran").exists()


def test_every_module_of_fairseq_that_evaluates_is_confined():
    import fairseq_kd.core.literals

    root = Path(fairseq.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        if ".examples." in name or "eval(" not in (text := path.read_text(encoding="utf-8")):
            continue
        if any(isinstance(node, ast.Name) and node.id == "eval" for node in ast.walk(ast.parse(text))):
            found.add(name)
    assert {"fairseq.utils", "fairseq.models.fconv", "fairseq.optim.adam"} <= found
    for name in found:
        assert vars(sys.modules[name])["eval"] is fairseq_kd.core.literals.evaluate, name


def test_python_has_its_own_eval():
    assert eval("abs(-1)") == 1


HONEST = {
    "parentheses": lambda cfg, folder: cfg["checkpoint"].update(save_dir=str(folder / "runs/exp(2)")),
    "parentheses in the data": lambda cfg, folder: cfg["task"].update(data=str(folder / "iwslt (1)")),
    "a call": lambda cfg, folder: cfg["common"].update(tensorboard_logdir="log(x)"),
    "large numbers": lambda cfg, folder: cfg["model"].__dict__.update(min_params_to_wrap=10**8),
    "embeddings that are gone": lambda cfg, folder: setattr(cfg["model"], "encoder_embed_path", str(folder / "gone")),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_options_are_not_judged_by_how_they_look(name, teacher, data_bin, tmp_path):
    state, path = torch.load(teacher), tmp_path / "honest.pt"
    HONEST[name](state["cfg"], tmp_path)
    torch.save(state, path)
    load_frozen(path, data=data_bin)


def large(**options):
    """A change of the options of the model."""
    return lambda state: vars(state["cfg"]["model"]).update(options)


def laughs(state):
    """Few objects that are many when each is counted where it appears."""
    value = ["lol"] * 10
    for _ in range(12):
        value = [value] * 10
    state["cfg"]["task"]["data"] = value


def cycle(state):
    value = []
    value.append(value)
    state["cfg"]["task"]["data"] = value


def deep(state):
    value = []
    for _ in range(100):
        value = [value]
    state["cfg"]["task"]["data"] = value


def expanded(state):
    state["model"]["decoder.embed_tokens.weight"] = torch.zeros(1).expand(10**9, 10**9)


def doubled(times: int):
    value = (1,)
    for _ in range(times):
        value = (value, value)
    return Unhashed(value)


class Unhashed:
    """Pickled as the value, which would take for ever to be hashed here already."""

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        return tuple, (self.value,)


class Encoded:
    def __init__(self, text, codec):
        self.reduced = (codecs.encode, (text, codec))

    def __reduce__(self):
        return self.reduced


def many_names(state):
    one = torch.zeros(2**18)
    state["model"] |= {f"name{number}": one for number in range(4000)}
    vars(state["cfg"]["model"]).update(encoder_ffn_embed_dim=9 * 10**6)


def nested(size: int):
    return argparse.Namespace(**{f"n{n}": argparse.Namespace(**{f"m{m}": m for m in range(size)}) for n in range(size)})


def old_layout(state, **options):
    state.update(args=argparse.Namespace(**vars(state["cfg"]["model"]) | options), cfg=None)


BOMBS = {
    "many layers": large(encoder_layers=10**9),
    "wide layers": large(encoder_ffn_embed_dim=10**9),
    "wide embeddings": large(encoder_embed_dim=2 * 10**8, decoder_embed_dim=2 * 10**8, encoder_attention_heads=1),
    "many positions": large(max_source_positions=10**12),
    "many learned positions": large(max_source_positions=10**10, encoder_learned_pos=True),
    "many tails": large(adaptive_softmax_cutoff="[1] * 9000"),
    "large tails": large(adaptive_softmax_cutoff="[10, 1000000000000]"),
    "laughs": laughs,
    "cycle": cycle,
    "deep": deep,
    "expanded": expanded,
    "long text": lambda state: state["cfg"]["task"].update(data="x" * 10**6),
    "bytearray": lambda state: state.update(more=bytearray(5)),
    "walked when hashed": lambda state: state.update(more={doubled(60): 1}),
    "walked when hashed, in a list": lambda state: state.update(more=[doubled(60)]),
    "a slow codec": lambda state: state.update(more=Encoded("x" * 24_000, "punycode")),
    "a list for each layer": lambda state: vars(state["cfg"]["model"]).update(
        arch="lightconv", encoder_kernel_size_list=[3], encoder_layers=3 * 10**8
    ),
    "words of a task": lambda state: state["cfg"]["task"].update(task="dummy_mt", dict_size=10**9),
    "many names of one tensor": many_names,
    "options of options": lambda state: old_layout(state, dataset=nested(30), checkpoint=nested(30), common=nested(30)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_claim_much(name, teacher, data_bin, tmp_path):
    state, path = torch.load(teacher), tmp_path / "bomb.pt"
    BOMBS[name](state)
    torch.save(state, path)
    began = time.process_time()
    with pytest.raises(KDError, match=r"bomb\.pt"):
        load_frozen(path, data=data_bin)
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("level", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_compressed_records_are_refused(level, teacher, data_bin, tmp_path):
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(teacher) as source, zipfile.ZipFile(path, "w", level) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    if level == zipfile.ZIP_STORED:
        assert len(read_checkpoint(path)["model"]) == len(loaded(teacher)["model"])
    else:
        with pytest.raises(KDError, match=r"packed\.pt holds compressed records"):
            read_checkpoint(path)


def test_weights_that_say_they_are_larger_than_their_record_are_refused(teacher, tmp_path):
    path = tmp_path / "lie.pt"
    with zipfile.ZipFile(teacher) as source, zipfile.ZipFile(path, "w") as target:
        for record in source.infolist():
            data = source.read(record)
            target.writestr(record.filename, data[: len(data) // 2] if "/data/" in record.filename else data)
    with pytest.raises(KDError, match=r"lie\.pt"):
        read_checkpoint(path)


def with_secret(teacher, path):
    state = torch.load(teacher)
    state["cfg"]["checkpoint"]["save_dir"] = "${oc.env:FAIRSEQ_KD_SECRET}"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("trust", [False, True])
def test_nothing_of_the_environment_enters_a_student(trust, teacher, data_bin, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIRSEQ_KD_SECRET", "the-secret")
    path, out = with_secret(teacher, tmp_path / "curious.pt"), tmp_path / "out.pt"
    words = ["init-student", "--teacher", path, "--arch", "transformer", "--encoder-embed-dim", "16", "--out", out]
    words += ["--encoder-layers", "1", "--decoder-layers", "1", "--decoder-embed-dim", "16", "--data", data_bin]
    words += ["--encoder-attention-heads", "2", "--decoder-attention-heads", "2", "--share-all-embeddings"]
    words += ["--encoder-ffn-embed-dim", "32", "--decoder-ffn-embed-dim", "32"]
    status = main([*map(str, words), *(["--trust-checkpoint", str(path)] if trust else [])])
    assert not out.exists() or b"the-secret" not in out.read_bytes()
    said = capsys.readouterr()
    assert "the-secret" not in said.err + said.out
    if trust:
        assert status == 0 and torch.load(out)["cfg"]["checkpoint"]["save_dir"] == "${oc.env:FAIRSEQ_KD_SECRET}"
    else:
        assert status == 2 and "cfg.checkpoint.save_dir" in said.err


def test_nothing_of_the_environment_enters_an_average(teacher, tmp_path, monkeypatch):
    from fairseq_kd.artifacts.hashes import sha256_file
    from fairseq_kd.evaluation.average import write_average

    monkeypatch.setenv("FAIRSEQ_KD_SECRET", "the-secret")
    paths, out = [with_secret(teacher, tmp_path / f"checkpoint{n}.pt") for n in (1, 2)], tmp_path / "average.pt"
    with pytest.raises(KDError, match=r"checkpoint1\.pt.*environment"):
        write_average({path: sha256_file(path) for path in paths}, out)
    assert not out.exists()


def test_nothing_of_the_environment_enters_a_compact_student(teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAIRSEQ_KD_SECRET", "the-secret")
    path = with_secret(teacher, tmp_path / "curious.pt")
    assert main(["compact", str(path), "--out", str(tmp_path / "out.pt")]) == 2
    assert "environment" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"encoder_attention_heads": 0}, {"activation_fn": []}, {"encoder_layers": None}])
def test_an_error_of_any_class_while_building_is_one_clear_error(options, teacher, data_bin, tmp_path):
    state, path = torch.load(teacher), tmp_path / "odd.pt"
    vars(state["cfg"]["model"]).update(options)
    torch.save(state, path)
    with pytest.raises(KDError, match=r"odd\.pt .*cannot be built"):
        load_frozen(path, data=data_bin)


DISGUISED = r"['\x24{oc.env:FAIRSEQ_KD_SECRET}']"  # text that fairseq reads as a list of another text


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": "model", "log_keys": DISGUISED},
        {"log_interval": DISGUISED[1:-1]},
        {"bpe": "../../../../tmp/anything"},
        {"bpe": "{a: 1}"},
        {"tokenizer": ["a b"]},
    ],
)
def test_text_of_the_old_layout_means_what_it_says(options, teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRSEQ_KD_SECRET", "the-secret")
    state, path = torch.load(teacher), tmp_path / "old.pt"
    old_layout(state, **options)
    torch.save(state, path)
    with pytest.raises(KDError, match=r"old\.pt has ") as raised:
        read_checkpoint(path)
    assert "the-secret" not in str(raised.value)


def test_a_checkpoint_makes_no_other_file_be_read(teacher, data_bin, tmp_path):
    state, path = torch.load(teacher), tmp_path / "curious.pt"
    names = {"arch": "fconv_self_att", "_name": "fconv_self_att"}
    options = {"pretrained": "True", "pretrained_checkpoint": str(teacher), "encoder_layers": "[(16, 3)]"}
    options |= {"decoder_layers": "[(16, 3)]", "encoder_attention": "True", "self_attention": "True"}
    state["cfg"]["model"] = argparse.Namespace(**vars(state["cfg"]["model"]) | names | options)
    torch.save(state, path)
    with pytest.raises(KDError, match="another checkpoint"):
        load_frozen(path, data=data_bin)


@pytest.mark.parametrize("change", ["capitals", "twice", "archive behind a pickle", "comment", "in front"])
def test_files_that_can_be_read_in_two_ways_are_refused(change, teacher, tmp_path):
    path = tmp_path / "two.pt"
    with zipfile.ZipFile(teacher) as source, zipfile.ZipFile(path, "w") as target:
        for record in source.infolist():
            name = record.filename
            data = source.read(record)
            if name.endswith("data.pkl") and change == "twice":
                target.writestr(name.upper(), data)
            if name.endswith("data.pkl") and change == "capitals":
                name, data = name.replace("data.pkl", "data.PKL"), data.replace(b"argparse", b"argparze")
            target.writestr(name, data)
        target.comment = b"comment" if change == "comment" else b""
    if change == "archive behind a pickle":
        torch.save(loaded(teacher), path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes() + b"PK\5\6" + bytes(18))
    if change == "in front":
        path.write_bytes(path.read_bytes()[:30] + path.read_bytes())
    with pytest.raises(KDError, match=r"two\.pt "):
        read_checkpoint(path)


def test_honest_pickles_of_both_formats_are_read(teacher, tmp_path):
    path = tmp_path / "old-format.pt"
    torch.save(loaded(teacher), path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(path)["model"].keys() == read_checkpoint(teacher)["model"].keys()
