"""Hydra's launchers, which run the jobs of a sweep elsewhere: which there are, and how those that are not get there."""

from cascade.errors import CascadeError, suggest

EXTRAS = {"joblib": "joblib", "ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"}
"""The launchers that were tried with this package → the extra that installs them."""
KEY = "hydra/launcher"


def check_launcher(name: str) -> None:
    """Raise CascadeError unless a launcher of that name is installed.

    >>> check_launcher("basic")
    >>> check_launcher("jobilb")
    Traceback (most recent call last):
    cascade.errors.CascadeError: unknown hydra/launcher 'jobilb'; did you mean 'joblib'?
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # they tell the store of themselves
    there = [file.removesuffix(".yaml") for file in ConfigStore.instance().list(KEY)]
    if name in there:
        return
    if name in EXTRAS:
        raise CascadeError(f"{KEY}={name} is an extra: pip install 'cascade-diffusion[{EXTRAS[name]}]'")
    raise CascadeError(f"unknown {KEY} '{name}'; {suggest(name, {*there, *EXTRAS})}")
