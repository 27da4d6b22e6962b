"""`cascade evaluate` as a user meets it: what it prints, what it writes, what it refuses."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.artifact import CascadeConfig, StageConfig, StageSampling, build_denoiser, save_cascade_config, save_stage
from cascade.commands.command_line import main
from cascade.data.procedural import ProceduralDataset
from cascade.errors import CascadeError
from cascade.evaluation.measurement import measure, pixel_figures
from cascade.evaluation.picture_folder import PictureFolder, common_side
from cascade.evaluation.tiny import tiny_features
from cascade.rng import generator, randn

NETWORK = {
    "name": "efficient",
    "patch": 4,
    "channels": [8],
    "blocks": [1],
    "attention": [False],
    "norm": "pixel",
    "embedding_dim": 8,
}
GRID = {"name": "uniform_log_snr", "log_snr_min": -10.0, "log_snr_max": 10.0, "n": 2}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """Two stages of random weights, 8 and 16 px, with the classes of the procedural data."""
    folder = tmp_path_factory.mktemp("cascade")
    rows = []
    for name, resolution, low_resolution in (("base", 8, None), ("sr", 16, 8)):
        base = low_resolution is None
        sampling = StageSampling(
            sampler={"name": "ddim"},
            grid=GRID,
            guidance={"name": "classifier_free", "scale": 1.5} if base else {"name": "none"},
            threshold={"name": "static"},
            aug_log_snr=None if base else math.inf,
            network_batch=4,
        )
        config = StageConfig(
            name=name,
            resolution=resolution,
            network=NETWORK,
            preconditioning={"name": "v"},
            sampling=sampling,
            low_resolution=low_resolution,
            class_names=tuple(ProceduralDataset.class_names) if base else (),
        )
        state = build_denoiser(config).state_dict()
        save_stage(folder / name, config, {k: 0.3 * randn("weights", k, shape=v.shape) for k, v in state.items()})
        rows.append((name, sampling))
    save_cascade_config(folder, CascadeConfig(tuple(rows)))
    return folder


def save(folder, count, size=(16, 16), first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator("png", i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:03}.png")
    return folder


def evaluate(*words):
    return main(["evaluate", "features=tiny", *(str(word) for word in words)])


def report(out):
    return json.loads((out / "evaluation.json").read_text())


def figures(out):
    return {figure["name"]: figure for figure in report(out)["figures"]}


def test_a_cascade_is_measured_and_its_pictures_are_kept(cascade, tmp_path, capsys):
    arguments = (f"cascade={cascade}", "num_images=34", "threads=1", "allow_few_images=true")
    assert evaluate(*arguments, f"out={tmp_path / 'out'}") == 0
    printed = capsys.readouterr().out
    found = figures(tmp_path / "out")
    wanted = [
        "FD-tiny (biased, N<2d)",
        "KID-tiny",
        "precision",
        "recall",
        "high-band power ratio (>0.5 Nyquist)",
        "low-res RMS",
    ]
    for name in [*wanted, "low-res PSNR", "colour shift red"]:
        assert name in found
        assert name in printed
    assert "FID" not in printed
    assert found["KID-tiny"]["num_images"] == found["KID-tiny"]["num_reference"] == 34
    said = report(tmp_path / "out")
    assert [stage["stage"] for stage in said["generated"]["stages"]] == ["base", "sr"]
    assert said["reference"]["data"]["name"] == "procedural"
    assert said["reference"]["data"]["split"] == "train"

    kept = sorted((tmp_path / "out" / "samples").rglob("*.png"))
    assert len(kept) == 2 * 34
    times = [file.stat().st_mtime_ns for file in kept]
    before = (tmp_path / "out" / "evaluation.json").read_text()
    kept[5].unlink()
    assert evaluate(*arguments, f"out={tmp_path / 'out'}") == 0  # the removed one is made again, the same bits
    assert (tmp_path / "out" / "evaluation.json").read_text() == before
    assert [file.stat().st_mtime_ns for file in kept[6:34]] == times[6:34]
    # Without a folder, and stage by stage in another one, the same pictures.
    assert evaluate(*arguments, "stages=1", f"out={tmp_path / 'other'}") == 0
    assert evaluate(*arguments, f"out={tmp_path / 'other'}") == 0
    other = report(tmp_path / "other")
    assert list(other.pop("others")) == ["own, distances, base, tiny"]
    assert {**other, "others": {}} == json.loads(before)
    names = [file.relative_to(tmp_path / "out") for file in kept]
    assert [(tmp_path / "other" / name).read_bytes() for name in names] == [file.read_bytes() for file in kept]


def test_classes_come_in_turn_and_seeds_are_ids(cascade, tmp_path):
    from cascade.orchestrator import CascadePipeline

    assert evaluate(f"cascade={cascade}", "num_images=3", "first_seed=4", "stages=1", f"out={tmp_path}") == 0
    pictures = {int(file.stem): np.asarray(Image.open(file)) for file in (tmp_path / "samples").rglob("*.png")}
    assert sorted(pictures) == [4, 5, 6]
    asked = CascadePipeline.load(cascade).sample(classes=[4, 5, 0], seeds=[4, 5, 6], stages=1)
    for seed, image in zip((4, 5, 6), asked, strict=True):
        assert np.array_equal(pictures[seed], image.permute(1, 2, 0).numpy()), seed


def test_stages_that_do_not_run_are_not_loaded(cascade, tmp_path):
    copy = shutil.copytree(cascade, tmp_path / "cascade")
    (copy / "sr" / "weights.safetensors").unlink()
    assert evaluate(f"cascade={copy}", "num_images=3", "stages=1") == 0
    assert evaluate(f"cascade={copy}", "num_images=3") == 2


def test_without_out_nothing_is_written(cascade, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate(f"cascade={cascade}", "num_images=5", "stages=1") == 0
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert "no FD-tiny: 5 pictures are fewer than the 32 feature dimensions" in printed
    assert "KID-tiny" in printed


def test_few_images_are_called_biased(tmp_path, capsys):
    images = save(tmp_path / "a", 6)
    assert evaluate(f"images={images}", f"reference={images}", "allow_few_images=true", f"out={tmp_path / 'o'}") == 0
    assert "FD-tiny (biased, N<d)" in capsys.readouterr().out
    found = figures(tmp_path / "o")
    assert abs(found["FD-tiny (biased, N<d)"]["value"]) < 1e-6
    assert (found["precision"]["value"], found["recall"]["value"]) == (1, 1)
    assert found["high-band power ratio (>0.5 Nyquist)"]["value"] == 1


def test_folders_of_other_sizes_are_compared_at_the_shortest_side_and_say_so(tmp_path):
    one, other = save(tmp_path / "one", 4, (20, 30)), save(tmp_path / "other", 5, (24, 24))
    assert evaluate(f"images={one}", f"reference={other}", f"out={tmp_path / 'o'}") == 0
    kernel = figures(tmp_path / "o")["KID-tiny"]
    rule = "centre square, bicubic to 20 px"
    assert kernel["resize"] == f"pictures: {rule}; real pictures: {rule}; bilinear_antialias to 32 px"
    assert (kernel["num_images"], kernel["num_reference"]) == (4, 5)


def test_a_folder_of_samples_is_read_by_its_manifest(tmp_path):
    save(tmp_path / "s" / "leaf", 3)
    save(tmp_path / "s" / "stages" / "base" / "leaf", 3, (8, 8))
    lines = [json.dumps({"file": f"leaf/{i:03}.png"}) for i in range(3)]
    (tmp_path / "s" / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    folder = PictureFolder(tmp_path / "s")
    assert (len(folder), folder.side, folder.uniform, folder.rule(16)) == (3, 16, True, None)
    assert common_side([folder, PictureFolder(tmp_path / "s" / "stages")]) == 8
    of = {"file": "leaf/000.png", "class": "a\u2028b"}  # a line for JSON, two for str.splitlines
    (tmp_path / "s" / "manifest.jsonl").write_text(json.dumps(of, ensure_ascii=False) + "\n", encoding="utf-8")
    assert PictureFolder(tmp_path / "s").classes == ["a\u2028b"]
    for wrong in ("3", '["leaf"]', '{"file": ["leaf"]}'):
        (tmp_path / "s" / "manifest.jsonl").write_text(wrong)
        with pytest.raises(CascadeError, match=r"is not a manifest of cascade sample|none of the 1 pictures"):
            PictureFolder(tmp_path / "s")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "either cascade=FOLDER or images=FOLDER"),
        (["images={a}", "cascade={a}"], "either cascade=FOLDER or images=FOLDER"),
        (["images={none}"], "does not exist"),
        (["cascade={none}"], "there is no cascade at"),
        (["images={a}", "reference={broken}"], "broken holds 2 pictures that can be read; 3 are the least"),
        (["images={worse}"], "none of the 2 pictures in {worse} can be read; the first, 000.png: not a picture"),
        (["images={a}", "reference={none}"], "does not exist"),
        (["images={a}", "stages=2"], "stages is a setting of a cascade, and images={a} samples none"),
        (["images={a}", "guidance_scale=2"], "guidance_scale is a setting of a cascade"),
        (["images={a}", "logger.mode=ofline"], "did you mean 'offline'?"),
        (["images={a}", "out={report}"], "was not made by cascade evaluate"),
        (["cascade={cascade}", "sr.stepps=2"], "did you mean 'sr.steps'?"),
        (["cascade={cascade}", "sr.sampler=dimm"], "stage 'sr': unknown sampler 'dimm'; did you mean 'ddim'?"),
        (["cascade={cascade}", "stages=1", "sr.steps=2"], "stage 'sr' does not run here"),
        (["cascade={cascade}", "base.aug_log_snr=2"], "is a base stage and has no aug_log_snr"),
        (["cascade={cascade}", "precision=fp23"], "did you mean 'fp32'?"),
        (["cascade={cascade}", "data=folder", "data.root={none}"], "does not exist"),
        (["cascade={cascade}", "data.size=-3"], "data.size=-3"),
        (["images={empty}"], "holds no picture"),
        (["images={a}", "num_images=2"], "num_images=2 must be at least 3"),
        (["images={a}", "num_reference=2"], "num_reference=2 must be"),
        (["images={a}", "threads=0"], "threads=0 must be"),
        (["images={a}", "logger=wandb"], "give out=FOLDER"),
        (["images={a}", "out={a}/000.png"], "is a file"),
        (["images={a}", "data.split=test"], "unknown split 'test'"),
        (["images={a}", "features.resize=bilinear"], "unknown features.resize 'bilinear'"),
        (["images={a}", "device=nonsense"], "device 'nonsense' is not available"),
        (["images={a}", "neighbors=3"], "did you mean 'neighbours'"),
        (["images={a}", "batch=x"], "batch=x must be a whole number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, line, cascade, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a", 4)
    save(tmp_path / "broken", 3)
    (tmp_path / "broken" / "001.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    (save(tmp_path / "worse", 2) / "000.png").write_bytes(b"no picture")
    (tmp_path / "worse" / "001.png").write_bytes((tmp_path / "worse" / "001.png").read_bytes()[:200])
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "evaluation.json").write_text('{"mine": 1}')
    places = {name: tmp_path / name for name in ("a", "broken", "empty", "none", "worse", "report")}
    places["cascade"] = cascade
    before = sorted(tmp_path.rglob("*"))
    assert evaluate(*(word.format(**places) for word in words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert line.format(**places) in captured.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("side", ["images", "reference"])
def test_a_file_that_cannot_be_read_is_skipped_named_and_counted(side, tmp_path, capsys):
    """The figures are those of the folder without it, though its header says that it is the smallest."""
    sound, torn = save(tmp_path / "sound", 6), save(tmp_path / "torn", 6)
    (torn / "dress.png").write_bytes((save(tmp_path / "small", 1, (5, 5)) / "000.png").read_bytes()[:80])
    (torn / "hat\udce9.jpg").write_bytes(b"no picture")  # the byte e9, which is no text
    other = {"images": "reference", "reference": "images"}[side]
    fixed = f"{other}={save(tmp_path / 'other', 5, first=6)}"
    assert evaluate(f"{side}={sound}", fixed, f"out={tmp_path / 'one'}") == 0
    capsys.readouterr()
    assert evaluate(f"{side}={torn}", fixed, f"out={tmp_path / 'two'}") == 0
    assert figures(tmp_path / "one") == figures(tmp_path / "two")
    which = {"images": "generated", "reference": "reference"}[side]
    said = report(tmp_path / "two")[which]
    assert (said["count"], said["num_bad_files"]) == (6, 2)
    assert [bad["file"] for bad in said["bad_files"]] == ["dress.png", "hat\udce9.jpg"]
    assert report(tmp_path / "one")[which]["bad_files"] == []
    printed = capsys.readouterr().out
    assert "2 pictures" in printed
    assert "could not be read and were skipped: dress.png (" in printed
    assert r", hat\udce9.jpg (" in printed


def test_a_bad_file_of_the_data_is_counted_too(tmp_path):
    torn = save(tmp_path / "torn", 6)
    (torn / "x.png").write_bytes(b"no picture")
    words = ("data=folder", f"data.root={torn}", "data.val_fraction=0", f"images={save(tmp_path / 'a', 4)}")
    assert evaluate(*words, f"out={tmp_path / 'o'}") == 0
    assert [bad["file"] for bad in report(tmp_path / "o")["reference"]["bad_files"]] == ["x.png"]


def test_settings_of_a_stage_are_those_of_sampling(cascade, tmp_path):
    """The same keys, and the same pictures as the pipeline makes with them, from noise and from a kept base."""
    from cascade.orchestrator import CascadePipeline
    from cascade.stage_settings import StageSettings

    words = (f"cascade={cascade}", "num_images=3", f"out={tmp_path}", "base.guidance_scale=3")
    assert evaluate(*words, "stages=1") == 0
    assert evaluate(*words, "sr.steps=5", "sr.sampler=heun") == 0
    base, sr = report(tmp_path)["generated"]["stages"]
    assert (base["guidance"]["scale"], base["steps"]) == (3.0, 2)
    assert (sr["steps"], sr["sampler"]["name"]) == (5, "heun")
    settings = {"base": StageSettings(guidance_scale=3.0), "sr": StageSettings(steps=5, sampler="heun")}
    asked = CascadePipeline.load(cascade).sample([0, 1, 2], [0, 1, 2], settings=settings)
    folders = list((tmp_path / "samples").glob("sr-*"))
    assert len(folders) == 1
    for seed, image in enumerate(asked):
        kept = np.asarray(Image.open(folders[0] / f"{seed:06}.png"))
        assert np.array_equal(kept, image.permute(1, 2, 0).numpy()), seed


def test_two_evaluations_do_not_write_into_one_folder(tmp_path, capsys):
    from cascade.lock import exclusive

    images = save(tmp_path / "a", 4)
    with exclusive(tmp_path / "o"):
        assert evaluate(f"images={images}", f"reference={images}", f"out={tmp_path / 'o'}") == 2
    assert "is writing to" in capsys.readouterr().err


def test_another_class_table_is_refused(cascade, tmp_path, capsys):
    for name in ("dress", "hat"):
        save(tmp_path / "photos" / name, 4)
    words = (f"cascade={cascade}", "data=folder", f"data.root={tmp_path / 'photos'}", "stages=1", "num_images=4")
    assert evaluate(*words) == 2
    assert "only the data has dress, hat" in capsys.readouterr().err


def test_without_inception_one_line_and_the_other_features(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    words = [f"images={save(tmp_path / 'a', 4)}", "features=auto", "features.download=false", "allow_few_images=true"]
    assert main(["evaluate", *words, f"reference={save(tmp_path / 'b', 4, first=4)}"]) == 0
    captured = capsys.readouterr()
    line = [line for line in captured.err.splitlines() if "Inception" in line]
    assert len(line) == 1
    assert "save https://" in line[0]
    assert "FD-efficientnet_lite0 (biased, N<d)" in captured.out
    assert "FID" not in captured.out
    assert "bilinear_antialias to 224 px" in captured.out


def test_a_spoilt_super_resolution_is_blamed_on_its_colour():
    real = [ProceduralDataset(16, "val").image(i) for i in range(6)]
    from cascade.data.degradation import from_uint8, shrink, to_uint8

    low = [to_uint8(shrink(from_uint8(image), 4)) for image in real]
    tinted = [(image.int() + torch.tensor([0, 0, 9])[:, None, None]).clamp(0, 255).to(torch.uint8) for image in real]
    features = tiny_features()
    reference = measure(((image, None) for image in real), features)
    named = {
        figure.name: figure for figure in pixel_figures(measure(zip(tinted, low, strict=True), features), reference)
    }
    assert named["colour shift blue"].value == pytest.approx(9, abs=1.5)
    assert named["colour shift red"].value == pytest.approx(0, abs=0.2)
    assert named["low-res RMS"].unit == "levels"
    rms = named["low-res RMS"].value
    assert rms == pytest.approx(math.sqrt(9**2 / 3), abs=0.7)
    assert named["low-res PSNR"].value == pytest.approx(20 * math.log10(255 / rms))
    assert named["added-band power ratio (>0.25 Nyquist)"].value == pytest.approx(1, abs=0.2)
    honest = pixel_figures(measure(zip(real, low, strict=True), features), reference)
    assert {figure.name: figure.value for figure in honest}["low-res RMS"] == 0


@pytest.mark.slow
def test_wandb_keeps_an_offline_summary_below_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = save(tmp_path / "a", 4)
    assert evaluate(f"images={images}", f"reference={images}", f"out={tmp_path / 'o'}", "logger=wandb") == 0
    assert list((tmp_path / "o" / "wandb").glob("offline-run-*/*.wandb"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "o"]
