"""Smaller vocabularies: a checkpoint and a data-bin keep only the tokens that the data-bin uses."""
