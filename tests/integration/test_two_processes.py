"""fairseq-train in two processes: what they train is what one process trains, after a pause and with dummy batches too.

Two ranks see, update by update, the batches that one process sees with --update-freq 2. An epoch has an odd number of
batches, so that at its end one rank is given a dummy batch.
"""

import json
import math

import pytest
import torch
from conftest import PACKAGE, TINY_MODEL
from docs_helpers import blocks_run_by
from fairseq.data.indexed_dataset import make_dataset
from rank_helpers import run_jobs

from fairseq_kd.inference.precision import has_bfloat16

SENTENCES = 80  # per batch; the data-bin has 400
COMMON = [
    *(*TINY_MODEL, "--user-dir", PACKAGE, "--dropout", "0.0", "--lr", "0.005"),
    *("--max-tokens", "20000", "--batch-size", SENTENCES, "--max-tokens-valid", "400"),
    *("--update-epoch-batch-itr", "True", "--ddp-backend", "legacy_ddp"),
]
PAUSE, END_OF_EPOCH, UPDATES = 2, 3, 5
# wide enough for products in bfloat16 in the linear layers (`inference.linear.SMALLEST_PRODUCT`)
NARROW = ["--autocast", "bfloat16", "--encoder-embed-dim", "128", "--encoder-ffn-embed-dim", "512"]
NARROW += ["--decoder-embed-dim", "128", "--decoder-ffn-embed-dim", "512"]
METHODS = ("online", "cached", "hybrid", "adaptive", "mutual", "bfloat16")


@pytest.fixture(scope="module")
def commands(data_bin, distilled, teacher, tmp_path_factory):
    """fairseq-train's words by method."""
    from fairseq_kd.cache.make import CachingOptions, make_cache

    sentences = len(make_dataset(str(data_bin / "train.qaa-qab.qaa"), impl="mmap"))
    assert math.ceil(sentences / SENTENCES) == 2 * END_OF_EPOCH - 1, "an odd number of batches"
    cache = tmp_path_factory.mktemp("cache") / "cache"
    make_cache(data_bin, teacher, cache, CachingOptions(top_k=8, tail_shapes=0))
    online = ["--criterion", "kd_word", "--teacher", teacher]
    hybrid = ["--task", "kd_translation", "--distilled", distilled, "--criterion", "kd_hybrid"]
    gates = ["--capacity-target", "0.6", "--capacity-warmup", "1", "--capacity-ramp", "2", "--ffn-type", "glu"]
    words = {
        "online": online,
        "cached": ["--criterion", "kd_word", "--teacher-cache", cache],
        "hybrid": [*hybrid, "--teacher-cache", cache, "--hybrid-gate", "learned"],
        "adaptive": [*online, "--arch", "kd_adaptive", *gates],
        "mutual": ["--arch", "kd_mutual", "--criterion", "kd_mutual", "--peer-archs", "transformer:kd_student"],
        "bfloat16": ["--criterion", "kd_word", "--teacher-cache", cache, *NARROW],
    }
    if not has_bfloat16(torch.device("cpu")):
        del words["bfloat16"]
    return {method: [data_bin, *COMMON, *found] for method, found in words.items()}


def commands_of_the_page() -> list[list[str]]:
    """The options --on-policy-... of the commands of docs/on-policy.md, with a schedule as short as the runs."""
    (block,) = blocks_run_by("test_the_commands_of_the_page_run_in_two_ranks_and_draw_the_same_after_a_pause")
    found = []
    for command in block.commands():
        before, _, options = command.partition(" --on-policy-rate ")
        assert before.endswith("--criterion kd_word --teacher teacher/checkpoint_best.pt")
        words = ["--on-policy-rate", *options.replace("updates 2000", f"updates {UPDATES}").split()]
        found.append([*words, "--on-policy-max-len-b", "3"])
    return found


