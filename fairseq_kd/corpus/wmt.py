"""WMT14: news. Addresses and members are those of fairseq's examples/translation/prepare-wmt14en2{de,fr}.sh.

Of the two choices there, these are the data of WMT14 alone (`--icml17`: news commentary 9). Validation is
newstest2013, as in Vaswani et al. 2017, where fairseq's script takes every 100th training pair. Lengths are counted in
words between spaces, where that script counts subwords. Not yet run against the real archives.
"""

from fairseq_kd.corpus.campaign import Archive, Corpus, Part
from fairseq_kd.corpus.markup import read_plain, read_segments
from fairseq_kd.corpus.text import CleaningRules

_EUROPARL = Archive("training-parallel-europarl-v7", ("http://statmt.org/wmt13/training-parallel-europarl-v7.tgz",))
_CRAWL = Archive("training-parallel-commoncrawl", ("http://statmt.org/wmt13/training-parallel-commoncrawl.tgz",))
_UN = Archive("training-parallel-un", ("http://statmt.org/wmt13/training-parallel-un.tgz",))
_NEWS = Archive("training-parallel-nc-v9", ("http://statmt.org/wmt14/training-parallel-nc-v9.tgz",))
_GIGA = Archive("training-giga-fren", ("http://statmt.org/wmt10/training-giga-fren.tar",))
# that of WMT14: the later one of fairseq's script is not needed without training pairs of WMT17, and French left WMT
_DEV = Archive("dev", ("http://statmt.org/wmt14/dev.tgz",))
_TEST = Archive("test-full", ("http://statmt.org/wmt14/test-full.tgz",))

_USUAL = {"vocab_size": 32_000, "rules": CleaningRules(max_words=250, max_ratio=1.5)}


def _evaluation(other: str) -> dict[str, tuple[Part]]:
    dev = {"en": "dev/newstest2013-src.en.sgm", other: f"dev/newstest2013-ref.{other}.sgm"}
    name = f"test-full/newstest2014-{other}en"
    test = {"en": f"{name}-src.en.sgm", other: f"{name}-ref.{other}.sgm"}
    return {"valid": (Part(_DEV, dev, read_segments),), "test": (Part(_TEST, test, read_segments),)}


EN_DE = Corpus(
    "wmt14.en-de",
    ("en", "de"),
    {
        "train": (
            Part(_EUROPARL, "training/europarl-v7.de-en.{lang}", read_plain),
            Part(_CRAWL, "commoncrawl.de-en.{lang}", read_plain),
            Part(_NEWS, "training/news-commentary-v9.de-en.{lang}", read_plain),
        ),
        **_evaluation("de"),
    },
    _USUAL,
)

EN_FR = Corpus(
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
        **_evaluation("fr"),
    },
    _USUAL,
)
