"""Sequence-level distillation: training data from the teacher (Kim & Rush 2016, section 3.2).

options      what is asked for, checked
teachers     one checkpoint or an ensemble, with the data that it is run on
backend      beam search, greedy search and sampling by fairseq, or by CTranslate2 (`ctranslate2_backend`)
forcing      teacher forcing: the most probable token at each gold prefix
select       one hypothesis of the n best, and filters
decode       a subset in blocks, resumable
assemble     finished blocks -> a data-bin that fairseq-train reads
mix          data-bins -> one
"""
