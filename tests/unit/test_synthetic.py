import random

import pytest

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.synthetic import (
    CorpusSpec,
    Lexicon,
    draw_clause,
    draw_corpus,
    draw_noun_phrase,
    source_clause,
    target_clause,
    target_noun_phrase,
    write_corpus,
)


def test_the_same_seed_gives_the_same_pairs_whatever_the_size():
    small, large = (draw_corpus(CorpusSpec(pairs=n, valid=10, test=10)) for n in (50, 80))
    assert small["train"] == large["train"][:50]
    assert draw_corpus(CorpusSpec(pairs=50, valid=10, test=10, seed=2))["train"] != small["train"]


def test_the_languages_do_not_change():
    pairs = draw_corpus(CorpusSpec(pairs=2, valid=1, test=1))["train"]
    assert pairs == [
        ("da sazarides fanabon.", "volamusti povunaktari."),
        (
            "so defeses zu kifigiz mahoseron da henaf defes va so mazen zeresit da kabag nezimires bemin.",
            "telalinokanolokemrik memoke lusulesh tavonwetari ni lelilak tumamani nepenalin lerus nomirwata.",
        ),
    ]


def test_no_evaluation_source_stands_in_the_training_set():
    corpus = draw_corpus(CorpusSpec(pairs=3000, valid=200, test=200))
    train = {source for source, _ in corpus["train"]}
    assert not train & {source for subset in ("valid", "test") for source, _ in corpus[subset]}


def test_a_meaning_has_one_source_and_several_translations():
    rng, lexicon = random.Random(0), Lexicon()
    clause = draw_clause(rng, lexicon)
    while clause.object is None or clause.adverb is None:
        clause = draw_clause(rng, lexicon)
    assert source_clause(clause) == source_clause(clause)
    translations = {" ".join(target_clause(rng, clause)) for _ in range(200)}
    assert len(translations) >= 4


def test_the_verb_of_the_target_agrees_and_stands_last():
    rng, lexicon = random.Random(1), Lexicon()
    for _ in range(200):
        clause = draw_clause(rng, lexicon)
        verb = target_clause(rng, clause)[-1]
        assert verb.endswith("tari" if clause.subject.plural else "ta")
        if clause.object:
            mark = ("wa", "wu", "we")[clause.object.noun.noun_class]
            assert verb.removesuffix("ri").removesuffix("ta").endswith(mark)


def test_adjectives_stand_behind_their_noun_and_agree_in_class_and_number():
    rng, lexicon = random.Random(2), Lexicon()
    endings = [("al", "alin"), ("uk", "ukin"), ("esh", "eshin")]
    seen = set()
    while len(seen) < 6:
        phrase = draw_noun_phrase(rng, lexicon)
        words = target_noun_phrase(rng, phrase)
        assert len(words) == 1 + len(phrase.adjectives)
        for adjective in words[1:]:
            assert adjective.endswith(endings[phrase.noun.noun_class][phrase.plural])
            seen.add((phrase.noun.noun_class, phrase.plural))


def test_other_languages_are_refused(tmp_path):
    with pytest.raises(KDError, match="qaa and qab, not de-en"):
        write_corpus(CorpusSpec(pairs=1), tmp_path, "de", "en")
