"""What every other package stands on: errors, progress, processes, paths, YAML. Nothing here knows fairseq."""
