"""Corpora: raw text -> cleaned pairs -> subwords -> data-bin with manifest.

corpora             the corpora by name: one entry each; the usual options; prepare_by_name
entry, campaign     kinds of corpora: the user's text, files with known hashes, generated; archives and their readers
synthetic           the embedded corpus of two invented languages
download            files and archives: found or downloaded, and identified by their hashes
files, text         compressed files, archives, UTF-8; aligned text and the rules of cleaning
scripts             writing systems without spaces; lengths of sentences
options             how a corpus is prepared, checked
clean               raw files of a subset -> the text that is segmented
subword             subword models by kind (sentencepiece_model, bpe), and the models of a data-bin
binarise            fairseq-preprocess, and the words that it takes for symbols
prepare             the whole, atomically
"""
