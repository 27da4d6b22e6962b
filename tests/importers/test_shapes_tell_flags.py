"""What the shapes in a checkpoint of ADM tell need not be said; what is said otherwise is named with both values."""

import json
import re

import pytest
import torch

from cascade.artifact import load_stage
from cascade.classifier import build_classifier
from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.importers.adm import classifier_config, imported
from cascade.importers.adm_flags import PRESETS, preset, read_flags
from cascade.importers.adm_shapes import completed, fitting_presets
from cascade.networks.adm import ADMUNet
from cascade.registry import build
from tests.importers.adm_files import FLAGS, HELD_BACK, checkpoint, network, untold


def shapes_of(model, rows=1000):
    """The state of the network that flags describe, without its weights."""
    with torch.device("meta"):
        if model.classifier:
            config = classifier_config(model, "c", rows, tuple(map(str, range(rows))))
            return build_classifier(config).network.state_dict()
        sizes = {
            "in_channels": 3 if model.low_resolution is None else 6,
            "out_channels": 6 if model.learn_variance else 3,
        }
        return build(
            "network", model.network, **sizes, num_classes=rows if model.classes else 0, augment_dim=0
        ).state_dict()


def shown_by_shapes(name):
    model = read_flags(preset(name))
    hidden = {"heads", "head_channels", "qkv_order", "dropout"}
    network = {key: value for key, value in model.network.items() if key not in hidden}
    return network, model.low_resolution is None, model.classes, model.learn_variance


@pytest.mark.parametrize("name", PRESETS)
def test_the_shapes_of_a_released_file_tell_its_preset_and_all_flags_that_they_can(name):
    """Those that differ in nothing that a shape shows are told together: in the dropout, or in the photographs."""
    flags = preset(name)
    state = shapes_of(read_flags(flags))
    assert fitting_presets(state) == [other for other in PRESETS if shown_by_shapes(other) == shown_by_shapes(name)]
    assert read_flags(completed(untold(flags), state, "it")) == read_flags(flags)


@pytest.mark.parametrize(("flags", "options"), HELD_BACK)
def test_flags_that_are_left_out_are_read_from_the_shapes(tmp_path, flags, options):
    made = ADMUNet(**{"channels": 32, "null_label": False, **options})
    torch.save(made.state_dict(), tmp_path / "model.pt")
    whole = {"image_size": 16, "num_channels": 32, **flags}
    for name, given in (("all", whole), ("few", untold(whole))):
        (tmp_path / "model.json").write_text(json.dumps(given))
        words = [f"checkpoint={tmp_path}/model.pt", f"flags={tmp_path}/model.json", f"out={tmp_path}/{name}"]
        assert main(["import", "adm", *words]) == 0
    assert load_stage(tmp_path / "few").config == load_stage(tmp_path / "all").config


@pytest.mark.parametrize(
    "flags",
    [
        {"image_size": 64, "classifier_depth": 4, "classifier_pool": "adaptive"},
        {"image_size": 128, "classifier_depth": 3, "classifier_pool": "spatial"},  # as many layers as the one before
        {"image_size": 256, "classifier_resblock_updown": False, "classifier_pool": "spatial_v2"},
        {"image_size": 512, "classifier_width": 64, "classifier_attention_resolutions": "16"},
        {"image_size": 64, "classifier_depth": 1, "classifier_use_scale_shift_norm": False, "noise_schedule": "cosine"},
    ],
)
def test_shapes_tell_all_of_a_classifier_but_its_steps(flags):
    state = shapes_of(read_flags(flags), rows=7)
    given = {flag: value for flag, value in untold(flags).items() if flag != "image_size"}
    assert read_flags(completed(given, state, "it")) == read_flags(flags)
    assert len(read_flags(flags).network["attention"]) > 0


def test_channel_mult_that_is_given_must_be_that_of_the_shapes():
    """As ADM's own for the size, too, which an empty one is; left out, it is read."""
    state = network().state_dict()
    assert completed({"image_size": 64}, state, "it")["channel_mult"] == "1,1"
    key = re.escape("'output_blocks.0.0.out_layers.0.weight' (32,)")
    for given, said in (("", "1,2,3,4"), ("1,2", "1,2")):
        with pytest.raises(CascadeError, match=f'say channel_mult="{said}", and by {key} it is channel_mult="1,1"'):
            completed({"image_size": 64, "channel_mult": given}, state, "it")


def test_without_flags_it_is_said_what_the_file_tells_and_what_must_be_given(tmp_path, capsys):
    checkpoint(tmp_path)
    words = ["import", "adm", f"checkpoint={tmp_path}/model.pt", f"out={tmp_path}/stage"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert 'tells num_channels=32, num_res_blocks=1, channel_mult="1,1", attention at 1/2 of the side' in error
    assert "it does not tell image_size, num_heads or num_head_channels, use_new_attention_order, noise_sch" in error
    assert "noise_schedule, diffusion_steps, rescale_timesteps: give flags=FILE.json with them" in error
    assert error.count("\n") == 1
    assert main([*words, "preset=64x64_classifier"]) == 2
    said = "is no classifier, which its flags describe, but a denoiser, whose flags are not named classifier_*"
    assert said in capsys.readouterr().err
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt")
    for given in ([], ["preset=64x64_diffusion"], ["preset=64x64_classifier"]):
        assert main([*words, *given]) == 2
        assert "is no network of ADM's: it has no 'time_embed.0.weight'" in capsys.readouterr().err
    assert not (tmp_path / "stage").exists()


@pytest.mark.parametrize(
    ("key", "shape"),
    [("time_embed.0.weight", (128,)), ("time_embed.0.weight", (128, 0)), ("input_blocks.0.0.weight", (32,)),
     ("out.2.weight", ()), ("label_emb.weight", ())],
)  # fmt: skip
def test_a_tensor_that_cannot_be_measured_is_named(key, shape):
    for flags in ({"image_size": 64}, preset("64x64_diffusion")):
        with pytest.raises(CascadeError, match=re.escape(f"no network of ADM's: its '{key}' is {shape}")):
            completed(flags, {**network().state_dict(), key: torch.zeros(shape)}, "it")


def test_a_wrong_preset_is_told_with_the_one_that_fits():
    state = shapes_of(read_flags(preset("256x256_diffusion")))
    assert fitting_presets({**state, "more": torch.zeros(1)}) == []  # it is a whole network that fits
    with pytest.raises(CascadeError, match=r"num_channels=192, and by .*are those of preset=256x256_diffusion\)"):
        completed(preset("64x64_diffusion"), state, "it")
    with pytest.raises(CascadeError, match=r'channel_mult="0.5,1,1,2,2,4,4", and by .* is channel_mult="1,1,2,2,4,4"'):
        completed(preset("512x512_diffusion"), state, "it")
    state = shapes_of(read_flags(preset("128x128_classifier")))
    with pytest.raises(CascadeError, match=r"image_size=64, and by .* image_size=128 \(.* preset=128x128_classi"):
        completed(preset("64x64_classifier"), state, "it")


def test_the_key_that_the_flags_do_not_describe_is_named():
    key, state = "middle_block.1.norm.weight", network().state_dict()
    less = {name: value for name, value in state.items() if name != key}
    for changed, said in (
        ({**state, "more": torch.zeros(1)}, "it has 'more', which they do not describe"),
        (less, f"it has no '{key}'"),
        ({**less, key: torch.zeros(3)}, f"'{key}' is (3,), and by the flags (32,)"),
    ):
        with pytest.raises(CascadeError, match=re.escape(said)):
            imported(read_flags(FLAGS), changed, "base64", tuple("01234"), "it")
