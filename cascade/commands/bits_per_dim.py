"""`metrics=[bits_per_dim,log_likelihood]` of `cascade evaluate`: what real pictures cost under each stage of a cascade.

The first is bounded by an ELBO (`bound=`), the second read from the probability flow; the rest is one and the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from cascade.class_tables import table_difference
from cascade.commands.evaluated_sides import Sides, open_data
from cascade.commands.explain_style import short
from cascade.commands.per_stage import read_per_stage
from cascade.commands.shared_chunks import SharedChunks
from cascade.distilled import refuse_distilled
from cascade.errors import CascadeError
from cascade.plain_json import without_infinity
from cascade.requests import chosen_stages
from cascade.stage_settings import StageSettings
from cascade.trained_levels import levels_of_255

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.data.dataset import PictureDataset
    from cascade.diffusion import Condition, Elbo, Posterior
    from cascade.evaluation.bits_per_dim import Bound, Example, JudgedStage
    from cascade.evaluation.figures import Figure
    from cascade.stage_sampler import StageSampler


def check_bits_per_dim(plain: Mapping[str, Any], metric: str) -> None:
    """Everything that can be said of the command line itself, before torch is imported."""
    from cascade.data.source import check_source

    if plain["cascade"] is None:
        raise CascadeError(f"{metric} judges a cascade: give cascade=FOLDER, not images=FOLDER")
    if plain[metric]["num_images"] < 1:
        raise CascadeError(f"{metric}.num_images={plain[metric]['num_images']} must be at least 1")
    check_source(plain["data"])


@dataclass(eq=False, kw_only=True)
class JudgedChunks(SharedChunks["Elbo"]):
    """What pictures cost under one stage: a call of its network at a time, each picture whatever the others are."""

    stage: "JudgedStage"
    bound: "Bound"
    examples: "Callable[[range], Iterable[Example]]"
    seed: int
    pictures: int

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return self.pictures

    @property
    def size(self) -> int:
        """Pictures of a call."""
        return self.stage.chunk

    def piece(self, places: range) -> "Elbo":
        """The terms of these pictures."""
        return self.stage.nats(self.bound, self.examples(places), self.seed, self.tell)

    def to_bytes(self, piece: "Elbo") -> bytes:
        """Terms as a file."""
        from cascade.evaluation.bits_per_dim import elbo_bytes

        return elbo_bytes(piece)

    def from_bytes(self, data: bytes) -> "Elbo":
        """Read them."""
        from cascade.evaluation.bits_per_dim import elbo_from

        return elbo_from(data)


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """Stages and pictures that fit, opened and not yet computed with; `chosen` are places in the data."""

    plain: Mapping[str, Any]
    metric: str
    bound: "Bound"
    record: Mapping[str, Any]
    plan: "Sequence[StageSampler]"
    dataset: "PictureDataset"
    chosen: Sequence[int]

    @classmethod
    def open(cls, sides: Sides, metric: str) -> "BitsPerDim":
        """Load the cascade, open the data, and check that they know the same classes."""
        from cascade.rng import permutation

        plain, asked = sides.plain, sides.plain[metric]
        bound, record = JUDGES[metric](plain)
        plan = _plan(plain, bound)
        dataset = open_data(plain, plan[-1].stage.config.resolution, asked["split"], sides.bars, table=())
        order = permutation("evaluation", "bits_per_dim", plain["seed"], size=len(dataset)).tolist()
        if not order:
            raise CascadeError(f"the data hold no picture in the split {asked['split']}")
        for sampler in plan:
            _labels(dataset, sampler)
        return cls(plain, metric, bound, record, plan, dataset, sorted(order[: asked["num_images"]]))

    def works(self, sides: Sides) -> list[JudgedChunks]:
        """What judges the pictures, stage by stage."""
        return [self._work(sides, stage) for stage in range(len(self.plan))]

    def measure(self, works: Sequence[JudgedChunks]) -> "tuple[list[Figure], dict[str, Any]]":
        """Return the figures of each stage and of all, and what the report says of how they came about."""
        from cascade.evaluation.bits_per_dim import bits_figures, joined

        found = {
            sampler.name: (joined(work.pieces()), sampler.stage.config.resolution)
            for sampler, work in zip(self.plan, works, strict=True)
        }
        notes = self._notes()
        record = {
            "bound": self.record,
            "data": {**self.plain["data"], "split": self.plain[self.metric]["split"]},
            "side": self.plan[-1].stage.config.resolution,
            "fingerprint": self.dataset.fingerprint,
            "pictures": list(self.chosen),
            "stages": [_row(sampler) for sampler in self.plan],
            "notes": notes,
        }
        return bits_figures(found, notes, self.bound.kind), record

    def _work(self, sides: Sides, stage: int) -> JudgedChunks:
        """The judgement of one stage."""
        sampler, seed = self.plan[stage], self.plain["seed"]
        depends = {
            "bound": [self.metric, self.record, seed],
            "stage": _row(sampler),
            "pictures": [self.dataset.fingerprint, list(self.chosen)],
            "sides": [sampler.stage.config.resolution for sampler in self.plan],
        }
        own = {
            "stage": _judged(sampler, sides.team.beat),
            "bound": self.bound,
            "examples": lambda places: self._examples(stage, places),
            "seed": seed,
            "pictures": len(self.chosen),
        }
        name = f"{self.metric} of {sampler.name}"
        return sides.share(self.metric, depends, JudgedChunks, name, own)

    def _examples(self, stage: int, places: range) -> "Iterator[Example]":
        """The pictures of a stage and of the one before, shrunk from size to size: each is the same for both."""
        from cascade.data.degradation import from_uint8, shrink, to_uint8
        from cascade.evaluation.bits_per_dim import Example

        sides = [sampler.stage.config.resolution for sampler in self.plan]
        labels = _labels(self.dataset, self.plan[stage])
        for index in self.chosen[places.start : places.stop]:
            pictures = [from_uint8(self.dataset.image(index))]
            for side in reversed(sides[max(0, stage - 1) : -1]):
                pictures.append(shrink(pictures[-1], side))
            image, low_res = (to_uint8(picture) for picture in (pictures[-2:] if stage else [pictures[-1]] * 2))
            yield Example(index, image, labels.get(self.dataset.label(index)), low_res if stage else None)

    def _notes(self) -> dict[str, str]:
        """Stage → what its figure bounds, in words."""
        notes, before = {}, None
        for sampler in self.plan:
            told = ([] if before is None else [f"x {before} px"]) + (
                ["class"] if _labels(self.dataset, sampler) else []
            )
            before = sampler.stage.config.resolution
            given = f" | {', '.join(told)}" if told else ""
            level = sampler.sampling.aug_log_snr
            noise = "" if level is None else f", noise {short(levels_of_255(level))}/255 (λ = {level:g})"
            notes[sampler.name] = f"≥ −ln P(x {before} px{given}){noise}; {self.bound.text}"
        return {**notes, "all stages": f"≥ −ln P(x {before} px), that of all sizes together; {self.bound.text}"}


def _elbo(plain: Mapping[str, Any]) -> "tuple[Bound, dict[str, Any]]":
    from cascade.registry import build, complete

    return build("bound", plain["bound"]), complete("bound", plain["bound"])


def _flow(plain: Mapping[str, Any]) -> "tuple[Bound, dict[str, Any]]":
    from cascade.evaluation.flow_likelihood import FlowLikelihood

    flow = FlowLikelihood(**{key: plain["log_likelihood"][key] for key in signature(FlowLikelihood).parameters})
    return flow, asdict(flow)


JUDGES: "Mapping[str, Callable[[Mapping[str, Any]], tuple[Bound, dict[str, Any]]]]" = {
    "bits_per_dim": _elbo,
    "log_likelihood": _flow,
}
"""Each metric that judges real pictures → what judges them, and its record; the metric has keys of its name."""


def _plan(plain: Mapping[str, Any], bound: "Bound") -> "list[StageSampler]":
    """The stages with their grids and augmentation levels, bare: no guidance and no thresholding has a likelihood."""
    from cascade.artifact import load_chain
    from cascade.orchestrator import CascadePipeline

    configs = load_chain(plain["cascade"])
    chosen = configs[chosen_stages(configs, plain["stages"], None)]
    names = [config.name for config in chosen]
    for config in chosen:
        refuse_distilled(config, "a likelihood")
    given = read_per_stage(plain["per_stage"], [config.name for config in configs])
    bare: dict[str, Any] = {"guidance": "none", "threshold": "none", "guidance_scale": None, "truncated": False}
    if bound.grid_steps is not None:
        bare["steps"] = bound.grid_steps
    settings = {name: replace(given.get(name, StageSettings()), **bare) for name in names}
    precision = "fp32" if plain["precision"] == "auto" else plain["precision"]  # a likelihood is no matter of speed
    pipeline = CascadePipeline.load(plain["cascade"], plain["device"], precision, names)
    return pipeline.plan(stages=plain["stages"], settings=settings)


def _row(sampler: "StageSampler") -> dict[str, Any]:
    return {**sampler.record(), "log_snrs": without_infinity(sampler.log_snrs.tolist())}


def _judged(sampler: "StageSampler", beat: "Callable[[], None]") -> "JudgedStage":
    """The stage, which gives a sign of life whenever its network is called: a judgement takes many calls."""
    from cascade.evaluation.bits_per_dim import JudgedStage
    from cascade.registry import build

    config, inner = sampler.stage.config, sampler.denoiser

    def living(x_t: "Tensor", log_snr: "Tensor", condition: "Condition") -> "Posterior":
        beat()
        return inner(x_t, log_snr, condition)

    return JudgedStage(
        sampler.name,
        living,
        sampler.log_snrs,
        labelled=bool(config.class_names),
        chunk=sampler.chunk,
        augmentation=build("augmentation", config.augmentation),
        aug_log_snr=sampler.sampling.aug_log_snr,
        device=sampler.device,
    )


def _labels(dataset: "PictureDataset", sampler: "StageSampler") -> dict[int, int]:
    """The data's label → the stage's; empty where either knows no classes."""
    table, names = sampler.stage.config.class_names, dataset.class_names
    if not table or not names:
        return {}
    if set(table) != set(names):
        difference = table_difference(f"'{sampler.name}'", table, "the data", names)
        raise CascadeError(
            f"stage '{sampler.name}' knows other classes than the data: {difference}; "
            "judge it on the data that it was trained on"
        )
    return {number: table.index(name) for number, name in enumerate(names)}
