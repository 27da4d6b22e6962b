"""`cascade explain`: its numbers are what training draws and sampling visits; it writes its own files and no others."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from cascade import registry
from cascade.commands.command_line import main
from cascade.commands.configuration import CONF, default_groups, flattened, groups_of, groups_on_disk
from cascade.commands.explain import CERTIFICATE, LEVELS, REPORT
from cascade.commands.explain_certificate import certificates
from cascade.commands.explain_certificate_figure import draw_certificates
from cascade.commands.explain_levels import noise_levels
from cascade.commands.explain_levels_figure import draw_levels
from cascade.commands.explain_style import apart
from cascade.commands.overrides import check
from cascade.diffusion.training_profile import training_profile
from cascade.sampling.certificate import picture_bands
from cascade.trained_levels import levels_of_255, log_snr_of
from stages.draws import Draws

F64 = torch.float64
STAGE = ["stage=sr256", "stage.low_resolution=8", "stage.crop=8", "stage.aug_log_snr=5", "grid.n=6"]
STAGE += ["sampler=ddim", "sampler.eta=1"]
SMALL = ["stage.resolution=16", "steps=[4,8]"]
NO_DRAWING = ["stage.resolution=8", "steps=[4]"]


def plain(*settings: str) -> dict[str, Any]:
    config = check("explain", [*settings]).config
    return OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]), resolve=True)


@pytest.fixture(scope="module")
def explained(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A small super-resolution stage, explained."""
    out = tmp_path_factory.mktemp("explained") / "new" / "folder"
    assert main(["explain", *STAGE, *SMALL, f"out={out}"]) == 0
    return out, json.loads((out / REPORT).read_text())


def test_three_files_are_written_whole_and_wide(explained):
    out, _ = explained
    assert sorted(path.name for path in out.iterdir()) == sorted([REPORT, LEVELS, CERTIFICATE])
    for name in (LEVELS, CERTIFICATE):
        with Image.open(out / name) as image:
            assert image.width == 1200
            assert image.text["Software"] == "cascade"
            assert len(image.convert("L").getcolors()) > 50


def test_p_is_the_histogram_of_what_training_draws(explained):
    training = explained[1]["training"]
    levels, p = (torch.tensor(training[key], dtype=F64) for key in ("log_snr", "p"))
    assert float(torch.trapezoid(p, levels)) == pytest.approx(1, abs=1e-4)
    # As DiffusionStage.training_step draws them: 40 steps of 64 pictures.
    noise = registry.build("noise", explained[1]["config"]["noise"])
    drawn = torch.cat([noise.icdf(Draws(0, step, tuple(range(64)), 64).stratified("log_snr")) for step in range(40)])
    mass = torch.cumulative_trapezoid(p, levels)
    below = (drawn[:, None] <= levels[None, 1:]).double().mean(0)
    assert (mass - below).abs().max() < 1 / 64
    count = torch.histogram(drawn.double(), torch.linspace(-4, 12, 17, dtype=F64)).hist / len(drawn)
    expected = torch.tensor([float(torch.trapezoid(p[i], levels[i])) for i in _bins(levels)])
    torch.testing.assert_close(count.float(), expected, atol=0.01, rtol=0)


def _bins(levels):
    return [(levels >= left - 0.02) & (levels < left + 1.02) for left in range(-4, 12)]


def test_w_is_ratio_times_p(explained):
    config, training = explained[1]["config"], explained[1]["training"]
    noise = registry.build("noise", config["noise"])
    weighting = registry.build("weighting", config["weighting"], noise=noise)
    levels = torch.tensor(training["log_snr"], dtype=F64)
    w = (weighting.log_ratio(levels) + noise.log_density(levels)).exp()
    torch.testing.assert_close(torch.tensor(training["w"], dtype=F64), w, rtol=1e-4, atol=1e-12)
    on_x = torch.tensor(training["w_on_x"], dtype=F64)
    torch.testing.assert_close(on_x, levels.exp() * w, rtol=1e-4, atol=1e-12)
    left = w * picture_bands(16, 8, 5.0).denoising_loss(levels)
    torch.testing.assert_close(torch.tensor(training["exact_loss"], dtype=F64), left, rtol=1e-4, atol=1e-12)


def test_the_grid_is_the_one_that_sampling_walks(explained):
    report = explained[1]
    grid = registry.build("grid", report["config"]["grid"])
    assert [float(level) for level in report["sampling"]["log_snr"]] == pytest.approx(grid.tolist(), abs=1e-6)
    assert report["sampling"]["log_snr"][-1] == "inf"


