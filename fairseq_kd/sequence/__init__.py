"""Sequence-level distillation: training data from the teacher (Kim & Rush 2016, section 3.2).

strategies            the decoding strategies: options, ranges, how each backend runs them
options               the options of a decoding, checked
backend               decoding by fairseq's models: search, sampling, teacher forcing
ctranslate2_backend   beam and greedy search by CTranslate2
converted             a converted teacher: a model of CTranslate2 with its own tokeniser
converted_options     its options, checked; converted_families fills them in; converted_tokeniser reads the tokeniser
converted_sources     source text -> tokens of the converted teacher
converted_backend     beam search, greedy search and sampling by it: text out, tokens of the data-bin
source_text           the whole for monolingual text
back                  back-translation: the answers become the sources
work                  decoding in blocks, resumable; one hypothesis of the n best
assemble              finished blocks -> a data-bin that fairseq-train reads; filters
decode                the whole: data-bin + teacher -> data-bin
mix                   several data-bins -> one
"""
