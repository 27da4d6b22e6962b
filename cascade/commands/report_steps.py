"""The sampling of some pictures once more, looked at: the state x_t and the guess x̂ at every call of a stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from cascade.commands.low_res_folder import LowRes, LowResImages
from cascade.commands.report_settings import Known, stage_settings
from cascade.data.degradation import shrink, to_uint8
from cascade.diffusion import Condition, Denoiser, Posterior
from cascade.errors import CascadeError
from cascade.orchestrator import CascadePipeline
from cascade.requests import class_label
from cascade.stage_sampler import Request, StageSampler

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.report_samples import Sample
    from cascade.progress import Bars
    from cascade.sampling import Noise

SHOWN = 96
"""At most so many pixels are kept of a moment."""
_MACHINE = ("threads", "device")


@dataclass(frozen=True)
class Moment:
    """A call of the denoiser: the level, the noisy state x_t and the guess x̂, uint8 (3, S, S) with S ≤ SHOWN.

    `detail` is the middle of x̂ at its own pixels, where the whole is shown smaller; else None.

    >>> Moment(1, 0.0, torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)).call
    1
    """

    call: int
    log_snr: float
    state: "Tensor"
    guess: "Tensor"
    detail: "Tensor | None" = None


@dataclass
class StagePath:
    """One stage of one picture: its calls, what it was conditioned on (None: nothing), and what it made.

    >>> StagePath("base64").moments
    []
    """

    stage: str
    moments: list[Moment] = field(default_factory=list)
    low_res: "Tensor | None" = None
    made: "Tensor | None" = None

    def some(self, most: int) -> list[Moment]:
        """At most so many moments, evenly spread, the first and the last among them."""
        last = len(self.moments) - 1
        places = dict.fromkeys(round(i * last / max(1, most - 1)) for i in range(min(most, last + 1)))
        return [self.moments[place] for place in places]


@dataclass(frozen=True)
class Watched:
    """A denoiser, and `note(x_t, log_snr, mean, condition)` of what it is asked and gives, which stays what it was.

    >>> seen = []
    >>> half = lambda x_t, log_snr, condition: Posterior(x_t / 2)
    >>> watched = Watched(half, lambda x_t, log_snr, mean, condition: seen.append(mean))
    >>> watched(torch.ones(1, 2), torch.zeros(1), Condition()).mean is seen[0]
    True
    """

    denoiser: Denoiser
    note: Callable[["Tensor", "Tensor", "Tensor", Condition], None]

    def __call__(self, x_t: "Tensor", log_snr: "Tensor", condition: Condition) -> Posterior:
        """What the denoiser gives."""
        posterior = self.denoiser(x_t, log_snr, condition)
        self.note(x_t, log_snr, posterior.mean, condition)
        return posterior


class Replay:
    """The stages that made some samples, with the settings of their manifest, to be looked at.

    Raises CascadeError where the cascade cannot be what made them.
    """

    def __init__(self, known: Known, device: str) -> None:
        rows = known.samples.stages
        torch.set_num_threads(int(rows[0]["threads"]))
        precisions = {row["stage"]: row["precision"] for row in rows}
        pipeline = CascadePipeline.load(known.cascade, device, precisions, known.samples.names)
        first = known.low_res[0].side if known.low_res else None
        settings = stage_settings(known.changes)
        self.plan = pipeline.plan(stages=known.stages, settings=settings, low_resolution=first)
        self.known = known
        for stage, row in zip(self.plan, rows, strict=True):
            _refuse_other(known, stage.record(), row)

    def augmented(self, stage: StageSampler, sample: "Sample", low_res: "Tensor") -> "Tensor":
        """What the stage is shown of a low-res picture, uint8 (3, h, h): with the noise of its augmentation."""
        seen: list[Tensor | None] = []

        def look(denoiser: Denoiser, x: "Tensor", log_snrs: "Tensor", condition: Condition, randn: "Noise") -> "Tensor":  # noqa: ARG001
            seen.append(condition.low_res)
            return x

        replace(stage, sampler=look).run([self._request(sample)], low_res[None])
        assert seen[0] is not None, "a super-resolution stage is conditioned on a picture"
        return _pixels(seen[0][0])

    def paths(self, samples: "Sequence[Sample]", bars: "Bars") -> list[list[StagePath]]:
        """Sample these pictures again; of each, the path of every stage."""
        requests = [self._request(sample) for sample in samples]
        found: list[list[StagePath]] = [[] for _ in samples]
        images = given(self.known.low_res, samples)
        for stage in self.plan:
            made = []
            for start in range(0, len(requests), stage.chunk):
                part = slice(start, start + stage.chunk)
                asked, low_res = requests[part], None if images is None else images[part]
                paths = [StagePath(stage.name) for _ in asked]
                watched = replace(stage, denoiser=Watched(stage.denoiser, _noting(paths)))
                chunk = watched.run(asked, low_res)
                bars.at(f"{stage.name} once more", start + len(asked), len(requests))
                for path, picture in zip(paths, stage.picture(asked, chunk, low_res), strict=True):
                    path.made = picture
                for of, path in zip(found[part], paths, strict=True):
                    of.append(path)
                made.append(chunk)
            images = torch.cat(made)
        return found

    def _request(self, sample: "Sample") -> Request:
        known = sample.class_name is not None
        return class_label(str(sample.class_name), self.known.table) if known else None, sample.seed


def given(low_res: Sequence[LowRes], samples: "Sequence[Sample]") -> "Tensor | None":
    """Of each sample the picture among `low_res` that it started from; None without any.

    Raises CascadeError where it is not among them.
    """
    if not low_res:
        return None
    places = {picture.sha256: i for i, picture in enumerate(low_res)}
    for sample in samples:
        if sample.line.get("low_res") not in places:
            raise CascadeError(f"low_res holds no picture from which {sample.file} was made")
    images = LowResImages(low_res)
    return torch.stack([images[places[str(sample.line["low_res"])]] for sample in samples])


def _noting(paths: Sequence[StagePath]) -> Callable[["Tensor", "Tensor", "Tensor", Condition], None]:
    def note(x_t: "Tensor", log_snr: "Tensor", mean: "Tensor", condition: Condition) -> None:
        x_t, mean = x_t[: len(paths)], mean[: len(paths)]
        states, guesses, details = _small(x_t), _small(mean), _middle(mean)
        for i, path in enumerate(paths):
            detail = None if details is None else details[i]
            path.moments.append(Moment(len(path.moments) + 1, float(log_snr[i]), states[i], guesses[i], detail))
            if path.low_res is None and condition.low_res is not None:
                path.low_res = _pixels(condition.low_res[i])

    return note


def _pixels(shown: "Tensor") -> "Tensor":
    """The picture in what a stage is shown, uint8 (3, h, h): without the mask that may follow it."""
    return to_uint8(shown[:3]).cpu()


def _small(images: "Tensor") -> "Tensor":
    images = images.float().nan_to_num().cpu()
    return to_uint8(shrink(images, SHOWN) if images.shape[-1] > SHOWN else images)


def _middle(images: "Tensor") -> "Tensor | None":
    """What of images is seen at their own pixels: what a last stage adds is lost where 1024 px are shown as SHOWN."""
    side = images.shape[-1]
    if side <= SHOWN:
        return None
    inner = slice((side - SHOWN) // 2, (side + SHOWN) // 2)
    return to_uint8(images[..., inner, inner].float().nan_to_num()).cpu()


def _refuse_other(known: Known, here: dict[str, Any], there: Mapping[str, Any]) -> None:
    for key in (key for key in (*there, *here) if key not in _MACHINE):
        if here.get(key) != there.get(key):
            raise CascadeError(
                f"cascade={known.cascade} did not make these samples: {here['stage']}.{key} is {here.get(key)} and was "
                f"{there.get(key)}"
            )
