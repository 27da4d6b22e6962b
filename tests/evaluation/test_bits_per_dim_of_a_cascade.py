"""Bits per dimension of real pictures: bounds whose numbers are a picture's own, and add up over the stages."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from cascade import rng
from cascade.artifact import CascadeConfig, StageConfig, StageSampling, build_denoiser, save_cascade_config, save_stage
from cascade.commands.command_line import main
from cascade.data.degradation import from_uint8, shrink, to_uint8
from cascade.data.procedural import ProceduralDataset
from cascade.diffusion import Elbo, GaussianAugmentation, MixtureDenoiser, NoAugmentation, Posterior
from cascade.errors import CascadeError
from cascade.evaluation.bits_per_dim import (
    ContinuousBound,
    DiscreteBound,
    Example,
    JudgedStage,
    PictureDraws,
    bits_figures,
)

GRID = torch.tensor([-9.0, -3.0, 0.0, 3.0, 11.0, math.inf], dtype=torch.float64)
BOUNDS = [DiscreteBound(), DiscreteBound(variance="large"), ContinuousBound(points=3)]


def pictures(count, side=4):
    return [(255 * rng.uniform("picture", i, shape=(3, side, side))).to(torch.uint8) for i in range(count)]


class Told:
    """A denoiser that answers by whatever it is told, and remembers it."""

    def __init__(self):
        self.conditions = []

    def __call__(self, x_t, log_snr, condition):
        self.conditions.append(condition)
        mean = 0.3 * x_t
        if condition.label is not None:
            mean = mean + 0.01 * condition.label[:, None, None, None]
        if condition.low_res is not None:
            mean = mean + 0.1 * condition.low_res.mean((1, 2, 3), keepdim=True)
        return Posterior(mean, variance_fraction=torch.full_like(x_t, 0.5))


def base(chunk=4, denoiser=None, **changes):
    settings = {"labelled": True, "augmentation": NoAugmentation(), **changes}
    return JudgedStage("base", denoiser or Told(), GRID, chunk=chunk, **settings)


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_a_pictures_nats_are_its_own_in_whatever_batch(bound):
    """Its noise is named by its place in the data, not by the batch: alone, in threes, in another order."""
    examples = [Example(i, image, i % 3) for i, image in enumerate(pictures(5))]
    whole = base().nats(bound, examples, seed=1).total
    for chunk, order in [(1, [0, 1, 2, 3, 4]), (3, [4, 2, 0, 1, 3])]:
        total = base(chunk).nats(bound, [examples[i] for i in order], seed=1).total
        assert_close(total, whole[order], rtol=1e-6, atol=0)
    assert torch.equal(base().nats(bound, examples[:4], seed=1).total, whole[:4])
    assert not torch.allclose(base().nats(bound, examples, seed=2).total, whole, rtol=1e-4)


def test_the_bound_of_one_known_picture_is_small_and_of_two_half_a_bit_each():
    """An exact denoiser of data that are two pictures: ln 2 nats, whatever their size."""
    two = pictures(2)
    means = from_uint8(torch.stack(two)).flatten(1)
    oracle = MixtureDenoiser(torch.ones(2), means, torch.zeros(2, 48, 48))
    examples = [Example(i, two[i % 2]) for i in range(40)]
    stage = base(8, oracle, labelled=False)
    bound = ContinuousBound(points=64, log_snr_min=-14.0, log_snr_max=14.0)
    nats = stage.nats(bound, examples, seed=0).total
    error = float(nats.std()) / 40**0.5
    assert abs(float(nats.mean()) - math.log(2)) < 4 * error + 0.02
    assert error < 0.1


def test_the_levels_are_the_grids_unless_they_are_given():
    seen = []

    class Watching:
        def __call__(self, x_t, log_snr, condition):
            seen.extend(log_snr.tolist())
            return Posterior(torch.zeros_like(x_t))

    for bound, low, high in [(ContinuousBound(points=8), -9.0, 11.0), (ContinuousBound(8, -5.0, 4.0), -5.0, 4.0)]:
        seen.clear()
        base(2, Watching()).nats(bound, [Example(i, image) for i, image in enumerate(pictures(2))], seed=0)
        levels, decoder = torch.tensor(seen[:-2]).reshape(8, 2), seen[-2:]
        assert decoder == [high, high]
        edges = torch.linspace(low, high, 9)[:, None]
        assert bool(((edges[:-1] <= levels) & (levels <= edges[1:])).all())
        assert not torch.equal(levels[:, 0], levels[:, 1])


def test_a_stage_is_told_the_real_small_picture_at_its_level_and_the_class():
    denoiser = Told()
    large, small = pictures(3, 8), pictures(3, 4)
    augmentation = GaussianAugmentation(-2.0, 6.0, default=2.0)
    stage = JudgedStage("sr", denoiser, GRID, True, 2, augmentation, aug_log_snr=2.0)
    examples = [Example(10 + i, large[i], [4, None, 1][i], small[i]) for i in range(3)]
    stage.nats(DiscreteBound(), examples, seed=3)
    first = denoiser.conditions[0]
    assert first.label.tolist() == [4, -1]
    assert first.aug_log_snr.tolist() == [2.0, 2.0]
    draws = PictureDraws(3, "sr", [10, 11], (3, 8, 8))
    told = augmentation.apply(from_uint8(torch.stack(small[:2])), torch.full((2,), 2.0), draws.augmentation((3, 4, 4)))
    assert torch.equal(first.low_res, told)
    # Noise is added once, and is the same at each level; the last chunk is padded by its last picture.
    assert all(torch.equal(condition.low_res, told) for condition in denoiser.conditions[:5])
    assert denoiser.conditions[-1].label.tolist() == [1, 1]


def test_draws_of_a_picture_differ_by_every_name():
    shape = (3, 4, 4)
    one = PictureDraws(0, "base", [5], shape)
    others = [
        PictureDraws(1, "base", [5], shape),
        PictureDraws(0, "sr", [5], shape),
        PictureDraws(0, "base", [6], shape),
    ]
    assert all(not torch.equal(one.normal(2), other.normal(2)) for other in others)
    assert not torch.equal(one.normal(2), one.normal(3))
    assert not torch.equal(one.uniform(2), one.uniform(3))
    assert not torch.equal(one.normal(0), one.augmentation(shape))


def test_a_broken_stage_is_named():
    broken = lambda x_t, log_snr, condition: Posterior(x_t * math.nan)  # noqa: E731
    with pytest.raises(CascadeError, match="'base' gives a picture no finite number"):
        base(2, broken).nats(DiscreteBound(), [Example(0, pictures(1)[0])], seed=0)
    with pytest.raises(CascadeError, match="no pictures to judge"):
        base().nats(DiscreteBound(), [], seed=0)


def test_figures_are_means_over_pictures_with_their_standard_errors():
    """The sum's error is that of each picture's own sum, and its dimensions are those of the largest picture."""
    zero, first, second = torch.zeros(3), torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0, 1.0, 3.0])
    found = bits_figures(
        {"base": (Elbo(zero, first, zero), 2), "sr": (Elbo(zero, zero, second), 4)},
        {"base": "one", "sr": "two", "all stages": "both"},
    )
    by_name = {figure.name: figure for figure in found}
    for name, nats, side in [("base", first, 2), ("sr", second, 4), ("all stages", first + second, 4)]:
        for unit, scale in (("nats", 1.0), ("bits/dim", 1 / (3 * side**2 * math.log(2)))):
            figure = by_name[f"{unit} {name} (bound)"]
            assert figure.value == pytest.approx(float(nats.mean()) * scale)
            assert figure.standard_error == pytest.approx(float(nats.std()) / 3**0.5 * scale)
    assert [figure.resize for figure in found] == ["one", "one", "two", "two", "both", "both"]
    alone = bits_figures({"base": (Elbo(zero[:1], first[:1], zero[:1]), 2)}, {"base": ""})
    assert [figure.standard_error for figure in alone] == [None, None]


# The command


AUGMENTATION = {"name": "gaussian", "log_snr_min": 0.0, "log_snr_max": 6.0, "default": 2.0}


def write_stage(folder, name, resolution, low_resolution):
    is_base = low_resolution is None
    sampling = StageSampling(
        sampler={"name": "ddim"},
        grid={"name": "uniform_log_snr", "log_snr_min": -10.0, "log_snr_max": 10.0, "n": 4},
        guidance={"name": "classifier_free", "scale": 3.0} if is_base else {"name": "none"},
        threshold={"name": "static"},
        aug_log_snr=None if is_base else 2.0,
        network_batch=3,
    )
    network = {"name": "efficient", "patch": 4, "channels": [8], "blocks": [1], "attention": [False]}
    config = StageConfig(
        name=name,
        resolution=resolution,
        network={**network, "norm": "pixel", "embedding_dim": 8},
        preconditioning={"name": "edm"},
        sampling=sampling,
        low_resolution=low_resolution,
        class_names=tuple(ProceduralDataset.class_names) if is_base else (),
        augmentation={"name": "none"}
        if is_base
        else {"name": "gaussian", "log_snr_min": 0.0, "log_snr_max": 6.0, "default": 2.0},
    )
    state = build_denoiser(config).state_dict()
    save_stage(folder / name, config, {k: 0.1 * rng.randn("weights", k, shape=v.shape) for k, v in state.items()})
    return name, sampling


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """Three stages of random weights: 8, 16 and 32 px, the base with classes, guidance and a threshold."""
    folder = tmp_path_factory.mktemp("cascade")
    rows = [write_stage(folder, *row) for row in (("base", 8, None), ("sr16", 16, 8), ("sr32", 32, 16))]
    save_cascade_config(folder, CascadeConfig(tuple(rows)))
    return folder


def evaluate(cascade, *words):
    given = {word.partition("=")[0] for word in words}
    defaults = {"metrics": "[bits_per_dim]", "bits_per_dim.num_images": 2, "threads": 1}
    rest = [f"{key}={value}" for key, value in defaults.items() if key not in given]
    return main(["evaluate", f"cascade={cascade}", *rest, *words])


def read(out):
    report = json.loads((out / "evaluation.json").read_text())
    return {figure["name"]: figure for figure in report["figures"]}, report


def test_a_row_for_each_stage_and_the_sum(cascade, tmp_path, capsys):
    assert evaluate(cascade, "bits_per_dim.num_images=5", f"out={tmp_path}") == 0
    found, report = read(tmp_path)
    stages = {"base": 8, "sr16": 16, "sr32": 32}
    for name, side in {**stages, "all stages": 32}.items():
        bits, nats = found[f"bits/dim {name} (bound)"], found[f"nats {name} (bound)"]
        assert bits["value"] == pytest.approx(nats["value"] / (3 * side**2 * math.log(2)))
        assert bits["standard_error"] == pytest.approx(nats["standard_error"] / (3 * side**2 * math.log(2)))
        assert sum(nats["details"].values()) == pytest.approx(nats["value"])
        assert nats["num_images"] == 5
    parts = [found[f"nats {name} (bound)"]["value"] for name in stages]
    assert found["nats all stages (bound)"]["value"] == pytest.approx(sum(parts))
    assert report["bits_per_dim"]["data"]["split"] == "val"
    assert [stage["guidance"]["name"] for stage in report["bits_per_dim"]["stages"]] == ["none"] * 3
    assert [stage["threshold"]["name"] for stage in report["bits_per_dim"]["stages"]] == ["none"] * 3
    assert not (tmp_path / "samples").exists()
    printed = capsys.readouterr().out
    assert "−ln P(x 16 px | x 8 px), noise 47/255 (λ = 2)" in printed
    assert "−ln P(x 8 px | class)" in printed
    assert "−ln P(x 32 px), that of all sizes together" in printed


def test_it_is_the_stages_own_measurement_by_hand(cascade, tmp_path):
    """Each size is shrunk from the next larger one, and is the same picture where it is judged and where it is told."""
    from cascade.orchestrator import CascadePipeline

    assert (
        evaluate(cascade, "bits_per_dim.num_images=4", "bound=discrete", "sr16.aug_log_snr=5", f"out={tmp_path}") == 0
    )
    found, report = read(tmp_path)
    data = ProceduralDataset(32, "val")
    large = [from_uint8(data.image(i)) for i in report["bits_per_dim"]["pictures"]]
    middle = [shrink(image, 16) for image in large]
    small = [shrink(image, 8) for image in middle]
    pipeline = CascadePipeline.load(cascade)
    grid = torch.linspace(-10, 10, 4, dtype=torch.float64)
    rows = [("base", small, None, None), ("sr16", middle, small, 5.0), ("sr32", large, middle, 2.0)]
    for name, images, told, level in rows:
        config = pipeline.stages[name].config
        stage = JudgedStage(
            name,
            pipeline.stages[name].denoiser,
            grid,
            labelled=bool(config.class_names),
            chunk=3,
            augmentation=GaussianAugmentation(0.0, 6.0, 2.0),
            aug_log_snr=level,
        )
        examples = [
            Example(i, to_uint8(images[n]), data.label(i), None if told is None else to_uint8(told[n]))
            for n, i in enumerate(report["bits_per_dim"]["pictures"])
        ]
        nats = float(stage.nats(DiscreteBound(), examples, seed=0).total.mean())
        assert found[f"nats {name} (bound)"]["value"] == pytest.approx(nats, rel=1e-6)


def test_pictures_and_noise_are_the_same_for_more_pictures_fewer_stages_and_other_steps(cascade, tmp_path):
    assert evaluate(cascade, "bits_per_dim.num_images=4", f"out={tmp_path / 'a'}") == 0
    assert evaluate(cascade, "bits_per_dim.num_images=4", "seed=1", f"out={tmp_path / 'b'}") == 0
    assert evaluate(cascade, "stages=1", "bits_per_dim.num_images=4", f"out={tmp_path / 'c'}") == 0
    (a, said), (b, other), (c, _) = read(tmp_path / "a"), read(tmp_path / "b"), read(tmp_path / "c")
    assert said["bits_per_dim"]["pictures"] != other["bits_per_dim"]["pictures"]
    assert a["nats base (bound)"]["value"] != b["nats base (bound)"]["value"]
    assert set(c) == {"bits/dim base (bound)", "nats base (bound)"}


def test_more_steps_and_another_bound(cascade, tmp_path):
    for steps in (4, 16):
        words = ["stages=1", "bits_per_dim.num_images=3", "bound=discrete", f"bound.steps={steps}"]
        assert evaluate(cascade, *words, f"out={tmp_path / str(steps)}") == 0
    (few, said), (many, more) = read(tmp_path / "4"), read(tmp_path / "16")
    assert many["nats base (bound)"]["value"] < few["nats base (bound)"]["value"]
    assert len(more["bits_per_dim"]["stages"][0]["log_snrs"]) == 17
    assert said["bits_per_dim"]["bound"] == {"name": "discrete", "steps": 4, "variance": "small"}


def test_log_likelihood_has_the_same_rows_pictures_and_conditions(cascade, tmp_path, capsys):
    """Both metrics at once; the flow's figure of a base is the same in whatever batch, and another seed's is not."""
    words = ["log_likelihood.steps=4", "log_likelihood.num_images=2", "bound.points=1"]
    both = ["metrics=[bits_per_dim,log_likelihood]", f"out={tmp_path / 'both'}"]
    assert evaluate(cascade, *words, *both) == 0
    printed = capsys.readouterr().out
    assert "−ln P(x 16 px | x 8 px), noise 47/255 (λ = 2); probability flow, 4 steps, 1 probe" in printed
    found, report = read(tmp_path / "both")
    rows = [f"{name} ({kind})" for kind in ("bound", "flow") for name in ("base", "sr16", "sr32", "all stages")]
    assert set(found) == {f"{unit} {row}" for unit in ("bits/dim", "nats") for row in rows}
    for unit in ("bits/dim", "nats"):
        assert found[f"{unit} base (flow)"]["num_images"] == 2
    parts = [found[f"nats {name} (flow)"]["value"] for name in ("base", "sr16", "sr32")]
    assert found["nats all stages (flow)"]["value"] == pytest.approx(sum(parts))
    assert report["log_likelihood"]["pictures"] == report["bits_per_dim"]["pictures"]
    assert report["log_likelihood"]["bound"]["probes"] == 1
    values = []
    for name, more in [("three", []), ("one", ["base.network_batch=1"]), ("other", ["seed=1"])]:
        alone = ["metrics=[log_likelihood]", "stages=1", *more, f"out={tmp_path / name}"]
        assert evaluate(cascade, *words, *alone) == 0
        values.append(read(tmp_path / name)[0]["nats base (flow)"]["value"])
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert values[2] != pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["metrics=[log_likelihood]", "log_likelihood.probes=0"], "log_likelihood.probes=0 must be at least 1"),
        (["metrics=[log_likelihood]", "log_likelihood.num_images=0"], "log_likelihood.num_images=0 must be"),
        (["metrics=[log_likelihood]", "log_likelihood.log_snr_min=11", "stages=1"], "from 11 to 10"),
        (["metrics=[log_likelihood]", "log_likelihood.steps=2", "stages=1"], "log_likelihood.steps=2: give at least 4"),
        (["metrics=[bits_per_dims]"], "unknown metric 'bits_per_dims'; did you mean 'bits_per_dim'"),
        (["metrics=[]"], "metrics is empty"),
        (["bits_per_dim.num_images=0"], "num_images=0 must be at least 1"),
        (["bound=discrete", "bound.variance=smal"], "did you mean 'small'"),
        (["bound=discrete", "bound.variance=learned"], "variance 'learned' needs"),
        (["bound.points=0"], "points=0 must be at least 1"),
        (["bound=discreet"], "discrete"),
        (["bits_per_dim.split=vall"], "val"),
        (["data=folder"], "needs data.root"),
        (["bound.log_snr_min=11", "stages=1"], "from 11 to 10"),
    ],
)
def test_what_cannot_be_judged_is_one_line(words, line, cascade, capsys):
    assert evaluate(cascade, *words) == 2
    error = capsys.readouterr().err.strip()
    assert line in error
    assert len(error.splitlines()) == 1


def test_a_folder_of_pictures_has_no_likelihood(tmp_path, capsys):
    tmp_path.joinpath("x").mkdir()
    assert main(["evaluate", f"images={tmp_path / 'x'}", "metrics=[bits_per_dim]"]) == 2
    assert "give cascade=FOLDER" in capsys.readouterr().err
