"""What `cascade plan` measures on this machine by a few steps, and what it estimates for a named card instead."""

import copy
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cascade.arithmetic import EAGER, PLAIN, Arithmetic, choose
from cascade.calibration import Calls
from cascade.commands.plan_cards import Card
from cascade.commands.plan_stage import PlannedStage
from cascade.errors import CascadeError
from cascade.full_float32 import full_float32, one_gradient
from cascade.machine import (
    CPU,
    device_name,
    forget_peak,
    multiplies_in_bf16,
    peak_memory,
    total_memory,
    training_device,
    training_precision,
    wait_for,
)
from cascade.networks import seeded_dropout
from cascade.registry import build
from cascade.rng import generator
from cascade.stage_denoiser import stage_denoiser

ROOM = 3.0
"""Seconds that a measured step may take; where the batch is too large for that, some of its pictures are measured."""
OF_A_PARAMETER = 20
"""Bytes: the weight, its gradient, two moments of AdamW and its average, float32 each."""
LAUNCH = 5e-6
"""Seconds that a card takes to begin an operation, however small."""
CONTEXT = 1e9
"""Bytes that a card's driver and libraries take."""

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Costs:
    """What a training step and a chunk of sampling cost.

    step_seconds, chunk_seconds    one optimizer step; all steps of a chunk of pictures
    training_bytes, sampling_bytes of memory, in all; of training, in one of its processes
    memory                         bytes that there are; None: not known
    notes                          how each was found, in words: training, sampling
    """

    where: str
    estimated: bool
    step_seconds: float
    chunk_seconds: float
    training_bytes: float
    sampling_bytes: float
    memory: float | None
    notes: Mapping[str, str]


def measured(planned: PlannedStage, config: Mapping[str, Any], tell: Tell) -> Costs:
    """Measure sampling, then training, by the clock and by the count of memory, on the device that would train.

    Apple's GPU does not count its memory, so the processor is measured there. Raises CascadeError where not even one
    picture fits.
    """
    device = torch.device(training_device(config["trainer"]["accelerator"]))
    meter = Meter(CPU if device.type == "mps" else device)
    memory = total_memory(meter.device)
    try:
        chunk_seconds, sampling_bytes, arithmetic = sampling_costs(planned, tell, meter)
        step = TrainingStep.build(planned, config, device=meter.device)
        with one_gradient():
            step_seconds, training_bytes, note = _training_costs(step, config["trainer"], meter, tell)
    except torch.OutOfMemoryError as error:
        wanted = "stage.network_batch or a smaller network"
        raise CascadeError(f"the memory of {meter.where()} does not hold it; a smaller {wanted} needs less") from error
    return Costs(
        where=f"this machine ({meter.where()})",
        estimated=False,
        step_seconds=step_seconds,
        chunk_seconds=chunk_seconds,
        training_bytes=training_bytes,
        sampling_bytes=sampling_bytes,
        memory=memory,
        notes={
            "training": f"{note}; without the processes that read pictures{busy()}",
            "sampling": f"{arithmetic}, measured by a call of the network",
        },
    )


def _training_costs(
    step: "TrainingStep", trainer: Mapping[str, Any], meter: "Meter", tell: Tell
) -> tuple[float, float, str]:
    """Seconds of an optimizer step, its peak of memory, and how both were found."""
    wanted, what = micro_batch(trainer), "a training step"
    tell(what, 0, 4)
    first_bytes, one = meter.peak_and_seconds(lambda: step(1))
    tell(what, 1, 4)
    batch = max(1, min(wanted, int(ROOM / one)))
    seconds, training_bytes = one, first_bytes
    if batch > 1:
        tell(what, 2, 4)
        batch, training_bytes = _largest_that_fits(step, batch, meter)
        tell(what, 3, 4)
        seconds = meter.seconds(lambda: step(batch))
    tell(what, 4, 4)
    note = f"{'bf16' if step.bf16 else 'fp32'}, measured with {batch} of {wanted} pictures in a call"
    if batch < wanted:
        slope = (training_bytes - first_bytes) / (batch - 1) if batch > 1 else 0.0
        training_bytes += max(slope, _kept_bytes(step)) * (wanted - batch)
        note += " and extended to all"
    return seconds / batch * wanted * trainer["accumulate"], training_bytes, note


