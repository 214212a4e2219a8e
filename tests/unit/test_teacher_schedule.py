"""--teacher-schedule: teachers, or caches, that follow each other in one training."""

import gc
import json
import logging
import shutil
import weakref
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from criterion_helpers import build_with
from fairseq.trainer import Trainer
from helpers import batch, with_variants

from fairseq_kd.cache.make import CachingOptions, make_cache
from fairseq_kd.core import hydra_paths
from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.hybrid_config import KDHybridConfig, check_hybrid_options
from fairseq_kd.criterions.on_policy_config import OnPolicyConfig, check_word_options
from fairseq_kd.criterions.schedule import SchedulePart, read_schedule
from fairseq_kd.teacher import online
from fairseq_kd.teacher.scheduled import ScheduledPart, _Schedule


@pytest.fixture(scope="module")
def teachers(teacher, tmp_path_factory):
    return [str(path) for path in with_variants(teacher, tmp_path_factory.mktemp("teachers"), 0.05)]


@pytest.fixture(scope="module")
def caches(data_bin, teachers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    for name, path in zip("ab", teachers[:2], strict=True):
        make_cache(data_bin, path, folder / name, CachingOptions(top_k=5, tail_shapes=0, cpu=True))
    return [str(folder / name) for name in "ab"]


@pytest.fixture
def loaded(monkeypatch):
    """(path, number of networks in memory before it) of each network that is loaded."""
    found, models, load = [], weakref.WeakSet(), online.load_frozen

    def loading(path, **options):
        found.append((str(path), len(models)))
        models.add(model := load(path, **options))
        return model

    monkeypatch.setattr(online, "load_frozen", loading)
    return found


def train(data_bin, updates, first=0, checkpoint=None, **options):
    """(loss of each of the batches from `first` to before `updates`, the trainer)."""
    cfg, task, model, criterion = build_with(data_bin, **options)
    losses = []
    criterion.register_forward_hook(lambda module, inputs, output: losses.append(output[0].item()))
    trainer = Trainer(cfg, task, model, criterion)
    batches = list(trainer.get_train_iterator(1).next_epoch_itr(shuffle=True))
    if checkpoint is not None:
        trainer.load_checkpoint(str(checkpoint))
    for sample in batches[first:updates]:
        trainer.train_step([sample])
    return losses, trainer


def weights(trainer) -> dict:
    return {name: value.clone() for name, value in trainer.get_model().state_dict().items()}


@pytest.mark.parametrize("kind", ["teachers", "caches"])
def test_a_schedule_is_a_training_with_each_part_in_turn_and_resumes_with_the_right_one(
    data_bin, teachers, caches, tmp_path, loaded, caplog, kind
):
    (a, b), option = (teachers[:2], "teacher") if kind == "teachers" else (caches, "teacher_cache")
    schedule = {"teacher_schedule": f"{a}@2,{b}"}
    with caplog.at_level(logging.INFO):
        whole, trained = train(data_bin, 4, **schedule)
    said = [record.message for record in caplog.records if "--teacher-schedule" in record.message]
    assert said == [
        f"--teacher-schedule: the teacher from update 1 to update 2 is {a}",
        f"--teacher-schedule: the teacher from update 3 to the end is {b}",
    ]
    # each is checked and released, then loaded when its turn comes; never two in memory
    assert loaded == ([(a, 0), (b, 0), (a, 0), (b, 0)] if kind == "teachers" else [])
    begun, trainer = train(data_bin, 2, **{option: a})
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "c.pt"), {"train_iterator": {"epoch": 1}})
    assert begun == whole[:2]
    for continued in ({option: b}, schedule):
        losses, other = train(data_bin, 4, first=2, checkpoint=tmp_path / "c.pt", **continued)
        assert losses == whole[2:]
        assert all(torch.equal(value, weights(trained)[name]) for name, value in weights(other).items())
    with_first, _ = train(data_bin, 4, first=2, checkpoint=tmp_path / "c.pt", **{option: a})
    assert with_first != losses
    state = torch.load(tmp_path / "c.pt")
    assert state["criterion"] is None and state["model"].keys() == weights(trained).keys()


def test_the_same_teacher_in_each_part_is_a_training_with_this_teacher(data_bin, teachers, tmp_path, loaded):
    a, copy = teachers[0], shutil.copy(teachers[0], tmp_path / "copy.pt")
    expected, trainer = train(data_bin, 4, teacher=a)
    trained = weights(trainer)
    del trainer, loaded[:]
    gc.collect()
    losses, other = train(data_bin, 4, teacher_schedule=f"{a}@1,{a}@2,{copy}@3,{a}")
    assert losses == expected
    assert all(torch.equal(value, trained[name]) for name, value in weights(other).items())
    assert [path for path, _ in loaded] == [a, str(copy), a, str(copy), a]  # of the parts 1 and 2 one network
    assert {count for _, count in loaded} == {0}


