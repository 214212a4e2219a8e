"""Subword models by their kind: trained, reused, applied, and read from a data-bin.

A model has `encode(text)` and `decode(subwords)`. Decoding restores the text, so hypotheses are detokenised by `decode`
alone; see `sentencepiece_model` for normalisation.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, read_prepared
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.bpe import SubwordNMTModel
from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel, join_pieces

KINDS = ("sentencepiece", "subword-nmt", "none")
NO_SUBWORDS = "none"  # in place of the file of a model: the tokens are words
HEAD_BYTES = 4096  # at the beginning of a file, to tell its kind


class WordModel:
    """No subwords: the tokens are the words between spaces."""

    kind = "none"
    suffix = ""

    @staticmethod
    def encode(line: str) -> str:
        """The line itself."""
        return line

    decode = encode


MODELS = {model.kind: model for model in (SentencePieceModel, SubwordNMTModel, WordModel)}


def load_subword_model(kind: str, path=None):
    """The model of `kind` read from `path` (no path for kind "none"). Raises KDError for an unknown kind."""
    if kind not in MODELS:
        raise KDError(f"unknown subword model {kind!r}; known: {', '.join(KINDS)}")
    return WordModel() if kind == "none" else MODELS[kind](path)


def load_model_file(path):
    """The model in a file: text is BPE codes (see `read_codes`), anything else a SentencePiece model.

    Raises KDError when it is neither.
    """
    if not Path(path).is_file():
        raise KDError(f"--subword-model: {path} is not there")
    with open(path, "rb") as file:
        is_text = b"\0" not in file.read(HEAD_BYTES)  # a SentencePiece model holds four-byte numbers
    return load_subword_model("subword-nmt" if is_text else "sentencepiece", path)


def open_model(path):
    """The model in a file as `load_model_file` reads it; the model of words for NO_SUBWORDS."""
    return WordModel() if path == NO_SUBWORDS else load_model_file(path)


def copy_subword_models(paths: dict[str, str], folder: Path) -> tuple[dict, dict]:
    """Copy the models of a language pair into `folder`, one file if both languages share it.

    paths: language -> file, or NO_SUBWORDS. Returns (language -> model, language -> file name in `folder` or None).
    Raises KDError for a file without a model, and for models of different kinds.
    """
    models = {lang: open_model(path) for lang, path in paths.items()}
    if len(kinds := {model.kind for model in models.values()}) > 1:
        raise KDError(
            f"--subword-model: the models are of different kinds, {' and '.join(sorted(kinds))}: give two of one"
        )
    if kinds == {WordModel.kind}:
        return models, dict.fromkeys(models)
    folder.mkdir(parents=True, exist_ok=True)
    is_joint = len(set(paths.values())) == 1
    names = {lang: f"{'joint' if is_joint else lang}{model.suffix}" for lang, model in models.items()}
    for lang, model in models.items():
        model.copy(paths[lang], folder / names[lang])
    return models, names


def describe_models(models: dict, names: dict) -> dict:
    """The entry "subword" of a manifest. models, names: as `obtain_subword_models` returns them.

    "normalisation": language -> the rule with which its SentencePiece model normalises text.
    """
    rules = {lang: model.normalisation for lang, model in models.items() if isinstance(model, SentencePieceModel)}
    kind = next(iter(models.values())).kind
    return {"kind": kind, "files": names} | ({"normalisation": rules} if rules else {})


def obtain_subword_models(kind, train_text: dict, vocab_size, joint: bool, reuse, folder: Path, normalisation=None):
    """Train or copy the subword models of a language pair into `folder`.

    train_text: language -> iterable of lines, read once. joint: whether both languages share one model.
    reuse: None, or the path of a model to copy instead of training (joint only).
    normalisation: one of NORMALISATIONS where a SentencePiece model is trained, else None.
    Returns (language -> model, language -> file name in `folder` or None).
    """
    languages = list(train_text)
    if kind == "none":
        return {lang: WordModel() for lang in languages}, dict.fromkeys(languages)
    folder.mkdir(parents=True, exist_ok=True)
    suffix, train = MODELS[kind].suffix, MODELS[kind].train
    if normalisation is not None:
        train = partial(train, normalisation=normalisation)
    if reuse is not None:
        load_subword_model(kind, reuse)  # refuse before copying
        MODELS[kind].copy(reuse, folder / f"joint{suffix}")
        names = dict.fromkeys(languages, f"joint{suffix}")
    elif joint:
        both = (line for lang in languages for line in train_text[lang])
        train(both, vocab_size, folder / f"joint{suffix}")
        names = dict.fromkeys(languages, f"joint{suffix}")
    else:
        names = {lang: f"{lang}{suffix}" for lang in languages}
        for lang in languages:
            train(train_text[lang], vocab_size, folder / names[lang])
    return {lang: load_subword_model(kind, folder / names[lang]) for lang in languages}, names


def load_decoder(post_process: str):
    """The function that joins the subwords of one line without a model: every kind marks its joints in the text.

    Raises KDError for an unknown kind. Where a data-bin has its model, `subword_decoder` uses the model.
    """
    decoders = {"sentencepiece": join_pieces, "subword-nmt": SubwordNMTModel.decode, "none": WordModel.decode}
    if post_process not in decoders:
        raise KDError(f"--post-process {post_process}: must be one of {', '.join(KINDS)}")
    return decoders[post_process]


def load_subword_models(data_bin, source_lang, target_lang) -> dict:
    """Language -> subword model of a data-bin made by `prepare`. Raises KDError for another data-bin."""
    manifest = read_prepared(data_bin)
    if manifest is None:
        raise KDError(f"{data_bin} has no {MANIFEST_NAME}: it was not made by `fairseq-kd prepare`")
    check_files(data_bin, {n: h for n, h in manifest["files"].items() if n.startswith(("dict.", "subword/"))})
    names = manifest["subword"]["files"]
    for lang in (source_lang, target_lang):
        if lang not in names:
            raise KDError(f"{data_bin} is for the languages {', '.join(names)}, not {lang!r}")
    kind = manifest["subword"]["kind"]
    return {
        lang: load_subword_model(kind, names[lang] and Path(data_bin) / "subword" / names[lang])
        for lang in (source_lang, target_lang)
    }


def not_adopted(data_bin, otherwise: str, subset: str | None = None) -> KDError:
    """The error of everything that needs to know how the subwords of a data-bin become text.

    subset: whose references are needed too. otherwise: what else the user can do.
    """
    reference = "" if subset is None else f" --reference {subset}=FILE"
    return KDError(
        f"{data_bin} was not made by `fairseq-kd prepare`, so it does not say how subwords become text, and scores of "
        f"subwords mean nothing: run `fairseq-kd adopt {data_bin} --subword-model FILE{reference}` once, for every "
        f"command, or {otherwise}"
    )


def subword_decoder(data_bin, lang: str, post_process: str | None) -> tuple[str, Callable[[str], str]]:
    """(kind of the subwords, function from a line of subwords to text), by the data-bin's own model of `lang`.

    post_process: the kind, for a data-bin of plain fairseq-preprocess, which has no model; else None or the same kind.
    Everything that compares or writes text of a data-bin uses this function.
    Raises KDError where the kind is unknown, and where it differs from the kind of the data-bin.
    """
    manifest = read_prepared(data_bin)
    if manifest is None:
        if post_process is None:
            raise not_adopted(data_bin, f"give --post-process {'|'.join(KINDS)}")
        return post_process, load_decoder(post_process)
    kind = manifest["subword"]["kind"]
    if post_process not in (None, kind):
        raise KDError(f"--post-process {post_process}: the manifest of {data_bin} says {kind}")
    return kind, load_subword_models(data_bin, lang, lang)[lang].decode
