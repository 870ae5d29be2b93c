#!/usr/bin/env bash
# vector-quantize-pytorch 1.32.0: with n residual quantizers, the straight-through gradient of the input is n times too large.
#
# A straight-through estimator passes the gradient of the sum of the codes to the input unchanged: 1 for `z.sum()`. The
# residual classes give 3 with three quantizers. Each level copies the gradient of its code to its own residual, and the
# residuals are not detached from the input. An encoder that is ported together with its learning rate and loss weights
# then trains otherwise. `ResidualLFQ(spherical=True)` besides looks up other codes than it returned.
#
# Seen 2026-11-30 with Python 3.11, torch 2.13.0, vector-quantize-pytorch 1.32.0, Linux, CPU:
#   ResidualVQ: gradient 1 with 1 quantizer, 3 with 3
#   ResidualLFQ: gradient 1 with 1 quantizer, 3 with 3
#   ResidualLFQ: largest difference of looked up codes 0.0, spherical 0.9
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 numpy vector-quantize-pytorch==1.32.0
cat > "$folder/gradients.py" <<'PYTHON'
import torch
from vector_quantize_pytorch import ResidualLFQ, ResidualVQ

torch.manual_seed(0)
MAKE = {
    "ResidualVQ": lambda n: ResidualVQ(dim=4, codebook_size=16, num_quantizers=n, rotation_trick=False),
    "ResidualLFQ": lambda n: ResidualLFQ(dim=4, codebook_size=16, num_quantizers=n),
}


def gradient(module):
    x = torch.randn(1, 6, 4, requires_grad=True)
    module.train()(x)[0].sum().backward()
    return x.grad.mean().item()


for name, make in MAKE.items():
    print(f"{name}: gradient {gradient(make(1)):.0f} with 1 quantizer, {gradient(make(3)):.0f} with 3")


def difference(**options):
    module = ResidualLFQ(dim=4, codebook_size=16, num_quantizers=3, **options).eval()
    z, indices, _ = module(torch.randn(1, 6, 4))
    return (module.get_output_from_indices(indices) - z).abs().max().item()


print(f"ResidualLFQ: largest difference of looked up codes {difference():.1f}, spherical {difference(spherical=True):.1f}")
PYTHON
seen=$("$folder/venv/bin/python" -W ignore "$folder/gradients.py" 2> /dev/null)
echo "$seen"
expected="ResidualVQ: gradient 1 with 1 quantizer, 3 with 3
ResidualLFQ: gradient 1 with 1 quantizer, 3 with 3
ResidualLFQ: largest difference of looked up codes 0.0, spherical 0.9"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
