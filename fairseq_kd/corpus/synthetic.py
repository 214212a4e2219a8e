"""An embedded bilingual corpus of two invented languages: every command can be tried without a download.

Source (`qaa`; the codes qaa to qtz are reserved for private use): it has articles, adjectives before nouns, and the
order subject - verb - object - adverb; compounds are several words ("head zu modifier").
Target (`qab`): it has no articles and the order subject - object - verb. Nouns have three classes; adjectives follow
the noun and agree with it in class and number; the verb agrees with its subject in number and with its object in class;
compounds are one word.

A sentence has *several valid translations*: many words have synonyms, the object may come first if it is marked, and
the adverb may be the first word or precede the verb. Each pair shows one translation, drawn at random. So a target
token is uncertain even for a perfect model, and a teacher's distribution tells more than the one token that was drawn.
The languages are fixed; the seed draws the sentences. The same seed gives the same first n pairs for every size.
"""

import itertools
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.text import SubsetFiles, write_lines

SOURCE, TARGET = "qaa", "qab"
DEFAULT_PAIRS = 12000
LEXICON_SEED = 7
CLASSES = 3
NOUN_ENDINGS = (("a", "ani"), ("u", "usti"), ("e", "emri"))  # target: [class][plural]
ADJECTIVE_ENDINGS = (("al", "alin"), ("uk", "ukin"), ("esh", "eshin"))
VERB_SUBJECT, VERB_OBJECT = ("ta", "tari"), ("", "wa", "wu", "we")  # [plural], [none, class 0, 1, 2]
CASE_MARK = "lo"  # target: follows an object that comes first
WORDS = {"noun": 80, "verb": 40, "adjective": 24, "adverb": 12}
SYNONYM_WEIGHTS = ((1.0,), (0.8, 0.2), (0.7, 0.2, 0.1))


@dataclass(frozen=True)
class CorpusSpec:
    """The number of pairs, and the seed that draws them."""

    pairs: int = DEFAULT_PAIRS
    valid: int = 500
    test: int = 1000
    seed: int = 1

    def __post_init__(self):
        for name in ("pairs", "valid", "test"):
            if getattr(self, name) < 1:
                raise KDError(f"--{name} {getattr(self, name)}: must be at least 1")

    def as_dict(self) -> dict:
        """For the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Word:
    """One meaning: its source form, its target stems, the most frequent first, and the target class of a noun."""

    source: str
    targets: tuple[str, ...]
    noun_class: int = 0


@dataclass(frozen=True)
class NounPhrase:
    """The meaning of a noun phrase, independent of the languages."""

    noun: Word
    plural: bool
    definite: bool
    adjectives: tuple[Word, ...]
    modifier: Word | None  # in a compound


@dataclass(frozen=True)
class Clause:
    """The meaning of a clause, independent of the languages."""

    subject: NounPhrase
    verb: Word
    object: NounPhrase | None
    adverb: Word | None


class Lexicon:
    """The vocabulary of both languages, the same at every call."""

    def __init__(self):
        rng = random.Random(LEXICON_SEED)
        self._used = set()
        self.words = {kind: [self._word(rng) for _ in range(count)] for kind, count in WORDS.items()}
        # as in any language, few words are frequent and most are rare
        self.weights = {
            kind: list(itertools.accumulate(1 / (rank + 5) for rank in range(count))) for kind, count in WORDS.items()
        }

    def _word(self, rng) -> Word:
        synonyms = rng.choices((1, 2, 3), weights=(4, 4, 2))[0]
        stems = tuple(self._form(rng, "mnprstvkl", "aeiou") for _ in range(synonyms))
        return Word(self._form(rng, "bdfgkmnrshz", "aeio"), stems, rng.randrange(CLASSES))

    def _form(self, rng, consonants: str, vowels: str) -> str:
        while True:
            syllables = rng.choice((2, 2, 3))
            form = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables)) + rng.choice(
                consonants
            )
            if form not in self._used:
                self._used.add(form)
                return form

    def draw(self, rng, kind: str) -> Word:
        """A word of `kind`, drawn by its frequency."""
        return rng.choices(self.words[kind], cum_weights=self.weights[kind])[0]


def draw_noun_phrase(rng, lexicon: Lexicon) -> NounPhrase:
    """A random meaning of a noun phrase."""
    return NounPhrase(
        noun=lexicon.draw(rng, "noun"),
        plural=rng.random() < 0.35,
        definite=rng.random() < 0.6,
        adjectives=tuple(lexicon.draw(rng, "adjective") for _ in range(rng.choice((0, 0, 1, 1, 2)))),
        modifier=lexicon.draw(rng, "noun") if rng.random() < 0.2 else None,
    )


def draw_clause(rng, lexicon: Lexicon) -> Clause:
    """A random meaning of a clause."""
    return Clause(
        subject=draw_noun_phrase(rng, lexicon),
        verb=lexicon.draw(rng, "verb"),
        object=draw_noun_phrase(rng, lexicon) if rng.random() < 0.8 else None,
        adverb=lexicon.draw(rng, "adverb") if rng.random() < 0.5 else None,
    )


def source_noun_phrase(phrase: NounPhrase) -> list[str]:
    """Article, adjectives, noun, and a compound's modifier behind "zu"."""
    words = ["da" if phrase.definite else "so"]
    words += [adjective.source for adjective in phrase.adjectives]
    words.append(phrase.noun.source + ("es" if phrase.plural else ""))
    return words if phrase.modifier is None else [*words, "zu", phrase.modifier.source]


