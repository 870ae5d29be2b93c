"""Classes of diffusers and their settings in config.json, as sections of a config of aejax, and back."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aejax.errors import InputError, one_of, shown
from aejax.models import (
    Autoencoder,
    DCDecoder,
    DCEncoder,
    IdentityBottleneck,
    KLDecoder,
    KLEncoder,
    SpatialGaussian,
    TinyDecoder,
    TinyEncoder,
    VectorQuantizer,
)
from aejax.models.bottlenecks import BOTTLENECKS
from aejax.models.decoders import DECODERS
from aejax.models.encoders import ENCODERS
from aejax.pretrained.dc import DC, describe_dc, parse_dc
from aejax.pretrained.settings import Sections, Settings, check, name_activation, read_activation, require
from aejax.registry import instantiate

# The settings that the networks depend on, with the values of files that leave them out.
_CONVOLUTIONAL: Settings = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
}
_KL: Settings = {**_CONVOLUTIONAL, "latent_channels": 4, "use_quant_conv": True, "use_post_quant_conv": True}
_VQ: Settings = {**_CONVOLUTIONAL, "latent_channels": 3, "num_vq_embeddings": 256, "norm_type": "group"}
_TINY: Settings = {
    "in_channels": 3,
    "out_channels": 3,
    "encoder_block_out_channels": (64, 64, 64, 64),
    "decoder_block_out_channels": (64, 64, 64, 64),
    "act_fn": "relu",
    "upsample_fn": "nearest",
    "latent_channels": 4,
    "upsampling_scaling_factor": 2,
    "num_encoder_blocks": (1, 3, 3, 3),
    "num_decoder_blocks": (3, 3, 3, 1),
    "pooled": False,  # TAEF2's branch, which diffusers does not have
}


def _parse_convolutional(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the sections of encoder and decoder that AutoencoderKL and VQModel share."""
    features = settings["block_out_channels"]
    for key in ("down_block_types", "up_block_types"):
        if len(settings[key]) != len(features):
            raise InputError(f"{key} has {len(settings[key])} entries, block_out_channels {len(features)}")
    shared = {
        "name": "kl",
        "groups": settings["norm_num_groups"],
        "activation": read_activation(settings["act_fn"]),
        "attention": settings["mid_block_add_attention"],
    }
    blocks = settings["layers_per_block"]
    down, up = (
        _list_stages(key, settings[key], kind)
        for key, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D"))
    )
    encoder = {**shared, "features": features, "blocks": blocks, "attention_stages": down}
    return encoder, {**shared, "features": features[::-1], "blocks": blocks + 1, "attention_stages": up}


def _parse_kl(settings: Settings) -> Sections:
    encoder, decoder = _parse_convolutional(settings)
    latent = settings["latent_channels"]
    return {
        "encoder": {**encoder, "channels": 2 * latent},
        "bottleneck": {"name": "spatial_gaussian", "features": latent, "project": settings["use_quant_conv"]},
        "decoder": {**decoder, "project": latent if settings["use_post_quant_conv"] else 0},
    }


def _parse_vq(settings: Settings) -> Sections:
    require(settings, "norm_type", "group")
    encoder, decoder = _parse_convolutional(settings)
    latent, features = settings["latent_channels"], settings.get("vq_embed_dim") or settings["latent_channels"]
    bottleneck = {"name": "vq", "codes": settings["num_vq_embeddings"], "features": features, "update": "gradient"}
    return {
        "encoder": {**encoder, "channels": latent},
        "bottleneck": bottleneck,
        "decoder": {**decoder, "project": latent},
    }


def _parse_tiny(settings: Settings) -> Sections:
    require(settings, "upsample_fn", "nearest")
    require(settings, "upsampling_scaling_factor", 2)
    widths = {*settings["encoder_block_out_channels"], *settings["decoder_block_out_channels"]}
    if len(widths) != 1:
        raise InputError(
            f"all of encoder_block_out_channels and decoder_block_out_channels must be one width: {widths}"
        )
    shared = {
        "name": "taesd",
        "features": widths.pop(),
        "activation": read_activation(settings["act_fn"]),
        "pooled": settings["pooled"],
    }
    return {
        "encoder": {**shared, "channels": settings["latent_channels"], "blocks": settings["num_encoder_blocks"]},
        "bottleneck": {"name": "identity"},
        "decoder": {**shared, "blocks": settings["num_decoder_blocks"]},
    }


