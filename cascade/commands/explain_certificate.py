"""The numbers of `cascade explain`'s second figure: steps against the exact KL of samplers and grids."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from cascade.commands.configuration import CONF, groups_on_disk
from cascade.commands.explain_style import rounded
from cascade.errors import CascadeError
from cascade.guidance_settings import asks_guides
from cascade.registry import build, complete
from cascade.sampling.certificate import Bands, Certificate, NotAffineError, certify

_OUTSIDE = "threshold and guidance: they are not affine, or have no meaning on one Gaussian"


@dataclass(frozen=True, eq=False)
class Curve:
    """A sampler on a grid at several numbers of steps; `left_out` says why some of them are not there."""

    name: str
    config: dict[str, Any]
    points: list[Certificate]
    left_out: dict[str, str]

    def at(self, steps: int) -> Certificate | None:
        """The point of this number of steps, if there is one."""
        return next((point for point in self.points if point.steps == steps), None)


@dataclass(frozen=True, eq=False)
class Certificates:
    """`samplers` on the config's grid, `grids` under its sampler; the first of each is the config itself."""

    bands: Bands
    about: str
    steps: int
    samplers: list[Curve]
    grids: list[Curve]
    note: str

    def report(self) -> dict[str, Any]:
        """The numbers behind the figure, as plain JSON values."""
        numbers = {
            "frequency": self.bands.frequency,
            "count": self.bands.count,
            "data_variance": self.bands.variance,
            "known_mean_variance": self.bands.told,
        }
        return {
            "data": self.about,
            "unit": "nats, KL(output || data) of one colour",
            "outside": _OUTSIDE,
            **({"note": self.note} if self.note else {}),
            "config_steps": self.steps,
            "bands": {key: rounded(column) for key, column in numbers.items()},
            "samplers": [self._curve("sampler", curve) for curve in self.samplers],
            "grids": [self._curve("grid", curve) for curve in self.grids],
        }

    def _curve(self, group: str, curve: Curve) -> dict[str, Any]:
        here = curve.at(self.steps)
        return {
            "name": curve.name,
            group: curve.config,
            "points": [
                {"steps": p.steps, "calls": p.calls, "nats": p.nats, "nats_per_dimension": p.per_dimension}
                for p in curve.points
            ],
            "variance_ratio": None if here is None else rounded(here.ratio),
            "left_out": curve.left_out,
        }

    def summary(self) -> list[str]:
        """Lines for a person."""
        own = self.samplers[0].at(self.steps)
        if own is None:
            why = self.samplers[0].left_out[str(self.steps)]
            return [f"certificate: {self.samplers[0].name} at {self.steps} steps cannot be certified: {why}"]
        return [
            f"certificate: {self.samplers[0].name} on {self.grids[0].name}, {own.steps} steps ({own.calls} network "
            f"calls): KL {own.per_dimension:.2g} nats per dimension, exactly, on the 1/f² Gaussian"
        ]


def certificates(config: Mapping[str, Any], bands: Bands, about: str, note: str = "") -> Certificates:
    """Certify the config's sampler and grid, every other sampler of `conf/` on its grid, and its sampler on the others.

    `bands` are the data, `about` says what they are, `note` what else is to be said. A sampler that cannot be
    certified is kept with the reason.
    """
    own_grid, own_sampler = config["grid"], config["sampler"]
    own = len(build("grid", own_grid)) - 1
    build("sampler", own_sampler)  # what is wrong with it is no reason to leave it out
    steps = sorted({*config["steps"], own})
    refused: dict[str, str] = {}

    def curve(name: str, sampler: Mapping[str, Any], grid: Mapping[str, Any], kept: Mapping[str, Any]) -> Curve:
        if asks_guides(sampler):
            refused[str(sampler)] = "it asks a classifier, and one Gaussian has no classes"
        points: list[Certificate] = []
        left_out: dict[str, str] = {}
        for n in steps if "n" in grid else (None,):  # a grid without n has one length
            try:
                if str(sampler) in refused:
                    raise CascadeError(refused[str(sampler)])
                log_snrs = build("grid", grid if n is None else {**grid, "n": n})
                points.append(certify(build("sampler", sampler), log_snrs, bands))
            except CascadeError as error:
                left_out[str(own if n is None else n)] = str(error)
                if isinstance(error, NotAffineError):
                    refused[str(sampler)] = str(error)
        return Curve(name, dict(kept), points, left_out)

    samplers = [curve(name, sampler, own_grid, sampler) for name, sampler in _choices("sampler", config)]
    grids = [curve(name, own_sampler, grid, grid) for name, grid in _choices("grid", config)]
    return Certificates(bands, about, own, samplers, grids, note)


def _choices(group: str, config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config's own choice, then the others of `conf/GROUP/` with their defaults."""
    own = complete(group, config[group])
    name = own["name"]
    others: dict[str, dict[str, Any]] = {}
    whole = OmegaConf.create(dict(config))
    for choice in groups_on_disk()[group]:
        whole[group] = OmegaConf.load(CONF / group / f"{choice}.yaml")  # it may refer to other keys
        plain: dict[str, Any] = OmegaConf.to_container(whole[group], resolve=True)
        others[choice] = complete(group, plain)
    usual = next((other for other in others.values() if other["name"] == name), own)
    changed = ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in own.items()
        if key != "n" and value != usual.get(key) and not isinstance(value, dict)
    )
    yield f"{name} ({changed})" if changed else name, own
    shown = [{**own, "n": 0}]
    for choice, other in others.items():  # a variant of another length is the same curve
        if {**other, "n": 0} not in shown:
            shown.append({**other, "n": 0})
            yield choice, other