def test_augmentation_is_given_in_both_units(explained):
    about = explained[1]["augmentation"]
    assert about["trained"] == [0.0, 9.0]
    assert (about["at_sampling"], about["clean_share"]) == (5.0, 0.1)
    # x is 127.5 levels for 1, so σ/α of a picture is 127.5·σ/α levels.
    assert about["levels_of_255"]["at_sampling"] == pytest.approx(127.5 * math.exp(-2.5), abs=1e-3)
    assert about["levels_of_255"]["trained"] == pytest.approx([127.5, 127.5 * math.exp(-4.5)], abs=1e-3)
    augmentation = registry.build("augmentation", explained[1]["config"]["augmentation"])
    drawn = augmentation.level(Draws(0, 3, tuple(range(200)), 200).uniform("augmentation level"))
    finite = drawn[drawn.isfinite()]
    low, high = about["trained"]
    assert low <= finite.min() < low + 0.5
    assert high - 0.5 < finite.max() <= high
    assert float(drawn.isinf().double().mean()) == pytest.approx(about["clean_share"], abs=0.06)
    assert levels_of_255(math.inf) == 0
    assert log_snr_of(levels_of_255(3.7)) == pytest.approx(3.7), "the README's table, both ways"


def test_the_certificate_holds_every_sampler_and_grid_or_a_reason(explained):
    found = explained[1]["certificate"]
    for group, key in (("sampler", "samplers"), ("grid", "grids")):
        curves = found[key]
        assert set(registry.TABLE[group]) <= {curve[group]["name"] for curve in curves}
        for curve in curves:
            steps = [point["steps"] for point in curve["points"]]
            every = [4, 6, 8] if group == "sampler" or "n" in curve[group] else steps[:1]
            assert sorted(steps + [int(n) for n in curve["left_out"]]) == every != [], curve["name"]
            assert all(curve["left_out"].values())
        assert [point["steps"] for point in curves[0]["points"]] == [4, 6, 8]
        drawn = [{**curve[group], "n": 0} for curve in curves]
        assert all(drawn.count(config) == 1 for config in drawn), "no curve twice, for a variant of another length"
    by_name = {curve["name"]: curve for curve in found["samplers"]}
    assert "not an affine map" in by_name["predictor_corrector"]["left_out"]["4"]
    assert "no classes" in by_name["classifier_ancestral"]["left_out"]["4"], "and not ancestral sampling's curve"
    assert [p["calls"] for p in by_name["heun"]["points"]] == [7, 11, 15]
    own = found["samplers"][0]
    assert own["name"] == "ddim (eta=1)"
    # DDIM with η = 1 is ancestral sampling with the small variance.
    ancestral = by_name["ancestral"]
    assert own["points"][1]["nats"] == pytest.approx(ancestral["points"][1]["nats"], rel=1e-9)
    assert own["variance_ratio"] == pytest.approx(ancestral["variance_ratio"], rel=1e-5)
    assert own["points"] == found["grids"][0]["points"]
    per_dimension = own["points"][0]["nats"] / sum(found["bands"]["count"])
    assert own["points"][0]["nats_per_dimension"] == pytest.approx(per_dimension)


def test_the_same_command_again_writes_the_same_files(explained, capsys):
    out, _ = explained
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["explain", *STAGE, *SMALL, f"out={out}"]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    printed = capsys.readouterr().out
    for name in (LEVELS, CERTIFICATE, REPORT):
        assert str(out / name) in printed
    assert "nats per dimension" in printed


def test_infinities_are_words_in_the_report(tmp_path):
    clean = ["stage=sr256", "stage.low_resolution=4", "stage.aug_log_snr=inf", "sampler=heun"]
    assert main(["explain", *clean, *NO_DRAWING, f"out={tmp_path}"]) == 0
    text = (tmp_path / REPORT).read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert report["augmentation"]["at_sampling"] == "inf"
    assert report["config"]["sampler"]["s_max"] == "inf"
    assert report["certificate"]["samplers"][0]["sampler"]["s_max"] == "inf"


def test_a_sampler_that_cannot_be_certified_is_drawn_without_its_curve(tmp_path, capsys):
    assert main(["explain", "sampler=predictor_corrector", *NO_DRAWING, f"out={tmp_path}"]) == 0
    assert "cannot be certified: it is not an affine map" in capsys.readouterr().out
    found = json.loads((tmp_path / REPORT).read_text())["certificate"]
    assert all(curve["points"] == [] for curve in found["grids"])
    assert found["samplers"][1]["points"] != []


