"""Bottlenecks with discrete codes from a learned codebook."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError, one_of
from aejax.losses import codebook_loss, commitment_loss
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.quantizer import VectorModule, find_least, measure_usage, straight_through
from aejax.models.layers import fold, get_axis, must_update, require_keys, scale_to_unit, whole_batch
from aejax.registry import Natural

UPDATES = ("ema", "gradient")
METRICS = ("euclidean", "cosine")
GRADIENTS = ("straight_through", "rotation")

# Laplace smoothing of the codes' frequencies: far below usual frequencies, far above float32's smallest number.
_SMOOTHING = 1e-7


def find_nearest(x: Array, codes: Array) -> Array:
    """Returns the index of the code [codes, d] with the least Euclidean distance to each x [..., d], int32 [...]."""
    # |x|^2 is left out, since it is the same for all codes. By default, accelerators would round the product.
    distance = jnp.square(codes).sum(-1) - 2 * jnp.dot(x, codes.T, precision="highest")
    return find_least(distance)


def rotate(x: Array, e: Array) -> Array:
    """Returns exactly e, with the gradient of (|e| / |x|) R x, where R rotates x to e, with constant R and |e| / |x|.

    This is the rotation trick (Fifty et al. 2024, section 4.2): R = I - 2 r r^T + 2 e' x'^T, where x', e' and r are the
    vectors x, e and x' + e' scaled to length 1. x and e are [..., d].
    """
    x_unit, e_unit = jax.lax.stop_gradient((scale_to_unit(x), scale_to_unit(e)))
    r = scale_to_unit(x_unit + e_unit)
    rotated = x - 2 * (x * r).sum(-1, keepdims=True) * r + 2 * (x * x_unit).sum(-1, keepdims=True) * e_unit
    x_length, e_length = (jnp.linalg.norm(jax.lax.stop_gradient(v), axis=-1, keepdims=True) for v in (x, e))
    # A vector x of length 0 has no direction, so it is not scaled.
    scale = jnp.where(x_length > 1e-6, e_length / jnp.maximum(x_length, 1e-6), 1.0)
    return straight_through(scale * rotated, e)


def fit_kmeans(rows: Array, count: int, key: Array, cosine: bool = False, iterations: int = 10) -> Array:
    """Returns `count` cluster centers [count, d] of the rows [n, d], by k-means.

    Runs Lloyd's iterations from a k-means++ initialization (Arthur and Vassilvitskii 2007). With `cosine`, rows and
    centers have length 1.
    """

    def pick(distance, key):  # `distance` is squared, from each row to its nearest center so far
        center = rows[jax.random.categorical(key, jnp.log(distance))]
        return jnp.minimum(distance, jnp.square(rows - center).sum(-1)), center

    def improve(_, centers):
        member = jax.nn.one_hot(find_nearest(rows, centers), count)
        size = member.sum(0)[:, None]
        means = jnp.dot(member.T, rows, precision="highest") / jnp.maximum(size, 1)
        means = jnp.where(size > 0, means, centers)
        return scale_to_unit(means) if cosine else means

    no_center = jnp.full(rows.shape[0], jnp.finfo(jnp.float32).max)  # the first center is a uniformly random row
    _, centers = jax.lax.scan(pick, no_center, jax.random.split(key, count))
    return jax.lax.fori_loop(0, iterations, improve, centers)


class Codebook(nn.Module):
    """A learned table of `codes` vectors [codes, features], with attributes as in `VectorQuantizer`.

    With update="ema" the collection "codebook" holds two moving averages over batches. `shares` [codes] is the fraction
    of a batch's vectors that are nearest to each code. `sums` [codes, features] is the sum of these vectors divided by
    the number of all vectors in the batch. The codes are `sums` divided by `shares`.
    """

    codes: int
    features: int
    update: str
    decay: float
    cosine: bool
    kmeans: bool
    revive_after: Natural
    axis_name: str | None

    def setup(self):
        def initialize(key: Array) -> Array:
            return jax.random.uniform(key, (self.codes, self.features), minval=-1, maxval=1) / self.codes

        if self.update == "gradient":
            self.table = self.param("codes", initialize)
            return
        self.shares = self.variable("codebook", "shares", jnp.full, (self.codes,), 1 / self.codes)
        self.sums = self.variable("codebook", "sums", lambda: initialize(self.make_rng("params")) / self.codes)
        if self.kmeans:
            self.started = self.variable("codebook", "started", jnp.zeros, (), jnp.int32)
        if self.revive_after:
            self.ages = self.variable("codebook", "ages", jnp.zeros, (self.codes,), jnp.int32)

    def __call__(self, x: Array, key: Array, train: bool) -> Code:
        """Returns the code nearest to each vector of x [..., features]. Its z is a constant, without a gradient.

        In training, then updates the moving averages. `key` is one key for the whole batch.
        """
        updates = self.update == "ema" and must_update(self, "codebook", train)
        rows = jax.lax.stop_gradient(x).reshape(-1, self.features)
        if updates and self.kmeans:
            self._initialize(rows, jax.random.fold_in(key, 0))
        table = self._compute_table()
        indices = find_nearest(x, table)
        if updates:
            self._update_averages(rows, indices.ravel(), jax.random.fold_in(key, 1))
        e = table[indices]
        losses = {"commitment": commitment_loss(x, e)}
        if self.update == "gradient":
            losses["codebook"] = codebook_loss(x, e)
        metrics = measure_usage(indices, self.codes, get_axis(self))
        return Code(z=jax.lax.stop_gradient(e), losses=losses, metrics=metrics, indices=indices)

    def lookup(self, indices: Array) -> Array:
        """Returns the codes [..., features] of indices [...]."""
        return self._compute_table()[indices]

    def _compute_table(self) -> Array:
        """Returns all codes, [codes, features]."""
        if self.update == "gradient":
            table = self.table
        else:
            shares, total = self.shares.value, self.shares.value.sum()
            smooth = (shares + _SMOOTHING) / (total + self.codes * _SMOOTHING) * total
            table = self.sums.value / smooth[:, None]
        return scale_to_unit(table) if self.cosine else table

    def _initialize(self, rows: Array, key: Array) -> None:
        """Sets the codes to the k-means centers of `rows`, in the first training batch only."""
        rows = whole_batch(rows, get_axis(self))
        self.shares.value, self.sums.value = jax.lax.cond(
            self.started.value == 0,
            lambda: (jnp.full(self.codes, 1 / self.codes), fit_kmeans(rows, self.codes, key, self.cosine) / self.codes),
            lambda: (self.shares.value, self.sums.value),
        )
        self.started.value = jnp.ones((), jnp.int32)

    def _update_averages(self, rows: Array, indices: Array, key: Array) -> None:
        """Updates the moving averages (van den Oord et al. 2017, appendix A.1), then replaces dead codes."""
        # A matrix product, because a scatter-add would sum in varying order on accelerators.
        member = jax.nn.one_hot(indices, self.codes)
        batch_shares, batch_sums = member.mean(0), jnp.dot(member.T, rows, precision="highest") / rows.shape[0]
        if get_axis(self) is not None:
            batch_shares, batch_sums = jax.lax.pmean((batch_shares, batch_sums), get_axis(self))
        shares = self.decay * self.shares.value + (1 - self.decay) * batch_shares
        sums = self.decay * self.sums.value + (1 - self.decay) * batch_sums
        if self.revive_after:
            ages = jnp.where(batch_shares > 0, 0, self.ages.value + 1)
            dead = ages >= self.revive_after
            rows = whole_batch(rows, get_axis(self))
            # A random vector for each code. Vectors repeat if there are fewer of them than codes.
            chosen = jax.random.permutation(key, rows.shape[0])[jnp.arange(self.codes) % rows.shape[0]]
            shares = jnp.where(dead, 1 / self.codes, shares)
            sums = jnp.where(dead[:, None], rows[chosen] / self.codes, sums)
            self.ages.value = jnp.where(dead, 0, ages)
        self.shares.value, self.sums.value = shares, sums


class VectorQuantizer(VectorModule):
    """Vector quantization by a learned codebook (van den Oord et al. 2017): z [batch, *positions, features].

    With update="ema" the codes are in the collection "codebook", which must be mutable in training. Training with
    `kmeans` or `revive_after` needs keys, to choose random vectors of the batch.

    The losses are squared distances between the features x and their codes e, each with a weight of its own:
      commitment: |x - stop_gradient(e)|^2.
      codebook: |stop_gradient(x) - e|^2, with update="gradient".

    Attributes:
      codes: number of codes.
      features: size of each code.
      positions: number of codes per example, for flat features; images and tokens have one at each pixel or token.
      update: how the codes are learned: "ema", by moving averages without a loss (ibid., appendix A.1; Razavi et al.
        2019), or "gradient", by the loss `codebook`.
      decay: decay of the moving averages.
      metric: "euclidean", or "cosine", which scales features and codes to length 1 (Yu et al. 2022).
      gradient: gradient of z with respect to x: "straight_through" or "rotation" (Fifty et al. 2024).
      kmeans: whether the codes start as the k-means centers of the first training batch; only with "ema".
      revive_after: number of training steps in which a code is unused before it is replaced by a random vector of the
        batch (Dhariwal et al. 2020); 0: never; only with "ema".
    """

    codes: int = 512
    features: int = 64
    positions: int = 1
    update: str = "ema"
    decay: float = 0.99
    metric: str = "euclidean"
    gradient: str = "straight_through"
    kmeans: bool = False
    revive_after: Natural = 0
    axis_name: str | None = None

    def setup(self):
        for name, choices in (("update", UPDATES), ("metric", METRICS), ("gradient", GRADIENTS)):
            if getattr(self, name) not in choices:
                raise one_of(f"bottleneck.{name}", getattr(self, name), choices)
        if not 0 <= self.decay < 1:
            raise InputError(f"bottleneck.decay must be at least 0 and below 1, e.g. 0.99; got {self.decay!r}")
        for name in ("kmeans", "revive_after"):
            if getattr(self, name) and self.update != "ema":
                raise InputError(f"bottleneck.{name} needs bottleneck.update='ema'")
        self.dense = nn.Dense(self.positions * self.features)
        self.codebook = self._make_codebook()

    def _make_codebook(self) -> Codebook:
        return Codebook(
            codes=self.codes,
            features=self.features,
            update=self.update,
            decay=self.decay,
            cosine=self.metric == "cosine",
            kmeans=self.kmeans,
            revive_after=self.revive_after,
            axis_name=self.axis_name,
        )

    def get_step(self) -> float:
        if self.metric != "euclidean":
            raise InputError("residual levels of vq need metric='euclidean': remainders need their length")
        return 1.0

    def bound(self, x: Array) -> Array:
        return scale_to_unit(x) if self.metric == "cosine" else x

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the code of the vectors x [..., features]. Its z is a constant."""
        return self._quantize(x, self._get_key(keys, train), train)

    def _get_key(self, keys: Array | None, train: bool) -> Array:
        """Returns one key for the whole batch."""
        if self.kmeans or self.revive_after:
            require_keys(self, keys, train)
        return jax.random.key(0) if keys is None else whole_batch(keys, get_axis(self))[0]

    def pass_gradient(self, x: Array, z: Array) -> Array:
        return rotate(x, z) if self.gradient == "rotation" else straight_through(x, z)

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., features] of `indices`, which are given as in `Code.indices`."""
        return self.codebook.lookup(indices)

    def _quantize(self, x: Array, key: Array, train: bool) -> Code:
        """Returns the code as `quantize` does, with one key for the whole batch."""
        return self.codebook(x, key, train)


class ResidualQuantizer(VectorQuantizer):
    """Residual vector quantization: each of `levels` codebooks quantizes what the codebooks before it leave of x.

    Zeghidour et al. 2021, "SoundStream", section III.C. z is the sum of the codes. Indices are
    [batch, *positions, levels]. Losses are summed over levels, and metrics averaged. The other attributes are as in
    `VectorQuantizer`, but `metric` must be "euclidean".

    Attributes:
      dropout: fraction of the training examples of which only the first k levels count, with k uniform from 1 to
        `levels`, so that the first levels alone can be decoded, too (ibid., "quantizer dropout"; Kumar et al. 2023,
        section 3.3, take a half). Moving averages follow all levels.
    """

    levels: int = 4
    dropout: float = 0.0

    @property
    def codebooks(self) -> int:
        return self.levels

    @property
    def prefixes(self) -> int:
        """Returns the number of levels, of whose indices `lookup` takes the first ones alone."""
        return self.levels

    def setup(self):
        if self.metric != "euclidean":
            raise InputError("bottleneck.metric must be 'euclidean' for residual_vq: remainders need their length")
        if not 0 <= self.dropout <= 1:
            raise InputError(f"bottleneck.dropout must be from 0 to 1, got {self.dropout}")
        super().setup()
        self.deeper = [self._make_codebook() for _ in range(self.levels - 1)]

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the code of the vectors x [batch, ..., features], of the levels that dropout keeps in training."""
        kept = None
        if self.dropout and train:
            require_keys(self, keys, train)
            kept = None if keys is None else jax.vmap(self._draw_levels)(fold(keys, self.levels))
        return self._quantize(x, self._get_key(keys, train), train, kept)

    def _draw_levels(self, key: Array) -> Array:
        """Returns how many levels of an example count."""
        whether, which = jax.random.split(key)
        drawn = jax.random.randint(which, (), 1, self.levels + 1)
        return jnp.where(jax.random.bernoulli(whether, self.dropout), drawn, self.levels)

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., features] of indices [..., levels], or of the first levels alone."""
        books = self._list_codebooks()[: indices.shape[-1]]
        codes = [codebook.lookup(indices[..., i]) for i, codebook in enumerate(books)]
        return sum(codes)  # type: ignore[return-value]

    def _list_codebooks(self) -> list[Codebook]:
        return [self.codebook, *self.deeper]

    def _quantize(self, x: Array, key: Array, train: bool, kept: Array | None = None) -> Code:
        """Returns the code of all levels, or of the first `kept` [batch] of each example."""
        codes: list[Code] = []
        for level, codebook in enumerate(self._list_codebooks()):
            codes.append(codebook(x, jax.random.fold_in(key, level), train))
            x = x - codes[-1].z
            if kept is not None:
                counts = level < kept
                losses = {name: jnp.where(counts, loss, 0) for name, loss in codes[-1].losses.items()}
                z = jnp.where(counts.reshape(-1, *(1,) * (x.ndim - 1)), codes[-1].z, 0)
                codes[-1] = codes[-1].replace(z=z, losses=losses)
        return Code(
            z=sum(code.z for code in codes),  # type: ignore[arg-type]
            losses=jax.tree.map(lambda *levels: sum(levels), *(code.losses for code in codes)),
            metrics=jax.tree.map(lambda *levels: sum(levels) / self.levels, *(code.metrics for code in codes)),
            indices=jnp.stack([code.indices for code in codes], -1),  # type: ignore[misc]
        )
