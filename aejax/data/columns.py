"""Tables: DataFrames of pandas, and files of them, as numbers that say which likelihood each column has, and back."""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aejax.data.arrays import require_file
from aejax.data.column import Column
from aejax.data.sources import Arrays, Rows, Source, check_label
from aejax.errors import InputError, kind_and_words, one_of, shown

FILES = (".parquet", ".csv")
NUMBERS = ("gaussian", "laplace", "student_t")
_OF_NUMBERS = (*NUMBERS, "poisson", "negative_binomial", "beta")
_OF_LEVELS = ("categorical", "ordinal")
_MANY = 50  # different strings, from which a column with one in every second row is no category


def is_frame(x: object) -> bool:
    """Returns whether x is a DataFrame of pandas, without importing pandas."""
    return type(x).__module__.partition(".")[0] == "pandas" and type(x).__name__ == "DataFrame"


def read_table(path: Path) -> Any:  # a DataFrame; pandas is imported only by what needs it
    """Returns the DataFrame in a .parquet or .csv file."""
    require_file(path)
    read = getattr(_pandas(), f"read_{path.suffix.lower().removeprefix('.')}")
    try:
        return read(path)
    except ImportError as error:
        raise InputError(f"{path}: reading it needs pyarrow: pip install 'aejax[table]'") from error
    except Exception as error:  # whatever pandas and pyarrow raise for a damaged file
        raise InputError(f"{path}: no readable table ({kind_and_words(error)}); write it again") from error


def from_frame(
    frame: Any,
    label: ArrayLike | None = None,
    name: str = "the DataFrame",
    missing: bool = False,
    choices: Sequence[str] = (),
    weights: str = "",
) -> Source:
    """Returns a source of the rows of a DataFrame, encoded as its `columns` say.

    Floats and whole numbers are Gaussian, booleans Bernoulli, strings and categories categorical, and ordered
    categories ordinal.

    Args:
      frame: the table.
      label: whole numbers [n].
      name: used in messages.
      missing: whether None, NaN and NA are missing values.
      choices: other likelihoods, "column=likelihood": laplace, student_t, poisson, negative_binomial and beta of
        numbers, categorical and ordinal of whole numbers and strings. "*" is all columns of numbers.
      weights: name of a column that holds the weights of the rows, and is no part of x; "" for none.

    Raises InputError for a column that is no number, boolean or category, or has one value, and for missing values that
    are not announced.
    """
    if weights:
        if weights not in frame.columns:
            raise one_of(f"{name}: data.weights", weights, map(str, frame.columns))
        return from_frame(frame.drop(columns=weights), label, name, missing, choices).weigh(frame[weights].to_numpy())
    names = list(frame.columns)
    if not len(frame) or not names:
        raise InputError(f"{name} has {len(frame)} rows and {len(names)} columns; give at least one of each")
    if bad := [each for each in names if not isinstance(each, str | int) or names.count(each) > 1]:
        raise InputError(f"{name}: the column {shown(bad[0])} must have a name of its own, a string or a whole number")
    chosen = _parse_choices(choices, [str(each) for each in names])
    columns = tuple(_describe(frame[each], each, chosen, name) for each in names)
    x = encode_frame(frame, columns, missing, name)
    more = {} if label is None else {"label": check_label(label, len(x), name)}

    def take(rows: Rows) -> Arrays:
        return {"x": x[rows]} | {key: value[rows] for key, value in more.items()}

    return Source(name, len(x), x.shape[1:], x.dtype, take, kind="vector", missing=missing, columns=columns)