def _describe_convolutional(encoder: KLEncoder, decoder: KLDecoder, channels: int) -> dict[str, Any]:
    down, up = (range(1, 1 + len(part.features)) for part in (encoder, decoder))
    return {
        "in_channels": channels,
        "out_channels": channels,
        "down_block_types": [_name_block("DownEncoderBlock2D", i in encoder.attention_stages) for i in down],
        "up_block_types": [_name_block("UpDecoderBlock2D", i in decoder.attention_stages) for i in up],
        "block_out_channels": list(encoder.features),
        "layers_per_block": encoder.blocks,
        "act_fn": name_activation(encoder.activation),
        "norm_num_groups": encoder.groups,
        "mid_block_add_attention": encoder.attention,
    }


def _describe_kl(model: Autoencoder, channels: int) -> dict[str, Any]:
    encoder, bottleneck, decoder = _split_parts(model)
    return {
        **_describe_convolutional(encoder, decoder, channels),
        "latent_channels": bottleneck.features,
        "use_quant_conv": bottleneck.project,
        "use_post_quant_conv": bool(decoder.project),
    }


def _describe_vq(model: Autoencoder, channels: int) -> dict[str, Any]:
    encoder, bottleneck, decoder = _split_parts(model)
    return {
        **_describe_convolutional(encoder, decoder, channels),
        "latent_channels": encoder.channels,
        "num_vq_embeddings": bottleneck.codes,
        "vq_embed_dim": bottleneck.features,
    }


def _describe_tiny(model: Autoencoder, channels: int) -> dict[str, Any]:
    encoder, _, decoder = _split_parts(model)
    settings = {
        "in_channels": channels,
        "out_channels": channels,
        "encoder_block_out_channels": [encoder.features] * len(encoder.blocks),
        "decoder_block_out_channels": [decoder.features] * len(decoder.blocks),
        "act_fn": name_activation(encoder.activation),
        "latent_channels": encoder.channels,
        "num_encoder_blocks": list(encoder.blocks),
        "num_decoder_blocks": list(decoder.blocks),
    }
    return settings | ({"pooled": True} if encoder.pooled else {})


class Architecture(NamedTuple):
    """A class of diffusers.

    Attributes:
      parts: encoder, bottleneck and decoder here.
      defaults: settings that the networks depend on, with the values that stand for settings left out.
      scaling_factor: the default of the setting of that name, which the networks do not depend on.
      weights: usual weights of terms of the objective.
      parse, describe: both directions between settings and modules.
    """

    parts: tuple[type, type, type]
    defaults: Settings
    scaling_factor: float
    weights: Mapping[str, float]
    parse: Callable[[Settings], Sections]
    describe: Callable[[Autoencoder, int], dict[str, Any]]


ARCHITECTURES = {
    "AutoencoderKL": Architecture(
        (KLEncoder, SpatialGaussian, KLDecoder), _KL, 0.18215, {"kl": 1e-6}, _parse_kl, _describe_kl
    ),
    "VQModel": Architecture(
        (KLEncoder, VectorQuantizer, KLDecoder),
        _VQ,
        0.18215,
        {"commitment": 0.25, "codebook": 1.0},
        _parse_vq,
        _describe_vq,
    ),
    "AutoencoderTiny": Architecture(
        (TinyEncoder, IdentityBottleneck, TinyDecoder), _TINY, 1.0, {}, _parse_tiny, _describe_tiny
    ),
    "AutoencoderDC": Architecture((DCEncoder, IdentityBottleneck, DCDecoder), DC, 1.0, {}, parse_dc, describe_dc),
}


