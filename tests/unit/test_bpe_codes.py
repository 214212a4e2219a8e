"""Files of codes from subword-nmt and fastBPE, with and without the line that names the version."""

import pytest

from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.bpe import SubwordNMTModel
from fairseq_kd.corpus.subword import load_model_file, load_subword_models

TEXT = "her here"
FILES = {  # with what becomes of TEXT, worked by hand
    "0.2": ("#version: 0.2\ne r</w>\n", "h@@ er h@@ e@@ r@@ e"),
    "0.2 of Windows": ("#version: 0.2\r\ne r</w>\r\n", "h@@ er h@@ e@@ r@@ e"),
    "0.2 without its first line": ("e r</w>\n", "h@@ er h@@ e@@ r@@ e"),
    "fastBPE": ("e r</w> 17\nh e 5\n", "h@@ er he@@ r@@ e"),
    "0.1": ("e r\nr </w>\n", "h@@ er h@@ er@@ e"),
    "0.1 read as 0.2": ("#version: 0.2\ne r\nr </w>\n", "h@@ e@@ r h@@ er@@ e"),
}


@pytest.mark.parametrize("kind", FILES)
def test_codes_of_every_kind_segment_as_their_tool_does(tmp_path, kind):
    codes, segmented = FILES[kind]
    (tmp_path / "codes").write_bytes(codes.encode())
    assert SubwordNMTModel(tmp_path / "codes").encode(TEXT) == segmented
    assert load_model_file(tmp_path / "codes").encode(TEXT) == segmented  # the kind of model is told by the file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a b\na b c d\n", "line 2 is 'a b c d'"),
        (b"a b c\n", "line 1 is 'a b c'"),
        (b"<unk>\t0\n\xe2\x96\x81a\t-1\n", "line 1 is"),  # a vocabulary of SentencePiece
        (b"", "line 1 is ''"),
        (b"\xff\xfe nothing of the kind", "not UTF-8 text"),
        (b"#version: 0.2 - Trained by `huggingface/tokenizers`\n\xc4\xa0 t\n", "another program"),
        (b"#version: 0.3\na b\n", "another program"),
        (b"#version: 0.2\na b 3\n", "line 2 is 'a b 3'"),
    ],
)
def test_what_holds_no_codes_is_one_error_that_says_what_it_holds(tmp_path, content, message):
    (tmp_path / "codes").write_bytes(content)
    with pytest.raises(KDError, match=message):
        load_model_file(tmp_path / "codes")


def test_prepare_and_noise_take_codes_of_fastbpe(corpus, tmp_path):
    """The data-bin gets them in the form that subword-nmt reads."""
    (tmp_path / "fast.codes").write_text("a n</w> 9\ne n 8\na n 7\n")
    words = ["prepare", "text", "--raw", corpus, "-s", "qaa", "-t", "qab", "--out", tmp_path / "out"]
    words += ["--subword", "subword-nmt", "--subword-model", tmp_path / "fast.codes"]
    assert main([str(word) for word in words]) == 0
    assert (tmp_path / "out" / "subword" / "joint.codes").read_text() == "#version: 0.2\na n</w>\ne n\na n\n"
    assert read_manifest(tmp_path / "out")["subword"]["kind"] == "subword-nmt"
    model = load_subword_models(tmp_path / "out", "qaa", "qab")["qab"]
    assert model.encode("pan pand pend") == "p@@ an p@@ an@@ d p@@ en@@ d"
    words = ["noise", "--prefix", corpus / "train", "-s", "qaa", "-t", "qab", "--level", "subword", "--delete", "0.1"]
    words += ["--subword-model", tmp_path / "fast.codes", "--out", tmp_path / "noisy"]
    assert main([str(word) for word in words]) == 0
