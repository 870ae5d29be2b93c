"""AutoencoderDC of diffusers: its settings in config.json as sections of a config of aejax, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from aejax.errors import InputError, one_of
from aejax.models import Autoencoder
from aejax.models.dc import DCDecoder, DCEncoder, list_by_stage, list_windows
from aejax.pretrained.settings import ForStages, Sections, Settings, name_activation, read_activation

_ATTENTION = {"ResBlock": False, "EfficientViTBlock": True}
_NORMALIZATIONS = {"rms_norm": "rms", "batch_norm": "batch"}
_SHUFFLE: Mapping[str, Mapping[str, bool]] = {
    "downsample_block_type": {"pixel_unshuffle": True, "Conv": False, "conv": False},
    "upsample_block_type": {"pixel_shuffle": True, "interpolate": False},
}
_WINDOWS = ((), (), (), (5,), (5,), (5,))

DC: Settings = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": ForStages("ResBlock"),
    "decoder_block_types": ForStages("ResBlock"),
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": _WINDOWS,
    "decoder_qkv_multiscales": _WINDOWS,
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "decoder_norm_types": ForStages("rms_norm"),
    "decoder_act_fns": ForStages("silu"),
    "encoder_out_shortcut": True,
    "decoder_in_shortcut": True,
    "decoder_conv_act_fn": "relu",
}


def parse_dc(settings: Settings) -> Sections:
    """Returns the sections of a config."""
    encoder, decoder = (_parse_part(name, settings, order) for name, order in (("encoder", 1), ("decoder", -1)))
    encoder |= {
        "channels": settings["latent_channels"],
        "shuffle": _look_up("downsample_block_type", settings["downsample_block_type"]),
        "shortcut": settings["encoder_out_shortcut"],
        "halve_first": not settings["encoder_layers_per_block"][0],
    }
    doubles = not settings["decoder_layers_per_block"][0]
    norms, activations = (
        list_by_stage(key, settings[key], len(settings["decoder_block_out_channels"]))[doubles:][::-1]
        for key in ("decoder_norm_types", "decoder_act_fns")
    )
    decoder |= {
        "shuffle": _look_up("upsample_block_type", settings["upsample_block_type"]),
        "shortcut": settings["decoder_in_shortcut"],
        "double_last": doubles,
        "normalisation": _shorten([_look_up("decoder_norm_types", name) for name in norms]),
        "activation": _shorten([read_activation(name, "decoder_act_fns") for name in activations]),
        "last_activation": read_activation(settings["decoder_conv_act_fn"], "decoder_conv_act_fn"),
    }
    return {"encoder": encoder, "bottleneck": {"name": "identity"}, "decoder": decoder}


def describe_dc(model: Autoencoder, channels: int) -> dict[str, Any]:
    """Returns the settings of a model. Nothing depends on the width and the names of a stage without blocks."""
    encoder: Any = model.encoder
    decoder: Any = model.decoder
    names = {ours: theirs for theirs, ours in _NORMALIZATIONS.items()}
    norms = list_by_stage("decoder.normalisation", decoder.normalisation, len(decoder.features))[::-1]
    activations = list_by_stage("decoder.activation", decoder.activation, len(decoder.features))[::-1]
    return {
        "in_channels": channels,
        "latent_channels": encoder.channels,
        "attention_head_dim": encoder.head_features,
        **_describe_part("encoder", encoder, 1, encoder.halve_first),
        **_describe_part("decoder", decoder, -1, first := decoder.double_last),
        "upsample_block_type": "pixel_shuffle" if decoder.shuffle else "interpolate",
        "downsample_block_type": "pixel_unshuffle" if encoder.shuffle else "Conv",
        "decoder_norm_types": [names.get(name, name) for name in norms[:first] + norms],
        "decoder_act_fns": [name_activation(name) for name in activations[:first] + activations],
        "encoder_out_shortcut": encoder.shortcut,
        "decoder_in_shortcut": decoder.shortcut,
        "decoder_conv_act_fn": name_activation(decoder.last_activation),
    }


def _parse_part(part: str, settings: Settings, order: int) -> dict[str, Any]:
    """Returns what encoder and decoder share; `order` is -1 for innermost stages first."""
    features, blocks = (settings[f"{part}_{key}"] for key in ("block_out_channels", "layers_per_block"))
    windows = settings[f"{part}_qkv_multiscales"]
    types = list_by_stage(f"{part}_block_types", settings[f"{part}_block_types"], len(features))
    for key, value in (("layers_per_block", blocks), ("qkv_multiscales", windows)):
        if len(value) != len(features):
            raise InputError(f"{part}_{key} has {len(value)} entries, {part}_block_out_channels {len(features)}")
    if min(blocks[1:], default=blocks[0]) < 1 or blocks[0] < 0:
        raise InputError(
            f"{part}_layers_per_block={blocks} is not supported; all entries but the first must be above 0"
        )
    first = int(not blocks[0])  # a stage without blocks: the convolution at the image halves or doubles the sides
    features, blocks, windows, types = (each[first:][::order] for each in (features, blocks, windows, types))
    attentive = [i for i, name in enumerate(types) if _look_up(f"{part}_block_types", name)]
    return {
        "name": "dc",
        "features": features,
        "blocks": blocks,
        "attention_stages": tuple(i + 1 for i in attentive),
        "windows": _shorten([windows[i] for i in attentive]),
        "head_features": settings["attention_head_dim"],
    }


def _describe_part(part: str, module: DCEncoder | DCDecoder, order: int, first: bool) -> dict[str, Any]:
    stages = range(1, 1 + len(module.features))[::order]
    types = ["EfficientViTBlock" if i in module.attention_stages else "ResBlock" for i in stages]
    features = list(module.features[::order])
    return {
        f"{part}_block_types": types[:first] + types,
        f"{part}_block_out_channels": features[:first] + features,
        f"{part}_layers_per_block": [0] * first + list(module.blocks[::order]),
        f"{part}_qkv_multiscales": [[]] * first + [list(each) for each in list_windows(part, module)[::order]],
    }


def _shorten(each: Sequence[Any]) -> Any:
    """Returns the one value of all entries, or a tuple of them."""
    return each[0] if len(set(each)) == 1 else tuple(each)


def _look_up(key: str, name: str) -> Any:
    choices: Mapping[str, Any] = _SHUFFLE.get(key, _NORMALIZATIONS if key == "decoder_norm_types" else _ATTENTION)
    if name not in choices:
        raise one_of(key, name, choices)
    return choices[name]
