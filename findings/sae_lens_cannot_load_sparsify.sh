#!/usr/bin/env bash
# sae-lens 6.54.0: no file of sparsify can be loaded, and one that could would give other activations.
#
# sparsify (eai-sparsify 1.3.3) stores W_dec as [latents, inputs], which is how SAELens stores it, too. Its loader transposes
# it, so that the shapes differ. It besides sets `apply_b_dec_to_input` to False where `normalize_decoder` is true, the
# default of sparsify, which subtracts b_dec from the input of every sparse autoencoder, whatever that setting. With the
# transpose undone, the activations are those of another input.
#
# Seen 2026-11-30 with Python 3.12, torch 2.14.1, sae-lens 6.54.0, Linux, CPU:
#   RuntimeError: size mismatch for W_dec: copying a param with shape torch.Size([4, 16]) from checkpoint, the shape in current model is torch.Size([16, 4]).
#   with the transpose undone: largest difference 5.3 of activations up to 13.8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.12 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check sae-lens==6.54.0
cat > "$folder/load.py" <<'PYTHON'
import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

warnings.simplefilter("ignore")
from sae_lens import SAE
from sae_lens.loading.pretrained_sae_loaders import sparsify_disk_loader

torch.manual_seed(0)
folder = Path(sys.argv[1]) / "model" / "layers.3"
folder.mkdir(parents=True)
tensors = {"encoder.weight": torch.randn(16, 4), "encoder.bias": torch.zeros(16), "b_dec": torch.randn(4)}
tensors["W_dec"] = torch.nn.functional.normalize(tensors["encoder.weight"], dim=1)
save_file(tensors, folder / "sae.safetensors")
settings = {"activation": "topk", "k": 3, "num_latents": 16, "d_in": 4, "normalize_decoder": True, "transcode": False}
(folder / "cfg.json").write_text(json.dumps(settings))
try:
    SAE.load_from_disk(folder, dtype="float32", converter=sparsify_disk_loader)
except RuntimeError as error:
    print("RuntimeError:", str(error).splitlines()[-1].strip())


def load(path, device, cfg_overrides):
    config, state = sparsify_disk_loader(path, device, cfg_overrides)
    return config, {**state, "W_dec": state["W_dec"].T}


x = torch.randn(8, 4)
units = torch.relu((x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"])
values, indices = units.topk(3)
expected = torch.zeros_like(units).scatter_(1, indices, values)
found = SAE.load_from_disk(folder, dtype="float32", converter=load).encode(x)
print(
    f"with the transpose undone: largest difference {(found - expected).abs().max():.1f} of activations up to "
    f"{expected.max():.1f}"
)
PYTHON
"$folder/venv/bin/python" "$folder/load.py" "$folder"
