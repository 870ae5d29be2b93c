#!/usr/bin/env bash
# jaxlib 0.12.0.1: with oneDNN on, XLA:CPU leaves the bfloat16 gradient of a convolution's input to a float32 convolution.
#
# The compiler option xla_cpu_experimental_onednn_custom_call=True makes a bfloat16 convolution a call of oneDNN. JAX's
# gradient with respect to the input is a convolution that reverses the kernel while it reads it. That one stays a plain
# convolution, widened to float32. The same gradient written as a convolution by a kernel that is reversed beforehand is
# a call of oneDNN, too, and equal to it.
#
# Seen 2026-12-01 with Python 3.12, jax 0.12.0.1, jaxlib 0.12.0.1, Linux, an x86-64 CPU with bfloat16 instructions:
#   forward: oneDNN True, float32 convolutions 0
#   gradient by jax.vjp: oneDNN False, float32 convolutions 1
#   gradient by a reversed kernel: oneDNN True, float32 convolutions 0
#   gradients agree to 0.01: True
set -euo pipefail
grep -q avx512_bf16 /proc/cpuinfo || { echo "needs a CPU with bfloat16 instructions"; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check jax==0.12.0.1 jaxlib==0.12.0.1
cat > "$folder/convolve.py" <<'PYTHON'
import jax
import jax.numpy as jnp

LAYOUT = ("NHWC", "HWIO", "NHWC")
x, kernel, cotangent = (
    jax.random.normal(jax.random.key(i), shape, jnp.bfloat16)
    for i, shape in enumerate([(64, 14, 14, 64), (3, 3, 64, 128), (64, 14, 14, 128)])
)


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)


def by_vjp(kernel, cotangent):
    return jax.vjp(lambda x: convolve(x, kernel), x)[1](cotangent)[0]


def by_reversed_kernel(kernel, cotangent):
    return convolve(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


gradients = []
for name, function, arguments in (
    ("forward", convolve, (x, kernel)),
    ("gradient by jax.vjp", by_vjp, (kernel, cotangent)),
    ("gradient by a reversed kernel", by_reversed_kernel, (kernel, cotangent)),
):
    compiled = jax.jit(function, compiler_options={"xla_cpu_experimental_onednn_custom_call": True})
    compiled = compiled.lower(*arguments).compile()
    text = compiled.as_text()
    wide = sum(" = f32[" in line and " convolution(" in line for line in text.splitlines())
    print(f"{name}: oneDNN {'__onednn$convolution' in text}, float32 convolutions {wide}")
    gradients.append(compiled(*arguments).astype(jnp.float32))
error = jnp.abs(gradients[1] - gradients[2]).max() / jnp.abs(gradients[1]).max()
print(f"gradients agree to 0.01: {bool(error < 0.01)}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/convolve.py" 2> /dev/null)
echo "$seen"
expected="forward: oneDNN True, float32 convolutions 0
gradient by jax.vjp: oneDNN False, float32 convolutions 1
gradient by a reversed kernel: oneDNN True, float32 convolutions 0
gradients agree to 0.01: True"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
