"""ADM's files as stages: the same outputs and trajectories, the key that does not fit by name, and no code executed."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cascade.artifact import load_chain, load_stage
from cascade.classifier import load_classifier
from cascade.commands.command_line import main
from cascade.diffusion import Condition
from cascade.diffusion.schedule import DiscreteBetas
from cascade.errors import CascadeError
from cascade.importers.adm_flags import PRESETS, preset, read_flags
from cascade.importers.torch_file import read_state
from cascade.networks.adm import ADMUNet
from cascade.networks.adm_classifier import ADMClassifier
from cascade.registry import build
from cascade.rng import randn
from cascade.sampling import DDIM, StaticThreshold
from tests.importers.adm_files import FLAGS, HELD_BACK, checkpoint, untold

REFERENCE = Path(os.environ.get("CASCADE_REFERENCE", Path(__file__).parents[3] / "shared/reference")) / "adm"

UPSAMPLER = {
    **{key: value for key, value in FLAGS.items() if key not in {"image_size", "use_new_attention_order"}},
    "small_size": 16,
    "large_size": 64,
    "learn_sigma": False,
    "noise_schedule": "linear",
    "attention_resolutions": "64",
}


def run(folder, *words):
    return main(
        ["import", "adm", f"checkpoint={folder}/model.pt", f"flags={folder}/model.json", f"out={folder}/stage", *words]
    )


def test_the_stage_is_the_network_on_its_ladder(tmp_path):
    made = checkpoint(tmp_path)
    assert run(tmp_path) == 0
    stage = load_stage(tmp_path / "stage")
    assert stage.config.name == "base64"
    assert stage.config.class_names == ("0", "1", "2", "3", "4")
    ladder = DiscreteBetas("cosine", 1000)
    step = torch.tensor([0, 641])
    x_t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([4, 0])
    level = ladder.log_snrs[step].float()
    with torch.no_grad():
        eps, fraction = made(x_t, step.float(), label).chunk(2, 1)
        posterior = stage.denoiser(x_t, level, Condition(label))
    alpha, sigma = (v[:, None, None, None] for v in (level.sigmoid().sqrt(), (-level).sigmoid().sqrt()))
    assert torch.allclose(posterior.mean, (x_t - sigma * eps) / alpha, atol=1e-4, rtol=1e-4)
    assert torch.allclose(posterior.variance_fraction, (fraction + 1) / 2)
    grid = build("grid", stage.config.sampling.grid)
    assert len(grid) == 251
    assert grid[0] == ladder.log_snrs[999]
    assert grid[-2] == ladder.log_snrs[0]


def test_an_upsampler_reads_the_clean_picture_and_fits_behind_its_base(tmp_path):
    (tmp_path / "base").mkdir()
    checkpoint(tmp_path / "base", {**FLAGS, "image_size": 16, "attention_resolutions": "8"})
    made = checkpoint(tmp_path, UPSAMPLER, in_channels=6, out_channels=3, attention=(1,), qkv_order="heads_first")
    assert run(tmp_path / "base") == 0
    assert run(tmp_path) == 0
    stage = load_stage(tmp_path / "stage")
    x_t, low_res = torch.randn(1, 3, 64, 64), torch.rand(1, 3, 16, 16)
    up = torch.nn.functional.interpolate(low_res, (64, 64), mode="bilinear")
    level = DiscreteBetas("linear", 1000).log_snrs[[400]].float()
    with torch.no_grad():
        eps = made(torch.cat([x_t, up], 1), torch.tensor([400.0]), torch.tensor([2]))
        given = stage.denoiser(x_t, level, Condition(torch.tensor([2]), low_res, torch.tensor([torch.inf])))
    mean = (x_t - (-level).sigmoid().sqrt() * eps) / level.sigmoid().sqrt()
    assert torch.allclose(given.mean, mean, atol=1e-4)
    assert stage.config.sampling.aug_log_snr == float("inf")
    assert stage.config.sampling.sampler["variance"] == "large"
    words = [f"stages=[{tmp_path}/base/stage,{tmp_path}/stage]", f"out={tmp_path}/cascade"]
    assert main(["assemble", *words]) == 0
    assert [c.name for c in load_chain(tmp_path / "cascade")] == ["base16", "sr64"]


def test_a_stage_without_the_class_none_is_sampled_and_refuses_classifier_free_guidance(tmp_path, capsys):
    checkpoint(tmp_path)
    assert run(tmp_path) == 0
    assert main(["assemble", f"stages=[{tmp_path}/stage]", f"out={tmp_path}/cascade"]) == 0
    words = ["sample", f"cascade={tmp_path}/cascade", "classes=3", "seeds=0", "base64.steps=1"]
    capsys.readouterr()
    assert main([*words, "guidance_scale=2", f"out={tmp_path}/refused"]) == 2
    error = capsys.readouterr().err
    assert "stage 'base64' was trained with classes only" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "refused").exists()
    for scale in ([], ["guidance_scale=1"]):
        assert main([*words, *scale, f"out={tmp_path}/made{len(scale)}"]) == 0
    assert len(list(tmp_path.glob("made*/*/0.png"))) == 2


def reference_of(made, folder, error=0.0):
    ladder = DiscreteBetas("cosine", 1000)
    kept = torch.tensor([0, 500, 999])
    x_t, label, step = torch.randn(1, 3, 64, 64), torch.tensor([3]), torch.tensor([17])

    def denoiser(x, log_snr, condition):
        eps = made(x, ladder.step(log_snr).float(), condition.label)[:, :3]
        level = log_snr[:, None, None, None]
        return type("P", (), {"mean": (x - (-level).sigmoid().sqrt() * eps) / level.sigmoid().sqrt()})

    grid = torch.cat([ladder.log_snrs[kept].flip(0), torch.tensor([torch.inf])])
    with torch.no_grad():
        threshold = StaticThreshold(lambda *a: _posterior(denoiser(*a).mean))
        x_0 = DDIM()(threshold, x_t, grid, Condition(label), lambda *_: None)
        output = made(x_t, step.float(), label) + error
    save_file(
        {"x_t": x_t, "timestep": step, "label": label, "output": output, "ddim_x_T": x_t.clone(), "ddim_x_0": x_0,
         "ddim_timestep_map": kept},
        folder / "model.tensors.safetensors",
    )  # fmt: skip


def _posterior(mean):
    from cascade.diffusion import Posterior

    return Posterior(mean)


def test_verify_prints_the_errors_and_fails_beyond_the_bounds(tmp_path, capsys):
    reference_of(checkpoint(tmp_path), tmp_path)
    assert run(tmp_path, f"verify={tmp_path}") == 0
    said = capsys.readouterr().out
    assert "output: largest error" in said
    assert "ddim trajectory: largest error" in said
    assert "too large" not in said
    reference_of(checkpoint(tmp_path), tmp_path, error=2e-4)
    assert run(tmp_path, f"verify={tmp_path}", "overwrite=true") == 1
    said = capsys.readouterr().out
    assert "output: largest error 2.0e-04, bound 1e-04: too large" in said
    assert run(tmp_path, f"verify={tmp_path}/none", "overwrite=true") == 2
    assert "none is no folder" in capsys.readouterr().err


def test_what_reference_tensors_lack_is_said(tmp_path, capsys):
    reference_of(checkpoint(tmp_path), tmp_path)
    file = tmp_path / "model.tensors.safetensors"
    tensors = load_file(file)
    only = {key: value for key, value in tensors.items() if not key.startswith("ddim")}
    save_file(only, file)
    assert run(tmp_path, f"verify={tmp_path}") == 0
    assert "ddim trajectory: not compared: the reference tensors hold none" in capsys.readouterr().out
    ddpm = {"ddpm_x_T": tensors["ddim_x_T"], "ddpm_timestep_map": tensors["ddim_timestep_map"]}
    for changed, said in (
        (ddpm, "hold no 'ddpm_step_noise'"),
        ({**ddpm, "ddpm_step_noise": torch.zeros(1, 1, 3, 64, 64)}, "ddpm_step_noise is of 1 steps, not 2 or more"),
        ({**ddpm, "ddpm_timestep_map": torch.tensor([0, 1000])}, "ddpm_timestep_map names steps beyond 0 to 999"),
    ):
        save_file({**only, **changed}, file)
        assert run(tmp_path, f"verify={tmp_path}", "overwrite=true") == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_reference_tensors_that_are_not_there_are_missed_before_anything_is_written(tmp_path, capsys):
    checkpoint(tmp_path)
    assert run(tmp_path, f"verify={tmp_path}") == 2
    assert f"there are no reference tensors '{tmp_path}/model.tensors.safetensors'" in capsys.readouterr().err
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            {"num_channels": 64},
            "they say num_channels=64, and by 'time_embed.0.weight' (128, 32) it is num_channels=32",
        ),
        ({"learn_sigma": False}, "learn_sigma=false, and by 'out.2.weight' (6, 32, 3, 3) it is learn_sigma=true"),
        (
            {"num_res_blocks": 2},
            "num_res_blocks=2, and by 'output_blocks.3.0.out_layers.0.weight' (32,) it is num_res_blocks=1",
        ),
        ({"channel_mult": "1,2"}, """they say channel_mult="1,2", and by 'output_blocks."""),
        ({"use_scale_shift_norm": False}, "(64, 128) it is use_scale_shift_norm=true"),
        ({"resblock_updown": False}, "it is resblock_updown=true"),
        ({"small_size": 16}, "(32, 3, 3, 3) it reads no low-res picture: give image_size, and no small_size"),
        ({"classifier_width": 32}, "unknown flag 'num_channels'"),
        (
            {"attention_resolutions": "64,32"},
            """="64,32", and by 'output_blocks.0.1.qkv.weight' (96, 32, 1) """,
        ),
        ({"class_cond": False}, "class_cond=false, and by 'label_emb.weight' (5, 128) it is class_cond=true"),
        ({"num_chanels": 32}, "unknown flag 'num_chanels'; did you mean 'num_channels'?"),
        ({"predict_xstart": True}, "predict_xstart=true"),
        ({"image_size": 100, "channel_mult": ""}, "ADM has no channel_mult for 100 px"),
        ({"noise_schedule": "cosin"}, "kind must be 'linear' or 'cosine'"),
        ({"class_cond": "False"}, 'flag class_cond="False" must be true or false'),
        ({"num_channels": "32"}, 'flag num_channels="32" must be a whole number'),
        ({"num_res_blocks": True}, "flag num_res_blocks=true must be a whole number"),
        ({"dropout": "0.1"}, 'flag dropout="0.1" must be a number'),
        ({"num_channels": 0}, "flag num_channels=0 must be at least 1"),
        ({"num_res_blocks": -1}, "flag num_res_blocks=-1 must be at least 0"),
        ({"small_size": 0}, "flag small_size=0 must be at least 1"),
        ({"channel_mult": [1, 1]}, "flag channel_mult=[1, 1] must be text in quotes"),
        ({"channel_mult": "1,nan"}, "channel_mult='1,nan' must be above 0, and finite"),
        ({"attention_resolutions": "0.5"}, "sides of 1 pixel or more"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, capsys, flags, said):
    checkpoint(tmp_path, {**FLAGS, **flags})
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize(("flags", "options"), HELD_BACK)
def test_a_network_is_what_its_shapes_and_the_other_flags_say(tmp_path, flags, options):
    made = ADMUNet(**{"channels": 32, "null_label": False, **options}).eval()
    weights = {key: 0.2 * randn("held back", key, shape=value.shape) for key, value in made.state_dict().items()}
    made.load_state_dict(weights)
    torch.save(weights, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps({"image_size": 16, **untold(flags)}))
    assert run(tmp_path) == 0
    stage = load_stage(tmp_path / "stage")
    ladder = DiscreteBetas(flags.get("noise_schedule", "linear"), flags.get("diffusion_steps", 1000))
    step, x_t = torch.tensor([3, 240]), randn("held back", "x", shape=(2, 3, 16, 16))
    label = torch.tensor([0, 3]) if options.get("num_classes") else None
    level = ladder.log_snrs[step].float()
    clock = step.float() * (1000 / ladder.steps if flags.get("rescale_timesteps") else 1)
    with torch.no_grad():
        eps = made(x_t, clock, label)[:, :3]
        mean = stage.denoiser(x_t, level, Condition(label)).mean
    alpha, sigma = (v[:, None, None, None] for v in (level.sigmoid().sqrt(), (-level).sigmoid().sqrt()))
    assert eps.std() > 0.1
    assert torch.allclose(mean * alpha, x_t - sigma * eps, atol=1e-4, rtol=1e-4)
    assert stage.config.sampling.sampler["variance"] == ("learned" if flags.get("learn_sigma") else "large")


