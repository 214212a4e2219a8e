import os
import shutil

import pytest
from fairseq.data import Dictionary
from helpers import batch, build

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.dictionaries import check_same_dictionary
from fairseq_kd.inference.frozen import load_frozen


def dictionary(*symbols):
    made = Dictionary()
    for symbol in symbols:
        made.add_symbol(symbol)
    return made


def test_dictionaries_are_compared_by_content_not_by_size():
    check_same_dictionary(dictionary("a", "b"), dictionary("a", "b"), "target")
    with pytest.raises(KDError, match=r"index 5: teacher 'b', student 'c'.*--tgtdict"):
        check_same_dictionary(dictionary("a", "b"), dictionary("a", "c"), "target")
    with pytest.raises(KDError, match=r"they have 7 and 6 entries.*index 6: teacher 'c', student 'nothing'.*--srcdict"):
        check_same_dictionary(dictionary("a", "b", "c"), dictionary("a", "b"), "source")


def test_dictionaries_that_are_gone_are_asked_for(teacher, data_bin, tmp_path):
    with pytest.raises(KDError, match="does not record its languages"):
        load_frozen(teacher, data=tmp_path)
    with pytest.raises(KDError, match=r"dict\.qaa\.txt is not there.*--teacher-data"):
        load_frozen(teacher, data=tmp_path, languages=("qaa", "qab"))
    shutil.copy(data_bin / "dict.qaa.txt", tmp_path)
    shutil.copy(data_bin / "dict.qab.txt", tmp_path)
    assert load_frozen(teacher, data=tmp_path, languages=("qaa", "qab")).target_dictionary.symbols[4:] != []


def test_a_dictionary_made_again_after_the_training_is_warned_of(teacher, data_bin, caplog):
    load_frozen(teacher)
    assert "is newer than" not in caplog.text
    path = data_bin / "dict.qab.txt"
    before = path.stat()
    os.utime(path)
    try:
        load_frozen(teacher)
    finally:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "dict.qab.txt is newer than" in caplog.text


def test_dictionaries_of_another_size_do_not_fit_the_weights(teacher, tmp_path):
    for lang in ("qaa", "qab"):
        (tmp_path / f"dict.{lang}.txt").write_text("a 1\nb 1\n")
    with pytest.raises(KDError, match="cannot be built.*size mismatch"):
        load_frozen(teacher, data=tmp_path, languages=("qaa", "qab"))


def test_sentences_beyond_the_teachers_positions_are_an_error(teacher, data_bin):
    _, task, *_ = build(data_bin, "--criterion", "kd_word", "--teacher", teacher)
    loaded = load_frozen(teacher)
    loaded.model.max_positions = lambda: (3, 1024)
    with pytest.raises(KDError, match="--max-source-positions 3"):
        sample = batch(task, range(3))
        loaded.signal(sample, sample["target"].ne(1))


def test_building_a_teacher_keeps_the_generator_of_the_live_task(teacher, data_bin):
    _, task, model, criterion = build(
        data_bin,
        "--criterion",
        "kd_word",
        "--teacher",
        teacher,
        "--eval-bleu",
        "--eval-bleu-args",
        '{"beam": 1}',
    )
    generator = task.sequence_generator
    model.train()  # making a generator switches the model to eval mode
    criterion(model, batch(task, range(3)))
    assert criterion.source.teacher is not None
    assert task.sequence_generator is generator
    assert task.sequence_generator.model.models[0] is model