@pytest.mark.parametrize("name", [LEVELS, CERTIFICATE, REPORT])
def test_somebody_elses_file_is_left_alone(name, tmp_path, capsys):
    if name == REPORT:
        (tmp_path / name).write_text('{"mine": 1}')
    else:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    assert main(["explain", *SMALL, f"out={tmp_path}"]) == 2
    assert re.fullmatch(r"cascade: .*was not made by cascade.*\n", capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


WRONG = [
    (["picture=600"], "drawn pictures 0 to 599"),
    (["steps=[]"], "lengths of grids"),
    (["steps=[4,0]"], "lengths of grids"),
    (["augmentation=gaussian"], "a base has none"),
    (["stage=sr256", "stage.aug_log_snr=11"], "augmentation level 11 was not trained"),
    (["grid.n=0"], "grid.n=0 must be at least 1"),
    (["grid.n=1000000000"], "a grid has at most 100000 steps, not 1000000000"),
    (["sampler=sde_dpm_solver_pp", "sampler.eta=1e30"], "must be from 0 to 100"),
    (["stage=classifier64", "sampler=ddim"], "give sampler and grid both"),
    (["noise.p_std=-1"], "noise.p_std=-1.0 must be above 0"),
    (["stage.resolution=4"], "resolution must be in 8..8192"),
    (["steps=few"], "must be a list"),
    (["sampler=huen"], "did you mean 'heun'?"),
]


@pytest.mark.parametrize(
    ("settings", "message"), WRONG, ids=lambda value: " ".join(value) if type(value) is list else ""
)
def test_one_line_says_what_is_wrong_and_nothing_is_written(settings, message, tmp_path, capsys):
    assert main(["explain", *settings, f"out={tmp_path / 'o'}"]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert re.fullmatch(r"cascade: [^\n]+\n", err)
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_out_may_be_no_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["explain", f"out={tmp_path / 'file'}"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_every_config_of_train_can_be_explained():
    assert default_groups("explain") == default_groups("train")
    assert groups_of("explain") == groups_of("train")
    train, explain = (set(flattened(check(command, []).config)) for command in ("train", "explain"))
    assert explain - train == {"out", "steps", "picture"}
    assert train <= explain


@pytest.mark.parametrize("noise", groups_on_disk()["noise"])
def test_every_noise_has_levels(noise):
    found = noise_levels(plain(f"noise={noise}", "weighting=unit", *NO_DRAWING))
    assert found.profile.total(found.profile.p) == pytest.approx(1, abs=1e-3)
    assert found.span[0] < found.span[1]
    assert len(found.pictures) == len(found.shown) == 5


@pytest.mark.parametrize("weighting", groups_on_disk()["weighting"])
def test_every_weighting_has_a_curve(weighting):
    config = plain("stage=sr256", f"weighting={weighting}")
    noise = registry.build("noise", config["noise"])
    profile = training_profile(noise, registry.build("weighting", config["weighting"], noise=noise))
    for curve in (profile.w, profile.w_on_x):
        assert profile.total(profile.share(curve)) == pytest.approx(1)
        assert bool((curve >= 0).all())


def test_the_loss_around_the_weight_is_said():
    found = noise_levels(plain("loss=multi_scale", *NO_DRAWING))
    assert found.config["loss"]["name"] == "multi_scale"
    assert draw_levels(found).startswith(b"\x89PNG")


@pytest.mark.parametrize("stage", groups_on_disk()["stage"])
def test_a_stage_sets_no_key_of_a_group(stage):
    """It chooses; the numbers of a choice left in its file would get in the way of another choice."""
    text = (CONF / "stage" / f"{stage}.yaml").read_text(encoding="utf-8")
    assert not set(yaml.safe_load(text)) & set(registry.TABLE)


def test_a_ladder_and_a_grid_that_ends_early_can_be_drawn():
    found = noise_levels(plain("noise=ladder", "weighting=unit", *NO_DRAWING))
    assert found.profile.ladder
    assert found.report()["training"]["measure"] == "probability"
    certified = certificates(plain("noise=ladder", *NO_DRAWING), found.bands, found.data)
    assert draw_levels(found).startswith(b"\x89PNG")
    assert draw_certificates(certified).startswith(b"\x89PNG")


def test_a_classifier_is_explained_by_what_it_draws(tmp_path, capsys):
    """Weight 1 on the cross entropy: w is p. Nothing is sampled, and no certificate of another config stays."""
    small = ["stage=classifier64", "stage.resolution=16", f"out={tmp_path}"]
    assert main(["explain", *small, "sampler=ddim", "grid=karras", "steps=[4]"]) == 0
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["config"]["grid"]["name"] == "karras"
    assert report["certificate"]["samplers"][0]["points"] != []
    assert (tmp_path / CERTIFICATE).exists()
    assert main(["explain", *small]) == 0
    assert "a classifier is not sampled" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([REPORT, LEVELS])
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["certificate"] is report["sampling"] is report["augmentation"] is None
    training = report["training"]
    assert training["w_is_of"] == "−ln p(class | x_t) (cross entropy, weight 1)"
    assert training["w"] == training["p"]
    assert not {"w_on_x", "exact_loss"} & set(training)
    noise = registry.build("noise", report["config"]["noise"])
    levels = torch.tensor(training["log_snr"], dtype=F64)
    p = torch.tensor(training["p"], dtype=F64)
    inside = slice(1, -1)  # rounding moves the ends out of the support
    torch.testing.assert_close(p[inside], noise.log_density(levels[inside]).exp(), rtol=1e-4, atol=1e-12)
    assert float(torch.trapezoid(p, levels)) == pytest.approx(1, abs=1e-3)
    assert len(report["pictures"]["log_snr"]) == 5


def test_labels_are_moved_apart_and_stay_in_order():
    places = apart([0.1, 0.1, 0.12, 0.9], 0.1)
    assert places == pytest.approx([0.1067 - 0.1, 0.1067, 0.1067 + 0.1, 0.9], abs=1e-3)
    assert apart([0.0, 0.5, 1.0], 0.1) == [0.0, 0.5, 1.0]
    assert apart([0.95, 0.97, 3.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
