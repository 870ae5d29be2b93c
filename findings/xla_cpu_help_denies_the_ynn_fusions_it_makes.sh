#!/usr/bin/env bash
# jaxlib 0.12.0.1: XLA's help says that no YNN fusion is on by default, yet convolutions and products are compiled to them.
#
# `XLA_FLAGS=--help` describes xla_cpu_experimental_ynn_fusion_type with "The default list is currently empty". A 3x3
# convolution and a matrix product, compiled with default options on CPU, are YNN fusions all the same. Whoever compares
# speeds with the flag left alone compares YNN's kernels, not Eigen's. A program's own compiler option turns them off; it
# takes the names of the enum, where the flag takes shorter ones. jaxlib 0.10.2 makes the fusions, too.
#
# Seen 2026-11-30 with Python 3.12, jax 0.12.0.1, jaxlib 0.12.0.1, Linux, CPU:
#   help: The default list is currently empty.
#   convolution: by default True, with products alone False
#   product: by default True, with convolutions alone False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check jax==0.12.0.1 jaxlib==0.12.0.1
cat > "$folder/compile.py" <<'PYTHON'
import jax
import jax.numpy as jnp

OPTION, ENUM = "xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_"


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


x, kernel = jnp.ones((64, 8, 8, 128)), jnp.ones((3, 3, 128, 128))
works = {
    "convolution": (jax.jit(convolve).lower(x, kernel), "products", "DOT"),
    "product": (jax.jit(jnp.matmul).lower(x.reshape(4096, 128), kernel[0, 0]), "convolutions", "CONVOLUTION"),
}
for name, (lowered, words, other) in works.items():
    default, without = ("ynn" in lowered.compile(options).as_text() for options in (None, {OPTION: ENUM + other}))
    print(f"{name}: by default {default}, with {words} alone {without}")
PYTHON
help=$(XLA_FLAGS=--help "$folder/venv/bin/python" -c 'import jax; jax.devices()' 2>&1 | grep -A12 ynn_fusion_type | grep -o 'The default list is currently empty\.' | head -1 || true)
seen="help: $help
$("$folder/venv/bin/python" "$folder/compile.py" 2> /dev/null)"
echo "$seen"
expected="help: The default list is currently empty.
convolution: by default True, with products alone False
product: by default True, with convolutions alone False"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
