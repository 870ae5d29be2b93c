"""Discrete codes with a learned codebook."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError, one_of
from aejax.losses import codebook_loss, commitment_loss
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.discrete import straight_through, usage, vectors
from aejax.models.layers import axis, learns, require_keys, unit, whole_batch
from aejax.sections import Natural

UPDATES = ("ema", "gradient")
METRICS = ("euclidean", "cosine")
GRADIENTS = ("straight_through", "rotation")

_SMOOTHING = 1e-7  # Laplace, in shares of the vectors: far below a code's share, far above float32's least


def nearest(x: Array, codes: Array) -> Array:
    """Index of the code [codes, d] with the least Euclidean distance to each x [..., d], int32 [...]."""
    # |x|^2 is the same for all codes; default precision would round the product on accelerators.
    distance = jnp.square(codes).sum(-1) - 2 * jnp.dot(x, codes.T, precision="highest")
    return distance.argmin(-1).astype(jnp.int32)


def rotate(x: Array, e: Array) -> Array:
    """e exactly, with the gradient of (|e| / |x|) R x, where R turns x to e and both factors are constant.

    The rotation trick (Fifty et al. 2024, section 4.2): R = I - 2 r r^T + 2 e' x'^T for the unit vectors
    x' and e' of x and e and r of x' + e'. x [..., d], e [..., d].
    """
    x_unit, e_unit = jax.lax.stop_gradient((unit(x), unit(e)))
    r = unit(x_unit + e_unit)
    turned = x - 2 * (x * r).sum(-1, keepdims=True) * r + 2 * (x * x_unit).sum(-1, keepdims=True) * e_unit
    lengths = [jnp.linalg.norm(jax.lax.stop_gradient(v), axis=-1, keepdims=True) for v in (x, e)]
    # x of length 0 has no direction to turn.
    scale = jnp.where(lengths[0] > 1e-6, lengths[1] / jnp.maximum(lengths[0], 1e-6), 1.0)
    return straight_through(scale * turned, e)


def kmeans(rows: Array, count: int, key: Array, cosine: bool = False, iterations: int = 10) -> Array:
    """Centres [count, d] of the rows [n, d]: Lloyd's iterations from k-means++ (Arthur and Vassilvitskii 2007).

    With `cosine`, rows and centres have length 1.
    """

    def pick(distance, key):
        centre = rows[jax.random.categorical(key, jnp.log(distance))]
        return jnp.minimum(distance, jnp.square(rows - centre).sum(-1)), centre

    def improve(_, centres):
        member = jax.nn.one_hot(nearest(rows, centres), count)
        size = member.sum(0)[:, None]
        means = jnp.dot(member.T, rows, precision="highest") / jnp.maximum(size, 1)
        means = jnp.where(size > 0, means, centres)
        return unit(means) if cosine else means

    far = jnp.full(rows.shape[0], jnp.finfo(jnp.float32).max)
    _, centres = jax.lax.scan(pick, far, jax.random.split(key, count))
    return jax.lax.fori_loop(0, iterations, improve, centres)


class Codebook(nn.Module):
    """`codes` vectors of `features` numbers and how they are learned; attributes as in `VectorQuantizer`.

    With update="ema" they live in the collection "codebook" as `shares` [codes], the average share of
    the vectors that each code gets, and `sums` [codes, features], the average of those vectors' sum over
    the number of all vectors. A code is the one over the other.
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
        def initial(key: Array) -> Array:
            return jax.random.uniform(key, (self.codes, self.features), minval=-1, maxval=1) / self.codes

        if self.update == "gradient":
            self.table = self.param("codes", initial)
            return
        self.shares = self.variable("codebook", "shares", jnp.full, (self.codes,), 1 / self.codes)
        self.sums = self.variable("codebook", "sums", lambda: initial(self.make_rng("params")) / self.codes)
        if self.kmeans:
            self.started = self.variable("codebook", "started", jnp.zeros, (), jnp.int32)
        if self.revive_after:
            self.ages = self.variable("codebook", "ages", jnp.zeros, (self.codes,), jnp.int32)

    def __call__(self, x: Array, key: Array, train: bool) -> tuple[Array, Array]:
        """The code nearest to each x [..., features], and its index [...].

        In training the codebook then learns from x. `key` is of the whole batch.
        """
        updates = self.update == "ema" and learns(self, "codebook", train)
        rows = jax.lax.stop_gradient(x).reshape(-1, self.features)
        if updates and self.kmeans:
            self._start(rows, jax.random.fold_in(key, 0))
        table = self._table()
        indices = nearest(x, table)
        if updates:
            self._learn(rows, indices.ravel(), jax.random.fold_in(key, 1))
        return table[indices], indices

    def lookup(self, indices: Array) -> Array:
        """Indices [...] to codes [..., features]."""
        return self._table()[indices]

    def _table(self) -> Array:
        if self.update == "gradient":
            table = self.table
        else:
            shares, total = self.shares.value, self.shares.value.sum()
            smooth = (shares + _SMOOTHING) / (total + self.codes * _SMOOTHING) * total
            table = self.sums.value / smooth[:, None]
        return unit(table) if self.cosine else table

    def _start(self, rows: Array, key: Array) -> None:
        """k-means of the first batch."""
        rows = whole_batch(rows, axis(self))
        self.shares.value, self.sums.value = jax.lax.cond(
            self.started.value == 0,
            lambda: (
                jnp.full(self.codes, 1 / self.codes),
                kmeans(rows, self.codes, key, self.cosine) / self.codes,
            ),
            lambda: (self.shares.value, self.sums.value),
        )
        self.started.value = jnp.ones((), jnp.int32)

    def _learn(self, rows: Array, indices: Array, key: Array) -> None:
        """Moving averages of this batch (van den Oord et al. 2017, appendix A.1), then revival."""
        # A product rather than a scatter, whose order of summation varies on accelerators.
        member = jax.nn.one_hot(indices, self.codes)
        seen = member.mean(0), jnp.dot(member.T, rows, precision="highest") / rows.shape[0]
        if axis(self) is not None:
            seen = jax.lax.pmean(seen, axis(self))
        shares = self.decay * self.shares.value + (1 - self.decay) * seen[0]
        sums = self.decay * self.sums.value + (1 - self.decay) * seen[1]
        if self.revive_after:
            ages = jnp.where(seen[0] > 0, 0, self.ages.value + 1)
            dead = ages >= self.revive_after
            rows = whole_batch(rows, axis(self))
            chosen = jax.random.permutation(key, rows.shape[0])[jnp.arange(self.codes) % rows.shape[0]]
            shares = jnp.where(dead, 1 / self.codes, shares)
            sums = jnp.where(dead[:, None], rows[chosen] / self.codes, sums)
            self.ages.value = jnp.where(dead, 0, ages)
        self.shares.value, self.sums.value = shares, sums


