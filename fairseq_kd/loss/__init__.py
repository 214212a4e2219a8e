"""Pure maths of distillation losses: tensors in, tensors out, no fairseq."""
