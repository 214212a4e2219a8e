"""Runs of stock fairseq-train: `options` writes the command line, `run` runs it and can continue a killed run."""
