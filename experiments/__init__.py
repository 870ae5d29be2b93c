"""The commands of `aejax` from a clone, each as `python -m experiments.<name>`, and what made the committed results."""

import sys

from aejax.cli.__main__ import use_large_pages

if sys.argv[:1] == ["-m"]:  # a command, not an import
    use_large_pages()
