"""Small archives with exactly the layout of the official ones."""

import io
import tarfile
import zipfile

IWSLT14_SETS = (
    *("IWSLT14.TED.dev2010", "IWSLT14.TEDX.dev2012"),
    *("IWSLT14.TED.tst2010", "IWSLT14.TED.tst2011", "IWSLT14.TED.tst2012"),
)
IWSLT17_SETS = tuple(f"IWSLT17.TED.{name}" for name in ("dev2010", *(f"tst{year}" for year in range(2010, 2016))))
WORDS = {
    "de": "Das Haus Nr. {} ist schön, oder?",
    "en": "House No. {} is fine, isn't it?",
    "fr": "La maison {} est là.",
}


def sentence(lang: str, number: int) -> str:
    """Sentence `number` of a made-up text."""
    return WORDS[lang].format(number)


def tagged_text(lang: str, pairs: int) -> str:
    """A train.tags file of two talks: text lines between lines of tags, as in the archives of WIT3."""
    half = pairs // 2
    lines = []
    for talk, numbers in ((1, range(half)), (2, range(half, pairs))):
        lines += [f"<url>http://www.ted.com/talks/{talk}</url>", f"<keywords>talks, {lang}</keywords>"]
        lines += ["<speaker>Someone</speaker>", f"<talkid>{talk}</talkid>", f"<title>{lang} title {talk}</title>"]
        lines += [f"<description>{lang} description {talk}, of some words</description>"]
        lines += ["<reviewer></reviewer>", f'<translator href="x">{lang}</translator>'] * (1 + (lang == "en"))
        lines += [sentence(lang, number) for number in numbers]
    return "".join(f"{line}\n" for line in lines)


def xml_set(lang: str, name: str, sentences: list[str]) -> str:
    """An evaluation set of IWSLT; the sentences are XML."""
    segments = "".join(f'<seg id="{number}"> {text} </seg>\n' for number, text in enumerate(sentences, 1))
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n<refset setid="{name}" srclang="x" trglang="y">\n'
        f'<doc docid="1" genre="lectures">\n<title>{lang}</title>\n{segments}</doc>\n</refset>\n</mteval>\n'
    )


def sgm_set(sentences: list[str]) -> str:
    """An evaluation set of WMT: like XML, but ampersands are not escaped and attributes need no quotes."""
    segments = "".join(f'<p>\n<seg id="{number}">{text}</seg>\n</p>\n' for number, text in enumerate(sentences, 1))
    return f'<srcset setid="newstest" srclang="any">\n<doc sysid="ref" docid=a>\n{segments}</doc>\n</srcset>\n'


def iwslt_members(pair: str, sets, pairs: int, tags_of_2014: bool = False) -> dict[str, bytes]:
    """Path -> content of the archive of a year."""
    members = {f"{pair}/README": "about these data"}
    for lang in pair.split("-"):
        text = tagged_text(lang, pairs)
        if tags_of_2014:
            text = "".join(
                line
                for line in text.splitlines(keepends=True)
                if not line.startswith(("<speaker", "<review", "<trans"))
            )
        members[f"{pair}/train.tags.{pair}.{lang}"] = text
        for name in sets:
            sentences = [sentence(lang, number) for number in range(3)] + [f"Q&amp;A’s {name[-4:]} {lang}"]
            members[f"{pair}/{name}.{pair}.{lang}.xml"] = xml_set(lang, name, sentences)
    return {name: text.encode() for name, text in members.items()}


def wmt_archives(other: str = "de", pairs: int = 30) -> dict[str, dict[str, bytes]]:
    """Archive name -> members, for WMT14 English with `other`."""
    pair, archives = f"{other}-en", {}
    for archive, path in (
        ("training-parallel-europarl-v7.tgz", f"training/europarl-v7.{pair}"),
        ("training-parallel-commoncrawl.tgz", f"commoncrawl.{pair}"),
        ("training-parallel-nc-v9.tgz", f"training/news-commentary-v9.{pair}"),
    ):
        archives[archive] = {
            f"{path}.{lang}": "".join(f"{sentence(lang, n)} {archive[18]}\n" for n in range(pairs)).encode()
            for lang in ("en", other)
        }
    archives["dev.tgz"], archives["test-full.tgz"] = {}, {}
    for lang, side in (("en", "src"), (other, "ref")):
        for archive, path in (
            ("dev.tgz", f"dev/newstest2013-{side}.{lang}.sgm"),
            ("test-full.tgz", f"test-full/newstest2014-{other}en-{side}.{lang}.sgm"),
        ):
            archives[archive][path] = sgm_set([sentence(lang, 7), f"AT&T &quot;1 < 2&quot; {lang}"]).encode()
    return archives


def tar(members: dict[str, bytes]) -> bytes:
    """A .tgz."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    """A .zip."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return data.getvalue()