@pytest.fixture(scope="module")
def runs(commands, teacher, tmp_path_factory):
    """(folder with checkpoints by name, exit statuses and outputs by name) of every training of this file."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = {}

    def job(name, ranks, words, *more, begin=None):
        """begin: the run whose checkpoint of the update PAUSE is the one that this run finds in its folder."""
        start = None if begin is None else folder / begin / f"checkpoint_1_{PAUSE}.pt"
        jobs[name] = (ranks, [*words, *more, "--save-dir", folder / name], start)

    end, quiet = ["--max-update", UPDATES], ["--disable-validation"]
    kept = ["--save-interval-updates", PAUSE, *end]
    for method, words in commands.items():
        job(f"{method}-one", 1, [*words, *quiet, "--update-freq", "2"], *end)
        job(f"{method}-two", 2, [*words, "--validate-interval-updates", PAUSE], *kept)
        job(f"{method}-paused", 2, [*words, *quiet], *end, begin=f"{method}-two")
    for number, more in enumerate(commands_of_the_page()):
        words = [*commands["online"], *more, *quiet]
        job(f"on-policy-{number}-two", 2, words, *kept)
        job(f"on-policy-{number}-paused", 2, words, *end, begin=f"on-policy-{number}-two")
    resets = ["--reset-optimizer", "--reset-lr-scheduler", "--reset-dataloader", "--reset-meters"]
    for name, more in (("finetune-from-model", []), ("restore-file", resets)):
        words = [*commands["cached"], *quiet, f"--{name}", teacher, *more, "--max-update", PAUSE]
        job(f"{name}-one", 1, [*words, "--update-freq", "2"])
        job(f"{name}-two", 2, words)
    return folder, run_jobs(jobs, folder / "jobs")


def weights(runs, name) -> dict:
    folder, found = runs
    if name not in found:
        pytest.skip("this CPU has no instructions for bfloat16")
    statuses, outputs = found[name]
    assert set(statuses) == {0}, "\n".join(output[-3000:] for output in outputs)
    state = torch.load(folder / name / "checkpoint_last.pt")
    return state["model"] | {f"criterion.{key}": value for key, value in (state["criterion"] or {}).items()}


def assert_close(found: dict, expected: dict, **tolerances) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerances, msg=lambda text, name=name: f"{name}: {text}")


def logged(runs, name) -> list[dict]:
    """What rank 0 logged for each update."""
    parts = [line.split("| train_inner | ") for line in runs[1][name][1][0].splitlines()]
    return [json.loads(part[1]) for part in parts if len(part) == 2]


def curves(runs, name) -> dict:
    """What rank 0 logged for each update, by quantity."""
    lines = logged(runs, name)
    return {name: [float(line[name]) for line in lines] for name in ("loss", "nll_loss", "kd_loss", "agreement")}


@pytest.mark.parametrize("method", METHODS)
def test_a_dummy_batch_after_a_validation_changes_nothing(runs, method):
    one, two = f"{method}-one", f"{method}-two"
    assert_close(weights(runs, two), weights(runs, one), rtol=1e-3, atol=1e-5)
    first_epoch = runs[1][two][1][0].split("begin training epoch 2")[0]
    assert f'"num_updates": "{END_OF_EPOCH}"' in first_epoch and f'"valid_num_updates": "{PAUSE}"' in first_epoch
    for name, expected in curves(runs, one).items():
        assert len(expected) == UPDATES
        assert curves(runs, two)[name] == pytest.approx(expected, abs=0.011), name  # logged with 2 or 3 decimals


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_that_are_resumed_equal_two_that_were_not_and_one(runs, method):
    paused = weights(runs, f"{method}-paused")
    assert_close(paused, weights(runs, f"{method}-one"), rtol=1e-3, atol=1e-5)
    assert_close(paused, weights(runs, f"{method}-two"), rtol=0, atol=0)


@pytest.mark.parametrize("option", ["finetune-from-model", "restore-file"])
def test_two_ranks_begin_with_a_given_checkpoint(runs, option):
    assert_close(weights(runs, f"{option}-two"), weights(runs, f"{option}-one"), rtol=1e-3, atol=1e-5)


def test_the_commands_of_the_page_run_in_two_ranks_and_draw_the_same_after_a_pause(runs):
    for number in range(2):
        two, paused = f"on-policy-{number}-two", f"on-policy-{number}-paused"
        assert_close(weights(runs, paused), weights(runs, two), rtol=0, atol=0)
        lines, continued = logged(runs, two), logged(runs, paused)
        assert len(lines) == UPDATES == PAUSE + len(continued)
        for line, other in zip(lines[PAUSE:], continued, strict=True):
            for name in ("loss", "sampled_tokens", "sampled_length", "sampled_kd_loss"):
                assert line.get(name) == other.get(name), (name, line)
        shares = [float(line["sampled_tokens"]) for line in lines]
        if number == 0:  # one decision for the batches of both ranks
            assert set(shares) == {0, 100}
        else:
            assert shares[0] == 0 and 0 < shares[1] < 100 and shares[4] > 90
