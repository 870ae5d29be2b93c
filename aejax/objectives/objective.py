"""The objective: a likelihood or a bound, plus further weighted terms.

Each term is computed per example, [batch]. It is summed over pixels or units, and in nats if it is a likelihood. The
training step averages it over the batch.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax.errors import InputError, one_of
from aejax.objectives.bounds import BOUNDS
from aejax.objectives.context import Context
from aejax.objectives.likelihoods import Likelihood
from aejax.objectives.schedules import SCHEDULES
from aejax.objectives.terms import CONSTANTS, TERMS
from aejax.registry import check_type, resolve


@dataclasses.dataclass(frozen=True)
class Objective:
    """Reconstruction plus the weighted sum of further terms.

    Attributes:
      likelihood: the likelihood of the input given decoded values.
      weights: weight of each term by name: one of the bottleneck's `losses`, of the discriminator's terms, or of TERMS.
        The weight of `reconstruction` defaults to 1.
      schedules: schedule of a term's weight, by the term's name: a `name` in SCHEDULES, or a function, and its
        arguments. It multiplies the weight by a factor that ends at 1.
      options: arguments of a term, by its name. `function` is a term that is not in TERMS, or its name
        "package.module:term".
      bound: a `name`, "elbo" or one in BOUNDS, and its arguments. With "elbo" the loss is the weighted sum of
        `reconstruction` and all other terms. A bound in BOUNDS takes the place of `reconstruction` and `kl` in the sum.
    """

    likelihood: Likelihood
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    schedules: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    bound: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "elbo"})

    def __post_init__(self):
        for name, weight in self.weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float | Array):
                raise InputError(f"objective.weights: {name} must be a number, got {weight!r}")
        for section in ("schedules", "options"):
            for name in getattr(self, section):
                if name not in self.weights:
                    raise InputError(f"objective.{section}.{name} is there but objective.weights.{name} is not; set it")
        for name in self.schedules:
            self._factor(name, jnp.zeros((), jnp.int32))
        if self._bound() and "reconstruction" in self.weights:
            raise InputError("objective.weights.reconstruction has no effect beside objective.bound; leave it out")

    def __call__(
        self, c: Context, judged: Mapping[str, Float[Array, " batch"]] | None = None, apart: bool = False
    ) -> dict[str, Float[Array, " #batch"]]:
        """Computes each term by name, and their weighted sum as `loss`, per example [batch].

        `judged` holds the terms that a discriminator gives the autoencoder, per example. With `apart`, the sum leaves
        them out.
        """
        terms = {"reconstruction": -self._log_p(c, c.output.decoded)}
        if c.output.code.samples:
            terms["reconstruction"] = terms["reconstruction"].mean(0)
        weight = self.weights.get("reconstruction", 1.0) * self._factor("reconstruction", c.step)
        loss = weight * terms["reconstruction"]
        if bound := self._bound():
            beta = self.weights.get("kl", 1.0) * self._factor("kl", c.step)
            terms["bound"] = loss = bound(c, self._log_p, beta)
        left_out = {"kl"} if bound else set()  # a bound contains the KL already
        left_out |= set(judged or {}) if apart else set()
        for name, weight in self.weights.items():
            if name not in terms:
                terms[name] = jnp.broadcast_to(self._term(name, c, judged or {}), (c.x.shape[0],))
                if name not in left_out:
                    loss = loss + weight * self._factor(name, c.step) * terms[name]
        return {**c.output.code.losses, "loss": loss, **terms}  # losses without a weight are logged, too

    def weigh(self, name: str, step: Array | None) -> Any:
        """Returns the weight of a term at a step."""
        return self.weights[name] * self._factor(name, step)

    def load_constants(self) -> dict[str, Any]:
        """Returns the arrays that terms read and nothing trains, by name. Raises InputError if they are not there."""
        constants: dict[str, Any] = {}
        for name in self.weights:
            options = dict(self.options.get(name, {}))
            function = options.pop("function", name)
            if isinstance(function, str) and function in CONSTANTS:
                constants |= _call(f"objective.options.{name}", CONSTANTS[function], options, 0)()
        return constants

    def unfinished(self, steps: int) -> dict[str, int]:
        """Returns the length of each schedule that does not end within `steps` steps, by its config key."""
        lengths = {}
        for name in self.weights:
            term = TERMS.get(self.options.get(name, {}).get("function", name))
            parameter = inspect.signature(term).parameters.get("steps") if term else None  # e.g. of `capacity`
            if parameter:
                lengths[f"options.{name}"] = self.options.get(name, {}).get("steps", parameter.default)
            if name in self.schedules:
                lengths[f"schedules.{name}"] = self.schedules[name].get("steps", 0)
        return {f"objective.{key}.steps": length for key, length in lengths.items() if length > steps}

    def mean(self, decoded: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the expected input given `decoded`, in the units that the model reads."""
        return self.likelihood.mean(decoded)

    def reconstruct(self, decoded: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the expected input, likewise, given what the likelihood reads of x, e.g. the total of its counts."""
        return self.likelihood.reconstruct(decoded, x)

    def _log_p(self, c: Context, decoded: Float[Array, "..."]) -> Float[Array, "*samples batch"]:
        """Returns log p(x | decoded), [..., batch], of what is observed and, if the code has a mask, masked patches."""
        log_p = -c.count(self.likelihood.nll(decoded, c.x, c.output.log_scale, c.axis_name))
        mask = c.output.code.mask
        if mask is not None:
            for axis in range(1, mask.ndim):
                mask = jnp.repeat(mask, c.x.shape[axis] // mask.shape[axis], axis)
            log_p = log_p * mask[..., None]
        return log_p.sum(tuple(range(1 - c.x.ndim, 0)))

    def _term(self, name: str, c: Context, judged: Mapping[str, Array]) -> Array:
        """Returns a term without its weight: from the bottleneck, the discriminator, TERMS or the user's module."""
        for computed in (c.output.code.losses, judged):
            if name in computed:
                return computed[name]
        options = dict(self.options.get(name, {}))
        function = options.pop("function", name)
        if isinstance(function, str) and function not in TERMS and ":" not in function:
            raise one_of("objective.weights: term", name, {*TERMS, *c.output.code.losses, *judged})
        return _call(f"objective.options.{name}", resolve("objective.weights: term", function, TERMS), options)(c)

    def _factor(self, name: str, step: Array | None) -> Any:
        """Returns the factor by which the schedule of a weight multiplies it, 1 without a schedule."""
        if name not in self.schedules:
            return 1.0
        options = dict(self.schedules[name])
        function = resolve(f"objective.schedules.{name}.name", options.pop("name", None), SCHEDULES)
        return _call(f"objective.schedules.{name}", function, options)(step)

    def _bound(self) -> Callable[..., Array] | None:
        """Returns the bound, given its options, or None for the ELBO."""
        options = dict(self.bound)
        name = options.pop("name", None)
        if name == "elbo" and not options:
            return None
        if name not in BOUNDS:
            raise one_of("objective.bound.name", name, {"elbo", *BOUNDS})
        return _call("objective.bound", BOUNDS[name], options, 3)


def _call(
    section: str, function: Callable[..., Any], options: Mapping[str, Any], positional: int = 1
) -> Callable[..., Any]:
    """Binds `options` to `function`, whose first `positional` parameters are no options.

    Raises InputError if it does not accept one of the options.
    """
    known = dict([*inspect.signature(function, eval_str=True).parameters.items()][positional:])
    for option, value in options.items():
        if option not in known:
            raise one_of(section + ": option", option, known)
        check_type(f"{section}.{option}", value, known[option].annotation)
    return functools.partial(function, **options)
