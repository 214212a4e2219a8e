"""Tiny models of transformers, trained for a moment and converted by CTranslate2's own converter.

`make_marian` and `make_nllb` write FOLDER/model (transformers) and FOLDER/ct2 (CTranslate2). `generate` is the search
of transformers, the reference for `fairseq-kd decode --teacher-folder`.
"""

import json
import sys
from pathlib import Path

import sentencepiece
import torch

WORDS = 3  # of each sentence: short sentences are learnt sooner
STEPS, BATCH = 100, 32
SHAPE = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"dropout": 0.0, "attention_dropout": 0.0, "scale_embedding": True, "init_std": 0.1},
}


def transformers():
    """The package. Its import fails where torchaudio is installed for another torch, although nothing needs it here."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        sys.modules["torchaudio"] = None
    import transformers as found

    found.logging.set_verbosity_error()
    found.logging.disable_progress_bar()
    return found


def short_lines(corpus, name: str) -> list[str]:
    """The first words of each line of a file of the corpus."""
    return [" ".join(line.split()[:WORDS]) for line in (Path(corpus) / name).read_text().splitlines()]


def make_marian(corpus, folder: Path) -> Path:
    """A model of the shape of OPUS-MT: one SentencePiece model per language, one vocabulary."""
    hf = transformers()
    model = folder / "model"
    model.mkdir(parents=True)
    vocabulary = {"</s>": 0, "<unk>": 1}
    for lang, side in (("qaa", "source"), ("qab", "target")):
        for piece in _train_pieces([corpus / f"train.{lang}"], model / f"{side}.spm", 60):
            vocabulary.setdefault(piece, len(vocabulary))
    vocabulary["<pad>"] = pad = len(vocabulary)
    (model / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = hf.MarianTokenizer(*(str(model / name) for name in ("source.spm", "target.spm", "vocab.json")))
    shape = hf.MarianConfig(
        vocab_size=len(vocabulary), pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad,
        forced_eos_token_id=None, **SHAPE,
    )  # fmt: skip
    return _finish(hf.MarianMTModel, shape, tokenizer, corpus, folder, ["source.spm", "target.spm"])


def make_nllb(corpus, folder: Path, languages=("deu_Latn", "eng_Latn")) -> Path:
    """A model of the shape of NLLB (an M2M-100 model): a tokenizer.json, and a token per language."""
    hf = transformers()
    vocabulary, merges = _train_bpe([corpus / f"train.{lang}" for lang in ("qaa", "qab")], 90)
    tokenizer = hf.NllbTokenizer(
        vocabulary, merges, src_lang=languages[0], tgt_lang=languages[1], extra_special_tokens=[*languages, "fra_Latn"]
    )
    shape = hf.M2M100Config(
        vocab_size=len(tokenizer), encoder_layerdrop=0.0, decoder_layerdrop=0.0, forced_bos_token_id=None, **SHAPE
    )
    return _finish(hf.M2M100ForConditionalGeneration, shape, tokenizer, corpus, folder, ["tokenizer.json"])


def generate(folder: Path, lines: list[str], beams: int, **more):
    """(texts, scores or None) of the package's own search. more: further arguments of `generate`."""
    hf = transformers()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "model")
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(folder / "model").eval()
    batch = tokenizer(lines, padding=True, return_tensors="pt")
    if isinstance(tokenizer, hf.NllbTokenizer):
        more |= {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(tokenizer.tgt_lang)}
    search = {"num_beams": beams, "do_sample": False, "early_stopping": beams > 1, "output_scores": beams > 1}
    search |= {"suppress_tokens": [tokenizer.unk_token_id], "return_dict_in_generate": True}
    with torch.no_grad():
        found = model.generate(**batch, **search, **more)
    texts = tokenizer.batch_decode(found.sequences, skip_special_tokens=True)
    return texts, getattr(found, "sequences_scores", None)


def _train_pieces(paths: list, out: Path, size: int) -> list[str]:
    lines = [line for path in paths for line in path.read_text().splitlines()]
    with open(out, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, model_type="bpe", vocab_size=size, minloglevel=2,
            character_coverage=1.0, bos_id=-1, eos_id=-1, pad_id=-1, unk_id=0, num_threads=1,
        )  # fmt: skip
    found = sentencepiece.SentencePieceProcessor(model_file=str(out))
    return [found.id_to_piece(number) for number in range(1, found.get_piece_size())]


def _train_bpe(paths: list, size: int) -> tuple[dict, list]:
    """(piece -> id, merges), of the package tokenizers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    found = Tokenizer(models.BPE(unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    found.train([*map(str, paths)], trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    model = json.loads(found.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _finish(kind, shape, tokenizer, corpus, folder: Path, files: list[str]) -> Path:
    from ctranslate2.converters import TransformersConverter

    hf = transformers()
    torch.manual_seed(1)
    model = kind(shape)
    if kind is hf.MarianMTModel:  # as in models that Marian trained: padding is never written, and begins each target
        model.final_logits_bias[0, shape.pad_token_id] = -1e9
    _train(model, tokenizer, short_lines(corpus, "train.qaa"), short_lines(corpus, "train.qab"))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    TransformersConverter(str(folder / "model"), copy_files=files).convert(str(folder / "ct2"))
    return folder


def _train(model, tokenizer, sources: list[str], targets: list[str]) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    model.train()
    for step in range(STEPS):
        chosen = slice(step * BATCH % (len(sources) - BATCH), None)
        batch = tokenizer(
            sources[chosen][:BATCH], text_target=targets[chosen][:BATCH], padding=True, return_tensors="pt"
        )
        batch["labels"][batch["labels"] == tokenizer.pad_token_id] = -100
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.get_input_embeddings().weight[tokenizer.pad_token_id] = 0  # the output layer shares the matrix
    model.eval()
