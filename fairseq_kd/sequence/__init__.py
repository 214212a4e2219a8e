"""Sequence-level distillation: training data from the teacher (Kim & Rush 2016, section 3.2).

strategies            the decoding strategies: options, ranges, how each backend runs them
decode_options        the options of a decoding, checked; selection_options: those that choose and drop
backend               decoding by fairseq's models: search, sampling, teacher forcing
ctranslate2_backend   beam and greedy search by CTranslate2
converted             a converted teacher: a model of CTranslate2 with its own tokeniser
converted_options     its options, checked; converted_families fills them in; converted_tokeniser reads the tokeniser
converted_sources     source text -> tokens of the converted teacher
converted_backend     beam search, greedy search and sampling by it: text out, tokens of the data-bin
source_text           the whole for monolingual text
back                  back-translation: the answers become the sources
work                  decoding in blocks, resumable
select                which hypothesis of the n best: closest, minimum Bayes risk, second_model, estimate (of quality)
judges                selection, and measurements of the chosen hypothesis, for a block
answers               what is known about a sentence, as a line of a block
assemble              finished blocks -> a data-bin that fairseq-train reads
filters               which pairs it leaves out
decode                the whole: data-bin + teacher -> data-bin
mix                   several data-bins -> one
"""
