"""Trained runs: loading from a workdir, metrics and export."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import ArrayLike

from aejax import config as config_lib
from aejax.data import Spec
from aejax.errors import InputError, StorageError, kind_and_words
from aejax.files import local
from aejax.inference import export
from aejax.inference.parts import check_objects
from aejax.inference.trained import TrainedModel
from aejax.models import Autoencoder, abstract_variables
from aejax.objectives import Objective
from aejax.workdir import changes, checkpoint

if TYPE_CHECKING:
    from aejax.evaluation import Measures


class Run(TrainedModel):
    """A trained run: a model, the metrics of its data, and programs for use without aejax.

    The split into two classes keeps imports in one direction: `aejax.evaluation` measures a `TrainedModel`, and
    `Run.evaluate` calls `aejax.evaluation`.
    """

    def evaluate(
        self,
        x: ArrayLike | None = None,
        label: ArrayLike | None = None,
        *,
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
          split: the split of the run's own data.
          groups: names of `aejax.evaluation.GROUPS`; defaults to all.
          options: arguments of a group's function, e.g. `{"likelihood": {"samples": 1000}}`.

        Raises InputError if the data cannot be loaded, or a group or an option is unknown.
        """
        from aejax import evaluation  # here, because it imports scikit-learn, scikit-image and Matplotlib

        subject = evaluation.Subject.of(self, split=split) if x is None else evaluation.Subject.of_array(self, x, label)
        return dict(evaluation.evaluate(subject, evaluation.GROUPS if groups is None else groups, options))

    def export(self, folder: str | Path) -> Path:
        """Writes `encode` and `decode` as programs that JAX calls without aejax; see `aejax.inference.export`.

        Writes `encoder.stablehlo` and `decoder.stablehlo` and, for discrete codes, `indices.stablehlo` and
        `lookup.stablehlo`. Programs of a conditional run take the label, int32 [batch], as their second argument.
        Other arrays are float32 [batch, ...], or int32 for indices, in the user's units; values are not checked.
        `programs.json` describes shapes and units. Returns the folder. Raises StorageError if it cannot be written.
        """
        units = "images in [0, 1]" if len(self.spec.shape) == 3 else "the data's own units"
        x = export.Value("x", self.spec.shape, "float32", units)
        z = export.Value("z", self.latents.shape[1:], "float32", "latents")
        label = [export.Value("label", (), "int32", f"0 to {self.config.classes - 1}")] if self.config.classes else []
        standardize = self.spec.standardize
        programs = {
            "encoder": export.Program(lambda x, *label: self._code(standardize(x), *label)["z"], [x, *label], z),
            "decoder": export.Program(self._decode, [z, *label], x._replace(name="decoded")),
        }
        if "indices" in self.abstract_code:
            shape = self.abstract_code["indices"].shape[1:]
            indices = export.Value("indices", shape, "int32", f"below {self.codebook_size}")
            function = lambda x, *label: self._code(standardize(x), *label)["indices"]  # noqa: E731
            programs["indices"] = export.Program(function, [x, *label], indices)
            programs["lookup"] = export.Program(self._lookup, [indices], z)
        return export.write(folder, programs, {"data": self.config.data.name, "step": self.step})


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
    saved = checkpoint.find(workdir, step)
    try:
        config = saved.metadata["config"]
        check_objects(config, model, objective, saved.metadata["spec"]["shape"], str(workdir))
        if model is None:  # otherwise nothing that the config names runs
            config_lib.check_trust(config, [trust] if isinstance(trust, str) else trust, str(workdir))
        run = from_checkpoint(saved, model, objective)
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


def from_checkpoint(
    saved: checkpoint.Checkpoint, model: Autoencoder | None = None, objective: Objective | None = None
) -> Run:
    """Builds the run from a checkpoint, with the averaged parameters if there are any.

    `model` and `objective` take the place of those that the config names.
    """
    return Run(
        config=config_lib.from_dict(saved.metadata["config"]),
        spec=Spec.from_dict(saved.metadata["spec"]),
        step=saved.step,
        trained_on=saved.metadata.get("data"),
        changes=changes.parse(saved.metadata),
        variables=checkpoint.get_variables(saved),
        **saved.samples,
        own_model=model,
        own_objective=objective,
    )
