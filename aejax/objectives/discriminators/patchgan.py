"""PatchGAN: a discriminator of patches of images, with penalties, an adaptive weight, and a start of its own."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from aejax import adversarial
from aejax.errors import InputError, one_of
from aejax.models import Output
from aejax.objectives.context import Context
from aejax.objectives.discriminators.discriminator import Discriminator, Reduce, stop
from aejax.objectives.discriminators.patch_network import NORMALIZATIONS, PatchNetwork, receptive_field
from aejax.registry import Natural


@dataclasses.dataclass(frozen=True)
class PatchGAN(Discriminator):
    """The discriminator of VQGAN, which tells patches of images from those of reconstructions (Isola et al. 2017; Esser
    et al. 2021).

    Term: `adversarial`, what the autoencoder minimizes of the `game`, averaged over patches.

    With `accumulate` steps to an update, an update is that of one step on all their examples, for the autoencoder and
    the discriminator, unless normalization="batch", whose statistics are those of each step, or the first batch of
    "actnorm".

    Attributes:
      features: widths of the network's convolutions, see `PatchNetwork`. Images must be at least as large as its
        receptive field: 16 for two widths, 34 for three, 70 for four.
      lr, b1, b2: learning rate and decays of the discriminator's Adam.
      normalization, spectral: see `PatchNetwork`.
      game: "hinge", "vanilla", "non_saturating" or "wasserstein", see `aejax.adversarial`.
      r1: weight of the R1 penalty, half the squared gradient of the mean logit of a real image; 0: off.
      lecam: weight of the LeCAM penalty; 0: off.
      lecam_decay: decay of its moving averages of logits.
      adaptive: whether the weight of `adversarial` is multiplied by `aejax.adversarial.adaptive_weight` (Esser et al.
        2021, equation 7); the product is logged as `adversarial_weight`. Evaluation, which has no gradients, leaves the
        term out of its loss.
      last_layer: pattern of the paths of the decoder's last layer, whose gradients that factor compares.
      start: the step from which the discriminator is trained and has a say. Until then neither side gets a gradient.
      ema: decay of the averaged discriminator, which judges the autoencoder in place of the trained one; 0: off.
      accumulate: number of steps whose gradients are averaged for one update, that of the config's `optim`.
    """

    features: Sequence[int] = (64, 128, 256, 512)
    b2: float = 0.9
    normalization: str = "batch"
    spectral: bool = False
    game: str = "hinge"
    r1: float = 0.0
    lecam: float = 0.0
    lecam_decay: float = 0.99
    adaptive: bool = True
    last_layer: str = "decoder/(conv_out|pixels)/kernel"
    start: Natural = 0
    ema: float = 0.0
    accumulate: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.normalization not in NORMALIZATIONS:
            raise one_of("adversary.normalization", self.normalization, NORMALIZATIONS)
        if self.game not in adversarial.GAMES:
            raise one_of("adversary.game", self.game, adversarial.GAMES)
        if not self.features:
            raise InputError("adversary.features must name the width of at least one convolution, got ()")
        for name in ("r1", "lecam"):
            if not getattr(self, name) >= 0:
                raise InputError(f"adversary.{name} must not be negative, got {getattr(self, name)}")
        for name in ("b1", "b2", "lecam_decay", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"adversary.{name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def optimizer(self) -> optax.GradientTransformation:
        adam = optax.adam(self.lr, self.b1, self.b2)
        return optax.MultiSteps(adam, self.accumulate).gradient_transformation() if self.accumulate > 1 else adam

    def judged(self, output: Output) -> Array:
        return output.decoded[0] if output.code.samples else output.decoded

    def init(self, key: Array, output: Output) -> dict[str, PyTree]:
        """Initializes the network's variables. Raises InputError if it does not fit the images."""
        x = self.judged(output)
        if x.ndim != 4:
            raise InputError(f"adversary 'patchgan' judges images (height, width, channels), got {tuple(x.shape[1:])}")
        _, h, w, _ = x.shape
        least = receptive_field(len(self.features))
        if min(h, w) < least:
            most = sum(receptive_field(n) <= min(h, w) for n in range(1, len(self.features)))
            fewer = f" or adversary.features={tuple(self.features[:most])}" if most else ""
            raise InputError(
                f"adversary.features={tuple(self.features)} sees {least}x{least} pixels, but images have {h}x{w}; use "
                f"data.size={least}{fewer}"
            )
        return dict(PatchNetwork(self.features, self.normalization, self.spectral).init(key, x))

    def begin(self, key: Array, output: Output, trained: PyTree) -> dict[str, PyTree]:
        variables = self.init(key, output)
        params = variables.pop("params")
        state = {"params": params, "opt_state": self.optimizer.init(params)}
        if variables:
            state["variables"] = variables
        if self.lecam:
            state["averages"] = {name: jnp.zeros(()) for name in ("real", "fake", "seen_real", "seen_fake")}
        if self.ema:
            state["ema"] = jax.tree.map(jnp.copy, params)
        if self.adaptive and self.accumulate > 1:
            state["gradients"] = jax.tree.map(jnp.zeros_like, trained)
        return state

    def view(self, state: PyTree) -> dict[str, PyTree]:
        """Returns the variables of the network that judges the autoencoder."""
        return {"params": state.get("ema", state["params"]), **state.get("variables", {})}

    def terms(self, params, c):
        logits, _ = self._apply(stop(params), c.mean(self.judged(c.output)), c)
        value = adversarial.GAMES[self.game].generator(logits).mean((1, 2))
        return {"adversarial": value if c.step is None else jnp.where(c.step >= self.start, value, 0)}

    def update(self, state: PyTree, c: Context, reduce: Reduce) -> tuple[PyTree, dict[str, Array]]:
        assert c.step is not None  # as in training
        (_, (variables, metrics)), grads = jax.value_and_grad(self._loss, has_aux=True)(state["params"], state, c)
        grads, metrics = reduce((grads, metrics), "mean")
        updates, opt_state = self.optimizer.update(grads, state["opt_state"], state["params"])
        new = {**state, "params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}
        number = state["opt_state"].mini_step if self.accumulate > 1 else 0  # of the step within its update
        ends = number == self.accumulate - 1
        if variables:
            if self.spectral:  # all steps of an update divide by the same value
                variables = variables | {
                    "spectral": _select(ends, variables["spectral"], state["variables"]["spectral"])
                }
            new["variables"] = variables
        if self.lecam:
            new["averages"] = self._average_logits(state["averages"], metrics, number, ends)
        if self.ema:
            moved = optax.incremental_update(new["params"], state["ema"], 1 - self.ema)
            new["ema"] = _select(ends, moved, state["ema"])
        return _select(c.step >= self.start, new, state), metrics

    def _loss(self, params: PyTree, state: PyTree, c: Context) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        """Returns the loss of `params`, and the network's other variables after the step with its metrics."""
        variables = {"params": params, **state.get("variables", {})}
        real, after = self._apply(variables, c.x, c)
        fake, last = self._apply(variables | after, stop(c.mean(self.judged(c.output))), c, "batch_stats")
        loss = adversarial.GAMES[self.game].discriminator(real, fake).mean()
        metrics = {"critic_real": real.mean(), "critic_fake": fake.mean()}
        if self.r1:
            judge = lambda x: self._apply(variables | after, x, c, "batch_stats")[0].mean((1, 2))  # noqa: E731
            metrics["r1"] = adversarial.r1(judge, c.x).mean()
            loss += self.r1 * metrics["r1"]
        if self.lecam:
            averages = state["averages"]["real"], state["averages"]["fake"]
            metrics["lecam"] = adversarial.lecam(real, fake, *averages).mean()
            loss += self.lecam * metrics["lecam"]
        return loss, (after | last, {"critic_loss": loss, **metrics})

    def _apply(
        self, variables: dict[str, PyTree], x: Array, c: Context, *mutable: str
    ) -> tuple[Array, dict[str, PyTree]]:
        """Returns logits [batch, rows, columns] and the collections that changed: all, or those of `mutable`."""
        network = PatchNetwork(self.features, self.normalization, self.spectral, c.axis_name)
        if c.step is None:  # in evaluation
            logits: Any = network.apply(variables, x)
            return logits, {}
        names = [name for name in variables if name != "params" and (not mutable or name in mutable)]
        changed: Any = network.apply(variables, x, train=True, mutable=names)
        return changed[0], dict(changed[1])

    def _average_logits(self, before: PyTree, metrics: dict[str, Array], number: Any, ends: Any) -> PyTree:
        """Returns the moving averages of logits, to which the mean over the steps of an update is added at its end."""
        after: dict[str, Array] = {}
        for name in ("real", "fake"):
            seen = before[f"seen_{name}"]
            seen = seen + (metrics[f"critic_{name}"] - seen) / (number + 1)
            moved = optax.incremental_update(seen, before[name], 1 - self.lecam_decay)
            after |= {name: jnp.where(ends, moved, before[name]), f"seen_{name}": seen}
        return after


def _select(condition: Any, new: PyTree, old: PyTree) -> PyTree:
    """Returns `new` where the condition holds, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
