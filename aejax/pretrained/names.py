"""Names and layouts of parameters: those of linen modules here, `encoder/conv_in/kernel`, and those of diffusers.

One table per architecture serves both directions: each name here is rewritten by all rules of its table, in order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from aejax.errors import InputError

Rules = Sequence[tuple[str, str]]
_POINTWISE = re.compile(r"(post_)?quant_conv\.")  # 1x1 convolutions there, dense layers here

_KL: Rules = (
    (r"encoder/block_(\d+)_(\d+)/", r"encoder.down_blocks.\1.resnets.\2."),
    (r"encoder/attention_(\d+)_(\d+)/", r"encoder.down_blocks.\1.attentions.\2."),
    (r"encoder/downsample_(\d+)/", r"encoder.down_blocks.\1.downsamplers.0.conv."),
    (r"decoder/block_(\d+)_(\d+)/", r"decoder.up_blocks.\1.resnets.\2."),
    (r"decoder/attention_(\d+)_(\d+)/", r"decoder.up_blocks.\1.attentions.\2."),
    (r"decoder/upsample_(\d+)/", r"decoder.up_blocks.\1.upsamplers.0.conv."),
    (r"(encoder|decoder)/middle_(\d)/", r"\1.mid_block.resnets.\2."),
    (r"(encoder|decoder)/middle_attention/", r"\1.mid_block.attentions.0."),
    (r"(encoder|decoder)/(conv_in|conv_out)/", r"\1.\2."),
    (r"(encoder|decoder)/norm/", r"\1.conv_norm_out."),
    (r"bottleneck/dense/", "quant_conv."),
    (r"bottleneck/codebook/codes", "quantize.embedding.weight"),
    (r"decoder/project/", "post_quant_conv."),
    # Of a block, and of attention.
    (r"norm_0/", "norm1."),
    (r"conv_0/", "conv1."),
    (r"norm_1/", "norm2."),
    (r"conv_1/", "conv2."),
    (r"shortcut/", "conv_shortcut."),
    (r"norm/", "group_norm."),
    (r"query/", "to_q."),
    (r"key/", "to_k."),
    (r"value/", "to_v."),
    (r"out/", "to_out.0."),
    (r"(kernel|scale)$", "weight"),
)

_TINY: Rules = (
    (r"pooled/conv_0/", "pool.0."),
    (r"pooled/norm/", "pool.1."),
    (r"pooled/conv_1/", "pool.3."),
    (r"conv_0/", "conv.0."),
    (r"conv_1/", "conv.2."),
    (r"conv_2/", "conv.4."),
    (r"(kernel|scale)$", "weight"),
)

_DC: Rules = (
    (r"(encoder|decoder)/(conv_in|conv_out)/", r"\1.\2."),
    (r"decoder/norm/", "decoder.norm_out."),
    # Of a block.
    (r"attention/query/", "attn.to_q."),
    (r"attention/key/", "attn.to_k."),
    (r"attention/value/", "attn.to_v."),
    (r"attention/depthwise_(\d+)/", r"attn.to_qkv_multiscale.\1.proj_in."),
    (r"attention/grouped_(\d+)/", r"attn.to_qkv_multiscale.\1.proj_out."),
    (r"attention/out/", "attn.to_out."),
    (r"attention/norm/", "attn.norm_out."),
    (r"gated/expand/", "conv_out.conv_inverted."),
    (r"gated/depthwise/", "conv_out.conv_depth."),
    (r"gated/reduce/", "conv_out.conv_point."),
    (r"gated/norm/", "conv_out.norm."),
    (r"conv_0/", "conv1."),
    (r"conv_1/", "conv2."),
    (r"conv/", "conv."),
    (r"norm/", "norm."),
    (r"batch/", ""),
    (r"(kernel|scale)$", "weight"),
    (r"(mean|var)$", r"running_\1"),
    (r"steps$", "num_batches_tracked"),
)

# Of the attention in files that diffusers wrote before its version 0.13, and its Flax classes until they were deleted.
_FORMER: Rules = (
    (r"(attentions\.\d+\.)query\.", r"\1to_q."),
    (r"(attentions\.\d+\.)key\.", r"\1to_k."),
    (r"(attentions\.\d+\.)value\.", r"\1to_v."),
    (r"(attentions\.\d+\.)proj_attn\.", r"\1to_out.0."),
)


def to_hub(variables: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns variables, nested by collection, as diffusers names and shapes them.

    `config` holds the class and all settings of a config.json.
    """
    rules = _choose_rules(config)
    return dict(_convert(path, value, rules) for path, value in flatten_dict(variables, sep="/").items())


