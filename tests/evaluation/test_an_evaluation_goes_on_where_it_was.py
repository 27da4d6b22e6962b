"""What is in the folder of an evaluation is used again, and nothing of other settings is mixed into it."""

import json

import pytest
import torch
from PIL import Image

from cascade import CascadePipeline
from cascade.commands.command_line import main
from cascade.commands.evaluated_samples import EvaluatedSamples
from cascade.commands.evaluation_settings import SETTINGS
from cascade.rng import uniform
from cascade.stage_settings import StageSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pipeline(small_cascade):
    return CascadePipeline.load(small_cascade)


@pytest.fixture
def calls(pipeline):
    """The stages whose networks were called, call by call."""
    seen = []
    hooks = [
        stage.denoiser.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
        for name, stage in pipeline.stages.items()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for place in range(4):
        pixels = (255 * uniform("photo", place, shape=(16, 16, 3))).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{place}.png")
    return folder


@pytest.mark.parametrize("before", [1, 2])
def test_a_further_stage_samples_no_earlier_one_again(before, pipeline, calls, tmp_path):
    settings = {"sr32": StageSettings(steps=2)}
    images = [image.image for image in pipeline.iterate([0, 1, 2], [0, 1, 2], settings=settings)]
    list(EvaluatedSamples(pipeline, range(3), None, before, {}, tmp_path))
    calls.clear()
    further = EvaluatedSamples(pipeline, range(3), None, None, settings, tmp_path)
    found = list(further)
    assert set(calls) == {"tiny8", "sr16", "sr32"} - set(["tiny8", "sr16"][:before])
    assert [torch.equal(image, mine) for image, (mine, _) in zip(images, found, strict=True)] == [True] * 3
    calls.clear()
    again = list(further)
    assert calls == []
    assert all(torch.equal(a, b) for one, two in zip(found, again, strict=True) for a, b in zip(one, two, strict=True))
    assert sorted(folder.name.split("-")[0] for folder in tmp_path.iterdir()) == ["sr16", "sr32", "tiny8"]


def test_the_chunk_is_whole_calls_of_the_network(pipeline):
    samples = EvaluatedSamples(pipeline, range(50), None, None, {}, None)
    assert samples.chunk == 16  # calls of 4, 3 and 2
    large = {"tiny8": StageSettings(network_batch=24)}
    assert EvaluatedSamples(pipeline, range(50), None, None, large, None).chunk == 24


def test_other_settings_in_a_folder_are_refused_by_name(small_cascade, photos, tmp_path, capsys):
    def evaluate(*words):
        common = [f"cascade={small_cascade}", "features=tiny", f"out={tmp_path}", f"reference={photos}"]
        number = [] if any(word.startswith("num_images") for word in words) else ["num_images=3"]
        return main(["evaluate", *common, *number, *words])

    assert evaluate("stages=1") == 0
    report, settings = ((tmp_path / name).read_bytes() for name in ("evaluation.json", SETTINGS))
    for words, line in (
        (["tiny8.guidance_scale=3"], "was made with tiny8.guidance.scale=2.0, and here it is 3.0; choose another out"),
        (["seed=4"], "seed=0, and here it is 4"),
    ):
        capsys.readouterr()
        assert evaluate("stages=1", *words) == 2
        assert line in capsys.readouterr().err
    assert [(tmp_path / name).read_bytes() for name in ("evaluation.json", SETTINGS)] == [report, settings]
    # What is held at once, how many pictures and stages there are, and what is made of them may differ.
    assert evaluate("stages=1", "batch=5") == 0
    assert (tmp_path / "evaluation.json").read_bytes() == report
    assert evaluate("stages=2", "num_images=4", "neighbours=2", "sr16.steps=2") == 0
    kept = json.loads((tmp_path / SETTINGS).read_text())
    assert (kept["tiny8"]["steps"], kept["sr16"]["steps"]) == (3, 2)
    capsys.readouterr()
    assert evaluate("stages=2", "sr16.steps=3") == 2
    assert "sr16.steps=2, and here it is 3" in capsys.readouterr().err