def test_parts_with_several_teachers_and_a_partition_load_the_start_once(data_bin, teachers, loaded):
    a, b, start = teachers
    options = {"teacher_schedule": f"{a}:{b}@1,{b}", "teacher_weights": "adaptive", "kd_start": start}
    _, task, model, criterion = build_with(data_bin, kd_partition="unsupervised", **options)
    task.load_dataset("train")
    assert [path for path, _ in loaded] == [a, b, start, b]
    del loaded[:]
    names = []
    for update in (0, 1):
        criterion.calls.update_num = update
        *_, logged = criterion(model, batch(task, range(6)))
        names.append({name for name in logged if name.startswith(("from_", "teacher_weight"))})
        assert logged["from_teacher"] + logged["from_start"] == logged["teacher_tokens"]
    assert names == [
        {"from_teacher", "from_start", "teacher_weight_1", "teacher_weight_2"},
        {"from_teacher", "from_start"},
    ]
    assert loaded == [(a, 1), (b, 2), (b, 1)]  # beside the start; the first two are released together


def refused(capsys, data_bin, **options) -> str:
    """The line with which a training ends before it has loaded its data."""
    _, task, *_ = build_with(data_bin, **options)
    with pytest.raises(SystemExit) as ended:
        task.load_dataset("train")
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert not task.datasets
    return line


