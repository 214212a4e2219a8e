"""Runs of stock fairseq-train: `options` -> command line -> `run`, which can be killed and continued."""
