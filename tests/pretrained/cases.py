"""Small models of diffusers and what they compute, for the tests here: python -m tests.pretrained.cases

With torch and diffusers 0.42 installed this writes references/<case>.npz. The parameters are not stored: they are drawn
anew from the names and shapes, away from what layers start with, so that an error in any of them shows. With an older
diffusers, up to 0.39, and the argument `flax` it writes references/flax/, a folder as the deleted Flax class saved it.
"""

import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "references"
KL = {"down_block_types": 2, "block_out_channels": (8, 12), "norm_num_groups": 4, "layers_per_block": 1}
DC = {
    "latent_channels": 4,
    "attention_head_dim": 4,
    "encoder_block_out_channels": (8, 8, 16, 16),
    "decoder_block_out_channels": (8, 8, 16, 16),
    "encoder_layers_per_block": (1, 1, 1, 2),
    "decoder_layers_per_block": (1, 1, 2, 1),
    "encoder_qkv_multiscales": ((), (), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (5,), (5,)),
}
SHAPES = ((2, 16, 24), (1, 24, 8), (3, 8, 8))

# Class and settings of each case; a number of block types stands for as many plain ones.
CASES = {
    "kl": (
        "AutoencoderKL",
        KL | {"down_block_types": 4, "block_out_channels": (8, 8, 16, 16), "layers_per_block": 2, "shift_factor": 0.1},
    ),
    "kl_16_channels": (
        "AutoencoderKL",
        KL | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "norm_num_groups": 2},
    ),
    "kl_without_attention": ("AutoencoderKL", KL | {"mid_block_add_attention": False, "act_fn": "gelu"}),
    "kl_mish": ("AutoencoderKL", KL | {"act_fn": "mish", "use_quant_conv": False, "in_channels": 1, "out_channels": 1}),
    "vq": (
        "VQModel",
        KL
        | {"down_block_types": 3, "block_out_channels": (8, 8, 12), "num_vq_embeddings": 32, "vq_embed_dim": 3}
        | {"latent_channels": 4},
    ),
    "vq_attention": (
        "VQModel",
        KL
        | {"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")}
        | {"up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), "num_vq_embeddings": 24, "act_fn": "relu"},
    ),
    "tiny": (
        "AutoencoderTiny",
        {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
        | {"num_encoder_blocks": (1, 2, 1), "num_decoder_blocks": (2, 1, 1)},
    ),
    "tiny_f8": (
        "AutoencoderTiny",
        {"encoder_block_out_channels": (6,) * 4, "decoder_block_out_channels": (6,) * 4, "act_fn": "silu"}
        | {"latent_channels": 16, "num_encoder_blocks": (1, 1, 2, 1), "num_decoder_blocks": (1, 2, 1, 1)},
    ),
    # As the autoencoder of Sana has them.
    "dc": (
        "AutoencoderDC",
        DC
        | {"encoder_block_types": ("ResBlock",) * 2 + ("EfficientViTBlock",) * 2}
        | {"decoder_block_types": ("ResBlock",) * 2 + ("EfficientViTBlock",) * 2}
        | {"downsample_block_type": "Conv", "upsample_block_type": "interpolate", "scaling_factor": 0.4},
    ),
    # As those of dc-ae-f32c32-in-1.0, with batch normalization.
    "dc_batch_norm": (
        "AutoencoderDC",
        DC
        | {"encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",)}
        | {"decoder_block_types": ("ResBlock",) * 2 + ("EfficientViTBlock",) * 2}
        | {"encoder_layers_per_block": (0, 1, 2, 1), "decoder_layers_per_block": (0, 2, 1, 1)}
        | {"encoder_qkv_multiscales": ((),) * 4, "decoder_qkv_multiscales": ((),) * 4}
        | {"decoder_norm_types": ("batch_norm", "batch_norm", "batch_norm", "rms_norm")}
        | {"decoder_act_fns": ("silu", "relu", "gelu", "silu")},
    ),
    "dc_without_shortcuts": (
        "AutoencoderDC",
        {"in_channels": 1, "latent_channels": 3, "attention_head_dim": 4, "encoder_block_types": "EfficientViTBlock"}
        | {"encoder_block_out_channels": (6, 8), "decoder_block_out_channels": (6, 12), "decoder_act_fns": "mish"}
        | {"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 2)}
        | {"encoder_qkv_multiscales": ((3,), (5, 3)), "decoder_qkv_multiscales": ((), ())}
        | {"encoder_out_shortcut": False, "decoder_in_shortcut": False, "decoder_conv_act_fn": "silu"},
    ),
}


def settings(case):
    name, options = CASES[case]
    if isinstance(n := options.get("down_block_types"), int):
        options = options | {
            "down_block_types": ("DownEncoderBlock2D",) * n,
            "up_block_types": ("UpDecoderBlock2D",) * n,
        }
    return name, options


