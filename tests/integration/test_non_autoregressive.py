"""Non-autoregressive students: stock fairseq trains on what `decode` writes, and decodes the students."""

import re
import shlex

from conftest import run_fairseq
from docs_helpers import blocks_run_by, with_user_dir

from fairseq_kd.cli.main import main

TINY = [
    *("--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"),
    *("--encoder-ffn-embed-dim", "32", "--decoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2"),
    *("--decoder-attention-heads", "2", "--max-tokens", "400", "--max-update", "2", "--cpu", "--num-workers", "0"),
    *("--disable-validation", "--no-epoch-checkpoints", "--log-format", "json"),
]


def test_stock_fairseq_trains_and_decodes_them(data_bin, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, target in (("data-bin/mine", data_bin), ("teacher/checkpoint_best.pt", teacher)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(target)
    listed = blocks_run_by("test_stock_fairseq_trains_and_decodes_them")
    commands = with_user_dir([command for block in listed for command in block.commands()])
    assert [command.split()[0] for command in commands] == ["fairseq-kd", *["fairseq-train", "fairseq-generate"] * 2]
    decode, *others = map(shlex.split, commands)
    assert main([*decode[1:], "--max-len-b", "12", "--cpu", "--beam", "2"]) == 0
    for (_, *training), (_, *generation) in zip(others[::2], others[1::2], strict=True):
        trained = run_fairseq("train", *training, *TINY, user_dir=None)
        assert trained.returncode == 0, trained.stderr[-3000:]
        assert '"train_num_updates": "2"' in trained.stdout
        generated = run_fairseq("generate", *generation, "--cpu", user_dir=None)
        assert generated.returncode == 0, generated.stderr[-3000:]
        assert sorted(int(n) for n in re.findall(r"^D-(\d+)\t", generated.stdout, re.M)) == list(range(30))
