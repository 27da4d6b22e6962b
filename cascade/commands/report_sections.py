"""The parts of a report below its pictures: paths along the steps, nearest training pictures, and spectra."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

import torch

from cascade.commands.report_curves import spectrum_chart
from cascade.commands.report_html import figure
from cascade.commands.report_nearest import said
from cascade.commands.report_pictures import data_uri
from cascade.commands.sample_manifest import NAME
from cascade.data.degradation import from_uint8, shrink, to_uint8

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.commands.report_chart import Chart
    from cascade.commands.report_entries import Entries
    from cascade.commands.report_samples import Sample
    from cascade.commands.report_steps import Moment, StagePath
    from cascade.progress import Bars

_PAIRS = 8
"""Samples that are shown with their nearest training pictures: those that lie nearest."""
_AVERAGED = 64
"""Pictures whose power is averaged."""


def steps_section(made: "Entries", moments: int) -> str:
    """Of each picture that was sampled once more, state and guess at some calls of every stage."""
    samples = made.known.samples
    intro = (
        "Above, the state x<sub>t</sub> that the network is shown; below, its guess x̂ of the finished picture, under "
        "guidance and threshold, from the noisiest level on. Large ones are shrunk, which averages noise; of their "
        "guesses the middle is shown below that at its own pixels."
    )
    parts = [f"<p>{intro}</p>"]
    for place, sample in enumerate(samples.pictures):
        if sample.file not in made.paths:
            continue
        paths = made.paths[sample.file]
        same = _compared(samples.pixels(sample), paths[-1].made)
        parts.append(
            f'<article class="path" id="steps-{place}"><h3>{escape(sample.name)}</h3><p class="quiet">{same}</p>'
        )
        parts += [_film(sample, path, moments) for path in paths]
        parts.append("</article>")
    return "".join(parts)


def _film(sample: "Sample", path: "StagePath", moments: int) -> str:
    last = path.moments[-1].call
    calls = f"{last} call{'s' * (last != 1)} of the network"
    frames = "".join(_frame(sample, path, moment) for moment in path.some(moments))
    label = escape(f"{sample.name}, {path.stage}, along the steps", quote=True)
    return (
        f"<h4>{escape(path.stage)} <span>{calls}</span></h4>"
        f'<div class="film" role="group" tabindex="0" aria-label="{label}">{frames}</div>'
    )


def _frame(sample: "Sample", path: "StagePath", moment: "Moment") -> str:
    where = f"{sample.name}, {path.stage}, call {moment.call}"
    side = moment.guess.shape[-1]
    pictures = figure(data_uri(moment.state, side), f"{where}: the state", side)
    pictures += figure(data_uri(moment.guess, side), f"{where}: the guess", side)
    if moment.detail is not None:
        own = moment.detail.shape[-1]
        pictures += figure(data_uri(moment.detail, own), f"{where}: the middle of the guess", own)
    level = f"λ {moment.log_snr:.1f}<br>σ/α {math.exp(-moment.log_snr / 2):.3g}"
    return f"<figure>{pictures}<figcaption>call {moment.call}<br>{level}</figcaption></figure>"


def _compared(there: "Tensor", again: "Tensor | None") -> str:
    """Whether what was sampled once more is what lies there."""
    if again is None or again.shape != there.shape:
        return "Sampled once more, it came out in another size."
    if torch.equal(there, again):
        return "Sampled once more, it is the same bits as the file."
    most = int((there.int() - again.int()).abs().max())
    return (
        f"Sampled once more, it differs from the file by up to {most} of 255 levels, as it may on another machine or "
        "device."
    )


def nearest_section(made: "Entries") -> str:
    """What the distances say, and the samples that lie nearest to a training picture, beside it."""
    assert made.real is not None, "only where there are photographs"
    samples = made.known.samples.pictures
    parts = [f"<p>{escape(line)}</p>" for line in said(made.spaces, made.real.why_none)]
    for space in made.spaces:
        parts.append(f'<h3>Nearest in {escape(space.name)}</h3><div class="pairs">')
        for place in space.order(_PAIRS):
            sample = samples[place]
            name, distance = made.neighbour(space, place)
            ours = data_uri(made.known.samples.pixels(sample), 128)
            pictures = figure(ours, sample.name, 128)
            pictures += figure(made.texts[name], f"the training picture nearest to {sample.name}", 128)
            parts.append(
                f'<figure class="pair"><div>{pictures}</div>'
                f"<figcaption>{escape(sample.name)}<br>{escape(distance)}</figcaption></figure>"
            )
        parts.append("</div>")
    return "".join(parts)


def spectra(made: "Entries", bars: "Bars") -> list["Chart"]:
    """The power spectrum after each stage whose pictures were kept, beside that of photographs at its size."""
    samples, found = made.known.samples, []
    first = samples.pictures[:_AVERAGED]
    for stage in samples.names:
        if any(samples.kept(sample, stage) is None for sample in first):
            continue
        of_stage = lambda sample, stage=stage: samples.pixels(sample, stage)  # noqa: E731
        side = of_stage(first[0]).shape[-1]
        sets: dict[str, Iterator[Tensor]] = {"samples": _told(first, of_stage, f"spectrum of {stage}", bars)}
        if made.real is not None:
            shown = made.real.shown
            places = range(min(len(shown), _AVERAGED))
            sets["photographs"] = (_shrunk(shown.image(i), side) for i in places)
        chart = spectrum_chart(stage, sets)
        found += [] if chart is None else [chart]
    return found


def _told(of: "Sequence[Sample]", picture: "Callable[[Sample], Tensor]", name: str, bars: "Bars") -> "Iterator[Tensor]":
    for done, sample in enumerate(of, 1):
        yield picture(sample)
        bars.at(name, done, len(of))


def _shrunk(pixels: "Tensor", side: int) -> "Tensor":
    return pixels if pixels.shape[-1] == side else to_uint8(shrink(from_uint8(pixels), side))


def some_of_each_class(of: "Sequence[Sample]", count: int) -> "list[Sample]":
    """The first `count` pictures, by turns of each class: the first of each, then the second of each.

    >>> from cascade.commands.report_samples import Sample
    >>> three = [Sample("a/0.png", 0, "a", {}), Sample("a/1.png", 1, "a", {}), Sample("b/0.png", 0, "b", {})]
    >>> [sample.file for sample in some_of_each_class(three, 2)]
    ['a/0.png', 'b/0.png']
    """
    seen: dict[str | None, int] = {}
    turns: list[tuple[int, int]] = []
    for place, sample in enumerate(of):
        turns.append((seen.get(sample.class_name, 0), place))
        seen[sample.class_name] = turns[-1][0] + 1
    return [of[place] for _, place in islice(sorted(turns), count)]


def lede(made: "Entries") -> str:
    """What the page shows, in a sentence."""
    samples = made.known.samples
    pictures = f"{len(samples.pictures):,} picture{'s' * (len(samples.pictures) != 1)}"
    classes = len({sample.class_name for sample in samples.pictures} - {None})
    of = f" of {classes} class{'es' * (classes != 1)}" if classes else ""
    sizes = {stage: tensor.shape[-1] for stage, tensor in samples.of_stages(samples.pictures[0]).items()}
    chain = " → ".join(f"{name} ({sizes[name]} px)" if name in sizes else name for name in samples.names)
    if samples.side is not None:
        return " ".join([f"{pictures}{of}, at {samples.side} px.", *samples.notes])
    return f"{pictures}{of}, made by {chain}."


def missing(plain: Mapping[str, object], made: "Entries") -> list[str]:
    """What a further setting would show, in a line each."""
    lines = []
    if made.known.samples.side is not None:
        lines.append(f"samples= a folder with the {NAME} of cascade sample: stage by stage, each with its command")
    elif made.replay is None:
        lines.append("cascade=: augmented low-res pictures, and the paths along the steps")
    if made.real is None:
        lines.append("data=: real pictures, the nearest training pictures, and the spectrum of photographs")
    if not plain["runs"]:
        lines.append("runs=: the curves of the trainings")
    if not plain["cards"]:
        lines.append("cards=: figures of cascade evaluate and cascade card")
    return lines
