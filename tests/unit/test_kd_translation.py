"""The task with two targets per sentence: rows, sizes, unchanged parts, and every data-bin that does not fit."""

import shutil

import numpy as np
import pytest
import torch
from distilled_helpers import PAIR, make_distilled, reversed_words, rewrite
from fairseq import tasks
from fairseq.data import LanguagePairDataset
from helpers import batch, build, parse

from fairseq_kd.cache.make import CachingOptions, make_cache

PLAIN = ("--criterion", "kd_hybrid", "--kd-weight", "0", "--dropout", "0.0")


def task_of(data_bin, distilled, *options):
    """The task alone."""
    words = ("--task", "kd_translation", "--distilled", distilled, *PLAIN, *options)
    return tasks.setup_task(parse(data_bin, *words).task)


def words_of(task, rows):
    """Each row without padding."""
    return [row[row.ne(task.target_dictionary.pad())] for row in rows]


@pytest.mark.parametrize("order", [range(8), [7, 2, 5, 0, 3]])
def test_distilled_rows_stand_beside_their_gold_rows_after_sorting_by_length(data_bin, distilled, order):
    task = task_of(data_bin, distilled)
    sample = batch(task, order)
    assert sample["id"].tolist() != list(order) and sorted(sample["id"].tolist()) == sorted(order)
    targets = words_of(task, sample["distilled"]["target"])
    for number, gold, other in zip(sample["id"].tolist(), words_of(task, sample["target"]), targets, strict=True):
        assert torch.equal(other, reversed_words(number, gold))
    assert sample["distilled"]["ntokens"] == sum(map(len, targets))


def test_the_decoder_is_fed_the_distilled_target_moved_by_one(data_bin, distilled):
    task = task_of(data_bin, distilled)
    sample = batch(task, range(6))["distilled"]
    eos = task.target_dictionary.eos()
    for target, fed in zip(words_of(task, sample["target"]), words_of(task, sample["prev_output_tokens"]), strict=True):
        assert fed[0] == target[-1] == eos
        assert torch.equal(fed[1:], target[:-1])
    assert sample["target"].shape == sample["prev_output_tokens"].shape


def test_apart_from_the_distilled_targets_a_batch_is_that_of_translation(data_bin, distilled):
    task, plain = task_of(data_bin, distilled), build(data_bin, "--criterion", "cross_entropy")[1]
    ours, theirs = batch(task, range(5)), batch(plain, range(5))
    assert ours.keys() - theirs.keys() == {"distilled"}
    assert torch.equal(ours["target"], theirs["target"]) and torch.equal(ours["id"], theirs["id"])
    for name, value in theirs["net_input"].items():
        assert torch.equal(ours["net_input"][name], value)
    task.load_dataset("valid")
    assert type(task.dataset("valid")) is LanguagePairDataset and "distilled" not in batch(task, [0], "valid")


def test_max_tokens_counts_the_longest_of_the_three_sides(data_bin, distilled):
    task = task_of(data_bin, distilled)
    batches = task_batches(task, max_tokens=200)
    assert sorted(i for sample in batches for i in sample["id"].tolist()) == list(range(len(task.dataset("train"))))
    for sample in batches:
        sides = (sample["net_input"]["src_tokens"], sample["target"], sample["distilled"]["target"])
        assert all(side.numel() <= 200 for side in sides)
    dataset = task.dataset("train")
    everything = np.arange(len(dataset))
    assert dataset.num_tokens_vec(everything).tolist() == [dataset.num_tokens(i) for i in everything]
    gold = [len(dataset.tgt[i]) for i in everything]
    assert dataset.tgt_sizes.tolist() == gold  # what the teacher cache is compared with
    assert [dataset.size(i)[1] for i in everything] == [max(gold[i], len(dataset.distilled[i])) for i in everything]


def task_batches(task, max_tokens, **options):
    task.load_dataset("train")
    iterator = task.get_batch_iterator(
        task.dataset("train"), max_tokens=max_tokens, required_batch_size_multiple=1, **options
    )
    return list(iterator.next_epoch_itr(shuffle=True))


def test_a_sentence_whose_distilled_target_is_too_long_is_dropped(data_bin, distilled):
    task = task_of(data_bin, distilled)
    limit = 14
    batches = task_batches(task, 400, max_positions=(1024, limit), ignore_invalid_inputs=True)
    dataset = task.dataset("train")
    fits = {i for i in range(len(dataset)) if max(len(dataset.tgt[i]), len(dataset.distilled[i])) <= limit}
    gold_fits = {i for i in range(len(dataset)) if len(dataset.tgt[i]) <= limit}
    assert {i for sample in batches for i in sample["id"].tolist()} == fits
    assert set() < fits < gold_fits


def test_a_padded_multiple_holds_for_the_distilled_target_too(data_bin, distilled):
    task = task_of(data_bin, distilled, "--required-seq-len-multiple", "8")
    assert batch(task, range(3))["distilled"]["target"].size(1) % 8 == 0


