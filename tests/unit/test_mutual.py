"""kd_mutual and its composite model: trainings of their own, options, and the checkpoints of `fairseq-kd split`."""

import copy
import itertools
import shlex
import shutil
from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_MODEL, assert_user_error, run_fairseq
from docs_helpers import blocks_run_by
from fairseq import utils
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from helpers import batch, build, write_checkpoint
from process_helpers import run_kd

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.mutual_config import KDMutualConfig, check_mutual_options
from fairseq_kd.models.peers import open_peers
from fairseq_kd.models.splitting import split_checkpoints

OF_THE_TRAINING = TINY_MODEL[TINY_MODEL.index("--optimizer") :]
MUTUAL = ("--arch", "kd_mutual", "--criterion", "kd_mutual", "--dropout", "0.0", "--clip-norm", "0")
TWO = ("--peer-archs", "transformer:kd_student")
SMOOTH = ("--label-smoothing", "0.1")


@pytest.mark.parametrize("implementation", ["fused", "reference"])
def test_weight_zero_equals_trainings_by_themselves(data_bin, implementation):
    """After each update: same initial weights, batches and options; dropout and clipping off."""
    common = (*MUTUAL[4:], *SMOOTH, "--kd-weight", "0", "--kd-implementation", implementation)
    cfg, task, composite, criterion = build(data_bin, *MUTUAL[:4], *TWO, *common)
    trainers = [Trainer(cfg, task, composite, criterion)]
    for arch, peer in zip(("transformer", "kd_student"), composite.peers, strict=True):
        one = build(data_bin, "--arch", arch, "--criterion", "kd_word", *common)
        one[2].load_state_dict(peer.state_dict())
        trainers.append(Trainer(*one))
    begin = [parameter.detach().clone() for parameter in composite.parameters()]
    for sample in itertools.islice(trainers[0].get_train_iterator(1).next_epoch_itr(shuffle=True), 5):
        for trainer in trainers:
            trainer.train_step([copy.deepcopy(sample)])
        for peer, trainer in zip(composite.peers, trainers[1:], strict=True):
            for (name, ours), theirs in zip(peer.named_parameters(), trainer.model.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)
    moved = [(now - before).abs().max() for now, before in zip(composite.parameters(), begin, strict=True)]
    assert sum(each > 1e-2 for each in moved) > len(moved) / 2 and trainers[0].get_num_updates() == 5
    assert "kd_loss" not in criterion(composite, sample)[2], "the others are not asked"
    assert cfg.model.peer_archs is None and len(cfg.model.peer_options) == 2


def test_a_peer_begins_with_the_weights_of_a_training_by_itself(data_bin):
    """Peer i has the weights of --seed S + i - 1, so two peers of one architecture differ."""
    _, _, model, _ = build(data_bin, *MUTUAL, "--peer-archs", "kd_student:kd_student", "--seed", "7")
    after = torch.rand(1)
    for number, peer in enumerate(model.peers):
        _, _, alone, _ = build(data_bin, "--arch", "kd_student", "--criterion", "cross_entropy", "--seed", 7 + number)
        assert number > 0 or after == torch.rand(1), "the random numbers that follow are those of peer 1"
        for ours, theirs in zip(peer.parameters(), alone.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    first, second = (peer.encoder.embed_tokens.weight for peer in model.peers)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("implementation", ["fused", "reference"])
@pytest.mark.parametrize("archs", ["transformer:kd_student", "kd_student:transformer:kd_student"])
def test_loss_and_gradients_equal_the_formula_written_with_torch(data_bin, archs, implementation):
    alpha, tau, own_tau = 0.3, 2.0, 1.5
    options = ("--kd-weight", alpha, "--teacher-temperature", tau, "--student-temperature", own_tau, "--kd-scale", "3")
    words = (*MUTUAL, "--peer-archs", archs, *options, "--kd-implementation", implementation, "--report-accuracy")
    _, task, model, criterion = build(data_bin, *words)
    sample = batch(task, range(5))
    loss, sample_size, logged = criterion(model, sample)
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    keep = sample["target"].ne(task.target_dictionary.pad())
    logits, target = [peer(**sample["net_input"])[0][keep] for peer in model.peers], sample["target"][keep]
    gold = [F.cross_entropy(z, target, reduction="sum") for z in logits]
    terms = []
    for number, own in enumerate(logits):
        others = [F.softmax(z.detach() / tau, -1) for k, z in enumerate(logits) if k != number]
        found = [F.kl_div(F.log_softmax(own / own_tau, -1), other, reduction="sum") for other in others]
        terms.append(sum(found) / len(found))
    expected = (1 - alpha) * sum(gold) + alpha * 3 * sum(terms)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and sample_size == sample["ntokens"]
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-5)
    with metrics.aggregate() as found:
        criterion.reduce_metrics([logged])
    values, bits = found.get_smoothed_values(), len(target) * 0.6931471805599453
    assert values["kd_loss"] == pytest.approx(sum(terms).item() / len(terms) / bits, abs=1e-3)
    assert values["nll_loss"] == pytest.approx(sum(gold).item() / len(gold) / bits, abs=1e-3)
    for number, nll in enumerate(gold, 1):
        assert values[f"nll_loss_peer{number}"] == pytest.approx(nll.item() / bits, abs=1e-3)
    assert 0 <= values["accuracy"] <= 100 and 0 <= values["agreement"] <= 100


