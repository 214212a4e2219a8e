"""Single lines of plain text to the subwords of a data-bin, as `prepare` cuts them, and subwords to plain text.

The steps: white space is normalised; Moses tokenises the line if the data-bin was prepared in this form; the subword
model cuts it. Text of the data-bin's form ("tokenised", "lower-cased") becomes plain text by Moses' detokeniser.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.manifest import read_prepared
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.binarise import SPECIAL_WORDS
from fairseq_kd.corpus.clean import Detokenise, Tokenise
from fairseq_kd.corpus.subword import load_decoder, load_subword_model, load_subword_models, open_model
from fairseq_kd.corpus.text import normalise_spaces

SENTENCE_END = re.compile(r"[.?!\u2026\u3002\uff01\uff1f]+[\"')\]\u00bb\u201d\u2019]* |[\u3002\uff01\uff1f]")


@dataclass(frozen=True)
class PlainText:
    """The functions between a line of plain text and the subwords of the data.

    kind: of the subword models. form: line -> the text as the data have it. encode: that text -> its subwords. decode:
    subwords of a translation -> plain text.
    """

    kind: str
    form: Callable[[str], str]
    encode: Callable[[str], str]
    decode: Callable[[str], str]


def text_of_model_file(path, form: str = "cased", languages=(None, None)) -> PlainText:
    """By the subword model in a file, which cuts the source. path: also NO_SUBWORDS.

    Translations are joined as the kind of the model marks its joints. Raises KDError for a file that is no model.
    """
    model = open_model(path)
    return make_plain_text(model, load_decoder(model.kind), form, languages)


def text_of_data_bin(data_bin, languages: tuple[str, str], subword_model=None, in_form: bool = False) -> PlainText:
    """By the subword models of a data-bin. subword_model: a file, for a data-bin without models; see NO_SUBWORDS.

    in_form: lines and translations have the form of the data, so Moses changes neither.
    Raises KDError when the data-bin has no models and no file is given, or has models and a file is given.
    """
    manifest = read_prepared(data_bin)
    if manifest is None and subword_model is None:
        raise KDError(missing_model(data_bin))
    if manifest is None:
        return text_of_model_file(subword_model, form_of({}, in_form, data_bin))
    if subword_model is not None:
        raise KDError(f"{data_bin} has its own subword model, and --subword-model {subword_model} would be another: "
                      "leave --subword-model out")  # fmt: skip
    models = load_subword_models(data_bin, *languages)
    source, target = (models[lang] for lang in languages)
    return make_plain_text(source, target.decode, form_of(manifest, in_form, data_bin), languages)


def text_of_folder(folder, manifest: dict, in_form: bool = False) -> PlainText:
    """By the subword models in an exported folder. manifest: of the folder, whose "subword" is not None."""
    names, kind = manifest["subword"]["files"], manifest["subword"]["kind"]
    paths = [names[lang] and Path(folder) / "subword" / names[lang] for lang in manifest["languages"]]
    source, target = (load_subword_model(kind, path) for path in paths)
    return make_plain_text(source, target.decode, form_of(manifest, in_form, folder), manifest["languages"])


def missing_model(where) -> str:
    """The message for data without a subword model."""
    return (
        f"{where} has no subword model, so text cannot be cut into the subwords of the training: run "
        "`fairseq-kd adopt`, which keeps the model beside the data, or give the model with --subword-model FILE "
        "(--subword-model none if the data have no subwords)"
    )


def form_of(manifest: dict, in_form: bool, where) -> str:
    """The form that Moses must give to text, see `prepare_options.FORMS`; "cased" if nothing has to be done.

    in_form: the text has the form of the data. Raises KDError when the data have no special form.
    """
    form = manifest.get("form") or "cased"
    if in_form and form == "cased":
        raise KDError(f"--in-form has no effect with {where}, whose text is plain text: leave it out")
    return "cased" if in_form else form


def make_plain_text(source_model, decode: Callable[[str], str], form: str, languages) -> PlainText:
    """By a subword model that cuts the source, and a function that joins the subwords of the target.

    Raises KDError when Moses is needed and not installed.
    """
    tokenise, detokenise = None, None
    if form != "cased":
        tokenise, detokenise = Tokenise(languages[0], form == "lower-cased"), Detokenise(languages[1])

    def in_form(line: str) -> str:
        line = normalise_spaces(line)
        return tokenise(line) if tokenise and line else line

    def encode(text: str) -> str:
        if source_model.kind == "none" and (found := set(SPECIAL_WORDS) & set(text.split(" "))):
            raise KDError(f"the text holds the word {min(found)}. Without subwords these become fairseq's symbols: "
                          "write the word in another way")  # fmt: skip
        return source_model.encode(text)

    def plain(subwords: str) -> str:
        text = decode(subwords)
        return detokenise(text) if detokenise else text

    return PlainText(source_model.kind, in_form, encode, plain)


def split_line(line: str, fits: Callable[[str], bool]) -> Iterator[str]:
    """The parts of a line, each as long as `fits` allows.

    A part ends after the last end of a sentence in the second half of what fits, else after the last word that fits,
    else (a single word that is too long) after the last character. At least one character always fits.
    """
    while line:
        length = _longest(line, fits)
        if length == len(line):
            yield line
            return
        while length > 1 and not fits(line[: _cut(line, length)].strip()):  # a shorter prefix can have more subwords
            length -= 1
        cut = _cut(line, length)
        yield line[:cut].strip()
        line = line[cut:].strip()


def _longest(line: str, fits: Callable[[str], bool]) -> int:
    """The length of the longest prefix that fits, at least 1. Longer prefixes are taken to have more subwords."""
    high = 1
    while high < len(line) and fits(line[: 2 * high].strip()):
        high *= 2
    low, high = min(high, len(line)), min(2 * high, len(line))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(line[:middle].strip()) else (low, middle - 1)
    return low


def _cut(line: str, length: int) -> int:
    """Where a line is cut so that the first part has at most `length` characters."""
    prefix = line[: length + 1]  # a space may follow the last character that fits
    ends = [match.end() for match in SENTENCE_END.finditer(prefix)]
    if ends := [end for end in ends if end > length // 2 and len(prefix[:end].rstrip()) <= length]:
        return ends[-1]
    return prefix.rfind(" ") if " " in prefix else length
