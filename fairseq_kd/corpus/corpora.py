"""Corpora by name: how each is usually prepared, and its data-bin."""

import tempfile
from functools import partial

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus import campaign, datasets, iwslt, synthetic, wmt
from fairseq_kd.corpus.options import PrepareOptions
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.text import CleaningRules

CORPORA = {corpus.name: corpus for corpus in (iwslt.IWSLT14, iwslt.IWSLT17, iwslt.IWSLT13, wmt.EN_DE, wmt.EN_FR)}
NAMES = (*CORPORA, "multi30k", "synthetic", "text")


def usual_options(name: str, given: dict) -> PrepareOptions:
    """The options by which the corpus `name` is usually prepared, but for those that are given.

    given: fields of PrepareOptions and of CleaningRules. Raises KDError as PrepareOptions does.
    """
    usual = dict(CORPORA[name].usual) if name in CORPORA else {}
    if given.get("form", usual.get("form")) != usual.get("form"):
        usual.pop("subword", None)  # the usual subwords are those of the usual form
    if given.get("like"):
        usual.pop("subword", None)
    if given.get("like") or given.get("subword_model") or given.get("subword") == "none":
        usual.pop("vocab_size", None)
    rules = usual.pop("rules", CleaningRules())
    given = dict(given)
    limits = {limit: given.pop(limit, getattr(rules, limit)) for limit in ("max_words", "max_ratio")}
    return PrepareOptions(**usual | given, rules=CleaningRules(**limits))


def prepare_by_name(
    name: str, source_lang, target_lang, out, options, raw=None, say=print, *, stems=None, spec=None
) -> dict:
    """Make the data-bin `out` of the corpus `name`, or check that it is finished; return its manifest.

    source_lang, target_lang: None where the corpus decides them. raw: folder of its files, None to download them.
    stems: subset -> stem, for "text". spec: fields of CorpusSpec, for "synthetic".
    Raises KDError for bad input; then nothing is left under `out`.
    """
    if name in CORPORA:
        return _prepare_campaign(CORPORA[name], source_lang, target_lang, out, options, raw, say)
    if name == "synthetic":
        made = synthetic.CorpusSpec(**spec or {})
        languages = source_lang or synthetic.SOURCE, target_lang or synthetic.TARGET
        with tempfile.TemporaryDirectory(prefix="fairseq_kd-") as folder:
            files = synthetic.write_corpus(made, folder, *languages)
            return prepare(name, files, *languages, out, options, say, origin=made.as_dict())
    if not source_lang or not target_lang:
        raise KDError(f"prepare {name} needs --source-lang and --target-lang")
    if name == "multi30k":
        files = datasets.multi30k_files(source_lang, target_lang, raw)
    elif raw is None:
        raise KDError("prepare text needs --raw FOLDER, the folder with your files")
    else:
        files = datasets.text_files(raw, source_lang, target_lang, stems)
    return prepare(name, files, source_lang, target_lang, out, options, say)


def _prepare_campaign(corpus: campaign.Corpus, source_lang, target_lang, out, options, raw, say) -> dict:
    first, second = corpus.languages
    if source_lang is None and target_lang is None:
        source_lang, target_lang = first, second
    if {source_lang, target_lang} != {first, second}:
        raise KDError(
            f"{corpus.name} is {first}-{second}, or {second}-{first} with --source-lang {second} --target-lang "
            f"{first}; found {source_lang} and {target_lang}"
        )
    archives = campaign.locate_archives(corpus, raw)
    origin = campaign.describe_origin(corpus, archives, inputs := Inputs())
    languages = source_lang, target_lang
    tokenised = options.form != "cased"
    write = partial(campaign.write_text, corpus, archives, languages=languages, tokenised=tokenised)
    return prepare(corpus.name, write, *languages, out, options, say, origin=origin, inputs=inputs)
