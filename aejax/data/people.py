"""`people`: a table with columns of all kinds, which two hidden factors explain."""

import numpy as np

from aejax.data.column import Column
from aejax.data.sources import Source

ROWS = 10_000
REGIONS = ("east", "north", "south", "west")
EDUCATION = ("none", "school", "college", "degree")
COLUMNS = (
    Column("age", "gaussian", "float64"),
    Column("income", "student_t", "float64"),
    Column("visits", "poisson", "int64"),
    Column("member", "bernoulli", "bool"),
    Column("region", "categorical:4", "object", REGIONS),
    Column("education", "ordinal:4", "category", EDUCATION, "object"),
)


def make_people(rows: int = ROWS, seed: int = 0) -> Source:
    """Returns a table of `rows` people, without missing values; each column depends on one or both of the factors."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows))
    region = np.argmax(np.outer(a, [1.5, -1.5, 0, 0]) + np.outer(b, [0, 0, 1.5, -1.5]) + rng.gumbel(size=(rows, 4)), 1)
    x = np.stack(
        [
            40 + 10 * a + 3 * rng.normal(size=rows),
            3_000 + 800 * b + 200 * rng.standard_t(3, rows),
            rng.poisson(np.exp(1 + 0.5 * a - 0.4 * b)),
            rng.random(rows) < 1 / (1 + np.exp(-2 * a - b)),
            region,
            np.digitize(b + 0.4 * rng.normal(size=rows), [-1, 0, 1]),
        ],
        1,
    )
    return Source("people", rows, x.shape[1:], x.dtype, lambda chosen: {"x": x[chosen]}, kind="vector", columns=COLUMNS)
