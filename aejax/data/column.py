"""The encoding of a column of a table."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table and its encoding.

    Attributes:
      name: of the column.
      likelihood: as `Mixed.columns` names it. Numbers are standardized; of categories and levels, the encoded value is
        the position in `categories`; True is 1.
      dtype: the name of the column's dtype in pandas, to which what is decoded is converted.
      categories: what the levels stand for.
      of: the name of the dtype of the categories, where `dtype` is "category".
    """

    name: str | int
    likelihood: str
    dtype: str
    categories: tuple[Any, ...] = ()
    of: str = ""

    @property
    def kind(self) -> str:
        """Returns the name of the likelihood."""
        return self.likelihood.partition(":")[0]
