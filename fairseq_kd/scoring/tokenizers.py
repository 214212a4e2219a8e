"""The tokeniser of sacreBLEU for a language: which one it is, whether it is installed, and whether it fits the text.

BLEU counts words. If a script has no spaces between words, sacreBLEU's standard tokeniser `13a` takes each sentence for
one word: hardly any word matches, and BLEU is near 0 for all translations.
"""

import functools
import re
import sys
from collections.abc import Iterable
from itertools import islice

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.scripts import count_letters

STANDARD = "13a"
TOKENIZERS = (STANDARD, "zh", "ja-mecab", "ko-mecab", "char", "intl", "none", "flores101", "flores200")
BY_SPACES = (STANDARD, "intl", "none")  # they find only words that spaces or punctuation separate
INSTALL = {
    "ja-mecab": "pip install 'sacrebleu[ja]'",
    "ko-mecab": "pip install 'sacrebleu[ko]'",
    "flores101": "its first use downloads its model",
    "flores200": "its first use downloads its model",
}
# ISO 639-1, 639-2 and 639-3; Thai, Lao, Khmer, Burmese, Tibetan and Dzongkha have no tokeniser in sacreBLEU
_OF_LANGUAGES = {
    "zh": ("zh", "zho", "chi", "cmn", "yue", "wuu", "lzh", "gan", "hak", "hsn", "nan", "cjy"),
    "ja-mecab": ("ja", "jpn"),
    "ko-mecab": ("ko", "kor"),
    "char": ("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur", "bo", "bod", "tib", "dz", "dzo"),
}
# ISO 15924; the code of a script with spaces decides too, as in nan_Latn
_OF_SCRIPTS = {
    "zh": ("hans", "hant", "hani"),
    "ja-mecab": ("jpan", "hira", "kana", "hrkt"),
    "ko-mecab": ("kore", "hang"),
    "char": ("thai", "laoo", "khmr", "mymr", "tibt"),
}
LANGUAGES = {code: name for name, codes in _OF_LANGUAGES.items() for code in codes}
SCRIPTS = {code: name for name, codes in _OF_SCRIPTS.items() for code in codes}
LOOKED_AT = 1000  # lines that are examined
# what sacreBLEU raises when something is missing; it may also end the process
FAILURES = (RuntimeError, ImportError, AssertionError, OSError, SystemExit)


def default_tokenizer(lang: str) -> str:
    """Default for a language code: "zh", "zh_CN", "zh-Hant-TW" and "zho_Hans" are Chinese; unknown codes get 13a."""
    code, *more = re.split("[-_]", lang.lower())
    script = next((part for part in more if len(part) == 4 and part.isalpha()), None)
    if script is not None:
        return SCRIPTS.get(script, STANDARD)
    return LANGUAGES.get(code, STANDARD)


def choose_tokenizer(lang: str, given: str | None) -> str:
    """`given` (--tokenize), or the default of the language.

    Raises KDError for a tokeniser that sacreBLEU lacks or that is not installed: another tokeniser would give another
    score.
    """
    name = given or default_tokenizer(lang)
    if name not in TOKENIZERS:
        raise KDError(f"--tokenize {name}: must be one of {', '.join(TOKENIZERS)}")
    if name in INSTALL:
        load_tokenizer(name, "" if given else f", which is the default for the target language {lang}")
    return name


@functools.cache
def load_tokenizer(name: str, why: str = ""):
    """sacreBLEU's tokeniser, a function of a line. Raises KDError, with `why`, when it is not installed."""
    from sacrebleu.metrics import BLEU

    try:
        return BLEU(tokenize=name).tokenizer
    except FAILURES as error:
        if name not in INSTALL:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise KDError(
            f"sacreBLEU's tokeniser {name}{why}, cannot be used ({reason[:200]}): {INSTALL[name]}, or give --tokenize "
            "char, which scores characters"
        ) from error


def unspaced_share(lines: Iterable[str]) -> float:
    """The share of letters in scripts without spaces between words, in the first lines; 0 without letters."""
    letters, *unspaced = count_letters(islice(lines, LOOKED_AT))
    return sum(unspaced) / letters if letters else 0.0


def check_text(name: str, given: bool, lang: str, references: Iterable[str]) -> None:
    """Report a tokeniser that needs spaces for text without spaces.

    Raises KDError if the user did not choose it (`given` is false); else prints a warning to standard error.
    """
    if name not in BY_SPACES or (share := unspaced_share(references)) <= 0.5:
        return
    found = f"{share:.0%} of the letters of the references belong to scripts without spaces between words"
    if not given:
        raise KDError(
            f"{found}, and the target language {lang!r} does not say which tokeniser fits: BLEU and TER with "
            f"{name} would count a sentence as one word; give --tokenize {' or '.join(('zh', 'ja-mecab', 'char'))} "
            f"(or --tokenize {name} for text that is cut into words)"
        )
    print(f"warning: {found}: --tokenize {name} counts the text between two spaces as one word", file=sys.stderr)
