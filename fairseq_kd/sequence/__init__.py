"""Sequence-level distillation: training data from the teacher (Kim & Rush 2016, section 3.2).

strategies            the decoding strategies: options, ranges, how each backend runs them
options               the options of a decoding, checked
backend               decoding by fairseq's models: search, sampling, teacher forcing
ctranslate2_backend   beam and greedy search by CTranslate2
work                  decoding in blocks, resumable; one hypothesis of the n best
assemble              finished blocks -> a data-bin that fairseq-train reads; filters
decode                the whole: data-bin + teacher -> data-bin
mix                   several data-bins -> one
"""
