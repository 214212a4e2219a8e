"""Corpora: raw text -> cleaned pairs -> subwords -> data-bin with manifest.

datasets / synthetic / download -> text (read, clean) -> subword -> binarise -> prepare (the whole, atomically)
"""
