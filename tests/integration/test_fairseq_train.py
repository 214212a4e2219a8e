"""kd_word inside stock fairseq commands, as a new user would start them, on a data-bin of plain fairseq-preprocess."""

import json
import shutil

import pytest
import torch
from conftest import TINY_MODEL, assert_user_error, run_fairseq
from process_helpers import run_kd


@pytest.fixture(scope="module")
def plain(tmp_path_factory, corpus):
    """data-bin by stock fairseq-preprocess, and a teacher by stock fairseq-train, in one folder."""
    folder = tmp_path_factory.mktemp("plain")
    result = run_fairseq(
        "preprocess",
        *("--source-lang", "qaa", "--target-lang", "qab", "--joined-dictionary", "--workers", "1"),
        *("--nwordssrc", "200", "--trainpref", corpus / "train", "--validpref", corpus / "valid"),
        *("--testpref", corpus / "test", "--destdir", folder / "data-bin"),
        user_dir=None,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    result = run_fairseq(
        "train",
        folder / "data-bin",
        *TINY_MODEL,
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
        *("--max-update", "30", "--save-dir", folder / "teacher"),
        user_dir=None,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def plain_cache(plain, tmp_path_factory):
    """A cache of the plain data-bin's teacher, by the command; without tail shapes it says what --kd-top-k says."""
    folder = tmp_path_factory.mktemp("cache") / "cache"
    words = ["cache", plain / "data-bin", "--teacher", teacher_of(plain), "--top-k", "8", "--tail-shapes", "0"]
    words += ["--out", folder, "--cpu"]
    result = run_kd(*words)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "bytes per token" in result.stdout and f"--teacher-cache {folder}" in result.stdout
    return folder


def teacher_of(plain):
    return plain / "teacher" / "checkpoint_last.pt"


def kd(plain, *extra, **kwargs):
    return run_fairseq("train", plain / "data-bin", *TINY_MODEL, "--criterion", "kd_word", *extra, **kwargs)


def logged(result, name):
    lines = [line for line in result.stdout.splitlines() + result.stderr.splitlines() if f"| {name} |" in line]
    return [json.loads(line.split(f"| {name} | ")[1]) for line in lines]


def bleu_of_generate(plain, checkpoint, subset, *extra):
    result = run_fairseq(
        "generate",
        plain / "data-bin",
        *("--path", checkpoint, "--gen-subset", subset, "--cpu", "--required-batch-size-multiple", "1", *extra),
    )
    assert result.returncode == 0, result.stderr[-2000:]
    hypotheses = [line.split("\t") for line in result.stdout.splitlines() if line.startswith("H-")]
    return [text for _, _, text in sorted(hypotheses, key=lambda line: int(line[0][2:]))]


def test_stock_options_resume_with_a_moved_teacher_and_the_other_commands(plain, tmp_path):
    """--eval-bleu, --update-freq 2, --save-interval-updates, --tensorboard-logdir, resume, validate, generate."""
    moved = tmp_path / "moved-teacher.pt"
    shutil.copy(teacher_of(plain), moved)
    options = [
        *("--label-smoothing", "0.1", "--kd-weight", "0.7", "--save-dir", tmp_path / "student"),
        *("--update-freq", "2", "--save-interval-updates", "5", "--tensorboard-logdir", tmp_path / "board"),
        *("--eval-bleu", "--eval-bleu-args", '{"beam": 2, "max_len_b": 20}', "--best-checkpoint-metric", "bleu"),
        *("--maximize-best-checkpoint-metric", "--encoder-embed-dim", "8", "--decoder-embed-dim", "8"),
    ]
    first = kd(plain, *options, "--teacher", teacher_of(plain), "--max-update", "10")
    assert first.returncode == 0, first.stderr[-3000:]
    last = logged(first, "train")[-1]
    assert {"train_loss", "train_nll_loss", "train_kd_loss", "train_agreement", "train_ppl"} <= last.keys()
    assert float(last["train_ppl"]) == pytest.approx(2 ** float(last["train_nll_loss"]), rel=0.01)
    valid = logged(first, "valid")[-1]
    assert "valid_bleu" in valid and "valid_kd_loss" not in valid
    assert list((tmp_path / "board").rglob("events*"))
    assert list((tmp_path / "student").glob("checkpoint_*_5.pt"))

    # the student's checkpoint holds the student alone, though eval-bleu put numpy counts with it
    state = torch.load(tmp_path / "student" / "checkpoint_last.pt", weights_only=False)
    student_size = sum(value.numel() for name, value in state["model"].items() if "embed_tokens" in name)
    assert state["model"]["encoder.embed_tokens.weight"].shape[1] == 8
    assert state["criterion"] is None
    trained = sum(entry["exp_avg"].numel() for entry in state["last_optimizer_state"]["state"].values())
    assert trained < 2 * student_size + 4000
    assert (tmp_path / "student" / "checkpoint_last.pt").stat().st_size < 400_000

    gone = kd(plain, *options, "--teacher", tmp_path / "gone.pt", "--max-update", "14")
    assert_user_error(gone, "gone.pt does not exist")
    assert "examples from" not in gone.stdout + gone.stderr  # it has loaded no data, validation sets neither
    assert not (tmp_path / "student" / "crash.pt").exists()
    resumed = kd(plain, *options, "--teacher", moved, "--max-update", "14")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "Loaded checkpoint" in resumed.stdout + resumed.stderr
    updates = [int(entry["num_updates"]) for entry in logged(resumed, "train_inner")]
    assert updates == [11, 12, 13, 14]

    # with the teacher out of reach the student can be validated and decoded
    checkpoint = tmp_path / "student" / "checkpoint_last.pt"
    moved.unlink()
    validate = run_fairseq(
        "validate", plain / "data-bin", "--task", "translation", "--path", checkpoint, "--max-tokens", "400", "--cpu"
    )
    assert validate.returncode == 0, validate.stderr[-2000:]
    assert len(bleu_of_generate(plain, checkpoint, "test")) == 30


def test_training_and_resuming_from_a_cache_without_the_teacher(plain, plain_cache, tmp_path):
    online = kd(plain, "--teacher", teacher_of(plain), "--kd-top-k", "8", "--no-save", "--max-update", "6")
    options = ["--teacher-cache", plain_cache, "--save-dir", tmp_path / "student"]
    first = kd(plain, *options, "--max-update", "4")
    second = kd(plain, *options, "--max-update", "6")
    for result in (online, first, second):
        assert result.returncode == 0, result.stderr[-3000:]
    curves = [[float(entry["loss"]) for entry in logged(result, "train_inner")] for result in (online, first, second)]
    assert len(curves[1]) == 4 and len(curves[2]) == 2
    assert curves[1] + curves[2] == pytest.approx(curves[0], abs=0.003)  # logged with three decimals


def test_eval_bleu_scores_the_student_not_the_teacher(data_bin, teacher, tmp_path):
    """A trained student that hardly moves, and a teacher that is not trained: BLEU must be the student's."""
    untrained = tmp_path / "untrained" / "checkpoint_last.pt"

    def run(name, *extra):
        options = ["--max-update", "1", "--lr", "1e-9", "--dropout", "0.0", "--save-dir", tmp_path / name]
        options += ["--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 20}']
        result = run_fairseq("train", data_bin, *TINY_MODEL, *options, *extra)
        assert result.returncode == 0, result.stderr[-2000:]
        return logged(result, "valid")[-1]["valid_bleu"]

    stock = ["--criterion", "label_smoothed_cross_entropy"]  # what fairseq says without the criterion of the plugin
    of_the_teacher = run("untrained", *stock)
    of_the_student = run("stock", *stock, "--finetune-from-model", teacher)
    assert of_the_student != of_the_teacher
    distilled = ["--criterion", "kd_word", "--teacher", untrained, "--finetune-from-model", teacher]
    assert run("student", *distilled) == of_the_student


def import_in_worker(rank, cfg, queue):
    """What fairseq does first in a process that it has spawned."""
    from fairseq import utils
    from fairseq.registry import REGISTRIES

    utils.import_user_module(cfg.common)
    queue.put((rank, "kd_word" in REGISTRIES["criterion"]["registry"]))


def test_the_plugin_is_there_in_a_spawned_process(plain):
    from helpers import parse

    cfg = parse(plain / "data-bin", "--criterion", "kd_word", "--teacher", teacher_of(plain))
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    torch.multiprocessing.spawn(import_in_worker, args=(cfg, queue), nprocs=1)
    assert queue.get(timeout=60) == (0, True)


def test_it_works_from_any_working_directory_by_absolute_path(plain, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    result = kd(
        plain,
        *("--teacher", teacher_of(plain), "--max-update", "1", "--save-dir", "here", "--disable-validation"),
        cwd=tmp_path / "elsewhere",
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "elsewhere" / "here" / "checkpoint_last.pt").is_file()


def hostile(path, made):
    class RunsCode:
        def __reduce__(self):
            import os

            return (os.mkdir, (str(made),))

    torch.save({"model": {}, "cfg": RunsCode()}, path)
    return path


@pytest.mark.parametrize(
    "case",
    [
        *("missing", "other dictionary", "corrupt", "hostile", "alpha", "temperature", "adaptive softmax"),
        *("no teacher", "cache: missing", "cache: temperature", "cache: flipped bit", "cache: other data"),
    ],
)
def test_bad_input_is_one_error_status_2_and_no_file(case, plain, plain_cache, tmp_path, teacher):
    student, options, message = tmp_path / "student", [], ""
    cache = tmp_path / "cache"
    if case.startswith("cache") and case != "cache: missing":
        shutil.copytree(plain_cache, cache)
    path = teacher_of(plain)
    if case == "missing":
        path, message = tmp_path / "nothing.pt", "nothing.pt does not exist"
    elif case == "other dictionary":
        path, message = teacher, "the first difference is at index"
    elif case == "corrupt":
        path, message = tmp_path / "corrupt.pt", "is damaged or not a fairseq checkpoint"
        path.write_bytes(teacher_of(plain).read_bytes()[:4000])
    elif case == "hostile":
        path, message = hostile(tmp_path / "hostile.pt", tmp_path / "made"), "posix.mkdir"
    elif case == "cache: missing":
        message = "cache does not exist"
    elif case == "cache: temperature":
        options, message = ["--teacher-temperature", "2"], "was made for the temperature 1"
    elif case == "cache: flipped bit":
        damaged = bytearray((cache / "delta.bin").read_bytes())
        damaged[7] ^= 1
        (cache / "delta.bin").write_bytes(damaged)
        message = "delta.bin has sha256"
    elif case == "cache: other data":
        options, message = ["--train-subset", "test"], "of subset 'train', the training reads 'test'"
    elif case == "alpha":
        options, message = ["--kd-weight", "1.5"], "--kd-weight 1.5"
    elif case == "temperature":
        options, message = ["--teacher-temperature", "0"], "--teacher-temperature 0"
    elif case == "adaptive softmax":
        options, message = ["--adaptive-softmax-cutoff", "20,50"], "adaptive softmax"
        words = [word for word in TINY_MODEL if word != "--share-all-embeddings"]
        result = run_fairseq(
            "train", plain / "data-bin", *words, "--criterion", "kd_word", "--teacher", path, *options,
            *("--save-dir", student, "--max-update", "2"),
        )  # fmt: skip
    else:
        message = "needs a teacher"
    if case != "adaptive softmax":
        given = [] if case == "no teacher" else ["--teacher", path]
        given = ["--teacher-cache", cache] if case.startswith("cache") else given
        result = kd(plain, *given, *options, "--save-dir", student, "--max-update", "2")
    assert_user_error(result, message)
    assert not list(student.glob("*")) and not (tmp_path / "made").exists()


def test_a_hostile_checkpoint_given_to_stock_generate_is_refused_by_name(plain, tmp_path):
    path = hostile(tmp_path / "hostile.pt", tmp_path / "made")
    result = run_fairseq("generate", plain / "data-bin", "--path", path, "--cpu")
    assert_user_error(result, "posix.mkdir")
    assert not (tmp_path / "made").exists()
