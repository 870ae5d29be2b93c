"""The commands: `aejax NAME`, or `python -m aejax.cli NAME` for the Python of one's choice."""