def _largest_that_fits(step: "TrainingStep", batch: int, meter: "Meter") -> tuple[int, float]:
    """A batch that a GPU holds, of at most so many pictures, and its peak of memory."""
    try:
        return batch, meter.peak(lambda: step(batch))
    except torch.OutOfMemoryError:
        if batch == 1:
            raise
    step.optimizer.zero_grad(set_to_none=True)  # outside of the error, which holds what the step has made
    return _largest_that_fits(step, batch // 2, meter)


def micro_batch(trainer: Mapping[str, Any]) -> int:
    """Pictures that one process has in one call of the network.

    >>> micro_batch({"batch": 32, "accumulate": 2, "devices": 4})
    4
    """
    return trainer["batch"] // (trainer["accumulate"] * trainer["devices"])


def estimated(planned: PlannedStage, config: Mapping[str, Any], card: Card, utilisation: float, tell: Tell) -> Costs:
    """Estimate from the card's peak, the FLOP and the bytes that a step keeps for its gradient; nothing is timed."""
    tell("counting what a step keeps", 0, 2)
    trainer, sampling = config["trainer"], planned.stage.config.sampling
    micro = micro_batch(trainer)
    speed = card.peak * utilisation
    parameters = planned.crop_cost.parameters
    step = TrainingStep.build(planned, config, bf16=True)
    kept, operations = _kept_bytes(step), _operations(step)
    tell("counting what a step keeps", 1, 2)
    # Of a picture in sampling: it keeps nothing, and has about the largest of its maps, once in and once out.
    area = (planned.stage.config.resolution / planned.crop) ** 2
    held = kept * area / 3 * sampling.network_batch
    tell("counting what a step keeps", 2, 2)
    return Costs(
        where=card.name,
        estimated=True,
        step_seconds=trainer["accumulate"] * 3 * max(planned.crop_cost.flop * micro / speed, operations * LAUNCH),
        chunk_seconds=planned.evaluations
        * max(planned.full_cost.flop * sampling.network_batch / speed, operations * LAUNCH),
        training_bytes=CONTEXT + OF_A_PARAMETER * parameters + kept * micro,
        sampling_bytes=CONTEXT + 4 * parameters + held,
        memory=card.memory,
        notes={
            "training": f"estimated: bf16 at {utilisation:.0%} of {card.peak / 1e12:.0f} TFLOP/s, and at "
            f"least {1e6 * LAUNCH:.0f} µs for each of {operations} operations; the reading of pictures is not in it",
            "sampling": "estimated likewise; its memory as a third of what training keeps of a picture of that size",
        },
    )


@dataclass(frozen=True)
class TrainingStep:
    """A step as training makes it: loss, gradient, clipping, AdamW, the average of the weights; on empty pictures."""

    planned: PlannedStage
    loss: nn.Module | Callable[..., Tensor]
    noise: Any
    weighting: Any
    ema: Any
    average: nn.Module
    optimizer: torch.optim.Optimizer
    bf16: bool
    device: torch.device

    @classmethod
    def build(
        cls, planned: PlannedStage, config: Mapping[str, Any], bf16: bool | None = None, device: torch.device = CPU
    ) -> "TrainingStep":
        """Build it of a config of `cascade train`; bf16 as that chooses it, unless it is given."""
        if bf16 is None:
            bf16 = training_precision(config["trainer"]["precision"], device.type) == "bf16"
        denoiser = planned.stage.denoiser.to(device).train().requires_grad_(True)
        denoiser.to(memory_format=torch.channels_last if bf16 else torch.contiguous_format)
        noise = build("noise", config["noise"])
        loss = build("loss", config["loss"])
        extra = list(loss.to(device).parameters()) if isinstance(loss, nn.Module) else []
        optimizer = torch.optim.AdamW([*denoiser.parameters(), *extra])
        average = copy.deepcopy(denoiser).eval().requires_grad_(False)
        weighting = build("weighting", config["weighting"], noise=noise)
        return cls(planned, loss, noise, weighting, build("ema", config["ema"]), average, optimizer, bf16, device)

    def __call__(self, batch: int) -> None:
        """Make a step on so many pictures."""
        self.forward(batch).backward()
        denoiser = self.planned.stage.denoiser
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.average, denoiser, 0)

    def forward(self, batch: int) -> Tensor:
        """The loss of so many pictures."""
        x, condition = self.planned.example(batch, self.planned.crop)
        x, condition = x.to(self.device), condition.to(self.device)
        log_snr = self.noise.icdf((torch.arange(batch) + 0.5) / batch).to(x)
        draws = [generator("plan", place) for place in range(batch)]
        with torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext(), seeded_dropout(draws):
            denoiser = self.planned.stage.denoiser
            return self.loss(denoiser, x, log_snr, torch.ones_like(x), condition, self.weighting).mean()