def source_clause(clause: Clause) -> list[str]:
    """Subject, verb (agreeing in number), object, adverb."""
    words = source_noun_phrase(clause.subject)
    words.append(clause.verb.source + ("on" if clause.subject.plural else "it"))
    words += source_noun_phrase(clause.object) if clause.object else []
    return words + ([clause.adverb.source] if clause.adverb else [])


def _stem(rng, word: Word) -> str:
    return rng.choices(word.targets, weights=SYNONYM_WEIGHTS[len(word.targets) - 1])[0]


def target_noun_phrase(rng, phrase: NounPhrase) -> list[str]:
    """The noun, in one word with the modifier of a compound, then adjectives that agree with it."""
    compound = _stem(rng, phrase.modifier) + "o" if phrase.modifier else ""
    word_class, plural = phrase.noun.noun_class, phrase.plural
    noun = compound + _stem(rng, phrase.noun) + NOUN_ENDINGS[word_class][plural]
    if not phrase.definite:
        noun += "k"
    endings = ADJECTIVE_ENDINGS[word_class]
    return [noun, *(_stem(rng, adjective) + endings[plural] for adjective in phrase.adjectives)]


def target_clause(rng, clause: Clause) -> list[str]:
    """Subject, object, verb; or the object first, with a mark. The adverb is first or precedes the verb."""
    arguments = target_noun_phrase(rng, clause.subject)
    if clause.object:
        object_words = target_noun_phrase(rng, clause.object)
        if rng.random() < 0.15:
            arguments = [*object_words, CASE_MARK, *arguments]
        else:
            arguments += object_words
    object_mark = VERB_OBJECT[1 + clause.object.noun.noun_class if clause.object else 0]
    verb = _stem(rng, clause.verb) + object_mark + VERB_SUBJECT[clause.subject.plural]
    if clause.adverb is None:
        return [*arguments, verb]
    adverb = _stem(rng, clause.adverb)
    return [adverb, *arguments, verb] if rng.random() < 0.25 else [*arguments, adverb, verb]


def draw_pair(rng, lexicon: Lexicon) -> tuple[str, str]:
    """A sentence of one or two clauses and one of its valid translations."""
    clauses = [draw_clause(rng, lexicon) for _ in range(2 if rng.random() < 0.3 else 1)]
    source = " va ".join(" ".join(source_clause(clause)) for clause in clauses)
    target = " ni ".join(" ".join(target_clause(rng, clause)) for clause in clauses)
    return source + ".", target + "."


def draw_corpus(spec: CorpusSpec) -> dict[str, list[tuple[str, str]]]:
    """Subset -> pairs. The training set has no source sentence of the evaluation sets."""
    lexicon = Lexicon()
    corpus, held_out = {}, set()
    for subset, count in (("test", spec.test), ("valid", spec.valid), ("train", spec.pairs)):
        rng = random.Random(f"{subset}-{spec.seed}")
        fresh = (pair for pair in _endless(rng, lexicon) if pair[0] not in held_out)
        corpus[subset] = list(itertools.islice(fresh, count))
        if subset != "train":
            held_out |= {source for source, _ in corpus[subset]}
    return corpus


def _endless(rng, lexicon):
    while True:
        yield draw_pair(rng, lexicon)


def write_corpus(spec: CorpusSpec, folder, source_lang=SOURCE, target_lang=TARGET) -> dict[str, SubsetFiles]:
    """Write the corpus as aligned text; return subset -> files, as `prepare` takes them.

    Raises KDError for languages other than these two.
    """
    if {source_lang, target_lang} != {SOURCE, TARGET}:
        raise KDError(f"the synthetic corpus has the languages {SOURCE} and {TARGET}, not {source_lang}-{target_lang}")
    files = {}
    corpus = draw_corpus(spec)
    for subset in ("train", "valid", "test"):
        paths = {lang: Path(folder) / f"{subset}.{lang}" for lang in (SOURCE, TARGET)}
        for side, lang in enumerate((SOURCE, TARGET)):
            write_lines(paths[lang], (pair[side] for pair in corpus[subset]))
        files[subset] = SubsetFiles(subset, paths[source_lang], paths[target_lang])
    return files