def encode_frame(frame: Any, columns: Sequence[Column], missing: bool, name: str = "the DataFrame") -> np.ndarray:
    """Returns a DataFrame as numbers [n, columns], NaN where a value is missing.

    A category that `columns` do not have counts as missing, and a warning names it. Raises InputError for lacking and
    further columns, columns of another dtype, and, unless `missing`, for missing values.
    """
    known = [column.name for column in columns]
    if lacking := [each for each in known if each not in frame.columns]:
        raise InputError(f"{name} lacks the column {lacking[0]!r}; give all of {shown(known)}")
    if further := [each for each in frame.columns if each not in known]:
        raise InputError(f"{name} has a column {further[0]!r}, which the run does not know; leave it out")
    unseen: dict[str, list[str]] = {}
    x = np.stack([_encode(frame[column.name], column, missing, name, unseen) for column in columns], 1)
    for row in np.flatnonzero(np.isnan(x).all(1)):
        raise InputError(f"{name}: row {frame.index[row]!r} has no value that is not missing; leave it out")
    if unseen:
        found = "; ".join(f"{column!r} holds {', '.join(values)}" for column, values in unseen.items())
        warnings.warn(f"{name}: categories that were not there in training count as missing: {found}", stacklevel=2)
    return x


def decode_frame(x: np.ndarray, columns: Sequence[Column], index: Any = None) -> Any:
    """Returns numbers [n, columns], encoded or expected ones, as a DataFrame with the columns' own dtypes.

    Whole numbers are rounded, booleans are True from a half on.
    """
    pandas = _pandas()
    series = {column.name: _decode(x[:, i], column, pandas) for i, column in enumerate(columns)}
    frame = pandas.DataFrame(series)
    return frame if index is None else frame.set_axis(index)


def describe_columns(columns: Sequence[Column]) -> str:
    """Returns the columns of a table in a few words, e.g. "rows of 3 columns: 2 gaussian, 1 bernoulli"."""
    kinds = [column.kind for column in columns]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"rows of {len(columns):,} columns: {counted}"


@functools.cache
def _pandas() -> ModuleType:
    try:
        import pandas
    except ImportError as error:
        raise InputError("tables need pandas: pip install 'aejax[table]'") from error
    return pandas


