"""The commands, each as `python -m experiments.<name>`."""

import os
import sys

# XLA:CPU gives a step's buffers back after it, and the kernel fills them with zeros for the next one, page by page: a
# fifth of the time of `conv` in pages of 4 KiB, little in pages of 2 MiB. glibc asks for those only if it is told so
# when a process starts, so a command starts itself once more.
if sys.platform == "linux" and sys.argv[:1] == ["-m"] and "GLIBC_TUNABLES" not in os.environ:
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
