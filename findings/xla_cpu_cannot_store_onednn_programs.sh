#!/usr/bin/env bash
# jaxlib 0.12.0.1: a CPU program that calls oneDNN runs, but cannot be serialized, so that JAX's cache never holds it.
#
# With the compiler options xla_cpu_experimental_onednn_custom_call=True and YNN's fusions of products and convolutions
# off, XLA:CPU calls oneDNN for them. `serialize_executable.serialize` then raises MemoryError, however small the program.
# JAX's persistent compilation cache meets the same error at each compilation and turns it into a warning: each process
# compiles anew. With either option alone the program holds no such call and is serialized.
#
# Seen 2026-11-30 with Python 3.12, jax 0.12.0.1, jaxlib 0.12.0.1, Linux, x86-64 CPU:
#   default: oneDNN False, serialized
#   oneDNN: oneDNN True, MemoryError: std::bad_alloc
#     Error writing persistent compilation cache entry for 'jit_matmul': MemoryError: std::bad_alloc
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check jax==0.12.0.1 jaxlib==0.12.0.1
cat > "$folder/store.py" <<'PYTHON'
import sys
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

ONEDNN = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
a = jnp.ones((512, 512))
for name, options in (("default", None), ("oneDNN", ONEDNN)):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiled = jax.jit(jnp.matmul, compiler_options=options).lower(a, a).compile()
    try:
        serialize_executable.serialize(compiled)
        end = "serialized"
    except MemoryError as error:
        end = f"MemoryError: {error}"
    print(f"{name}: oneDNN {'__onednn' in compiled.as_text()}, {end}")
    print(*(f"  {warning.message}\n" for warning in caught if "'jit_matmul'" in str(warning.message)), sep="", end="")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/store.py" "$folder/cache" 2> /dev/null)
echo "$seen"
expected="default: oneDNN False, serialized
oneDNN: oneDNN True, MemoryError: std::bad_alloc
  Error writing persistent compilation cache entry for 'jit_matmul': MemoryError: std::bad_alloc"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
