"""Nothing of float64 is computed on the device: Apple's GPU has none, so what needs it is computed on the host.

The device is pretended: its tensors are of a class that refuses float64, and what is computed of them is of that class.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import Tensor, nn

from cascade.artifact import Stage
from cascade.data.procedural import ProceduralDataset
from cascade.rng import ImageNoise
from cascade.stage_sampler import StageSampler
from stages.assembly import build_stage, stage_config, validation_view
from stages.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")

HANDED_OVER = {torch.Tensor.to, torch.Tensor.type_as, torch.Tensor.copy_}
"""What may be given a float64 tensor of the host, because it makes another of it on the way."""


class OnDevice(Tensor):
    """A tensor on a device that has no float64."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function not in HANDED_OVER:
            _refuse(function, [*arguments, *(keywords or {}).values()])
        made = super().__torch_function__(function, types, arguments, keywords or {})
        _refuse(function, [made])
        return made.as_subclass(Tensor) if function is torch.Tensor.cpu else made


def _refuse(function: Any, values: Any) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        for value in values:
            if isinstance(value, list | tuple):
                _refuse(function, value)
            elif isinstance(value, OnDevice) or (isinstance(value, Tensor) and value.ndim):
                # A scalar of the host goes along as a number.
                assert value.dtype != torch.float64, f"{function} has float64 on the device"


def on_device(value: Tensor) -> Tensor:
    assert value.dtype != torch.float64
    return value.as_subclass(OnDevice)


def move(module: nn.Module) -> None:
    """What `module.to(device)` does."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                moved = nn.Parameter(on_device(value.detach()), requires_grad=value.requires_grad)
                part._parameters[name] = moved
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = on_device(value)


def configuration(*overrides: str) -> dict[str, Any]:
    small = ["network=tiny", "network.dropout=0.2", "data.size=4", "data.val_size=4", "grid.n=3", "trainer.batch=4"]
    with initialize_config_module("conf", version_base="1.3"):
        return OmegaConf.to_container(compose("train", overrides=[*overrides, *small]), resolve=True)


BASE = ("stage=base64", "stage.resolution=16", "geometric=edm", "geometric.p=1.0")
SR = ("stage=sr256", "stage.resolution=32", "stage.low_resolution=8", "stage.crop=16")
SR = (*SR, "augmentation.blur_probability=0.5")
CASES = [
    pytest.param(BASE, id="base64"),
    pytest.param(SR, id="sr256"),
    pytest.param((*BASE, "noise=cosine", "weighting=sigmoid", "sampler=ancestral", "grid=uniform_t"), id="sigmoid"),
    pytest.param((*BASE, "noise=linear_beta", "weighting=min_snr", "preconditioning=v", "sampler=heun"), id="min_snr"),
    pytest.param((*BASE, "weighting=simple", "preconditioning=eps", "threshold=dynamic", "sampler=ddim"), id="simple"),
]


@pytest.mark.parametrize("overrides", CASES)
def test_a_step_validation_and_sampling_hold_no_float64(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = configuration(*overrides)
    dataset = ProceduralDataset(config["stage"]["resolution"], "val", val_size=4)
    described = stage_config(config, dataset)
    stage = build_stage(config, described)
    move(stage)
    optimizer = stage.configure_optimizers()
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    trainer = SimpleNamespace(
        accumulate_grad_batches=1,
        strategy=strategy,
        optimizers=[optimizer],
        global_rank=0,
        world_size=1,
        precision_plugin=SimpleNamespace(forward_context=torch.no_grad),
    )
    stage.trainer = trainer
    view = validation_view(config, dataset)
    shown = [{key: on_device(value) for key, value in view[i].items()} for i in range(4)]
    batch = {key: torch.stack([item[key] for item in shown]) for key in shown[0]}
    assert all(type(value) is OnDevice for value in batch.values())

    loss = stage.training_step(batch, 0)
    assert type(loss) is OnDevice
    loss.backward()
    stage.configure_gradient_clipping(optimizer)
    optimizer.step()
    stage.recipe.ema.update(stage.average, stage.denoiser, 0)
    assert all(value.dtype != torch.float64 for value in stage.state_dict().values())
    assert stage.take_metrics()["train/loss"] > 0

    bars = SimpleNamespace(at=lambda *told: None, end=lambda name: None)
    validation = Validation(shown, count=4, batch=2, every_steps=1, bars=bars)
    assert validation._levels(stage).dtype == torch.float32
    assert validation._measure(trainer, stage)["val/loss"] > 0

    class Noise(ImageNoise):
        def __call__(self, step: int, draw: int = 0) -> Tensor:
            return on_device(super().__call__(step, draw))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cascade.stage_sampler.ImageNoise", Noise)
        current = Stage(described, stage.average, tmp_path, sha256="")
        sampler = StageSampler.prepare(current, described.sampling, torch.device("cpu"), "fp32")
        low = described.low_resolution
        small = None if low is None else torch.zeros(1, 3, low, low, dtype=torch.uint8)
        steps: list[int] = []
        assert sampler.run([(1, 7)], small, steps.append).dtype == torch.uint8
        assert steps[0] == 0


def test_the_pretended_device_refuses_float64() -> None:
    x = on_device(torch.ones(2))
    assert type(torch.ones(2, dtype=torch.float64).to(x)) is OnDevice
    assert type(x.cpu().double()) is Tensor
    for wrong in (
        x.double,
        lambda: x * torch.ones(2, dtype=torch.float64),
        lambda: torch.zeros_like(x).to(torch.float64),
    ):
        with pytest.raises(AssertionError, match="float64 on the device"):
            wrong()
