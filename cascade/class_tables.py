"""Two class tables that should be one, and are not: in words."""

from collections.abc import Sequence

from cascade.errors import CascadeError

_SHOWN = 3


def table_difference(first: str, ours: Sequence[str], second: str, theirs: Sequence[str]) -> str:
    """Say how the class tables of `first` and `second` differ: the first classes that only one has, or their order.

    >>> table_difference("the stage", ["cat", "hat"], "the data", ["coat", "hat"])
    'only the stage has cat, only the data has coat'
    >>> table_difference("the stage", ["a", "b", "c", "d", "e"], "the data", ["e"])
    'only the stage has a, b, c, ... (4)'
    >>> table_difference("'a'", ["cat", "hat"], "'b'", ["hat", "cat"])
    "they have the same classes in another order: 0 is cat in 'a' and hat in 'b'"
    """
    parts = [
        f"only {name} has {_few(own)}"
        for name, table, other in ((first, ours, theirs), (second, theirs, ours))
        if (own := [entry for entry in table if entry not in set(other)])
    ]
    if parts:
        return ", ".join(parts)
    place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    order = f"{place} is {ours[place]} in {first} and {theirs[place]} in {second}"
    return f"they have the same classes in another order: {order}"


def refuse_other_table(first: str, ours: Sequence[str], second: str, theirs: Sequence[str]) -> None:
    """Raise CascadeError where the two are not one table."""
    if list(ours) != list(theirs):
        difference = table_difference(first, ours, second, theirs)
        raise CascadeError(f"{first} and {second} have different class tables: {difference}")


def refuse_other_number(first: str, ours: Sequence[str], second: str, theirs: Sequence[str]) -> None:
    """Raise CascadeError where weights for the classes of `first` cannot be those for the classes of `second`."""
    if len(ours) != len(theirs):
        difference = table_difference(first, ours, second, theirs)
        raise CascadeError(f"{first} knows {len(ours)} classes, {second} {len(theirs)}: {difference}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)})" if len(names) > _SHOWN else "")