def from_hub(
    tensors: Mapping[str, np.ndarray], variables: Mapping[str, Any], config: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Returns the variables, nested as `variables`, that hold the tensors, float32, and counts int32.

    Args:
      tensors: by their names in diffusers; those of attention may be older ones, and layers of single pixels may be
        dense layers or 1x1 convolutions.
      variables: variables or their shapes, nested by collection.
      config: the class and all settings of a config.json.
      where: the file, for errors.

    Raises InputError that names the tensors which are missing or superfluous, or both shapes where one differs.
    """
    rules = _choose_rules(config)
    found = {_rewrite(name, _FORMER): value for name, value in tensors.items()}
    leaves = flatten_dict(variables, sep="/")
    wanted = {
        path: _convert(path, np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), rules)
        for path, leaf in leaves.items()
    }
    names = {name for name, _ in wanted.values()}
    problems = [
        f"{what}: {', '.join(sorted(differ)[:4])}{', ...' if len(differ) > 4 else ''}"
        for what, differ in (("missing", names - found.keys()), ("superfluous", found.keys() - names))
        if differ
    ]
    if problems:
        raise InputError(f"{where} does not hold the tensors that its config.json describes; {'; '.join(problems)}")
    filled: dict[str, np.ndarray] = {}
    for path, (name, like) in wanted.items():
        value = found[name]
        if {value.ndim, like.ndim} == {2, 4} and {*value.shape[2:], *like.shape[2:]} == {1}:
            value = value.reshape(*value.shape[:2], *like.shape[2:])  # a layer of single pixels
        if value.shape != like.shape:
            raise InputError(f"{where}: {name} has the shape {value.shape}, its config.json describes {like.shape}")
        if like.dtype == np.int64:
            filled[path] = value.astype(np.int32)
            continue
        if value.dtype.name not in ("float16", "bfloat16", "float32"):
            raise InputError(f"{where}: {name} is {value.dtype.name}; convert it to float16, bfloat16 or float32")
        if path.endswith("/kernel"):
            value = value.reshape(value.shape[:2]).T if leaves[path].ndim == 2 else value.transpose(2, 3, 1, 0)
        filled[path] = np.ascontiguousarray(value, np.float32)
    return unflatten_dict(filled, sep="/")


def _choose_rules(config: Mapping[str, Any]) -> Rules:
    if config["_class_name"] == "AutoencoderDC":
        return (*_number_blocks(config["encoder_layers_per_block"], config["decoder_layers_per_block"]), *_DC)
    if config["_class_name"] != "AutoencoderTiny":
        return _KL
    return (*_number_layers(config["num_encoder_blocks"], config["num_decoder_blocks"]), *_TINY)


def _number_layers(encoder: Sequence[int], decoder: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Yields the rules of the layers of AutoencoderTiny, which are numbered one after the other."""
    n = 0
    for i, blocks in enumerate(encoder):
        for name in (f"conv_{i}", *(f"block_{i}_{j}" for j in range(blocks))):
            yield f"encoder/{name}/", f"encoder.layers.{n}."
            n += 1
    yield "encoder/conv_out/", f"encoder.layers.{n}."
    yield "decoder/conv_in/", "decoder.layers.0."
    n = 2  # after the activation
    for i, blocks in enumerate(decoder):
        for j in range(blocks):
            yield f"decoder/block_{i}_{j}/", f"decoder.layers.{n}."
            n += 1
        if i < len(decoder) - 1:
            yield f"decoder/conv_{i}/", f"decoder.layers.{n + 1}."  # after the upsampling
            n += 2
    yield "decoder/conv_out/", f"decoder.layers.{n}."


def _number_blocks(encoder: Sequence[int], decoder: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Yields the rules of the blocks of AutoencoderDC, which also counts a stage without blocks."""
    for i, blocks in enumerate(each for each in encoder if each):
        stage = f"encoder.down_blocks.{i + (not encoder[0])}"
        yield rf"encoder/block_{i}_(\d+)/", rf"{stage}.\1."
        yield f"encoder/downsample_{i}/", f"{stage}.{blocks}."
    for i in range(sum(map(bool, decoder))):  # the innermost stage is the last there
        stage = f"decoder.up_blocks.{len(decoder) - 1 - i}"
        for j in range(decoder[-1 - i]):
            yield f"decoder/block_{i}_{j}/", f"{stage}.{j + (i > 0)}."
        yield f"decoder/upsample_{i}/", f"{stage}.0."


def _rewrite(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _convert(path: str, value: Any, rules: Rules) -> tuple[str, np.ndarray]:
    """Returns the name and the tensor there of a variable here, whose path begins with its collection."""
    name, value = _rewrite(path.partition("/")[2], rules), np.asarray(value)
    if value.dtype == np.int32:
        value = value.astype(np.int64)
    if path.endswith("/kernel"):
        value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
    return name, value[..., None, None] if value.ndim == 2 and _POINTWISE.match(name) else value
