"""`cascade prepare`: decode the pictures of a stage once, into a cache that training reads by memory-map."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from cascade.errors import CascadeError

if TYPE_CHECKING:
    from cascade.data.dataset import PictureDataset


def run(config: DictConfig) -> None:
    """Write the cache `out` of the splits `splits` of `data` at `resolution`.

    A cache of the same pictures that is there already is left as it is; anything else at that place is an error.
    """
    from cascade.data.cache import INDEX, read_index, refuse_occupied, write_cache
    from cascade.data.source import open_dataset

    out, resolution = Path(config.out).expanduser(), int(config.resolution)
    data: dict[str, Any] = OmegaConf.to_container(config.data, resolve=True)
    splits = list(config.splits)
    if not splits or len(set(splits)) < len(splits):
        raise CascadeError(f"splits={splits}: name each split once, for example splits=[train,val]")
    finished = read_index(out) if (out / INDEX).is_file() else None
    if finished is None:
        refuse_occupied(out)
    datasets: dict[str, PictureDataset] = {}
    for split in splits:
        with _progress(f"looking through {split}") as tell:
            datasets[split] = open_dataset(data, resolution, split, progress=tell)
    if finished is None:
        with _progress("writing") as tell:
            write_cache(datasets, out, config.workers, tell)
    elif {split: dataset.fingerprint for split, dataset in datasets.items()} != {
        split: entry["fingerprint"] for split, entry in finished["splits"].items()
    }:
        raise CascadeError(f"{out} is a cache of other pictures; choose another place, or remove it")
    _report(out, datasets, new=finished is None)


def _report(out: Path, datasets: "dict[str, PictureDataset]", *, new: bool) -> None:
    from cascade.data.folder import FolderDataset

    first = next(iter(datasets.values()))
    counts = " and ".join(f"{len(dataset)} {split}" for split, dataset in datasets.items())
    line = f"{out}{'' if new else ' is ready already'}: {counts} pictures at {first.resolution} px"
    if first.class_names:
        line += f", {len(first.class_names)} classes"
    bad = sum(len(dataset.bad_files) for dataset in datasets.values() if isinstance(dataset, FolderDataset))
    if bad:
        line += f"; {bad} {'file was' if bad == 1 else 'files were'} left out, named in {out / 'bad_files.csv'}"
    Console(soft_wrap=True, highlight=False, markup=False).print(line)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


@contextmanager
def _progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, with rate and time left; it appears with the first picture."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