def draw(shapes):
    """Parameters of these names and shapes, which keep values about as large as they are."""
    tensors = {}
    for name, shape in shapes.items():
        values = np.random.RandomState(zlib.crc32(name.encode())).normal(size=shape)
        if "running_var" in name:
            tensors[name] = np.exp(0.3 * values).astype(np.float32)
            continue
        if "num_batches" in name:
            tensors[name] = np.asarray(1000 * abs(values), np.int64)
            continue
        if "embedding" in name:
            scale, offset = 1, 0
        elif len(shape) > 1:
            scale, offset = 1.2 / math.sqrt(math.prod(shape[1:])), 0
        else:
            scale, offset = 0.3, float(name.endswith(("weight", "scale")))  # a normalization's scale is about 1
        tensors[name] = (scale * values + offset).astype(np.float32)
    return tensors


def inputs(case, shape):
    """Images in [0, 1] and latents, for one of the shapes."""
    _, options = settings(case)
    b, h, w = shape
    factor = 2 ** (len(options.get("block_out_channels", options.get("encoder_block_out_channels"))) - 1)
    rng = np.random.RandomState(h)
    x = rng.uniform(size=(b, h, w, options.get("in_channels", 3))).astype(np.float32)
    channels = options.get("vq_embed_dim", options.get("latent_channels", 3 if case.startswith("vq") else 4))
    return x, rng.normal(size=(b, h // factor, w // factor, channels)).astype(np.float32)


def build(case):
    """The model of diffusers, with drawn parameters."""
    import diffusers
    import torch

    name, options = settings(case)
    model = getattr(diffusers, name)(**options).eval()
    tensors = draw({name: tuple(value.shape) for name, value in model.state_dict().items()})
    model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return model


def compute(model, x, z):
    """What a model of diffusers computes, in our units and order of axes."""
    import torch

    def there(a):
        return torch.from_numpy(np.ascontiguousarray(a.transpose(0, 3, 1, 2)))

    def here(a):
        return a.detach().numpy().transpose(0, 2, 3, 1)

    found = {}
    with torch.no_grad():
        encoded = model.encode(there(2 * x - 1))
        options = {}
        if hasattr(encoded, "latent_dist"):
            found |= {"mean": here(encoded.latent_dist.mean), "log_variance": here(encoded.latent_dist.logvar)}
        elif hasattr(model, "quantize"):
            quantized, _, (_, _, indices) = model.quantize(encoded.latents)
            found |= {"mean": here(quantized), "indices": indices.numpy().reshape(here(quantized).shape[:-1])}
            options = {"force_not_quantize": True}
        else:
            found |= {"mean": here(encoded.latents if hasattr(encoded, "latents") else encoded.latent)}
        found["decoded"] = (here(model.decode(there(z), **options).sample) + 1) / 2
    return found


def main():
    FOLDER.mkdir(exist_ok=True)
    for case in sys.argv[1:] or CASES:
        model = build(case)
        name, options = settings(case)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        arrays = {"about": json.dumps({"config": {"_class_name": name, **options}, "shapes": shapes})}
        for shape in SHAPES:
            for key, value in compute(model, *inputs(case, shape)).items():
                arrays[f"{key}_{'x'.join(map(str, shape))}"] = value
        np.savez_compressed(FOLDER / f"{case}.npz", **arrays)


def main_of_flax():
    import jax
    from diffusers.models.vae_flax import FlaxAutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    model = FlaxAutoencoderKL(**blocks, block_out_channels=(4, 8), norm_num_groups=2, sample_size=16)
    shapes = jax.eval_shape(model.init_weights, jax.random.key(0))
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    # Kernels here have their outputs last, and `draw` scales by the size of all axes but the first.
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape[::-1] for path, leaf in leaves}
    params = jax.tree.unflatten(tree, [value.T for value in draw(named).values()])
    model.save_pretrained(FOLDER / "flax", params)
    x, z = (
        inputs("kl_16_channels", SHAPES[0])[0],
        np.random.RandomState(0).normal(size=(2, 8, 12, 4)).astype(np.float32),
    )
    code = model.apply({"params": params}, (2 * x - 1).transpose(0, 3, 1, 2), method="encode").latent_dist
    decoded = model.apply({"params": params}, z, method="decode").sample.transpose(0, 2, 3, 1)
    expected = {"mean": code.mean, "log_variance": code.logvar, "decoded": (decoded + 1) / 2}
    np.savez_compressed(FOLDER / "flax" / "expected.npz", x=x, z=z, **expected)


if __name__ == "__main__":
    main_of_flax() if "flax" in sys.argv else main()
