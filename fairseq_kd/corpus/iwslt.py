"""IWSLT: TED talks, after fairseq's examples/translation/prepare-iwslt14.sh and prepare-iwslt17-multilingual.sh.

From there are the addresses, the members, the split and the cleaning of 2014 and 2017. Entities in the evaluation sets
are decoded. The script for 2014 does not do that: seven lines of its tokenised test set, five of them English, hold
"&amp; amp ;" where "&amp;" was meant. Not yet run against the real archives.
"""

from functools import partial

from fairseq_kd.corpus.campaign import Archive, Corpus, Part
from fairseq_kd.corpus.markup import read_segments, read_tagged
from fairseq_kd.corpus.text import CleaningRules

TAGS_2014 = ("url", "talkid", "keywords")
TAGS = (*TAGS_2014, "speaker", "reviewer", "translator", "doc")
# the address of the first versions of fairseq's script, and sacreBLEU's copies of the archives of 2017
WIT3 = "https://wit3.fbk.eu/archive"
WIT3_COPY = "https://raw.githubusercontent.com/hlt-mt/WIT3/master/archive"


def _train(archive: Archive, pair: str, tags=TAGS) -> tuple[Part]:
    return (Part(archive, f"{pair}/train.tags.{pair}.{{lang}}", partial(read_tagged, dropped=tags)),)


def _sets(archive: Archive, pair: str, names) -> tuple[Part, ...]:
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

# 160,239 pairs in the literature: ratio 1.5 and length 1 to 175 of Moses tokens, every 23rd pair for validation
IWSLT14 = Corpus(
    "iwslt14.de-en",
    ("de", "en"),
    {
        "train": _train(_DE_EN, "de-en", TAGS_2014),
        "test": _sets(
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

# fairseq prepares 2017 without tokenising, by 16,384 SentencePiece BPE; it has no test set of its own
IWSLT17 = Corpus(
    "iwslt17.en-fr",
    ("en", "fr"),
    {
        "train": _train(_EN_FR_17, "en-fr"),
        "valid": _sets(_EN_FR_17, "en-fr", ["IWSLT17.TED.dev2010"]),
        **{
            f"test{number or ''}": _sets(_EN_FR_17, "en-fr", [f"IWSLT17.TED.tst{2015 - number}"]) for number in range(6)
        },
    },
    {"vocab_size": 16_384, "rules": CleaningRules(max_words=250)},
)

IWSLT13 = Corpus(
    "iwslt13.en-fr",
    ("en", "fr"),
    {
        "train": _train(_EN_FR_13, "en-fr"),
        "valid": _sets(_EN_FR_13, "en-fr", ["IWSLT13.TED.dev2010"]),
        "test": _sets(_EN_FR_13, "en-fr", ["IWSLT13.TED.tst2010"]),
    },
    {"vocab_size": 16_384, "rules": CleaningRules(max_words=250)},
)
