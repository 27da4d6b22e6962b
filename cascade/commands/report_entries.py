"""What a report shows of each picture: its stages one after the other, what lies beside it, and its command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cascade.commands.report_html import Entry, relative
from cascade.commands.report_nearest import Real, Space
from cascade.commands.report_pictures import data_uri, file_uri, shown
from cascade.commands.report_samples import PLAIN
from cascade.commands.report_settings import Known, command_of
from cascade.commands.report_steps import Replay, StagePath, given
from cascade.trained_levels import noise_in_words

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.report_samples import Sample

_BESIDE = 128
"""Pixels of what is shown beside a sample."""


@dataclass
class Entries:
    """What entries are made of; `up` is the samples' folder seen from the page, `texts` grows by the real pictures."""

    known: Known
    up: str
    most: int
    full: bool
    replay: Replay | None = None
    real: Real | None = None
    spaces: Sequence[Space] = ()
    paths: Mapping[str, Sequence[StagePath]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def entry(self, place: int, sample: "Sample") -> Entry:
        """The entry of a picture, number `place` of the samples."""
        pictures = self.known.samples.of_stages(sample)
        last = self.known.samples.names[-1]
        views = [*self._stages(sample, pictures), *self._real(sample)]
        detail = {
            "name": sample.name,
            "file": sample.file,
            "href": relative(sample.file, self.up),
            "command": command_of(sample, self.known) if sample.stages else "",
            "views": views,
            "near": [self._near(space, place) for space in self.spaces],
            "steps": f"steps-{place}" if sample.file in self.paths else "",
        }
        side = min(self.most, pictures[last].shape[-1])
        thumbnail = data_uri(pictures[last], self.most)
        return Entry(sample.name, sample.class_name, sample.seed, sample.file, thumbnail, side, detail)

    def _stages(self, sample: "Sample", pictures: "Mapping[str, Tensor]") -> list[dict[str, Any]]:
        """Low-res, augmented low-res and output of each stage, as far as they are known."""
        if not sample.stages:
            return [self._last(sample, f"a picture of {_px(pictures[PLAIN])}", pictures[PLAIN])]
        views, paths = [], {path.stage: path for path in self.paths.get(sample.file, ())}
        begun = given(self.known.low_res, [sample])
        low_res = None if begun is None else begun[0]
        if low_res is not None:
            views.append(self._view("given", f"the picture it started from, {_px(low_res)}", sample, low_res))
        for number, row in enumerate(sample.stages):
            stage, path = row["stage"], paths.get(row["stage"])
            augmented = None if path is None else path.low_res
            if augmented is None and self.replay is not None and low_res is not None and not row.get("truncated"):
                augmented = self.replay.augmented(self.replay.plan[number], sample, low_res)
            if augmented is not None:
                caption = f"what {stage} is shown, {_px(augmented)}, {noise_in_words(row['aug_log_snr'])}"
                views.append(self._view("augmented", caption, sample, augmented))
            low_res = pictures.get(stage, None if path is None else path.made)
            if low_res is not None:
                views.append(self._output(sample, row, low_res))
        return views

    def _output(self, sample: "Sample", row: Mapping[str, Any], pixels: "Tensor") -> dict[str, Any]:
        stage, samples = row["stage"], self.known.samples
        steps = f"{row['steps']} step{'s' * (row['steps'] != 1)}"
        caption = f"made by {stage}, {_px(pixels)}, {steps} of {row['sampler']['name']}"
        if stage == samples.names[-1]:
            return self._last(sample, caption, pixels)
        view = self._view(stage, caption, sample, pixels)
        kept = samples.kept(sample, stage)
        if kept is not None:
            view["href"] = relative(kept, self.up)
        return view

    def _last(self, sample: "Sample", caption: str, pixels: "Tensor") -> dict[str, Any]:
        """What the last stage has made, which the page has already, in the grid."""
        samples = self.known.samples
        view = self._view(samples.names[-1], caption, sample, pixels)
        del view["src"]
        file = samples.folder / sample.file
        full = "" if not self.full else file_uri(file) if shown(file) else data_uri(pixels, pixels.shape[-1])
        return {**view, "href": relative(sample.file, self.up), "output": True, "full": full}

    def _view(self, name: str, caption: str, sample: "Sample", pixels: "Tensor") -> dict[str, Any]:
        return {
            "name": name,
            "size": _px(pixels),
            "caption": caption,
            "alt": f"{sample.name}: {caption}",
            "src": data_uri(pixels, self.most),
            "exact": pixels.shape[-1] <= 64,
        }

    def _real(self, sample: "Sample") -> list[dict[str, Any]]:
        pixels = None if self.real is None else self.real.beside(sample)
        if self.real is None or pixels is None:
            return []
        of = "" if sample.class_name is None else f" of {sample.class_name}"
        trained = "trained on" if self.real.unseen is None else "not trained on"
        return [self._view("real", f"a photograph{of} that was {trained}, {_px(pixels)}", sample, pixels)]

    def _near(self, space: Space, place: int) -> dict[str, Any]:
        name, caption = self.neighbour(space, place)
        alt = f"the nearest training picture in {space.name}"
        return {"of": name, "alt": alt, "caption": f"in {space.name}: {caption}", "exact": False}

    def neighbour(self, space: Space, place: int) -> tuple[str, str]:
        """The id of the nearest training picture, which the page then has, and how far it is."""
        assert self.real is not None, "nearest pictures are looked for among real ones"
        index, distance = int(space.found.index[place]), float(space.found.distance[place])
        name = f"trained-{index}"
        if name not in self.texts:
            self.texts[name] = data_uri(self.real.trained.image(index), min(self.most, _BESIDE))
        return name, f"{distance:.3g} {space.unit}".strip()


def _px(pixels: "Tensor") -> str:
    return f"{pixels.shape[-1]} px"