def test_the_teacher_cache_of_the_gold_data_serves_this_task(data_bin, distilled, teacher, tmp_path):
    make_cache(data_bin, teacher, tmp_path / "cache", CachingOptions(top_k=8, cpu=True))
    hybrid = ("--task", "kd_translation", "--distilled", distilled, "--criterion", "kd_hybrid")
    _, task, model, criterion = build(data_bin, *hybrid, "--teacher-cache", tmp_path / "cache", "--dropout", "0.0")
    assert criterion(model, batch(task, range(5)))[2]["kd_loss"] > 0


def copy_of(distilled, tmp_path):
    return shutil.copytree(distilled, tmp_path / "copy")


def test_sources_are_compared_sentence_by_sentence_where_the_files_differ(data_bin, distilled, tmp_path):
    """The same sentences under the other order of languages in the file names."""
    folder = copy_of(distilled, tmp_path)
    for path in folder.glob(f"train.{PAIR}.*"):
        path.rename(folder / path.name.replace(PAIR, "qab-qaa"))
    assert torch.equal(
        batch(task_of(data_bin, folder), range(4))["distilled"]["target"],
        batch(task_of(data_bin, distilled), range(4))["distilled"]["target"],
    )


def missing(folder):
    shutil.rmtree(folder)


def no_train(folder):
    for path in folder.glob("train.*"):
        path.unlink()


def other_languages(folder):
    (folder / "dict.qaa.txt").rename(folder / "dict.qac.txt")


def other_dictionary(folder):
    lines = (folder / "dict.qab.txt").read_text().splitlines()
    (folder / "dict.qab.txt").write_text("\n".join([*lines[:5], lines[6], lines[5], *lines[7:]]) + "\n")


def shorter(folder):
    for lang in ("qaa", "qab"):
        rewrite(folder, lang, lambda i, tokens: tokens, sentences=range(100))


def exchanged(folder):
    order = list(range(400))
    order[7], order[9] = order[9], order[7]
    rewrite(folder, "qaa", lambda i, tokens: tokens, sentences=order[: count(folder)])


def count(folder):
    from fairseq.data import indexed_dataset

    return len(indexed_dataset.make_dataset(str(folder / f"train.{PAIR}.qaa"), impl="mmap"))


def one_token(folder):
    rewrite(folder, "qaa", lambda i, tokens: tokens.flip(0) if i == 11 else tokens)


def no_target(folder):
    for path in folder.glob(f"train.{PAIR}.qab.*"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing, "does not exist"),
        (no_train, "has no subset 'train' for qaa-qab"),
        (no_target, "has no target side"),
        (other_languages, "has no dict.qaa.txt"),
        (other_dictionary, "the first difference is at index 9"),
        (shorter, "has 100 sentences in subset 'train'"),
        (exchanged, "the source of sentence 7 of subset 'train'"),
        (one_token, "the source of sentence 11 of subset 'train'"),
    ],
)
def test_a_data_bin_that_does_not_fit_is_one_error(data_bin, distilled, tmp_path, capsys, spoil, message):
    folder = copy_of(distilled, tmp_path)
    spoil(folder)
    task = task_of(data_bin, folder)
    with pytest.raises(SystemExit) as exit:
        task.load_dataset("train", combine=True)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "needs --distilled DATA_BIN"),
        (("--distilled", "x", "--num-batch-buckets", "2"), "--num-batch-buckets 2"),
    ],
)
def test_the_task_refuses_what_it_cannot_serve(data_bin, capsys, options, message):
    with pytest.raises(SystemExit):
        tasks.setup_task(parse(data_bin, "--task", "kd_translation", *PLAIN, *options).task)
    assert message in capsys.readouterr().err


def test_the_gold_data_bin_itself_and_another_number_of_folders_are_refused(data_bin, distilled, capsys):
    for folders, message in (
        (data_bin, "is the data-bin of the gold"),
        (f"{distilled}:{distilled}", "names 2 folders"),
    ):
        with pytest.raises(SystemExit):
            task_of(data_bin, folders).load_dataset("train")
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("criterion", ["kd_word", "label_smoothed_cross_entropy"])
def test_a_criterion_that_does_not_read_distilled_targets_is_refused(data_bin, distilled, capsys, criterion):
    options = ("--kd-weight", "0") if criterion == "kd_word" else ()
    with pytest.raises(SystemExit):
        build(data_bin, "--task", "kd_translation", "--distilled", distilled, "--criterion", criterion, *options)
    assert f"--distilled has no effect with --criterion {criterion}" in capsys.readouterr().err


def test_each_data_bin_of_a_list_goes_with_its_distilled_one(data_bin, distilled, tmp_path):
    other = make_distilled(data_bin, tmp_path / "other", lambda i, tokens: tokens)
    task = task_of(f"{data_bin}:{data_bin}", f"{distilled}:{other}")
    for epoch, same in ((1, False), (2, True), (3, False)):
        task.load_dataset("train", epoch=epoch)
        sample = batch(task, [4])
        assert torch.equal(sample["target"], sample["distilled"]["target"]) == same
