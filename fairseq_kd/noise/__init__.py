"""Noise of known rates in text and data-bins. A block of lines is processed in arrays, not word by word.

    operations                 the options, and how the units of a block meet the operations
    units                      the positions of the words, characters or subwords of a block
    rewrite                    the block with the deleted, substituted and swapped units
    text_level, token_level    blocks of text, and blocks of the token ids of a data-bin
    side                       all blocks of one side of a corpus, in any number of processes
    text, data_bin             aligned files and sentences in memory; a prepared data-bin

The same seed and input give the same output, byte for byte.
"""

from fairseq_kd.core.public import lazily

__all__, __getattr__, __dir__ = lazily(__name__, {"NoiseOptions": "operations", "noise_lines": "text"})
