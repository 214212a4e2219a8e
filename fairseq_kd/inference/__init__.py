"""Inference: a checkpoint on disk -> a frozen model that runs on data."""
