"""The command `aejax encode`, for a clone."""

from aejax.cli.__main__ import main

if __name__ == "__main__":
    main("encode")
