"""Noise of known rates. A block of lines goes through in arrays, never word by word.

    options                    what was asked for
    units                      where the words, characters or subwords of a block are
    unsegmented                whether the words of a text can be told
    protect                    words that must not be touched
    vocabulary                 how often each occurs, and what they are replaced by
    left                       what is left of a block after deletion
    rewrite                    a block written anew, cut only where something changes
    block                      a block with noise, and counts
    text_level, token_level    what blocks are made of: text, or the ids of a data-bin
    side                       all blocks of one side of a corpus, in any number of processes
    lines, text, data_bin      sentences in memory; aligned files; a prepared data-bin

Whatever is made from the same seed and input is the same, byte for byte.
"""
