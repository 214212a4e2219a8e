"""Noise of known rates in text and data-bins. A block of lines goes through in arrays, never word by word:

options      what was asked for
units        where the words, characters or subwords of a block are
vocabulary   how often each occurs in the corpus, and drawing substitutes
block        a block with noise, and counts
lines        a list of sentences, in memory
text         aligned files, streamed
data_bin     a prepared data-bin
"""
