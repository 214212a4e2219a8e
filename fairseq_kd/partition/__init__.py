"""A training corpus is divided into parts that differ in a known way, for experiments on collaboration.

    options             the options, checked
    words, sentences    what the rules see: lengths of sentences, and their words
    shares              draws from a Dirichlet distribution, and shares as numbers of sentences
    groups              topics and domains are divided among parts
    rules               one object per rule: its name, what it does, its source
    topics              TF-IDF and k-means: the topic of each sentence
    vocabulary          the rule that keeps sentences with the same rare words together
    labels              the files of --domains
    dividing            all subsets by one rule, and the files that say so
    differences         how different the parts are; tables, plot: as Markdown and as a picture
    data_bin, text      a data-bin -> one data-bin per part; aligned text -> aligned text per part

Each training sentence is in exactly one part. The same options, seed and input give the same parts.
"""