def test_a_teacher_of_a_later_part_that_cannot_be_used_is_refused_at_the_start(data_bin, teachers, tmp_path, capsys):
    a, b, _ = teachers

    def line(third):
        return refused(capsys, data_bin, teacher_schedule=f"{a}@5,{b}@9,{third}")

    assert f"{tmp_path}/none.pt does not exist" in line(tmp_path / "none.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(Path(b).read_bytes()[:1000])
    assert f"{broken} (1,000 bytes)" in line(broken)
    for path in data_bin.glob("dict.*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / path.name).write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    state = torch.load(b)
    state["cfg"]["task"].update(data=str(tmp_path))
    torch.save(state, tmp_path / "other.pt")
    assert f"teacher {tmp_path}/other.pt" in (found := line(tmp_path / "other.pt")) and "first difference" in found


def test_a_cache_of_a_later_part_that_does_not_fit_is_refused_before_the_first_update(
    data_bin, caches, teachers, tmp_path, capsys
):
    a, b = caches
    line = refused(capsys, data_bin, teacher_schedule=f"{a}@5,{b}@9,{tmp_path / 'none'}")
    assert f"teacher cache {tmp_path}/none does not exist" in line
    line = refused(capsys, data_bin, teacher_schedule=f"{a}@5,{b}", teacher_temperature=2.0)
    assert "was made for the temperature 1" in line
    other = shutil.copytree(b, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    name = min(manifest["data"])
    manifest["data"][name] = "0" * 64
    del manifest["seal"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    _, task, model, criterion = build_with(data_bin, teacher_schedule=f"{a}@5,{b}@9,{other}")
    with pytest.raises(SystemExit):
        criterion(model, batch(task, range(3)))
    assert f"{name} has sha256" in (found := capsys.readouterr().err) and str(other) in found


def test_each_part_is_used_up_to_and_including_its_update():
    opened = []
    parts = [ScheduledPart(name, last, lambda name=name: opened.append(name) or name) for name, last in
             (("a", 2), ("b", 3), ("a", None))]  # fmt: skip
    updates = [0]
    schedule = _Schedule(parts, lambda: updates[0])
    found = []
    for updates[0] in range(5):  # the update that follows has the number updates + 1
        found.append(schedule.current)
    assert "".join(found) == "aabaa" and opened == ["a", "b", "a"]


def test_the_form_of_a_schedule():
    assert read_schedule("x/a.pt@20, b.pt:c.pt@50,run@3/d.pt") == [
        SchedulePart("x/a.pt", 20),
        SchedulePart("b.pt:c.pt", 50),
        SchedulePart("run@3/d.pt", None),
    ]
    assert read_schedule("run@3/d.pt@7,a")[0] == SchedulePart("run@3/d.pt", 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_schedule": "a.pt"}, "give at least two parts"),
        ({"teacher_schedule": "a.pt@10"}, "give at least two parts"),
        ({"teacher_schedule": "a.pt,b.pt"}, "the part a.pt must be a path, @ and the number"),
        ({"teacher_schedule": "a.pt@,b.pt"}, "the part a.pt@ must be a path, @ and the number"),
        ({"teacher_schedule": "a.pt@0,b.pt"}, "the part a.pt@0 must be a path, @ and the number"),
        ({"teacher_schedule": "a.pt@-5,b.pt"}, "the part a.pt@-5 must be"),
        ({"teacher_schedule": "a.pt@2e3,b.pt"}, "the part a.pt@2e3 must be"),
        ({"teacher_schedule": "a.pt@5,b.pt@x,c.pt"}, "the part b.pt@x must be"),
        ({"teacher_schedule": "a.pt@5,,c.pt"}, "the part '' must be"),
        ({"teacher_schedule": "a.pt@5,"}, "one of them is empty"),
        ({"teacher_schedule": "@5,b.pt"}, "one of them is empty"),
        ({"teacher_schedule": "a.pt@5,:"}, "one of them is empty"),
        ({"teacher_schedule": "a.pt@5,b.pt@9"}, "the last part b.pt@9 is used to the end"),
        ({"teacher_schedule": "a.pt@5,b.pt@5,c.pt"}, "b.pt@5 follows a.pt@5"),
        ({"teacher_schedule": "a.pt@5,b.pt@4,c.pt"}, "b.pt@4 follows a.pt@5"),
        ({"teacher": "t.pt"}, "takes the place of --teacher t.pt"),
        ({"teacher_cache": "c"}, "takes the place of --teacher-cache c"),
        ({"kd_weight": 0.0}, "no effect with --kd-weight 0"),
        ({"kd_valid": True}, "--kd-valid cannot go with --teacher-schedule"),
        ({"teacher_weights": "adaptive"}, "no effect with fewer than two teachers"),
        ({"teacher_schedule": "a.pt:b.pt@5,a.pt:b.pt:c.pt", "teacher_weights": "1:2"}, "2 numbers for 3 teachers"),
        ({"trust_checkpoint": "c.pt"}, "c.pt is not the teacher a.pt"),
        ({"teacher_temperature": 0.0}, "--teacher-temperature 0.0: must be above 0"),
        ({"kd_partition": "supervised"}, "needs the student's initial weights"),
    ],
)  # fmt: skip
def test_a_schedule_that_does_not_fit_is_one_error(options, message):
    defaults = {"teacher_schedule": "a.pt@5,b.pt", "sentence_avg": False, "finetune_from_model": None}
    defaults |= {"restore_file": "checkpoint_last.pt"}
    for config, check in ((OnPolicyConfig, check_word_options), (KDHybridConfig, check_hybrid_options)):
        check(config(**defaults))
        with pytest.raises(KDError) as error:
            check(config(**(defaults | options)))
        assert message in str(error.value)


def test_the_parts_are_checkpoints_or_caches_and_their_options_fit(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "a.pt").touch()
    cache, file = str(tmp_path / "c"), str(tmp_path / "a.pt")

    def check(schedule, **options):
        check_word_options(OnPolicyConfig(teacher_schedule=schedule, sentence_avg=False, **options))

    for one, other in ((cache, file), (file, cache), (f"{file}:{cache}", file)):
        with pytest.raises(KDError, match=r"the parts must be checkpoints \(files\) or caches \(folders\), not both"):
            check(f"{one}@5,{other}")
    check(f"{cache}@5,{cache}:other", teacher_weights="adaptive")
    check(f"{file}@5,other.pt", on_policy_rate=0.5, trust_checkpoint="other.pt", kd_top_k=3)
    for options in ({"on_policy_rate": 0.5}, {"kd_top_k": 3}, {"teacher_dtype": "bfloat16"}):
        with pytest.raises(KDError, match="without --teacher|needs a teacher that runs"):
            check(f"{cache}@5,{cache}", **options)


def test_hydra_makes_each_path_of_a_schedule_absolute(monkeypatch, tmp_path):
    monkeypatch.setattr(hydra_paths, "starting_folder", lambda: tmp_path)
    cfg = Namespace(teacher_schedule="a.pt:b.pt@5, /c.pt@9,d")
    hydra_paths.resolve_paths(cfg, ("teacher_schedule",), separators=":,")
    assert read_schedule(cfg.teacher_schedule) == [
        SchedulePart(f"{tmp_path}/a.pt:{tmp_path}/b.pt", 5),
        SchedulePart("/c.pt", 9),
        SchedulePart(f"{tmp_path}/d", None),
    ]
