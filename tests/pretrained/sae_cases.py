"""Sparse autoencoders as SAELens, sparsify and Gemma Scope store them: python -m tests.pretrained.sae_cases

With torch, sae-lens 6.54 and eai-sparsify 1.3 installed this writes references/sae/<case>/: the files that the project
itself writes, and expected.npz, inputs x with the activations and reconstructions that it computes of them in float32.
Without a GPU sparsify needs SPARSIFY_DISABLE_TRITON=1.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "references" / "sae"
INPUTS, LATENTS, OUTPUTS, K = 12, 32, 10, 5
METADATA = {"model_name": "gpt2-small", "hook_name": "blocks.8.hook_resid_pre", "context_size": 128}

WITHOUT_BIAS = {"apply_b_dec_to_input": False}
# Class of SAELens, settings, dtype of the file.
SAELENS = {
    "standard": ("StandardSAE", {}, "float32"),
    "standard_without_bias": ("StandardSAE", WITHOUT_BIAS, "float32"),
    "standard_bfloat16": ("StandardSAE", {}, "bfloat16"),
    "topk": ("TopKSAE", {"k": K}, "float32"),
    "topk_per_token": ("TopKSAE", {"k": K, "normalize_activations": "constant_norm_rescale"}, "float32"),
    "topk_float16": ("TopKSAE", {"k": K, "apply_b_dec_to_input": False}, "float16"),
    "topk_trained": ("TopKTrainingSAE", {"k": K}, "float32"),  # saved for inference
    "jumprelu": ("JumpReLUSAE", {}, "float32"),
    "gated": ("GatedSAE", {}, "float32"),
    "gated_without_bias": ("GatedSAE", {"apply_b_dec_to_input": False}, "float32"),
    "matryoshka": ("MatryoshkaBatchTopKTrainingSAE", {"k": float(K), "matryoshka_widths": [8, 16, 32]}, "float32"),
    "matching_pursuit": ("MatchingPursuitSAE", {"max_iterations": 4, "residual_threshold": 1.5}, "float32"),
    "matching_pursuit_until_repeat": ("MatchingPursuitSAE", WITHOUT_BIAS, "float32"),
    "transcoder": ("Transcoder", {**WITHOUT_BIAS, "d_out": OUTPUTS}, "float32"),
    "skip_transcoder": ("SkipTranscoder", {**WITHOUT_BIAS, "d_out": OUTPUTS}, "float32"),
    "jumprelu_transcoder": ("JumpReLUTranscoder", {**WITHOUT_BIAS, "d_out": INPUTS}, "float32"),
    "jumprelu_skip_transcoder": ("JumpReLUSkipTranscoder", {**WITHOUT_BIAS, "d_out": OUTPUTS}, "bfloat16"),
    "batchtopk": ("BatchTopKTrainingSAE", {"k": float(K)}, "float32"),  # saved for inference, as JumpReLU
}
CASES = [*SAELENS, "topk_of_version_3", "gemma_scope", "gemma_scope_transcoder", "sparsify", "sparsify_transcoder"]
CHECKPOINTS = ["batchtopk", "matryoshka"]  # of a training, in <case>_checkpoint; they compute what <case> does


def draw_inputs():
    return np.random.RandomState(0).normal(size=(20, INPUTS)).astype(np.float32)


def build(case):
    """The model of SAELens, with drawn parameters."""
    import sae_lens
    import torch

    name, settings, dtype = SAELENS.get(case, ("JumpReLUTranscoder", {**WITHOUT_BIAS, "d_out": OUTPUTS}, "float32"))
    torch.manual_seed(sum(map(ord, case)))
    metadata = sae_lens.saes.sae.SAEMetadata(**METADATA)
    config = getattr(sae_lens, f"{name}Config")(d_in=INPUTS, d_sae=LATENTS, metadata=metadata, **settings)
    model = getattr(sae_lens, name)(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            drawn = 0.3 * torch.randn_like(value)
            value.copy_(drawn.abs() if key == "threshold" else value + drawn)
        if "matching_pursuit" in case:  # whose rows have length 1
            model.W_dec.div_(model.W_dec.norm(dim=1, keepdim=True))
            model.b_dec.mul_(config.apply_b_dec_to_input)
        if hasattr(model, "topk_threshold"):
            model.topk_threshold.fill_(0.7)
    return model.to(dtype=getattr(torch, dtype))


def compute(model, x):
    """Activations and reconstructions of SAELens."""
    import torch

    with torch.no_grad():
        z, decoded = model.encode(torch.from_numpy(x)).numpy(), model(torch.from_numpy(x)).numpy()
    if model.cfg.normalize_activations == "constant_norm_rescale":  # reconstructions of aejax stay at this length
        decoded *= np.sqrt(INPUTS) / np.linalg.norm(x, axis=1, keepdims=True)
    return {"z": z, "decoded": decoded}


def save(model, folder):
    """Writes the model for inference, with a sparsity if it is "standard"."""
    import torch
    from safetensors.torch import save_file

    getattr(model, "save_inference_model", model.save_model)(folder)
    if folder.name == "standard":
        save_file({"sparsity": torch.linspace(-10, -1, LATENTS)}, folder / "sparsity.safetensors")


def load(folder):
    from sae_lens import SAE

    return SAE.load_from_disk(folder, dtype="float32")


def write_older(folder):
    """The layout of SAELens before version 6, with all settings on one level."""
    from safetensors.torch import save_file

    model = build("topk")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "sae_weights.safetensors")
    settings = {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    settings |= {"d_in": INPUTS, "d_sae": LATENTS, "dtype": "torch.float32", "device": "cpu"}
    settings |= {"normalize_activations": "none", "finetuning_scaling_factor": False, "hook_layer": 8, **METADATA}
    (folder / "cfg.json").write_text(json.dumps(settings))
    return compute(load(folder), draw_inputs())


def write_gemma_scope(folder, case="jumprelu"):
    model = build(case)
    model.cfg.apply_b_dec_to_input = False  # as SAELens reads Gemma Scope
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
    return compute(model, draw_inputs())


def write_sparsify(folder, **options):
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    model = SparseCoder(INPUTS, SparseCoderConfig(num_latents=LATENTS, k=K, **options))
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn_like(value))
        model.save_to_disk(folder)
        found = model.encode(torch.from_numpy(draw_inputs()))
        z = torch.zeros(len(found.top_acts), LATENTS).scatter_(1, found.top_indices, found.top_acts)
        return {"z": z.numpy(), "decoded": model(torch.from_numpy(draw_inputs())).sae_out.numpy()}


def main():
    own = {
        "topk_of_version_3": write_older,
        "gemma_scope": write_gemma_scope,
        "gemma_scope_transcoder": functools.partial(write_gemma_scope, case="wide_transcoder"),
        "sparsify": write_sparsify,
        "sparsify_transcoder": functools.partial(write_sparsify, transcode=True, skip_connection=True),
    }
    for case in sys.argv[1:] or CASES:
        folder = FOLDER / case
        if case in own:
            expected = own[case](folder)
        else:
            save(build(case), folder)
            if case in CHECKPOINTS:
                build(case).save_model(FOLDER / f"{case}_checkpoint")
            expected = compute(load(folder), draw_inputs())
        np.savez_compressed(folder / "expected.npz", x=draw_inputs(), **expected)


if __name__ == "__main__":
    main()
