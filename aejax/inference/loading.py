"""Loading of runs: from a workdir, and of published weights."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax import pretrained
from aejax.data import Source, Spec
from aejax.errors import InputError, StorageError, kind_and_words, shown
from aejax.files import local
from aejax.inference.parts import check_objects
from aejax.inference.run import Run
from aejax.models import Autoencoder, Output, abstract_variables, build
from aejax.objectives import Objective
from aejax.workdir import changes, checkpoint, saved_config


def load_run(
    workdir: str | Path,
    step: int | Literal["newest", "best"] = "newest",
    trust: Collection[str] = (),
    *,
    model: Autoencoder | None = None,
    objective: Objective | None = None,
) -> Run:
    """Loads a checkpoint of `workdir`, on whatever machine and however many devices it was trained.

    Args:
      workdir: the folder of the experiment.
      step: the step of the checkpoint, "newest", or "best", which has the lowest validation loss.
      trust: packages or modules whose code may run. A workdir may come from anyone, and its config may name code as
        "package.module:attribute".
      model, objective: what `fit` was given, if a config cannot name their classes.

    Raises:
      InputError: there is no such checkpoint, its config names code that is not trusted, or needs objects that are not
        given.
      StorageError: no checkpoint can be read.
    """
    workdir = local(workdir)
    if pretrained.is_published(workdir):
        raise InputError(f"{workdir} holds a published model, not a run; load it by load_pretrained")
    saved = checkpoint.find(workdir, step)
    try:
        config = saved.metadata["config"]
        check_objects(config, model, objective, saved.metadata["spec"]["shape"], str(workdir))
        if model is None:  # otherwise nothing that the config names runs
            saved_config.check_trust(config, [trust] if isinstance(trust, str) else trust, str(workdir))
        run = from_checkpoint(saved, model, objective, workdir)
        if run.model is model:
            checkpoint.fill(
                abstract_variables(run.model, run.spec.shape), run.variables, f"{workdir}, step {saved.step},"
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # the checkpoint may come from anyone
        if isinstance(error, InputError):
            raise
        raise StorageError(
            f"{workdir}, step {saved.step}, holds no run ({kind_and_words(error)}); load another step"
        ) from error
    return run


def load_pretrained(
    folder: str | Path, size: int | tuple[int, int] | None = None, dtype: Literal["float32", "bfloat16"] = "float32"
) -> Run:
    """Loads a published autoencoder: AutoencoderKL, VQModel, AutoencoderTiny or AutoencoderDC, TAEF2, or a sparse one.

    Its images are in [0, 1], as those of every run, whatever the range that the network reads. Sparse autoencoders read
    activations as they are. `Run.save_pretrained` is the other direction.

    Args:
      folder: as the Hugging Face hub lays it out, with config.json and diffusion_pytorch_model.safetensors, whole or in
        shards, or diffusion_flax_model.msgpack; or with encoder.safetensors and decoder.safetensors of TAESD or TAEF2;
        or with a sparse autoencoder of SAELens (cfg.json, sae_weights.safetensors), Gemma Scope (params.npz) or
        sparsify (cfg.json, sae.safetensors). Nothing in it is executed.
      size: side of the images, or (height, width), for `export` and for training; `encode` and `decode` take all that
        the downsampling divides. Defaults to the `sample_size` of config.json, or 256.
      dtype: of the computation. Parameters are float32.

    Returns:
      A run of step 0 without data of its own, from which `fit(..., init_from=run)` starts.

    Raises:
      InputError: the folder holds no such model, only pickles, or tensors that its config.json does not describe.
      StorageError: a file is damaged.
    """
    folder = local(folder)
    if layout := pretrained.find_layout(folder):
        return _load_sae(folder, layout, size, dtype)
    stored = pretrained.read(folder, f", or the files of a sparse autoencoder: {pretrained.list_layouts()}")
    parsed = pretrained.parse_config(stored.config, str(folder))
    shape = (*_parse_sides(size or stored.config.get("sample_size") or 256), parsed.channels)
    sections = {**parsed.sections, "objective": {"weights": parsed.weights}}
    config, output, shapes = _make_config(folder, sections, Spec(shape), dtype=dtype)
    variables = pretrained.from_hub(stored.tensors, shapes, parsed.settings, str(stored.file))
    return _make_run(config, Spec(shape), output, variables, published=parsed.published)


def _load_sae(folder: Path, layout: str, size: Any, dtype: str) -> Run:
    if size is not None:
        raise InputError(f"{folder} holds a sparse autoencoder, which reads vectors; leave size out")
    sae, card = pretrained.read_sae(folder, layout)
    sections, variables = pretrained.parse_sae(sae)
    inputs, _, outputs = sae.sizes
    spec = Spec((inputs,), target=(outputs,) if sae.transcoder else (), per_token=sae.per_token)
    config, output, _ = _make_config(folder, sections, spec, dtype=dtype, pre_bias=sae.pre_bias)
    return _make_run(config, spec, output, variables, sae=card)


def _make_config(
    folder: Path, sections: Mapping[str, Any], spec: Spec, **settings: Any
) -> tuple[ConfigDict, Output, Any]:
    """Returns the config of a published model, and the shapes of its output and its variables."""
    config = config_lib.default()
    config.data.name = ""
    config.update({**sections, **settings})
    config_lib.check(config)
    try:
        model = build(config, spec.shape, target=spec.target)
    except InputError as error:  # of sizes in config.json that do not go together
        raise InputError(f"{folder}: {error}") from error
    output, shapes = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, *spec.shape)))
    return config_lib.lock(config), output, shapes


def _make_run(config: ConfigDict, spec: Spec, output: Output, variables: Any, **about: Any) -> Run:
    latents = np.zeros((0, *output.code.z.shape[1:]), np.float32)
    return Run(
        config=config,
        spec=spec,
        step=0,
        variables=variables,
        latents=latents,
        reconstructions=np.zeros((0, *spec.decoded), np.float32),
        inputs=np.zeros((0, *spec.shape), np.float32),
        **about,
    )


def _parse_sides(size: Any) -> tuple[int, int]:
    """Returns (height, width). Raises InputError for anything but one or two whole numbers above 0."""
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InputError(f"the size of images must be a whole number above 0, or (height, width), got {shown(size)}")
    return sides[0], sides[1]


def from_checkpoint(
    saved: checkpoint.Checkpoint,
    model: Autoencoder | None = None,
    objective: Objective | None = None,
    workdir: Path | None = None,
    train_split: Source | None = None,
) -> Run:
    """Builds the run from a checkpoint, with the averaged parameters if there are any.

    `model` and `objective` take the place of those that the config names; the others are attributes of `Run`.
    """
    return Run(
        config=config_lib.from_dict(saved.metadata["config"]),
        spec=Spec.from_dict(saved.metadata["spec"]),
        step=saved.step,
        trained_on=saved.metadata.get("data"),
        changes=changes.parse(saved.metadata),
        variables=checkpoint.get_variables(saved),
        **saved.samples,  # type: ignore[arg-type]
        own_model=model,
        own_objective=objective,
        workdir=workdir,
        train_split=train_split,
    )
