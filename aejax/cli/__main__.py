"""The console script `aejax`. It imports nothing slow before it knows which command to run."""

import importlib
import os
import sys

from aejax.errors import one_of

COMMANDS = {
    "train": "trains a model from a config, or resumes its training",
    "evaluate": "measures how good a trained model is",
    "encode": "writes the latents of a whole split",
    "sample": "generates new examples",
    "sweep": "trains an ablation: a grid, or the runs that a config lists",
    "compare": "compares trained models in tables, pictures and a report",
    "search": "searches for the best hyperparameters of a config",
    "launch": "trains with several processes: here, on SLURM or on other hosts",
    "export": "writes a trained model as programs for JAX alone",
}
HELP = """aejax: autoencoders in JAX, from a config file to latents

    aejax train --config=vae --workdir=runs/vae

Commands, whose flags `aejax COMMAND --help` lists:
"""


def main(*command: str) -> None:
    """Runs the command of the given name, or the command that the first argument names."""
    name, *arguments = [*command, *sys.argv[1:]] or ["help"]
    if name.lstrip("-") in ("help", "h"):
        print("\n".join([HELP, *(f"  {command:<10}{summary}" for command, summary in COMMANDS.items())]))
        return
    if name not in COMMANDS:
        sys.exit(f"error: {one_of('command', name, COMMANDS)}")
    use_large_pages()
    if not sys.flags.safe_path:
        sys.path.append("")  # a user's own modules; last, so that no file there takes the place of an installed module
    module = importlib.import_module(f"aejax.cli.{name}")
    sys.argv = [module.__name__, *arguments]  # absl's --help lists the flags of this module
    sys.modules["__main__"].__doc__ = module.__doc__  # and begins with this
    module.main()


def use_large_pages() -> None:
    """Starts the process once more, unless its environment has settings for glibc, with memory in pages of 2 MiB.

    XLA:CPU gives a step's buffers back after it, and the kernel fills them with zeros for the next step, page by page:
    a fifth of the time of `conv` in pages of 4 KiB, little in pages of 2 MiB. glibc reads the setting only when a
    process starts.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