def test_the_unreduced_loss_has_the_same_sum_and_validation_is_the_mean_of_the_peers(data_bin):
    _, task, model, criterion = build(data_bin, *MUTUAL, "--peer-archs", "transformer:kd_student:kd_student", *SMOOTH)
    sample = batch(task, range(4))
    each = criterion(model, sample, reduce=False)[0]
    assert each.shape == (3 * sample["target"].numel(), 1)
    assert each.sum().item() == pytest.approx(criterion(model, sample)[0].item(), rel=1e-5)
    model.eval()
    logged = criterion(model, sample)[2]
    *_, plain = build(data_bin, "--criterion", "label_smoothed_cross_entropy", *SMOOTH)
    losses = [plain(peer, sample)[0].item() for peer in model.peers]
    assert logged["loss"].item() == pytest.approx(sum(losses) / 3, rel=1e-5) and "kd_loss" not in logged


def test_half_precision_gives_nearly_the_loss_of_float32(data_bin):
    _, task, model, criterion = build(data_bin, *MUTUAL, *TWO, *SMOOTH)
    sample = batch(task, range(6))
    expected = criterion(model, sample)[0].item()
    for dtype, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        narrow = copy.deepcopy(model).to(dtype)
        loss = criterion(narrow, sample)[0]
        loss.backward()
        assert all(
            parameter.grad.dtype == dtype and parameter.grad.isfinite().all() for parameter in narrow.parameters()
        )
        assert loss.item() == pytest.approx(expected, rel=tolerance)


@pytest.fixture(scope="module")
def pretrained(data_bin, teacher, tmp_path_factory):
    """(the teacher, a student of another shape before its first update): two peers."""
    folder = tmp_path_factory.mktemp("peers")
    small = folder / "small.pt"
    write_checkpoint(small, data_bin, "--arch", "kd_student", "--decoder-layers", "2", "--dropout", "0.1")
    return teacher, small


@pytest.fixture(scope="module")
def runs(data_bin, pretrained, tmp_path_factory):
    """(folder of the two runs, log) of the training of the page: one without a pause, one that stops and continues."""
    folder = tmp_path_factory.mktemp("mutual")
    for name, path in zip(("one", "two"), pretrained, strict=True):
        (folder / name).mkdir()
        (folder / name / "checkpoint_best.pt").symlink_to(path)
    (block,) = blocks_run_by("test_the_page_about_mutual_learning")
    words = shlex.split(block.commands()[0].replace("data-bin/mine ...", str(data_bin)))[1:]
    at = words.index("--user-dir")
    words = [*words[:at], *words[at + 2 : -2], *OF_THE_TRAINING, "--update-freq", "2"]  # without --save-dir mutual
    for name, updates in (("mutual", (4,)), ("paused", (2, 4))):
        for update in updates:
            result = run_fairseq("train", *words, "--max-update", update, "--save-dir", name, cwd=folder)
            assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return folder, result.stdout


def test_a_resumed_training_is_the_same(runs, pretrained):
    folder, log = runs
    whole, paused = (torch.load(folder / name / "checkpoint_last.pt") for name in ("mutual", "paused"))
    assert whole["model"].keys() == paused["model"].keys()
    for name, value in whole["model"].items():
        assert torch.equal(value, paused["model"][name]), name
    for number, path in enumerate(pretrained):
        name = "encoder.layers.0.fc1.weight"
        change = whole["model"][f"peers.{number}.{name}"] - torch.load(path)["model"][name]
        assert 0 < change.abs().max() < 0.1, "it began with the weights of the checkpoint"
    for word in ("valid_nll_loss_peer1", "valid_nll_loss_peer2", "train_kd_loss", "valid_best_loss"):
        assert word in log


