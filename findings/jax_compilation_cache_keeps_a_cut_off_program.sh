#!/usr/bin/env bash
# jax 0.12.0.1: a program of the persistent compilation cache that was cut off is never replaced.
#
# Entries are written in place, under their final name, so that a process that is killed, or meets a full disk, while
# it writes one leaves a part of it. Every later process warns that it cannot read the entry, compiles the program
# again, and does not write it, since a file of that name exists: the program is compiled at every start from then on.
# Removing the file cures it. Preempted jobs on a shared cache folder meet this.
#
# Seen 2026-11-29 with Python 3.12, jax 0.12.0.1, jaxlib 0.12.0.1, Linux, CPU:
#   start 1: 0 warnings, entry whole
#   start 2: 1 warnings, entry cut off
#   start 3: 1 warnings, entry cut off
#   start 4, without the file: 0 warnings, entry whole
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check jax==0.12.0.1 jaxlib==0.12.0.1
cat > "$folder/start.py" <<'PYTHON'
import pathlib
import sys
import warnings

import jax

name, cache = sys.argv[1], pathlib.Path(sys.argv[2])
jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@jax.jit
def double(x):
    return 2 * x


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    double(1.0)
(entry,) = cache.glob("jit_double-*-cache")
size = entry.stat().st_size
print(f"{name}: {len(caught)} warnings, entry {'whole' if size > 1_500 else 'cut off'}")
PYTHON
start() { JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/start.py" "$1" "$folder/cache"; }
{
  start "start 1"
  truncate -s 1000 "$folder"/cache/jit_double-*-cache
  start "start 2"
  start "start 3"
  rm "$folder"/cache/jit_double-*-cache
  start "start 4, without the file"
} | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
start 1: 0 warnings, entry whole
start 2: 1 warnings, entry cut off
start 3: 1 warnings, entry cut off
start 4, without the file: 0 warnings, entry whole
SEEN
