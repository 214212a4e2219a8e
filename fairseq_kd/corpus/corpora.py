"""Corpora by name: one entry per corpus, its usual options, and its data-bin.

An entry holds the archives with their addresses and hashes, the layout, and the usual options. A recipe of the
quickstart for the corpus, if there is one, is configs/datasets/NAME.yaml. No entry but multi30k has been run on the
real archives yet.

IWSLT: TED talks. The addresses, members, split and cleaning of 2014 and 2017 follow fairseq's
examples/translation/prepare-iwslt14.sh and prepare-iwslt17-multilingual.sh. Entities in the evaluation sets are
decoded. The script for 2014 does not decode them: seven lines of its tokenised test set, five of them English, hold
"&amp; amp ;" where "&amp;" was meant.

WMT14: news. The addresses and members follow fairseq's examples/translation/prepare-wmt14en2{de,fr}.sh. That
script has two choices of data; these are the data of WMT14 alone (`--icml17`: news commentary 9). Validation is
newstest2013, as in Vaswani et al. 2017; fairseq's script takes every 100th training pair. Lengths are counted in words
between spaces; that script counts subwords.
"""

from contextlib import ExitStack
from functools import partial

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.corpus.campaign import ArchiveCorpus, Part, read_plain, read_segments, read_tagged
from fairseq_kd.corpus.download import Archive
from fairseq_kd.corpus.entry import Corpus, OfficialFiles, OwnText, Synthetic
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.text import CleaningRules

TAGS_2014 = ("url", "talkid", "keywords")
TAGS = (*TAGS_2014, "speaker", "reviewer", "translator", "doc")
# WIT3: the address in the first versions of fairseq's script. WIT3_COPY: the copies that sacreBLEU uses for 2017.
WIT3 = "https://wit3.fbk.eu/archive"
WIT3_COPY = "https://raw.githubusercontent.com/hlt-mt/WIT3/master/archive"


def _iwslt_train(archive: Archive, pair: str, tags=TAGS) -> tuple[Part]:
    return (Part(archive, f"{pair}/train.tags.{pair}.{{lang}}", partial(read_tagged, dropped=tags)),)


def _iwslt_sets(archive: Archive, pair: str, names) -> tuple[Part, ...]:
    return tuple(Part(archive, f"{pair}/{name}.{pair}.{{lang}}.xml", read_segments) for name in names)


_DE_EN = Archive(
    "de-en",
    ("http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz", f"{WIT3}/2014-01/texts/de/en/de-en.tgz"),
    inside=("2014-01",),
)
_EN_FR_17 = Archive(
    "en-fr",
    (f"{WIT3_COPY}/2017-01-trnted/texts/en/fr/en-fr.tgz", f"{WIT3}/2017-01-trnted/texts/en/fr/en-fr.tgz"),
    inside=("2017-01-trnted",),
)
_EN_FR_13 = Archive("en-fr", inside=("2013-01",))

# the literature has 160,239 pairs: ratio 1.5, 1 to 175 Moses tokens, every 23rd pair for validation
IWSLT14 = ArchiveCorpus(
    "iwslt14.de-en",
    ("de", "en"),
    {
        "train": _iwslt_train(_DE_EN, "de-en", TAGS_2014),
        "test": _iwslt_sets(
            _DE_EN,
            "de-en",
            (
                *("IWSLT14.TED.dev2010", "IWSLT14.TEDX.dev2012"),
                *("IWSLT14.TED.tst2010", "IWSLT14.TED.tst2011", "IWSLT14.TED.tst2012"),
            ),
        ),
    },
    {
        "form": "lower-cased",
        "subword": "subword-nmt",
        "vocab_size": 10_000,
        "rules": CleaningRules(max_words=175, max_ratio=1.5),
        "count_tokens": True,
        "valid_every": 23,
    },
    straight_apostrophes=True,
)

# fairseq prepares 2017 without a tokeniser, with 16,384 pieces of SentencePiece; it has no test set for 2017
IWSLT17 = ArchiveCorpus(
    "iwslt17.en-fr",
    ("en", "fr"),
    {
        "train": _iwslt_train(_EN_FR_17, "en-fr"),
        "valid": _iwslt_sets(_EN_FR_17, "en-fr", ["IWSLT17.TED.dev2010"]),
        **{
            f"test{number or ''}": _iwslt_sets(_EN_FR_17, "en-fr", [f"IWSLT17.TED.tst{2015 - number}"])
            for number in range(6)
        },
    },
    {"vocab_size": 16_384, "rules": CleaningRules(max_words=250)},
)