class VectorQuantizer(nn.Module):
    """The nearest vector of a learned codebook (van den Oord et al. 2017): z [batch, *positions, features].

    With update="ema" the codes are the collection "codebook", which has to be mutable in training. `kmeans` and
    `revive_after` draw vectors of the batch, so that training needs keys with them.

    Losses, squared distances of the features x and their codes e, for weights of their own:
      commitment: |x - stop_gradient(e)|^2.
      codebook: |stop_gradient(x) - e|^2, with update="gradient".

    Attributes:
      update: of the codes, by moving averages, "ema" (ibid., appendix A.1; Razavi et al. 2019), which
        needs no loss, or by the "gradient" of the loss `codebook`.
      decay: of the averages.
      metric: "euclidean", or "cosine", which scales features and codes to length 1 (Yu et al. 2022).
      gradient: to the features, "straight_through" or by "rotation" (Fifty et al. 2024).
      kmeans: whether the codes start as the centres of the first training batch; "ema" only.
      revive_after: training steps without use after which a code is replaced by a random vector of
        the batch (Dhariwal et al. 2020); 0: never; "ema" only.
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
        self.codebook = self._codebook()

    def _codebook(self) -> Codebook:
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

    @property
    def size(self) -> int:
        return self.codes

    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        if self.kmeans or self.revive_after:
            require_keys(self, keys, train)
        x = vectors(h, self.dense, self.positions)
        x = unit(x) if self.metric == "cosine" else x
        code = self._quantize(x, _batch_key(keys, axis(self)), train)
        return code.replace(z=rotate(x, code.z) if self.gradient == "rotation" else straight_through(x, code.z))

    def lookup(self, indices: Array) -> Array:
        """Indices, as in `Code.indices`, to z [..., features]."""
        return self.codebook.lookup(indices)

    def _quantize(self, x: Array, key: Array, train: bool) -> Code:
        """The code of the vectors x, its z without a gradient."""
        return self._nearest(self.codebook, x, key, train)

    def _nearest(self, codebook: Codebook, x: Array, key: Array, train: bool) -> Code:
        e, indices = codebook(x, key, train)
        losses = {"commitment": commitment_loss(x, e)}
        if self.update == "gradient":
            losses["codebook"] = codebook_loss(x, e)
        return Code(
            z=jax.lax.stop_gradient(e),
            losses=losses,
            metrics=usage(indices, self.codes, axis(self)),
            indices=indices,
        )


class ResidualQuantizer(VectorQuantizer):
    """Codebooks in a row, each for what those before it left over; z is the sum of their codes.

    Zeghidour et al. 2021, "SoundStream", section III.C. Indices are [batch, *positions, levels]; losses
    are summed over levels and metrics averaged. Attributes as in `VectorQuantizer`, all Euclidean.
    """

    levels: int = 4

    def setup(self):
        if self.metric != "euclidean":
            raise InputError("bottleneck.metric must be 'euclidean' for residual_vq: what is left over has a length")
        super().setup()
        self.deeper = [self._codebook() for _ in range(self.levels - 1)]

    def lookup(self, indices: Array) -> Array:
        """Indices, as in `Code.indices`, to z [..., features]."""
        return sum(book.lookup(indices[..., i]) for i, book in enumerate(self._books()))  # type: ignore[return-value]

    def _books(self) -> list[Codebook]:
        return [self.codebook, *self.deeper]

    def _quantize(self, x: Array, key: Array, train: bool) -> Code:
        codes: list[Code] = []
        for level, book in enumerate(self._books()):
            codes.append(self._nearest(book, x, jax.random.fold_in(key, level), train))
            x = x - codes[-1].z
        return Code(
            z=sum(code.z for code in codes),  # type: ignore[arg-type]
            losses=jax.tree.map(lambda *levels: sum(levels), *(code.losses for code in codes)),
            metrics=jax.tree.map(lambda *levels: sum(levels) / self.levels, *(code.metrics for code in codes)),
            indices=jnp.stack([code.indices for code in codes], -1),  # type: ignore[misc]
        )


def _batch_key(keys: Array | None, axis_name: str | None) -> Array:
    """One key for the whole batch, that of its first example; without keys always the same."""
    return jax.random.key(0) if keys is None else whole_batch(keys, axis_name)[0]
