"""fairseq tasks: batches with more than source and gold target."""
