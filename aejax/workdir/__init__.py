"""The folder of an experiment: its lifecycle, checkpoints, metrics and trackers."""