IWSLT13 = ArchiveCorpus(
    "iwslt13.en-fr",
    ("en", "fr"),
    {
        "train": _iwslt_train(_EN_FR_13, "en-fr"),
        "valid": _iwslt_sets(_EN_FR_13, "en-fr", ["IWSLT13.TED.dev2010"]),
        "test": _iwslt_sets(_EN_FR_13, "en-fr", ["IWSLT13.TED.tst2010"]),
    },
    {"vocab_size": 16_384, "rules": CleaningRules(max_words=250)},
)

_EUROPARL = Archive("training-parallel-europarl-v7", ("http://statmt.org/wmt13/training-parallel-europarl-v7.tgz",))
_CRAWL = Archive("training-parallel-commoncrawl", ("http://statmt.org/wmt13/training-parallel-commoncrawl.tgz",))
_UN = Archive("training-parallel-un", ("http://statmt.org/wmt13/training-parallel-un.tgz",))
_NEWS = Archive("training-parallel-nc-v9", ("http://statmt.org/wmt14/training-parallel-nc-v9.tgz",))
_GIGA = Archive("training-giga-fren", ("http://statmt.org/wmt10/training-giga-fren.tar",))
# the archive of WMT14: fairseq's script takes a later one for the training pairs of WMT17, which has no French
_DEV = Archive("dev", ("http://statmt.org/wmt14/dev.tgz",))
_TEST = Archive("test-full", ("http://statmt.org/wmt14/test-full.tgz",))

_WMT_USUAL = {"vocab_size": 32_000, "rules": CleaningRules(max_words=250, max_ratio=1.5)}


def _wmt_sets(other: str) -> dict[str, tuple[Part]]:
    dev = {"en": "dev/newstest2013-src.en.sgm", other: f"dev/newstest2013-ref.{other}.sgm"}
    name = f"test-full/newstest2014-{other}en"
    test = {"en": f"{name}-src.en.sgm", other: f"{name}-ref.{other}.sgm"}
    return {"valid": (Part(_DEV, dev, read_segments),), "test": (Part(_TEST, test, read_segments),)}


WMT14_EN_DE = ArchiveCorpus(
    "wmt14.en-de",
    ("en", "de"),
    {
        "train": (
            Part(_EUROPARL, "training/europarl-v7.de-en.{lang}", read_plain),
            Part(_CRAWL, "commoncrawl.de-en.{lang}", read_plain),
            Part(_NEWS, "training/news-commentary-v9.de-en.{lang}", read_plain),
        ),
        **_wmt_sets("de"),
    },
    _WMT_USUAL,
)

WMT14_EN_FR = ArchiveCorpus(
    "wmt14.en-fr",
    ("en", "fr"),
    {
        "train": (
            Part(_EUROPARL, "training/europarl-v7.fr-en.{lang}", read_plain),
            Part(_CRAWL, "commoncrawl.fr-en.{lang}", read_plain),
            Part(_UN, "un/undoc.2000.fr-en.{lang}", read_plain),
            Part(_NEWS, "training/news-commentary-v9.fr-en.{lang}", read_plain),
            Part(_GIGA, "giga-fren.release2.fixed.{lang}.gz", read_plain),
        ),
        **_wmt_sets("fr"),
    },
    _WMT_USUAL,
)

MULTI30K = OfficialFiles(
    "multi30k",
    "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw",
    ("cs", "de", "en", "fr"),
    {"train": "train", "valid": "val", "test": "test_2016_flickr"},
    {
        "train.cs.gz": "a65adb8b32e3bc664f21ecba7a6e7f6950fd1f405e135f7c312faabdb6255077",
        "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
        "val.cs.gz": "b63226e05c4bd5dd6a42897d74b86a1b9d2c31498252c572b1ea7f7996927fcc",
        "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
        "test_2016_flickr.cs.gz": "200a4a74cc9560f051924abb9803be008d1908d77f747e9141aeb86dfd2797f1",
        "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    },
)

_ENTRIES = (IWSLT14, IWSLT17, IWSLT13, WMT14_EN_DE, WMT14_EN_FR, MULTI30K, Synthetic("synthetic"), OwnText("text"))
CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _ENTRIES}


def usual_options(name: str, given: dict) -> PrepareOptions:
    """The options with which the corpus `name` is usually prepared; given options replace the usual ones.

    given: fields of PrepareOptions and of CleaningRules. Raises KDError as PrepareOptions does.
    """
    usual = dict(CORPORA[name].usual)
    if given.get("form", usual.get("form")) != usual.get("form"):
        usual.pop("subword", None)  # the usual subwords belong to the usual form
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
    corpus = CORPORA[name]
    languages = corpus.choose_languages(source_lang, target_lang)
    with ExitStack() as stack:
        with Inputs() as inputs:
            found = corpus.open(languages, options, inputs, raw=raw, stems=stems, spec=spec)
            files, origin = stack.enter_context(found)
        # prepare ends its own use of `inputs` before the stack removes temporary files, which would look like a change
        return prepare(name, files, *languages, out, options, say, origin=origin, inputs=inputs)