CLASSIFIER = {"image_size": 64, "classifier_width": 64, "classifier_depth": 1, "noise_schedule": "cosine"}


def classifier(folder, flags=CLASSIFIER, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ADMClassifier(num_classes=5, channels=64, blocks=1, **options).eval()
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    torch.save(made.state_dict(), folder / "model.pt")
    (folder / "model.json").write_text(json.dumps(flags))
    return made


@pytest.mark.parametrize(
    ("said", "pool"),
    [("attention", "attention"), ("adaptive", "average"), ("spatial", "features"), ("spatial_v2", "features_norm")],
)
def test_a_classifier_is_the_network_on_its_ladder(tmp_path, said, pool):
    made = classifier(tmp_path, {**CLASSIFIER, "classifier_pool": said}, pool=pool)
    assert run(tmp_path) == 0
    stage = load_classifier(tmp_path / "stage")
    config = stage.config
    assert (config.name, config.resolution, config.class_names) == ("classifier64", 64, tuple("01234"))
    ladder, step = DiscreteBetas("cosine", 1000), torch.tensor([0, 641])
    x_t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(stage.network(x_t, ladder.log_snrs[step].float()), made(x_t, step.float()), atol=1e-5)
    with pytest.raises(CascadeError, match="is of the classifier 'classifier64'"):
        load_stage(tmp_path / "stage")


def test_verify_tells_a_classifiers_logits_and_its_gradient_apart(tmp_path, capsys):
    made = classifier(tmp_path)
    x_t, label, step = torch.randn(2, 3, 64, 64), torch.tensor([3, 0]), torch.tensor([17, 930])
    x = x_t.clone().requires_grad_()
    logits = made(x, step.float())
    (gradient,) = torch.autograd.grad(logits.log_softmax(1)[range(2), label].sum(), x)
    tensors = {"x_t": x_t, "label": label, "timestep": step, "logits": logits.detach(), "gradient": gradient}
    for key, wrong in ((None, 0.0), ("gradient", 3e-4 * gradient.abs().max()), ("logits", 3e-4)):
        changed = {name: value + wrong if name == key else value for name, value in tensors.items()}
        save_file(changed, tmp_path / "model.tensors.safetensors")
        assert run(tmp_path, f"verify={tmp_path}", "overwrite=true") == (0 if key is None else 1)
        told = [line.split()[0].strip(":") for line in capsys.readouterr().out.splitlines() if "too large" in line]
        assert told == ([] if key is None else [key])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"classifier_width": 128}, "and by 'time_embed.0.weight' (256, 64) it is classifier_width=64"),
        (
            {"classifier_depth": 2},
            "classifier_depth=2, and by 'input_blocks.7.0.out_layers.0.weight' (256,) it is classifier_depth=1",
        ),
        ({"classifier_attention_resolutions": "16"}, """it is classifier_attention_resolutions="32,16,8\""""),
        (
            {"image_size": 128},
            "image_size=128, and by 'input_blocks.7.0.out_layers.0.weight' (256,) it is image_size=64",
        ),
        ({"classifier_pool": "spatial"}, """by 'out.2.c_proj.weight' (5, 256, 1) it is classifier_pool="attention\""""),
        ({"classifier_resblock_updown": False}, "(64, 64, 3, 3) it is classifier_resblock_updown=true"),
        ({"classifier_pool": "attenton"}, "did you mean 'attention'"),
        ({"class_cond": True}, "unknown flag 'class_cond'"),
        ({"classifier_width": 0}, "flag classifier_width=0 must be at least 1"),
        ({"classifier_depth": "1"}, 'flag classifier_depth="1" must be a whole number'),
    ],
)
def test_a_classifier_that_does_not_fit_is_named_and_nothing_is_written(tmp_path, capsys, flags, said):
    classifier(tmp_path, {**CLASSIFIER, **flags})
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "stage").exists()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_no_code_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(1), "bomb": Bomb()}, "zip.pt")
    Path("plain.pt").write_bytes(pickle.dumps({"bomb": Bomb()}))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(CascadeError, match="none of it is executed"):
            read_state(Path(name))
    assert not Path("exploded").exists()
    Path("cut.pt").write_bytes(Path("zip.pt").read_bytes()[:-300])
    torch.save([1, 2], "list.pt")
    torch.save({1: torch.zeros(1)}, "numbers.pt")
    said = {"list.pt": "no state dict", "numbers.pt": "no state dict"}
    for name, why in {"cut.pt": "cut.pt", **said, "none.pt": "there is no checkpoint"}.items():
        with pytest.raises(CascadeError, match=why):
            read_state(Path(name))


