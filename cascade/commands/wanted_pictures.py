"""Which pictures `cascade sample` is asked for, from classes, seeds and a folder of pictures to start from."""

from collections.abc import Sequence
from dataclasses import dataclass

from cascade.commands.low_res_folder import LowRes
from cascade.errors import CascadeError, suggest
from cascade.requests import class_label

DEFAULT_SEEDS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Wanted:
    """A picture to make: its file below `out`, its seed and class, and what it starts from (None: noise)."""

    file: str
    seed: int
    label: int | None
    class_name: str | None
    low_res: LowRes | None = None


def every_class_with_every_seed(
    classes: str | list[str] | None, seeds: Sequence[int] | None, table: Sequence[str]
) -> list[Wanted]:
    """CLASS/SEED.png for each (default: all classes, seeds 0 to 3), or SEED.png where the cascade knows no classes."""
    seeds = DEFAULT_SEEDS if seeds is None else seeds
    labels = _labels(classes, table)
    if not table:
        return [Wanted(f"{seed}.png", seed, None, None) for seed in seeds]
    folders = class_folders(table)
    chosen = range(len(table)) if labels is None else labels
    return [Wanted(f"{folders[i]}/{seed}.png", seed, i, table[i]) for i in chosen for seed in seeds]


def from_low_res(
    pictures: Sequence[LowRes],
    classes: str | list[str] | None,
    seeds: Sequence[int] | None,
    table: Sequence[str],
    *,
    labelled: bool,
) -> list[Wanted]:
    """The pictures that start from `pictures`, with class and seed from CLASS/SEED.png where they are so named.

    Of those named so, `classes` and `seeds` choose; the others are of the one class and seed that they give.
    `labelled`: a stage that runs reads classes, so one must be known. Raises CascadeError for a class that is not
    known, for one or a seed of which there is no picture, and for two pictures of one name.
    """
    folders = {folder: i for i, folder in enumerate(class_folders(table))}
    labels = _labels(classes, table)
    wanted: dict[str, Wanted] = {}
    for picture in pictures:
        label = folders.get(picture.class_folder or "")
        if label is None:
            label = _only_class(picture, labels, table, labelled=labelled)
        elif labels is not None and label not in labels:
            continue
        if picture.seed is not None and seeds is not None and picture.seed not in seeds:
            continue
        file = picture.relative.with_suffix(".png").as_posix()
        if file in wanted:
            raise CascadeError(f"two low_res pictures would both become {file}: {picture.path} is one of them")
        seed = _only_seed(picture, seeds) if picture.seed is None else picture.seed
        wanted[file] = Wanted(file, seed, label, None if label is None else table[label], picture)
    made = {picture.label for picture in wanted.values()}
    for label in labels or ():
        if label not in made:
            raise CascadeError(f"classes: no low_res picture is one of '{table[label]}'{_of_seeds(seeds)}")
    made_seeds = {picture.seed for picture in wanted.values()}
    for seed in seeds or ():
        if seed not in made_seeds:
            raise CascadeError(f"seeds: no low_res picture has seed {seed} in its name, CLASS/{seed}.png")
    return list(wanted.values())


def _of_seeds(seeds: Sequence[int] | None) -> str:
    return "" if seeds is None else " and has one of the seeds"


def _labels(classes: str | list[str] | None, table: Sequence[str]) -> list[int] | None:
    """The classes asked for, each once; None: not asked."""
    if classes is None:
        return None
    if not table:
        raise CascadeError(f"this cascade knows no classes, so classes={classes} cannot be asked for")
    listed = [classes] if isinstance(classes, str) else classes
    if not listed:
        raise CascadeError(f"classes=[] names no class; the cascade has {', '.join(table)}")
    return list(dict.fromkeys(class_label(name, table) for name in listed))


def _only_class(picture: LowRes, labels: list[int] | None, table: Sequence[str], *, labelled: bool) -> int | None:
    """The class of a picture whose folder is none: the only one asked for, or no class where none is needed."""
    if labels is not None and len(labels) == 1:
        return labels[0]
    if labelled or labels is not None:
        if picture.class_folder is not None:
            known = suggest(picture.class_folder, table)
            raise CascadeError(f"{picture.path} lies in '{picture.class_folder}', which is no class; {known}")
        raise CascadeError(
            f"the class of {picture.path} is not known: name it CLASS/SEED.png, or give one class, like "
            f"classes={table[0]}"
        )
    return None


def _only_seed(picture: LowRes, seeds: Sequence[int] | None) -> int:
    """The seed of a picture whose name is none: the only one asked for, or 0."""
    if seeds is not None and len(seeds) > 1:
        raise CascadeError(f"the seed of {picture.path} is not known: name it CLASS/SEED.png, or give one seed")
    return DEFAULT_SEEDS[0] if seeds is None else seeds[0]


def class_folders(table: Sequence[str]) -> list[str]:
    """The folder of each class: its name, without what a folder's name cannot have.

    >>> class_folders(["dress", "t-shirt/top", ".x"])
    ['dress', 't-shirt_top', '_x']
    """
    folders = []
    for name in table:
        safe = "".join("_" if letter in '/\\:*?"<>|' or not letter.isprintable() else letter for letter in name)
        folders.append(f"_{safe[1:]}" if safe.startswith(".") else safe)
    # Two names that become one folder keep apart by their number; "stages" is the folder of the stages' pictures.
    return [
        f"{folder}_{i}" if folders.count(folder) > 1 or folder == "stages" else folder
        for i, folder in enumerate(folders)
    ]
