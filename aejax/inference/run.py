"""Trained runs: statistics of latents, metrics, export, and files for other projects."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from aejax import data, pretrained
from aejax.data import Source
from aejax.errors import InputError, StorageError, one_of, shown
from aejax.files import local
from aejax.inference import export, latent_statistics
from aejax.inference.latent_statistics import LatentStatistics
from aejax.inference.trained import TrainedModel
from aejax.models.bottlenecks import VectorQuantizer
from aejax.workdir import checkpoint

if TYPE_CHECKING:
    from aejax.evaluation import Measures


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(TrainedModel):
    """A trained run: a model, the metrics of its data, and programs for use without aejax.

    The split into two classes keeps imports in one direction: `aejax.evaluation` measures a `TrainedModel`, and
    `Run.evaluate` calls `aejax.evaluation`.

    Attributes:
      published: the config.json of a published model, which `load_pretrained` has read; None for a run that was
        trained here.
      sae: what the files of a published sparse autoencoder say beside its parameters, e.g. `sae.metadata`; else None.
      workdir: where the run was loaded from or trained; None without one.
      train_split: the training examples, if the process that holds the run has trained it.
    """

    published: Mapping[str, Any] | None = None
    sae: pretrained.SAECard | None = None
    workdir: Path | None = None
    train_split: Source | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns plain data, without the training examples."""
        return super().__getstate__() | {"train_split": None}

    @functools.cached_property
    def latent_statistics(self) -> LatentStatistics:
        """Returns the mean and standard deviation of each channel of the latents.

        Those of a published model are what its config.json says, `scaling_factor` and `shift_factor`, or `latents_mean`
        and `latents_std`. Those of a run that was trained here are measured on its train split, at the end of `fit` and
        of `aejax train` or when they are first needed, and kept in its checkpoint. Raises InputError if the train split
        cannot be loaded.
        """
        if self.published is not None:
            channels, published = self.latents.shape[-1], dict(self.published)
            mean, deviation = pretrained.from_factors(published, channels, "config.json")
            keys = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
            of = ", ".join(f"{key}={shown(published[key])}" for key in keys if published.get(key) is not None)
            return LatentStatistics(tuple(mean.tolist()), tuple(deviation.tolist()), of, self.fingerprint)
        if self.workdir and (found := latent_statistics.load(self.workdir, self.step, self.fingerprint)):
            return found
        source = self.train_split
        if source is None:
            try:
                source = data.load(self.config.data, self.trained_on).train
            except InputError as error:
                raise InputError(
                    f"the statistics of the latents are measured on the train split, which cannot be loaded ({error}); "
                    "give its examples to run.measure_latents(x)"
                ) from error
        return self._measure(source, "train")

    def keep_statistics(self) -> None:
        """Measures `latent_statistics` if the checkpoint lacks them. Leaves what cannot be measured to later."""
        with contextlib.suppress(InputError):
            _ = self.latent_statistics

    def measure_latents(self, x: ArrayLike, label: ArrayLike | None = None) -> LatentStatistics:
        """Measures `latent_statistics` on training examples x [n, ...], and keeps them with the run and its checkpoint.

        This is for a run whose train split cannot be loaded. Raises InputError if x does not fit the run.
        """
        return self._measure(self.spec.read(x, label), "the given array")

    def decode(
        self,
        z: ArrayLike,
        label: ArrayLike | None = None,
        *,
        statistics: LatentStatistics | None = None,
        **options: Any,
    ) -> Float[np.ndarray, "n ..."]:
        """Returns the expected x [n, ...] given latents [n, *latent], normalized ones or those of `encode`.

        With `statistics`, the latents are normalized by these, and are restored first. Latents of `read_latents` bring
        theirs along. Raises InputError if the statistics are those of another run's latents. The other arguments are
        those of `TrainedModel.decode`.
        """
        if statistics is not None and not isinstance(statistics, LatentStatistics):
            raise InputError(f"statistics must be those of a run, run.latent_statistics, got {shown(statistics)}")
        own = getattr(z, "statistics", None)
        if own is not None and statistics is not None and own != statistics:
            raise InputError("the latents were normalized by other statistics than the given ones; leave these out")
        statistics = own if statistics is None else statistics
        if statistics is None:
            return self._as_table(super().decode(z, label, **options))
        if statistics.parameters != self.fingerprint:
            raise InputError(
                f"the latents are normalized by the statistics of another run (parameters {statistics.parameters}, "
                f"{statistics.of}), and this run has parameters {self.fingerprint}; decode them by the run that "
                "encoded them"
            )
        return self._as_table(super().decode(statistics.restore(z), label, **options))

    def reconstruct(self, x: ArrayLike, label: ArrayLike | None = None, **options: Any) -> Any:
        """Returns what `TrainedModel.reconstruct` does, of a run on a table as a DataFrame with the dtypes of its
        columns: the mean of numbers, the most likely category.
        """
        if not self.spec.columns:
            return super().reconstruct(x, label, **options)
        return self._as_table(self.in_numbers.reconstruct(x, label, **options), x)

    def impute(self, x: ArrayLike, label: ArrayLike | None = None) -> Any:
        """Returns what `TrainedModel.impute` does, of a run on a table as a DataFrame like that of `reconstruct`."""
        if not self.spec.columns:
            return super().impute(x, label)
        return self._as_table(self.in_numbers.impute(x, label), x)

    def generate(self, num: int, *arguments: Any, **options: Any) -> Any:
        """Returns what `TrainedModel.generate` does, of a run on a table as a DataFrame like that of `reconstruct`."""
        if not self.spec.columns:
            return super().generate(num, *arguments, **options)
        return self._as_table(self.in_numbers.generate(num, *arguments, **options))

    def _as_table(self, found: np.ndarray, like: Any = None) -> Any:
        """Returns numbers of a run on a table as a DataFrame, with the index of `like` if that is one."""
        if not self.spec.columns:
            return found
        return data.decode_frame(found, self.spec.columns, like.index if data.is_frame(like) else None)

    def _measure(self, source: Source, name: str) -> LatentStatistics:
        def encode(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
            return self.code(arrays["x"], arrays.get("label") if self.config.classes else None)["z"]

        statistics = latent_statistics.measure(encode, source, name, self.fingerprint)
        self.__dict__["latent_statistics"] = statistics  # where cached_property looks
        if self.workdir:
            try:
                latent_statistics.save(self.workdir, self.step, statistics)
            except StorageError as error:
                warnings.warn(f"{error}; the statistics of the latents are not kept", stacklevel=3)
        return statistics

    def evaluate(
        self,
        x: ArrayLike | None = None,
        label: ArrayLike | None = None,
        *,
        target: ArrayLike | None = None,
        split: Literal["train", "validation", "test"] = "test",
        groups: Iterable[str] | None = None,
        options: Mapping[str, Mapping[str, Any]] = {},
    ) -> dict[str, "Measures"]:
        """Measures the run, as `aejax evaluate` does, and returns the measures by group and name.

        A measure has a `value`, a `unit` and a `protocol`. One that cannot be measured has a `reason`.

        Args:
          x: examples [n, ...] to measure; defaults to a split of the run's own data. Probes, which are fitted on other
            examples than they are scored on, are skipped for examples that are given.
          label: [n], the labels of x, if there are any.
          target: [n, ...], what a transcoder is to decode from each example of x.
          split: the split of the run's own data.
          groups: names of `aejax.evaluation.GROUPS`; defaults to all.
          options: arguments of a group's function, e.g. `{"likelihood": {"samples": 1000}}`.

        Raises InputError if the data cannot be loaded, or a group or an option is unknown.
        """
        from aejax import evaluation  # here, because it imports scikit-learn, scikit-image and Matplotlib

        if x is not None:
            subject = evaluation.Subject.of_array(self, x, label, target)
        elif label is not None or target is not None:
            raise InputError("label and target belong to x; give it, too, or leave them out")
        else:
            subject = evaluation.Subject.of(self, split=split)
        return dict(evaluation.evaluate(subject, evaluation.GROUPS if groups is None else groups, options))

    def export(self, folder: str | Path) -> Path:
        """Writes `encode` and `decode` as programs that JAX calls without aejax; see `aejax.inference.export`.

        Writes `encoder.stablehlo` and `decoder.stablehlo` and, for discrete codes, `indices.stablehlo` and
        `lookup.stablehlo`. Programs of a conditional run take the label, int32 [batch], as their second argument, and
        the decoder of a model with `skip` takes x. Other arrays are float32 [batch, ...], or int32 for indices, in the
        user's units; values are not checked. `programs.json` describes shapes and units. Returns the folder.

        Raises InputError if it is a workdir, and StorageError if it cannot be written.
        """
        folder = _check_no_workdir(folder, "files would be mixed with programs")
        x = export.Value("x", self.spec.shape, "float32", self.spec.units)
        z = export.Value("z", self.latents.shape[1:], "float32", "latents")
        label = [export.Value("label", (), "int32", f"0 to {self.config.classes - 1}")] if self.config.classes else []
        standardize = self.spec.standardize
        decode, read = self.compiled.decode, [z, *label]
        if self.model.skip:
            decode, read = lambda z, x: self.compiled.decode(z, skipped=x), [z, x]
        programs = {
            "encoder": export.Program(
                lambda x, *label: self.compiled.code(standardize(x), *label)["z"], [x, *label], z
            ),
            "decoder": export.Program(decode, read, x._replace(name="decoded", shape=self.spec.decoded)),
        }
        if "indices" in self.abstract_code:
            shape = self.abstract_code["indices"].shape[1:]
            indices = export.Value("indices", shape, "int32", f"below {self.codebook_size}")
            function = lambda x, *label: self.compiled.code(standardize(x), *label)["indices"]  # noqa: E731
            programs["indices"] = export.Program(function, [x, *label], indices)
            programs["lookup"] = export.Program(self.compiled.lookup, [indices], z)
        return export.write(folder, programs, {"data": self.config.data.name, "step": self.step})

    def save_pretrained(
        self,
        folder: str | Path,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        *,
        format: Literal["diffusers", "saelens", "gemma_scope", "sparsify"] | None = None,
        metadata: Mapping[str, Any] = {},
    ) -> Path:
        """Writes the files of a published model, which `load_pretrained` and the projects that have it load.

        Autoencoders of images become config.json and diffusion_pytorch_model.safetensors of diffusers. TAEF2, of which
        it has no class, becomes encoder.safetensors and decoder.safetensors. The settings are those of `published`. For
        a run that was trained here, they say its `latent_statistics` as `pretrained.to_factors` does: `scaling_factor`
        is one over the standard deviation of all latents (Rombach et al. 2022, section 4.3.2).

        Sparse autoencoders become cfg.json and sae_weights.safetensors of SAELens, params.npz of Gemma Scope, or
        cfg.json and sae.safetensors of sparsify. A batch top-k autoencoder becomes a JumpReLU one with its threshold.
        Statistics by which inputs are standardized are folded into the weights.

        Args:
          folder: is created if it is missing; files of these names in it are replaced.
          dtype: of the parameters in the file. The default keeps their bits.
          format: defaults to the one that `load_pretrained` has read, else to "saelens" for sparse autoencoders of
            vectors and to "diffusers" for others.
          metadata: of a sparse autoencoder, e.g. `{"model_name": ..., "hook_name": ...}`, for its cfg.json.

        Returns the folder. Raises InputError if it is a workdir, the format has no such model, `dtype` cannot hold a
        parameter, or the latents cannot be measured, and StorageError if the folder cannot be written.
        """
        if dtype not in pretrained.DTYPES:
            raise one_of("dtype", dtype, pretrained.DTYPES)
        folder = _check_no_workdir(folder, "config.json would be lost")
        if format not in (formats := (None, "diffusers", *pretrained.LAYOUTS)):
            raise one_of("format", format, formats[1:])
        layout: str = format or "diffusers"
        if format is None and self.published is None and len(self.spec.shape) == 1:
            layout = self.sae.layout if self.sae is not None else "saelens"
        if layout != "diffusers":
            sae = pretrained.describe_sae(self.model, self.variables, self.spec, self.likelihood, layout)
            card = pretrained.convert_card(self.sae, layout)
            return pretrained.write_sae(folder, sae, card, dtype, metadata)
        if metadata:
            raise InputError("metadata is for sparse autoencoders; leave it out")
        config = pretrained.describe_model(self.model, self.spec.shape[-1])
        variables = {name: self.variables[name] for name in ("params", "batch_stats") if name in self.variables}
        if isinstance(self.model.bottleneck, VectorQuantizer):  # moving averages are not parameters, but the codes are
            codes = np.asarray(self.compiled.lookup(np.arange(self.model.bottleneck.codes)))
            params = variables["params"]
            variables["params"] = {**params, "bottleneck": {**params["bottleneck"], "codebook": {"codes": codes}}}
        tensors = {}
        for name, value in pretrained.to_hub(variables, config).items():
            with np.errstate(over="ignore"):
                tensors[name] = value.astype(pretrained.DTYPES[dtype]) if value.dtype == np.float32 else value
            if not np.isfinite(tensors[name].astype(np.float32)).all():
                raise InputError(f"{name} does not fit into {dtype}: its largest value is {abs(value).max():.3g}")
        if self.published is not None:
            there, here = (pretrained.parse_config(each, "the model").sections for each in (self.published, config))
            # What is the same model keeps its settings as they were written, e.g. swish for silu.
            config = {**config, **self.published} if there == here else {**self.published, **config}
        else:
            known = self.latent_statistics
            config |= pretrained.to_factors(config["_class_name"], known.mean, known.deviation)
            config["sample_size"] = self.spec.shape[0]
        return pretrained.write(folder, config, tensors)


def _check_no_workdir(folder: str | Path, harm: str) -> Path:
    """Returns the folder. Raises InputError if a run was trained in it, whose files would come to harm."""
    folder = local(folder)
    if (folder / checkpoint.FOLDER).is_dir():
        raise InputError(f"{folder} is the workdir of a run, whose {harm}; choose another folder")
    return folder