def _parse_choices(choices: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Returns the likelihood that data.columns gives each column, "*" for all of numbers."""
    found = {}
    for choice in choices:
        column, _, kind = choice.rpartition("=")
        if column not in (*names, "*"):
            raise one_of("data.columns: column", column, [*names, "*"])
        if kind not in (known := (*_OF_NUMBERS, *_OF_LEVELS)):
            raise one_of(f"data.columns: {column}=", kind, known)
        found[column] = kind
    return found


def _describe(series: Any, name: str | int, chosen: dict[str, str], table: str) -> Column:
    """Returns the encoding of a column. Raises InputError if it has none, or holds a single value."""
    types, dtype, where = _pandas().api.types, series.dtype, f"{table}: column {name!r}"
    values = series.dropna()
    if values.nunique() == 0:
        raise InputError(f"{where} has no value that is not missing; leave it out")
    if values.nunique() == 1:
        raise InputError(
            f"{where} has only the value {shown(_plain(values.iloc[0]))}, which tells nothing; leave it out"
        )
    held, chosen_kind = _kind_of(series), chosen.get(str(name), "")
    if held == "number":
        kind = chosen_kind or chosen.get("*", "gaussian")
        if kind in _OF_LEVELS and not types.is_integer_dtype(dtype):
            raise InputError(f"{where} has dtype {dtype}, and data.columns={kind} is for whole numbers; convert it")
    elif held == "boolean":
        kind = chosen_kind or "bernoulli"
    elif held in ("category", "string"):
        kind = chosen_kind or ("ordinal" if getattr(dtype, "ordered", False) else "categorical")
    else:
        raise InputError(
            f"{where} has dtype {dtype}, {held} values; make it numbers, strings or categories, or drop it"
        )
    fitting = {"number": (*_OF_NUMBERS, *_OF_LEVELS), "boolean": ("bernoulli",)}.get(held, _OF_LEVELS)
    if kind not in fitting:
        raise InputError(f"{where} holds {held} values, and data.columns={name}={kind}; choose {' or '.join(fitting)}")
    if kind not in _OF_LEVELS:
        return Column(name, kind, str(dtype))
    listed = dtype.categories if held == "category" else sorted(values.unique())
    categories = tuple(map(_plain, listed))
    if bad := [each for each in categories if type(each) not in (str, int, float, bool)]:
        raise InputError(f"{where} has categories such as {shown(bad[0])}; make them strings or numbers")
    if held == "string" and len(categories) > max(_MANY, len(values) // 2):
        raise InputError(
            f"{where} has {len(categories):,} different strings in {len(series):,} rows; drop it, or make it a category"
        )
    of = str(dtype.categories.dtype) if held == "category" else ""
    return Column(name, f"{kind}:{len(categories)}", "category" if of else str(dtype), categories, of)


def _plain(value: Any) -> Any:
    """Returns a number of NumPy as one of Python's, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _kind_of(series: Any) -> str:
    """Returns what a column holds: "number", "boolean", "category", "string", or another word of pandas'."""
    types = _pandas().api.types
    if isinstance(series.dtype, _pandas().CategoricalDtype):
        return "category"
    if types.is_bool_dtype(series.dtype):
        return "boolean"
    if types.is_numeric_dtype(series.dtype) and not types.is_complex_dtype(series.dtype):
        return "number"
    return str(types.infer_dtype(series, skipna=True))


def _encode(series: Any, column: Column, missing: bool, table: str, unseen: dict[str, list[str]]) -> np.ndarray:
    """Returns a column as float64. Adds categories that are not known to `unseen`, by the name of the column."""
    where, held, lacks = f"{table}: column {column.name!r}", _kind_of(series), series.isna().to_numpy(bool)
    if lacks.any() and not missing:
        row = series.index[int(np.argmax(lacks))]
        raise InputError(
            f"{where}, row {row!r}, has no value; fill such values or drop the rows, or set data.missing=True, which "
            "leaves them out of the loss"
        )
    wanted = {"bernoulli": ("boolean",)}.get(column.kind, ("number",))
    if column.categories:
        wanted = ("category", "string", *({"boolean", "number"} if not isinstance(column.categories[0], str) else ()))
    if held not in wanted and not lacks.all():
        raise InputError(f"{where} has dtype {series.dtype}, and the run reads {column.dtype}; convert it")
    if column.categories:
        values = series.astype(object).to_numpy()
        codes = _pandas().Index(list(column.categories), dtype=object).get_indexer(values)
        if (strange := (codes < 0) & ~lacks).any():
            unseen[str(column.name)] = sorted({shown(_plain(each)) for each in values[strange]})[:5]
        return np.where(codes < 0, np.nan, codes)
    x = np.full(len(series), np.nan)
    x[~lacks] = series[~lacks].astype(float).to_numpy(np.float64)
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(x.astype(np.float32)) & ~lacks
    what = "numbers that float32 holds"
    if column.kind in ("poisson", "negative_binomial"):
        bad, what = bad | (x < 0) | (~lacks & (x != np.floor(x))), "counts, whole numbers from 0"
    elif column.kind == "beta":
        bad, what = bad | (x < 0) | (x > 1), "numbers from 0 to 1"
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{where}, row {series.index[row]!r}, is {x[row]:g}, and {column.kind} reads {what}")
    return x


def _decode(x: np.ndarray, column: Column, pandas: ModuleType) -> Any:
    """Returns encoded or expected values as a column."""
    if column.categories:
        codes = np.clip(np.round(x), 0, len(column.categories) - 1).astype(int)
        if column.of:
            categories = pandas.Index(list(column.categories), dtype=column.of)
            return pandas.Categorical.from_codes(codes, categories, ordered=column.kind == "ordinal")
        return pandas.Series([column.categories[code] for code in codes], dtype=column.dtype)
    if column.kind == "bernoulli":
        return pandas.Series(x >= 0.5).astype(column.dtype)
    dtype = pandas.api.types.pandas_dtype(column.dtype)
    if pandas.api.types.is_integer_dtype(dtype):
        own = np.dtype(getattr(dtype, "numpy_dtype", dtype))
        low, high = float(np.iinfo(own).min), np.nextafter(float(np.iinfo(own).max) + 1, 0)
        return pandas.Series(np.clip(np.round(np.asarray(x, np.float64)), low, high).astype(own)).astype(dtype)
    return pandas.Series(x).astype(column.dtype)
