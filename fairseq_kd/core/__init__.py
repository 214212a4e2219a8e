"""What every other package uses: errors, progress, processes, paths, YAML. Nothing in it depends on fairseq."""
