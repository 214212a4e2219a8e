"""Files that are read again: manifests, hashes, atomic writes, requests, resumable blocks, data-bins."""
