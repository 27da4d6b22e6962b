"""`cascade prepare`: decode the pictures of a stage once, into a cache that training reads by memory-map."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cascade.errors import CascadeError, suggest
from cascade.files import expanded
from cascade.lock import beside
from cascade.progress import progress_bars

if TYPE_CHECKING:
    from cascade.data.dataset import PictureDataset


def run(config: DictConfig) -> None:
    """Write the cache `out` of the splits `splits` of `data` at `resolution`.

    A cache of the same pictures that is there already is left as it is; anything else at that place is an error.
    """
    from cascade.data.cache import INDEX, read_index, refuse_occupied, write_cache
    from cascade.data.source import check_source, open_dataset

    out, resolution, splits = expanded(config.out), int(config.resolution), list(config.splits)
    data: dict[str, Any] = OmegaConf.to_container(config.data, resolve=True)
    _check(splits, resolution, config.workers)
    if not (out / INDEX).is_file():
        refuse_occupied(out)
    check_source(data, resolution, splits)
    with beside(out), progress_bars() as bars:
        finished = read_index(out) if (out / INDEX).is_file() else None
        datasets = {}
        for split in splits:
            name = f"looking through {split}"
            datasets[split] = open_dataset(data, resolution, split, lambda done, total, n=name: bars.at(n, done, total))
        if finished is None:
            write_cache(datasets, out, config.workers, lambda done, total: bars.at("writing", done, total))
        elif {split: dataset.fingerprint for split, dataset in datasets.items()} != {
            split: entry["fingerprint"] for split, entry in finished["splits"].items()
        }:
            raise CascadeError(f"{out} is a cache of other pictures; choose another place, or remove it")
    _report(out, datasets, new=finished is None)


def _check(splits: list[Any], resolution: int, workers: int | None) -> None:
    """What can be said of the command line at once, before torch is imported."""
    from cascade.data.listing import SPLITS

    if not splits or len(set(splits)) < len(splits):
        raise CascadeError(f"splits={splits}: name each split once, for example splits=[train,val]")
    for split in splits:
        if split not in SPLITS:
            raise CascadeError(f"unknown split '{split}'; {suggest(str(split), SPLITS)}")
    if resolution < 1:
        raise CascadeError(f"resolution={resolution} must be at least 1")
    if workers is not None and workers < 1:
        raise CascadeError(f"workers={workers} must be at least 1")


def _report(out: Path, datasets: "dict[str, PictureDataset]", *, new: bool) -> None:
    from cascade.data.folder import FolderDataset

    first = next(iter(datasets.values()))
    counts = " and ".join(f"{len(dataset)} {split}" for split, dataset in datasets.items())
    line = f"{out}{'' if new else ' is ready already'}: {counts} pictures at {first.resolution} px"
    if first.class_names:
        line += f", {len(first.class_names)} classes"
    folders = [dataset for dataset in datasets.values() if isinstance(dataset, FolderDataset)]
    bad = {file.path for dataset in folders for file in dataset.bad_files}
    if bad:
        were = "1 file was" if len(bad) == 1 else f"{len(bad)} files were"
        line += f"; {were} left out, named in {out / 'bad_files.csv'}"
    print(line)