def test_what_is_there_is_not_lost(tmp_path, capsys):
    checkpoint(tmp_path)
    assert run(tmp_path) == 0
    before = (tmp_path / "stage/weights.safetensors").read_bytes()
    assert run(tmp_path, "dtype=bf16") == 2
    assert "overwrite=true" in capsys.readouterr().err
    assert (tmp_path / "stage/weights.safetensors").read_bytes() == before
    assert run(tmp_path, "dtype=bf16", "overwrite=true") == 0
    assert 0.4 < (tmp_path / "stage/weights.safetensors").stat().st_size / len(before) < 0.6
    words = [f"checkpoint={tmp_path}/model.pt", f"flags={tmp_path}/model.json", f"out={tmp_path}"]
    assert main(["import", "adm", *words, "overwrite=true"]) == 2
    assert "something else than a stage" in capsys.readouterr().err


def test_presets_describe_the_released_networks():
    millions = {"64x64_diffusion": 296, "128x128_diffusion": 422, "256x256_diffusion": 554, "512x512_diffusion": 559}
    for name, expected in millions.items():
        model = read_flags(preset(f"{name}.pt"))
        with torch.device("meta"):
            made = build("network", model.network, in_channels=3, out_channels=6, num_classes=1000, augment_dim=0)
        assert round(sum(p.numel() for p in made.parameters()) / 1e6) == expected
    assert all(read_flags(flags).classifier == name.endswith("classifier") for name, flags in PRESETS.items())
    upsampler = read_flags(preset("128_512_upsampler")).network
    # Six levels, of which the first is whole: not those of the other networks of 512 px.
    assert (upsampler["attention"], upsampler["channel_mult"]) == ([16, 32], [1, 1, 2, 2, 4, 4])
    assert read_flags(preset("512x512_classifier")).network["channel_mult"] == [0.5, 1, 1, 2, 2, 4, 4]
    # The published script of classifiers takes all flags of a diffusion.
    diffusion = {"learn_sigma": False, "predict_xstart": False, "use_kl": False, "timestep_respacing": ""}
    rescaled = read_flags({**preset("64x64_classifier"), **diffusion, "rescale_timesteps": True})
    assert rescaled == replace(read_flags(preset("64x64_classifier")), rescale=True)
    with pytest.raises(CascadeError, match="did you mean '64_256_upsampler'"):
        preset("64_256_upsample")


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="CASCADE_REFERENCE names no reference tensors")
@pytest.mark.parametrize("name", ["base64", "upsampler", "classifier"])
def test_the_published_codes_tensors_are_met(tmp_path, name):
    words = [f"checkpoint={REFERENCE}/{name}.pt", f"flags={REFERENCE}/{name}.json", f"verify={REFERENCE}"]
    assert main(["import", "adm", *words, f"out={tmp_path}/stage"]) == 0
