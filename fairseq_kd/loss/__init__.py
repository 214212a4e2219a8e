"""Distillation losses as pure functions of tensors, without fairseq."""