def test_the_page_about_mutual_learning(runs, data_bin):
    """The training is the fixture's; the peers of split need no composite and no files of the peers."""
    (block,) = blocks_run_by("test_the_page_about_mutual_learning")
    saved = torch.load(runs[0] / "mutual" / "checkpoint_best.pt")["model"]
    words = shlex.split(block.commands()[1])[1:]
    result = run_kd(*words, cwd=runs[0])
    names = [f"peers/peer{number}/checkpoint_best.pt" for number in (1, 2)]
    assert result.returncode == 0 and result.stdout.split() == names, result.stderr
    paths = [runs[0] / name for name in names]
    for number, path in enumerate(paths):
        state = torch.load(path)
        own = {f"peers.{number}.{name}": value for name, value in state["model"].items()}
        assert own and all(torch.equal(value, saved[name]) for name, value in own.items())
        assert state["optimizer_history"][-1]["num_updates"] == 4 and state["last_optimizer_state"] is None
        decoded = run_fairseq("generate", data_bin, "--path", path, "--cpu", "--required-batch-size-multiple", "1")
        assert decoded.returncode == 0, decoded.stderr[-2000:]
        assert decoded.stdout.count("\nH-") == 30
    before = paths[0].stat()
    assert run_kd(*words, cwd=runs[0]).returncode == 0
    assert paths[0].stat().st_mtime_ns == before.st_mtime_ns, "a finished folder is kept"


def test_what_cannot_be_split_is_refused_and_nothing_is_written(runs, teacher, tmp_path, capsys):
    composite = runs[0] / "mutual" / "checkpoint_last.pt"
    for change, message in (
        (lambda state: _drop(state, "peers.1."), "no weights of peer 2"),
        (lambda state: state["model"].update({"encoder.x": torch.zeros(1)}), "weight encoder.x"),
        (lambda state: setattr(state["cfg"]["model"], "peer_options", [{"arch": "x"}]), "options of its peers"),
    ):
        state = torch.load(composite)
        change(state)
        torch.save(state, tmp_path / "damaged.pt")
        _refused(["split", tmp_path / "damaged.pt", "--out", tmp_path / "out"], capsys, message)
    other = tmp_path / "a" / composite.name
    other.parent.mkdir()
    shutil.copy(composite, other)
    _refused(["split", teacher, "--out", tmp_path / "out"], capsys, "one model already")
    _refused(["split", tmp_path / "none.pt", "--out", tmp_path / "out"], capsys, "none.pt is not there")
    _refused(["split", composite, other, "--out", tmp_path / "out"], capsys, "have the same file name")
    _refused(
        ["split", composite, "--trust-checkpoint", "x", "--out", tmp_path / "out"], capsys, "is not the CHECKPOINT"
    )
    assert not (tmp_path / "out").exists()


def _drop(state, prefix):
    for name in [name for name in state["model"] if name.startswith(prefix)]:
        del state["model"][name]


def _refused(words, capsys, message):
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("fairseq_kd: error:") == 1 and "Traceback" not in error


def test_a_composite_is_not_decoded(runs, data_bin, capsys):
    composite = runs[0] / "mutual" / "checkpoint_last.pt"
    _refused(["evaluate", data_bin, "--checkpoint", composite, "--cpu"], capsys, "fairseq-kd split")
    result = run_fairseq("generate", data_bin, "--path", composite, "--cpu")
    assert_user_error(result, "which are not decoded", "fairseq-kd split")


def test_several_checkpoints_of_one_training_give_a_folder_per_peer(runs, tmp_path):
    for update in (1, 2):
        shutil.copy(runs[0] / "mutual" / "checkpoint_last.pt", tmp_path / f"checkpoint{update}.pt")
    manifest = split_checkpoints(sorted(tmp_path.glob("*.pt")), tmp_path / "out")
    expected = [f"peer{peer}/checkpoint{update}.pt" for peer in (1, 2) for update in (1, 2)]
    assert list(manifest["files"]) == expected and manifest["peers"] == 2


def test_new_peers_can_have_the_dimensions_of_other_students(data_bin, pretrained):
    words = (*MUTUAL[:4], "--peer-archs", "transformer", "--peer-like", pretrained[1])
    with pytest.raises(SystemExit):  # --like gives all dimensions, and these come in addition
        build(data_bin, *words)
    _, task, *_ = build(data_bin, *MUTUAL, *TWO)
    options = Namespace(peers=None, peer_archs="kd_student_3m", peer_like=str(pretrained[1]), seed=1, dropout=0.0)
    options.peer_data = options.trust_checkpoint = None
    first, second = open_peers(options, task)
    assert first.model.encoder.embed_tokens.embedding_dim == 128 and first.options["arch"] == "kd_student_3m"
    assert len(second.model.decoder.layers) == 2 and second.model.encoder.embed_tokens.embedding_dim == 16
    assert second.options["like"] is None, "a checkpoint of the training needs no other file"