class Parsed(NamedTuple):
    """The content of a config.json.

    Attributes:
      sections: those of encoder, bottleneck and decoder in a config of aejax.
      weights: of the terms of its objective.
      channels: number of channels of an image.
      published: config.json, completed by the scaling factor that diffusers takes where it is left out.
      settings: config.json, completed by all that the networks depend on.
    """

    sections: Sections
    weights: Mapping[str, float]
    channels: int
    published: dict[str, Any]
    settings: dict[str, Any]


def parse_config(config: Settings, where: str) -> Parsed:
    """Returns the content of a config.json of the folder `where`.

    Raises InputError for a class or a setting that is not known here.
    """
    name = config["_class_name"]
    if name not in ARCHITECTURES:
        raise InputError(f"{where}: {one_of('the class of config.json', name, ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    settings = dict(config)
    for key, default in architecture.defaults.items():
        settings[key] = check(where, key, config.get(key, default), default)
    if settings["in_channels"] != settings.get("out_channels", settings["in_channels"]):
        raise InputError(
            f"{where}: in_channels={settings['in_channels']}, out_channels={settings['out_channels']}; "
            "an autoencoder here makes as many as it reads"
        )
    try:
        sections = architecture.parse(settings)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    published = {"scaling_factor": architecture.scaling_factor, **config}
    return Parsed(sections, architecture.weights, settings["in_channels"], published, settings)


def describe_model(model: Autoencoder, channels: int) -> dict[str, Any]:
    """Returns the config.json of a model for images with as many channels.

    Raises InputError if no class of diffusers computes what the model does.
    """
    parts = _split_parts(model)
    name = next((name for name, a in ARCHITECTURES.items() if a.parts == tuple(map(type, parts))), None)
    if name is None:
        known = "; ".join(", ".join(part.__name__ for part in a.parts) for a in ARCHITECTURES.values())
        has = ", ".join(type(part).__name__ for part in parts)
        raise InputError(f"diffusers has no class for the parts {has}; it has for: {known}")
    config = {"_class_name": name, **ARCHITECTURES[name].describe(model, channels)}
    sections = parse_config(config, "the model").sections
    given = {"shape": (), "dtype": "float32"}
    classes: tuple[Mapping[str, type], ...] = (ENCODERS, BOTTLENECKS, DECODERS)
    for section, part, named in zip(("encoder", "bottleneck", "decoder"), parts, classes, strict=True):
        like: Any = instantiate(section, named, sections[section], given)
        for field in dataclasses.fields(part):
            here, there = (_freeze(getattr(each, field.name)) for each in (part, like))
            if field.name not in _FREE and here != there:
                raise InputError(
                    f"{name} of diffusers would have {section}.{field.name}={shown(there)}, the model has {shown(here)}"
                )
    return config


# Attributes that change neither the parameters nor what is computed of them in evaluation.
_FREE = {
    "parent",
    "name",
    "shape",
    "dtype",
    "remat",
    "axis_name",
    "update",
    "decay",
    "gradient",
    "kmeans",
    "revive_after",
}


def _split_parts(model: Autoencoder) -> tuple[Any, Any, Any]:
    return model.encoder, model.bottleneck, model.decoder


def _freeze(value: Any) -> Any:
    """Returns the value with tuples in the place of lists, which configs hold after they were saved.

    A name or a list that is the same for each stage becomes one for all.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    values = tuple(map(_freeze, value))
    return values[0] if len(set(values)) == 1 and isinstance(values[0], str | tuple) else values


def _name_block(kind: str, attends: bool) -> str:
    return f"Attn{kind}" if attends else kind


def _list_stages(key: str, kinds: Sequence[str], plain: str) -> tuple[int, ...]:
    """Returns the numbers, from 1, of the stages with attention."""
    for kind in kinds:
        if kind not in (plain, f"Attn{plain}"):
            raise one_of(key, kind, (plain, f"Attn{plain}"))
    return tuple(i for i, kind in enumerate(kinds, 1) if kind != plain)
