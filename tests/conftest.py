"""Fixtures: a small data-bin, a small trained teacher, and fairseq commands run as a user runs them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from process_helpers import run_python

os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny: threads would only wait for each other
ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fairseq_kd"
TINY_MODEL = [
    *("--arch", "transformer", "--encoder-layers", "1", "--decoder-layers", "1"),
    *("--encoder-embed-dim", "16", "--decoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32"),
    *("--decoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2", "--decoder-attention-heads", "2"),
    *("--share-all-embeddings", "--optimizer", "adam", "--lr", "0.01", "--max-tokens", "400", "--cpu"),
    *("--num-workers", "0", "--log-format", "json", "--log-interval", "1", "--seed", "1"),
    *("--required-batch-size-multiple", "1", "--no-epoch-checkpoints"),
]


def run_fairseq(command: str, *arguments, user_dir=PACKAGE, cwd=None) -> subprocess.CompletedProcess:
    """Run fairseq-`command` in a process of its own; user_dir None leaves the option out."""
    words = [*arguments, *([] if user_dir is None else ["--user-dir", user_dir])]
    return run_python("-m", f"fairseq_cli.{command}", *words, cwd=cwd)


def assert_user_error(result, *fragments: str) -> None:
    """The exit status is 2; standard error has one line of ours, which holds `fragments`, and no traceback."""
    assert result.returncode == 2, result.stdout[-2000:] + result.stderr[-2000:]
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("fairseq_kd: error:")]
    assert len(lines) == 1, result.stderr
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.fixture(scope="session", autouse=True)
def cache_folder_of_its_own(tmp_path_factory):
    """Keep converted teachers of tests out of the user's cache folder."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def allow_checkpoint_types():
    """Let tests call torch.load themselves. Not at import: spawned processes import this file before fairseq."""
    import fairseq_kd.inference.checkpoint  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def options_are_converted_soon(allow_checkpoint_types):
    """Do not let Hydra compose the same configuration for each model that a test builds: 0.1 s instead of 0.5 s."""
    import hydra_helpers

    hydra_helpers.keep()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of aligned text: train, valid and test of the synthetic languages."""
    from fairseq_kd.corpus.synthetic import CorpusSpec, write_corpus

    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(CorpusSpec(pairs=400, valid=30, test=30), folder)
    return folder


@pytest.fixture(scope="session")
def data_bin(corpus, tmp_path_factory):
    """A data-bin made by `fairseq-kd prepare`."""
    from fairseq_kd.corpus.entry import text_files
    from fairseq_kd.corpus.prepare import prepare
    from fairseq_kd.corpus.prepare_options import PrepareOptions

    out = tmp_path_factory.mktemp("data") / "tiny.qaa-qab"
    files = text_files(corpus, "qaa", "qab")
    prepare("text", files, "qaa", "qab", out, PrepareOptions(vocab_size=120), say=lambda line: None)
    return out


@pytest.fixture(scope="session")
def teacher(data_bin, tmp_path_factory):
    """A checkpoint of stock fairseq-train with dropout, trained without the plugin."""
    folder = tmp_path_factory.mktemp("teacher")
    result = run_fairseq(
        "train",
        data_bin,
        *TINY_MODEL,
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--dropout", "0.1"),
        *("--max-update", "40", "--save-dir", folder),
        user_dir=None,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / "checkpoint_last.pt"


def skip_without_pretrained() -> None:
    """Skip where a package is missing that makes or converts a model of transformers."""
    for name in ("ctranslate2", "tokenizers", "transformers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'fairseq_kd[dev]'")


@pytest.fixture(scope="session")
def marian(corpus, tmp_path_factory):
    """A folder with a model of the shape of OPUS-MT, see `pretrained_helpers`."""
    skip_without_pretrained()
    from pretrained_helpers import make_marian

    return make_marian(corpus, tmp_path_factory.mktemp("marian"))


@pytest.fixture(scope="session")
def nllb(corpus, tmp_path_factory):
    """A folder with a model of the shape of NLLB, see `pretrained_helpers`."""
    skip_without_pretrained()
    from pretrained_helpers import make_nllb

    return make_nllb(corpus, tmp_path_factory.mktemp("nllb"))


@pytest.fixture(scope="session")
def distilled(data_bin, tmp_path_factory):
    """A data-bin with the sources of `data_bin` and other targets, for --distilled."""
    from distilled_helpers import make_distilled

    return make_distilled(data_bin, tmp_path_factory.mktemp("distilled") / "data-bin")


@pytest.fixture(scope="session")
def server():
    """Runs commands in children of a process that has loaded the libraries: tests/faults."""
    from faults_helpers import Server

    found = Server()
    yield found
    found.close()


@pytest.fixture(scope="session")
def fault_inputs(tmp_path_factory):
    """Small artefacts for tests/faults, shared by all: nobody changes them."""
    from faults_helpers import unpack

    return unpack(tmp_path_factory.mktemp("faults") / "inputs")


@pytest.fixture(scope="session")
def undisturbed(server, fault_inputs, tmp_path_factory):
    """Name of a command -> (the files that it makes, the number of events), run once."""
    from faults_helpers import command, content

    known = {}

    def run(name):
        if name not in known:
            here = tmp_path_factory.mktemp("undisturbed") / "here"
            here.mkdir()
            answer = server.run(command(name, fault_inputs, here), here)
            assert answer.status == 0, answer.text
            known[name] = content(here), answer.events
        return known[name]

    return run


OURS = ("FAIRSEQ_KD_", "XDG_", "CUDA_VISIBLE_DEVICES", "TORCH_FORCE_", "SACREBLEU_", "LOCAL_RANK", "RANK", "WORLD_SIZE")


def state_of_the_process() -> dict:
    """State that a test, or our code that it calls, can change for all later tests in its process."""
    torch = sys.modules.get("torch")
    return {
        "working directory": os.getcwd(),
        "sys.argv": sys.argv[:],
        "environment": {name: value for name, value in os.environ.items() if name.startswith(OURS)},
        "gradients of torch": torch is None or torch.is_grad_enabled(),
        "default type of torch": None if torch is None else str(torch.get_default_dtype()),
    }


def put_back(state: dict) -> None:
    """Set the process to what `state_of_the_process` found."""
    os.chdir(state["working directory"])
    sys.argv[:] = state["sys.argv"]
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    os.environ.update(state["environment"])
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_grad_enabled(state["gradients of torch"])
        torch.set_default_dtype(getattr(torch, (state["default type of torch"] or "torch.float32").split(".")[1]))


LONG_UNIT_FILES = ("test_hostile_checkpoints", "test_select_teacher", "test_decode", "test_mutual", "test_fused")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the long files first, after the order was made random, so that no process waits for the last file."""
    items.sort(key=lambda item: "integration" not in item.path.parts and item.path.stem not in LONG_UNIT_FILES)


@pytest.fixture(autouse=True)
def nothing_left_behind(cache_folder_of_its_own):
    """Fail a test that leaves the process changed: other tests would fail in some order of tests."""
    before = state_of_the_process()
    yield
    after = state_of_the_process()
    if before["default type of torch"] is None:  # imported by this test
        before["default type of torch"] = after["default type of torch"] and "torch.float32"
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    put_back(before)
    assert not changed, f"left behind (before, after): {changed}"
