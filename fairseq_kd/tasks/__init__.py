"""fairseq tasks: what a batch holds beyond source and gold target."""
