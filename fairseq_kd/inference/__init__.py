"""From a checkpoint on disk to a frozen model that runs on data."""
