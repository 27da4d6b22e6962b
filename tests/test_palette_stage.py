"""Stages that are shown greys or a part of given pictures: one network, trained, stored, sampled and refused alike."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cascade import CascadePipeline
from cascade.artifact import StageConfig, check_chain, load_stage_config
from cascade.commands.command_line import main
from cascade.commands.report_steps import StagePath, _noting
from cascade.commands.sample_manifest import Manifest
from cascade.data.condition_picture import Grayscale, mask_boxes
from cascade.data.degradation import from_uint8, to_uint8
from cascade.diffusion import Condition
from cascade.errors import CascadeError
from cascade.rng import uniform
from cascade.stage_settings import StageSettings

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURES = (uniform("palette pictures", shape=(3, 3, 16, 16)) * 256).to(torch.uint8)
TINY = ["debug=fast", "data.size=2", "data.val_size=2", "stage.resolution=32", "stage.low_resolution=32"]


@pytest.fixture(scope="module")
def palette(small_configs, make_cascade, tmp_path_factory):
    """palette(condition, *behind): the folder of a cascade that is shown pictures of 16 px, and what follows."""
    sr16 = small_configs[1]

    def make(condition: str, *behind: StageConfig) -> Path:
        sampling = replace(sr16.sampling, aug_log_snr=torch.inf)
        first = replace(
            sr16, name="palette16", low_resolution=16, augmentation={"name": "none"}, sampling=sampling,
            condition={"name": condition},
        )  # fmt: skip
        return make_cascade(tmp_path_factory.mktemp("palette") / condition, [first, *behind])

    return make


def changed(made: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (made.int() - other.int()).abs().float().mean()


@pytest.fixture(scope="module")
def grey(palette) -> CascadePipeline:
    return CascadePipeline.load(palette("grayscale"))


@pytest.fixture(scope="module")
def boxes(palette, small_configs) -> CascadePipeline:
    return CascadePipeline.load(palette("mask_boxes", small_configs[2]))


def test_the_condition_changes_the_output_and_colours_do_not(grey):
    made = grey.sample("hat", [0, 1, 2], low_res=PICTURES)
    assert changed(made, grey.sample("hat", [0, 1, 2], low_res=PICTURES.flip(-1))) > 1
    greys = torch.stack([to_uint8(Grayscale()(from_uint8(picture))) for picture in PICTURES])
    assert torch.equal(made, grey.sample("hat", [0, 1, 2], low_res=greys))


def test_hidden_pixels_do_not_change_the_output_and_shown_ones_do(boxes):
    first = torch.stack(
        [image.stage_images["palette16"] for image in boxes.iterate(0, [0, 1, 2], low_res=PICTURES, stage_images=True)]
    )
    names = [("sample", seed, "palette16", "condition") for seed in range(3)]
    known = torch.stack([mask_boxes().known(16, 16, *name) for name in names])[:, None]
    assert 0 < known.float().mean() < 1

    def made(pictures):
        images = boxes.iterate(0, [0, 1, 2], low_res=pictures, stage_images=True)
        return torch.stack([image.stage_images["palette16"] for image in images])

    assert torch.equal(made(torch.where(known, PICTURES, 7)), first)
    assert changed(made(torch.where(known, 7, PICTURES)), first) > 1
    keep = {"palette16": StageSettings(keep_known=True)}
    kept = boxes.sample(0, [0, 1, 2], low_res=PICTURES, settings=keep, stages=1)
    everywhere = known.expand_as(kept)
    assert torch.equal(kept[everywhere], PICTURES[everywhere])
    assert not torch.equal(first[everywhere], PICTURES[everywhere])
    assert changed(kept[~everywhere], PICTURES[~everywhere]) > 1


@pytest.mark.parametrize(("settings", "precision"), [({"tile": 8}, "fp32"), ({"guidance_scale": 3.0}, "bf16")])
def test_known_pixels_are_kept_by_tiles_guided_and_in_bf16_too(boxes, settings, precision):
    pipeline = CascadePipeline(boxes.configs, boxes.samplings, boxes.stages, precision=precision)
    keep = {"palette16": StageSettings(keep_known=True, **settings)}
    made = pipeline.sample(0, [0, 1, 2], low_res=PICTURES, settings=keep, stages=1)
    names = [("sample", seed, "palette16", "condition") for seed in range(3)]
    known = torch.stack([mask_boxes().known(16, 16, *name) for name in names])[:, None].expand_as(made)
    assert torch.equal(made[known], PICTURES[known])
    assert changed(made[~known], PICTURES[~known]) > 1


def test_the_picture_in_what_is_shown_is_without_the_mask():
    path = StagePath("palette16")
    shown = mask_boxes()(from_uint8(PICTURES[0]), 1)[None]
    x_t = torch.zeros(1, 3, 16, 16)
    _noting([path])(x_t, torch.zeros(1), x_t, Condition(low_res=shown))
    assert torch.equal(path.low_res, to_uint8(shown[0, :3]))


def test_a_picture_is_masked_alike_alone_and_among_others_and_larger_stages_follow(boxes):
    among = boxes.sample(0, [0, 1, 2], low_res=PICTURES)
    assert among.shape == (3, 3, 32, 32)
    assert torch.equal(boxes.sample(0, 2, low_res=PICTURES[2:])[0], among[2])


def test_the_record_says_what_was_shown(boxes):
    keep = {"palette16": StageSettings(keep_known=True)}
    first, second = (stage.record() for stage in boxes.plan(low_resolution=16, settings=keep))
    assert (first["condition"]["name"], first["condition"]["most"], first["keep_known"]) == ("mask_boxes", 4, True)
    assert not {"condition", "keep_known"} & set(second)


def test_samples_with_other_masks_are_not_gone_on_with(boxes, tmp_path):
    def record(keep_known=True, **condition):
        stage = boxes.stages["palette16"]
        masked = replace(stage.config, condition={"name": "mask_boxes", **condition})
        stages = {**boxes.stages, "palette16": replace(stage, config=masked)}
        pipeline = CascadePipeline([masked, *boxes.configs[1:]], boxes.samplings, stages, precision="fp32")
        settings = {"palette16": StageSettings(keep_known=keep_known)}
        return [stage.record() for stage in pipeline.plan(low_resolution=16, settings=settings)]

    manifest = Manifest(tmp_path)
    manifest.append({"file": "0.png", "png_sha256": "", "stages": record()})
    Manifest(tmp_path).refuse_other(record(most=4))
    for other, said in (
        (record(most=3), "condition.most is 4 there and 3 here"),
        (record(keep_known=False), "keep_known is true there and null here"),
    ):
        with pytest.raises(CascadeError, match=said):
            Manifest(tmp_path).refuse_other(other)


def test_what_does_not_fit_is_said_in_a_line(grey, small_configs):
    with pytest.raises(CascadeError, match=r"shown pictures of 16 px.*low_res=FOLDER"):
        grey.sample(0, 0)
    with pytest.raises(CascadeError, match="no pixels to keep"):
        grey.sample(0, 0, low_res=PICTURES[:1], settings={"palette16": StageSettings(keep_known=True)})
    stored = CascadePipeline(grey.configs, [replace(grey.samplings[0], keep_known=True)], grey.stages)
    with pytest.raises(CascadeError, match="no pixels to keep"):
        stored.plan(low_resolution=16)
    with pytest.raises(CascadeError, match="truncated"):
        grey.sample(0, 0, low_res=PICTURES[:1], settings={"palette16": StageSettings(truncated=True)})
    inside = replace(small_configs[1], condition={"name": "grayscale"})
    with pytest.raises(CascadeError, match=r"'sr16' is shown given pictures .* it can only come first"):
        check_chain([small_configs[0], inside])


def test_a_stage_of_before_is_shown_its_small_picture(small_configs, tmp_path):
    old = {key: value for key, value in small_configs[1].to_mapping().items() if key != "condition"}
    assert StageConfig.from_mapping(old, "config.yaml") == small_configs[1]
    assert small_configs[1].shown.chained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=base64", "condition=grayscale"], "say stage=palette64"),
        (["stage=sr256", "condition=mask_half"], "must be stage.resolution=256"),
        (["stage=palette64", "condition=mask_half", "augmentation=gaussian"], "say augmentation=none"),
        (["stage=palette64", "condition=low_res"], "like condition=grayscale"),
        (["stage=palette64", "condition=mask_boxes", "condition.most=0"], "1 <= least <= most"),
    ],
)
def test_a_training_that_cannot_be_is_refused_at_once(words, message, tmp_path, capsys):
    assert main(["train", *words, f"runs={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.filterwarnings("ignore::UserWarning:lightning.*", "ignore:.*LeafSpec.*:FutureWarning")
def test_filling_in_is_trained_assembled_and_sampled_by_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "stage=palette64", "condition=mask_boxes", *TINY, "name=fill"]) == 0
    stored = load_stage_config("runs/fill/palette64").condition
    assert stored == {"name": "mask_boxes", "least": 1, "most": 4, "share_min": 0.2, "share_max": 0.5}
    assert list(Path("runs/fill/palette64/samples").glob("*.png"))
    assert main(["assemble", "stages=runs/fill/palette64", "out=made"]) == 0
    Path("given").mkdir()
    picture = (uniform("given", shape=(32, 32, 3)) * 256).to(torch.uint8)
    Image.fromarray(picture.numpy()).save("given/5.png")
    words = ["sample", "cascade=made", "low_res=given", "classes=0", "palette64.steps=2", "palette64.keep_known=true"]
    assert main([*words, "out=samples"]) == 0
    file = next(p for p in Path("samples").rglob("*.png") if p.name != "contact_sheet.png")
    made = pil_to_tensor(Image.open(file))
    known = mask_boxes().known(32, 32, "sample", 5, "palette64", "condition").expand(3, -1, -1)
    assert torch.equal(made[known], picture.permute(2, 0, 1)[known])
    assert not torch.equal(made[~known], picture.permute(2, 0, 1)[~known])
    assert main(["sample", "cascade=made", "classes=0", "seeds=1", "out=other"]) == 2
    assert "low_res=FOLDER" in capsys.readouterr().err


def test_explain_and_plan_know_it(tmp_path):
    size = ["stage=palette64", "network=tiny", "stage.resolution=16", "stage.low_resolution=16"]
    assert main(["explain", *size, "condition=mask_half", "grid.n=3", f"out={tmp_path / 'explained'}"]) == 0
    report = json.loads((tmp_path / "explained" / "explain.json").read_text())
    assert "not shown" in json.dumps(report, ensure_ascii=False)
    parameters = []
    for condition in ("mask_half", "grayscale"):
        file = tmp_path / f"{condition}.json"
        assert main(["plan", *size, f"condition={condition}", "data.size=6", "card=l4", f"json={file}"]) == 0
        parameters.append(json.loads(file.read_text())["parameters"])
    assert parameters[0] > parameters[1]  # a channel more