@dataclass(frozen=True)
class Meter:
    """Seconds and memory of work on a device."""

    device: torch.device

    def where(self) -> str:
        """What is measured, in words."""
        count = torch.get_num_threads()
        threads = f", {count} thread{'s' * (count > 1)}" if self.device.type == "cpu" else ""
        return device_name(self.device) + threads

    def peak(self, work: Callable[[], object]) -> int:
        """The peak of memory."""
        forget_peak(self.device)
        work()
        return peak_memory(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """By the clock."""
        wait_for(self.device)
        began = time.perf_counter()
        work()
        wait_for(self.device)
        return time.perf_counter() - began

    def peak_and_seconds(self, work: Callable[[], object]) -> tuple[int, float]:
        """The peak of a first call, which prepares what a shape needs, and the seconds of a second."""
        peaks: list[int] = []
        first = self.seconds(lambda: peaks.append(self.peak(work)))
        return peaks[0], first if first > ROOM / 2 else self.seconds(work)


def sampling_costs(planned: PlannedStage, tell: Tell, meter: Meter = Meter(CPU)) -> tuple[float, float, str]:
    """Seconds of a chunk of pictures, the peak of memory, and the arithmetic: float32, or bf16 if much faster.

    The rule is that of `precision=auto`, which tries more of them, and each more often.
    """
    stage = planned.stage
    stage.denoiser.to(meter.device).eval().requires_grad_(False)
    chunk, side = stage.config.sampling.network_batch, stage.config.resolution
    calls = Calls(stage, chunk, side, meter.device)
    example = calls.example()
    candidates = [PLAIN, EAGER[2]] if multiplies_in_bf16(meter.device.type) else [PLAIN]
    times: dict[Arithmetic, list[float]] = {}
    peaks: dict[Arithmetic, int] = {}
    with torch.no_grad(), full_float32():
        for done, arithmetic in enumerate(candidates):
            tell("a call of the network at full size", done, len(candidates))
            denoiser = stage_denoiser(stage, calls.device, arithmetic)
            peaks[arithmetic], seconds = meter.peak_and_seconds(lambda denoiser=denoiser: denoiser(*example))
            times[arithmetic] = [seconds]
    tell("a call of the network at full size", len(candidates), len(candidates))
    best = choose(times)
    return planned.evaluations * times[best][0], float(peaks[best]), best.name


def _kept_bytes(step: TrainingStep) -> float:
    """Bytes that the forward pass of one picture keeps for the backward pass, each piece of memory once."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in step.planned.stage.denoiser.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.forward(1)  # alive until all is counted, so no address is used twice
    del loss
    return float(sum(kept.values()))


def _operations(step: TrainingStep) -> int:
    """Operations of a forward pass, each of which a card must be told to begin."""
    counter = _Operations()
    with counter, torch.no_grad():
        step.forward(1)
    return counter.count


class _Operations(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def busy() -> str:
    """A warning where other programs compete for the processor, which makes every time too long."""
    others, cores = os.getloadavg()[0] - 1, os.cpu_count() or 1
    return (
        "" if others < cores / 4 else f"; the machine is busy (load {others + 1:.1f} on {cores} cores): times are long"
    )
