"""The jobs of a sweep, all checked before the first begins: the last one should not fail after hours of the others."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cascade.data.source import look_at_headers
from cascade.errors import CascadeError
from cascade.progress import progress_bars
from stages.checks import check_folders, check_place_of, wanted_splits
from stages.run_folder import SCRATCH, RunFolder

Config = Mapping[str, Any]
Jobs = Sequence[tuple[str, Config]]
"""Each with the words that tell it from the others ("stage=sr256")."""


def check_jobs(jobs: Jobs, check: Callable[[Config], None]) -> None:
    """Check every job, and name the one that a CascadeError is of."""
    for label, config in jobs:
        try:
            check(config)
        except CascadeError as error:
            raise CascadeError(f"{error} (with {label})" if label else str(error)) from error


def check_all_folders(jobs: Jobs) -> None:
    """Check the folders of all jobs, without torch: of pictures every file's header is read, once for the largest side.

    Raises CascadeError for what `check_folders` and `check_place_of` refuse, pictures that are too small for any job,
    and two jobs that would train one run.
    """
    _refuse_one_run_twice(jobs)
    check_jobs(jobs, check_folders)
    largest: dict[str, tuple[str, Config]] = {}
    for label, config in jobs:
        source = json.dumps([config["data"], wanted_splits(config["trainer"])], sort_keys=True)
        if source not in largest or _side(largest[source][1]) < _side(config):
            largest[source] = label, config
    with progress_bars() as bars:

        def look(config: Config) -> None:
            name = f"looking at the sizes of the pictures ({config['stage']['name']})"
            splits = wanted_splits(config["trainer"])
            tell = lambda done, total: bars.at(name, done, total, "files")  # noqa: E731
            look_at_headers(config["data"], _side(config), splits, progress=tell)

        check_jobs(list(largest.values()), look)
    check_jobs(jobs, check_place_of)


def _side(config: Config) -> int:
    return config["stage"]["resolution"]


def _refuse_one_run_twice(jobs: Jobs) -> None:
    seen: dict[Any, str] = {}
    for label, config in jobs:
        path = RunFolder.of(config).path
        if path in seen and config["name"] != SCRATCH and not config["fresh"]:
            raise CascadeError(
                f"the jobs with {seen[path]} and with {label} would both train the run in '{path}'; give each a name "
                "of its own, like 'name=mine-${seed}'"
            )
        seen[path] = label