BAD = {
    "no peers": ([], "needs its peers"),
    "one peer": (["--peer-archs", "kd_student"], "names one peer"),
    "one checkpoint": (["--peers", "{teacher}"], "--peers names one peer"),
    "empty name": (["--peer-archs", "kd_student:"], "has an empty name"),
    "both": (["--peers", "{teacher}:{teacher}", "--peer-archs", "kd_student"], "exclude each other"),
    "unknown": (["--peer-archs", "transformer:kd_studemt_3m"], "unknown; the nearest valid one is 'kd_student_3m'"),
    "not autoregressive": (["--peer-archs", "transformer:nonautoregressive_transformer"], "non-autoregressive"),
    "language model": (["--peer-archs", "transformer:transformer_lm"], "must be an encoder-decoder"),
    "itself": (["--peer-archs", "transformer:kd_mutual"], "must be an encoder-decoder"),
    "gates": (["--peer-archs", "transformer:kd_adaptive"], "compact it first"),
    "data": ([*TWO, "--peer-data", "x"], "--peer-data has no effect without --peers"),
    "missing": (["--peers", "{teacher}:none.pt"], "none.pt is not there"),
    "options": (["--peers", "{teacher}:{teacher}", "--dropout", "0"], "--dropout has no effect with --peers"),
    "not a peer": (["--peers", "{teacher}:{teacher}", "--trust-checkpoint", "x.pt"], "is none of the peers"),
    "other dictionary": (["--peers", "{teacher}:{teacher}"], "the first difference is at index 4"),
    "criterion": ([*TWO, "--criterion", "cross_entropy"], "train it with --criterion kd_mutual"),
    "bleu": ([*TWO, "--eval-bleu"], "--eval-bleu does not work"),
    "weight": ([*TWO, "--kd-weight", "2"], "--kd-weight 2.0: must be from 0"),
    "no effect": ([*TWO, "--kd-weight", "0", "--kd-scale", "2"], "has no effect with --kd-weight 0"),
    "smoothing": ([*TWO, "--kd-weight", "1", *SMOOTH], "has no effect with --kd-weight 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(case, data_bin, teacher, tmp_path, capsys):
    words, message = BAD[case]
    words = [word.replace("{teacher}", str(teacher)) for word in words]
    data = data_bin
    if case == "other dictionary":
        data = shutil.copytree(data_bin, tmp_path / "data")
        for path in data.glob("dict.*.txt"):
            _, *rest = path.read_text().splitlines()
            path.write_text("\n".join(["other 1", *rest]) + "\n")
    common = ("--arch", "kd_mutual", "--criterion", "kd_mutual")
    with pytest.raises(SystemExit) as end:
        _build_without_dimensions(data, *common, *words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and "Traceback" not in error
    assert case != "other dictionary" or str(teacher) in error


def _build_without_dimensions(data_bin, *arguments):
    """As `helpers.build`, with only those options of TINY_MODEL that are not of the model."""
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    words = [str(data_bin), *OF_THE_TRAINING, *map(str, arguments)]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    return task.build_model(cfg.model), task.build_criterion(cfg.criterion)


def test_an_option_that_no_peer_has_is_refused(data_bin):
    with pytest.raises(SystemExit):
        _build_without_dimensions(data_bin, *MUTUAL[:4], "--peer-archs", "transformer:transformer", "--ffn-type", "glu")
    model, _ = _build_without_dimensions(
        data_bin, *MUTUAL[:4], "--peer-archs", "lstm:lstm", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"
    )
    assert [peer.encoder.embed_tokens.embedding_dim for peer in model.peers] == [16, 16]


def test_the_criterion_refuses_one_model(data_bin, capsys):
    _, task, model, criterion = build(data_bin, "--criterion", "kd_mutual")
    with pytest.raises(SystemExit):
        criterion(model, batch(task, range(2)))
    assert "trains several models" in capsys.readouterr().err


def test_without_gold_tokens_only_the_others_teach(data_bin):
    """α = 1: another gold token at the same prefixes changes nothing."""
    _, task, model, criterion = build(data_bin, *MUTUAL, *TWO, "--kd-weight", "1")
    sample = batch(task, range(3))
    before = criterion(model, sample)[0].item()
    sample["target"] = torch.where(sample["target"].ne(1), 5, 1)
    assert criterion(model, sample)[0].item() == pytest.approx(before, rel=1e-6) and before > 0


def test_options_out_of_range():
    with pytest.raises(KDError, match="must be above 0"):
        check_mutual_options(KDMutualConfig(teacher_temperature=0))
