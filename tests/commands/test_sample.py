"""`cascade sample`: the same file whatever is asked beside it, only what is missing, never in another's place."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cascade import CascadePipeline
from cascade.commands.command_line import main
from cascade.commands.low_res_folder import list_low_res
from cascade.commands.sample_manifest import Manifest
from cascade.commands.wanted_pictures import class_folders
from cascade.errors import CascadeError
from cascade.files import sha256_of

pytestmark = pytest.mark.usefixtures("one_thread")


def sample(cascade: Path, out: Path, *settings: str) -> tuple[int, str]:
    """Run the command in this process; its exit code, and what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main(["sample", f"cascade={cascade}", f"out={out}", *settings])
    return code, printed.getvalue()


def pictures(out: Path) -> dict[str, str]:
    """Every PNG but the contact sheet → SHA-256 of the file."""
    return {
        path.relative_to(out).as_posix(): sha256_of(path)
        for path in sorted(out.rglob("*.png"))
        if path.name != "contact_sheet.png"
    }


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def made(small_cascade, tmp_path_factory) -> Path:
    """Every class with seeds 0 to 2, the stages' pictures kept. Copied before it is changed."""
    out = tmp_path_factory.mktemp("samples") / "with (é) space"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    code, printed = sample(small_cascade, out, "seeds=0-2", "save_stages=true")
    torch.set_num_threads(threads)
    assert code == 0, printed
    assert "9 pictures made" in printed
    return out


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copied"))


def test_every_class_with_every_seed_and_nothing_else_is_written(made):
    final = {f"{name}/{seed}.png" for name in ("dress", "hat", "shoe") for seed in range(3)}
    kept = {f"stages/{stage}/{file}" for stage in ("tiny8", "sr16") for file in final}
    assert set(pictures(made)) == final | kept
    others = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} - final - kept
    assert others == {"contact_sheet.png", "manifest.jsonl"}
    assert len(set(pictures(made).values())) == len(final | kept)
    assert pixels(made / "hat/1.png").shape == (32, 32, 3)
    assert pixels(made / "stages/sr16/hat/1.png").shape == (16, 16, 3)


def test_a_file_holds_the_pixels_of_the_pipeline(made, small_cascade):
    expected = CascadePipeline.load(small_cascade).sample("hat", 2)[0]
    assert np.array_equal(pixels(made / "hat/2.png"), expected.permute(1, 2, 0).numpy())
    with Image.open(made / "hat/2.png") as image:
        image.load()
        assert json.loads(image.text["cascade"]) == {"seed": 2, "class": "hat"}


def test_a_picture_is_the_same_file_alone_among_three_and_among_nine(made, small_cascade, tmp_path):
    requests = [("classes=hat", "seeds=1"), ("classes=[2,hat]", "seeds=[1,9]"), ("classes=[hat,dress]", "seeds=2,1")]
    for number, request in enumerate(requests):
        out = tmp_path / str(number)
        assert sample(small_cascade, out, *request, "contact_sheet=false")[0] == 0
        assert pictures(out)["hat/1.png"] == pictures(made)["hat/1.png"]
        assert not (out / "contact_sheet.png").exists()


def test_run_again_it_makes_only_what_is_missing(copied, small_cascade):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.png") if path.name != "contact_sheet.png"}
    hashes = pictures(copied)
    (copied / "dress/0.png").unlink()
    (copied / "hat/2.png").write_bytes((copied / "hat/2.png").read_bytes()[:-20])
    (copied / "stages/tiny8/shoe/1.png").write_bytes(b"")
    code, printed = sample(small_cascade, copied, "seeds=0-2", "save_stages=true")
    assert (code, "3 pictures made, 6 were there already" in printed) == (0, True)
    assert pictures(copied) == hashes
    again = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert {path.relative_to(copied).as_posix() for path in again if "stages" not in path.parts} == {
        "dress/0.png",
        "hat/2.png",
        "shoe/1.png",
    }
    assert "0 pictures made" in sample(small_cascade, copied, "seeds=0-2", "save_stages=true")[1]


def test_another_number_of_cores_goes_on_with_the_threads_of_the_first(copied, small_cascade):
    torch.set_num_threads(2)
    code, printed = sample(small_cascade, copied, "seeds=0-3")
    assert (code, "3 pictures made, 9 were there already" in printed) == (0, True)
    assert {stage["threads"] for line in lines(copied) for stage in line["stages"]} == {1}
    torch.set_num_threads(2)
    code, printed = sample(small_cascade, copied, "seeds=0-3", "threads=2")
    assert (code, "threads is 1 there and 2 here" in printed) == (2, True)


def test_more_seeds_and_classes_join_the_same_folder(copied, small_cascade):
    code, printed = sample(small_cascade, copied, "seeds=[0,7]", "classes=shoe")
    assert (code, "1 picture made, 1 were" in printed) == (0, True)
    assert "shoe/7.png" in pictures(copied)
    assert lines(copied)[-1]["file"] == "shoe/7.png"


def test_the_manifest_says_how_each_picture_was_made(made, small_cascade):
    rows = lines(made)
    assert [row["file"] for row in rows] == [f"{c}/{s}.png" for c in ("dress", "hat", "shoe") for s in range(3)]
    row = rows[4]
    assert (row["seed"], row["class"], row["png_sha256"]) == (1, "hat", sha256_of(made / "hat/1.png"))
    base, middle, last = row["stages"]
    assert (base["stage"], base["sampler"], base["steps"]) == ("tiny8", {"name": "ddim", "eta": 1.0}, 3)
    assert (base["guidance"]["scale"], base["aug_log_snr"], middle["aug_log_snr"]) == (2.0, None, 3.0)
    assert (last["guidance"], last["threads"], last["precision"]) == ({"name": "none"}, 1, "fp32")
    for stage in row["stages"]:
        assert stage["sha256"] == sha256_of(small_cascade / stage["stage"] / "weights.safetensors")
    assert row["stage_files"]["sr16"]["sha256"] == sha256_of(made / "stages/sr16/hat/1.png")


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ("guidance_scale=3", "tiny8.guidance.scale is 2.0 there and 3.0 here"),
        ("sr16.steps=4", "sr16.steps is 3 there and 4 here"),
        ("sr32.aug_log_snr=1", "sr32.aug_log_snr is 3.0 there and 1.0 here"),
        ("sr16.sampler=heun", 'sr16.sampler.name is "ddim" there and "heun" here'),
        ("stages=2", "the stages tiny8, sr16, sr32 there and tiny8, sr16 here"),
        ("threads=2", "tiny8.threads is 1 there and 2 here"),
        ("precision=bf16", "precision"),
    ],
)
def test_other_settings_are_refused_naming_the_first(made, small_cascade, setting, difference):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    code, printed = sample(small_cascade, made, "seeds=0-3", setting)
    assert code == 2
    assert difference in printed
    assert printed.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_a_line_cut_short_by_a_crash_is_dropped_and_its_picture_made_again(copied, small_cascade):
    hashes, path = pictures(copied), copied / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    code, printed = sample(small_cascade, copied, "seeds=0-2", "save_stages=true")
    assert (code, "1 picture made, 8 were" in printed) == (0, True)
    assert pictures(copied) == hashes
    assert len(lines(copied)) == 9


@pytest.mark.parametrize(
    "foreign",
    [
        "not ours at all\n",
        "no end",
        '{"a": 1}\n',
        '{"file": "a.png", "png_sha256": "0", "stages": {}}\n',
        '{"file": "a.png", "png_sha256": "0", "stages": [], "stage_files": {"a": 1}}\n',
        '{"file": "a.png", "png\n{"file": "a.png", "png_sha256": "0", "stages": []}\n',
    ],
)
def test_a_manifest_of_something_else_is_refused_and_stays(small_cascade, tmp_path, foreign):
    (tmp_path / "manifest.jsonl").write_text(foreign)
    code, printed = sample(small_cascade, tmp_path, "seeds=0")
    assert (code, "manifest.jsonl is not a manifest of cascade sample" in printed) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]
    assert (tmp_path / "manifest.jsonl").read_text() == foreign


def test_reading_a_manifest_leaves_it_and_the_first_line_mends_it(copied):
    path = copied / "manifest.jsonl"
    rows = path.read_text(encoding="utf-8").splitlines()
    cut = "\n".join(rows)[:-30]
    path.write_text(cut)
    manifest = Manifest(copied)
    assert path.read_text() == cut
    manifest.append(json.loads(rows[-1]))
    manifest.append({**json.loads(rows[-1]), "file": "a\u2028b.png"})
    assert path.read_text(encoding="utf-8").split("\n")[:-2] == rows
    assert list(Manifest(copied).lines)[-1] == "a\u2028b.png"
    path.write_text("\n".join(["", *rows]))
    with pytest.raises(CascadeError, match=r"line 1\)"):
        Manifest(copied)


def test_a_contact_sheet_of_somebody_else_is_not_replaced(copied, small_cascade):
    assert sample(small_cascade, copied, "seeds=0-2", "save_stages=true")[0] == 0  # its own is
    Image.new("RGB", (9, 9)).save(copied / "contact_sheet.png")
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    code, printed = sample(small_cascade, copied, "seeds=0-3", "save_stages=true")
    assert (code, "contact_sheet.png was not made by cascade" in printed) == (2, True)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before
    assert sample(small_cascade, copied, "seeds=0", "save_stages=true", "contact_sheet=false")[0] == 0


def test_a_picture_of_somebody_else_is_not_replaced(small_cascade, tmp_path):
    (tmp_path / "hat").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "hat/1.png")
    (tmp_path / "manifest.jsonl").touch()
    before = pictures(tmp_path)
    code, printed = sample(small_cascade, tmp_path, "seeds=0-2")
    assert (code, "hat/1.png was not made by cascade" in printed) == (2, True)
    assert pictures(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "hat/1.png", ".hidden"])
def test_a_folder_of_somebody_else_is_refused_and_stays(small_cascade, tmp_path, name):
    foreign = tmp_path / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("mine")
    code, printed = sample(small_cascade, tmp_path, "seeds=0")
    assert (code, "and no manifest.jsonl, so it is not of cascade sample" in printed) == (2, True)
    assert printed.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [foreign]
    assert foreign.read_text() == "mine"


def test_what_was_killed_before_its_first_picture_goes_on(small_cascade, tmp_path, monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cascade.commands.sample._write", killed)
        assert sample(small_cascade, tmp_path / "out", "seeds=0", "classes=hat")[0] == 130
    (tmp_path / "out/hat").mkdir()
    (tmp_path / "out/hat/.0.abc.png").write_text("a part")
    (tmp_path / "out/.cascade.lock").write_text("1")
    code, printed = sample(small_cascade, tmp_path / "out", "seeds=0", "classes=hat")
    assert (code, "1 picture made" in printed) == (0, True)


def test_two_samplings_do_not_write_into_one_folder(small_cascade, tmp_path):
    from cascade.lock import exclusive

    with exclusive(tmp_path / "out"):
        code, printed = sample(small_cascade, tmp_path / "out", "seeds=0")
        assert (code, "is writing to" in printed, printed.count("\n")) == (2, True, 1)
    assert sample(small_cascade, tmp_path / "out", "seeds=0", "classes=hat", "contact_sheet=false")[0] == 0
    assert not list((tmp_path / "out").glob(".*"))


def test_seeds_and_classes_choose_among_named_low_res_pictures(made, small_cascade, tmp_path):
    low = f"low_res={made / 'stages/sr16'}"
    assert sample(small_cascade, tmp_path / "out", low, "seeds=[1,2]", "classes=[hat,shoe]")[0] == 0
    final = pictures(made)
    names = [f"{name}/{seed}.png" for name in ("hat", "shoe") for seed in (1, 2)]
    assert pictures(tmp_path / "out") == {name: final[name] for name in names}
    for setting, message in (
        ("seeds=[1,7]", "no low_res picture has seed 7 in its name, CLASS/7.png"),
        ("classes=[]", "names no class"),
    ):
        code, printed = sample(small_cascade, tmp_path / "none", low, setting)
        assert (code, message in printed) == (2, True), printed
    code, printed = sample(
        small_cascade, tmp_path / "none", f"low_res={made / 'stages/sr16/hat'}", "classes=[hat,shoe]"
    )
    assert (code, "or give one class" in printed) == (2, True)
    code, printed = sample(small_cascade, tmp_path / "none", low, "classes=shoe", "seeds=2", "stages=3")
    assert (code, set(pictures(tmp_path / "none"))) == (0, {"shoe/2.png"})


def test_a_picture_without_a_seed_in_its_name_needs_one_seed(made, small_cascade, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(made / "stages/sr16/hat/2.png", tmp_path / "photos/a.png")
    low = f"low_res={tmp_path / 'photos'}"
    code, printed = sample(small_cascade, tmp_path / "out", low, "seeds=0-3")
    assert (code, "a.png is not known: name it CLASS/SEED.png, or give one seed" in printed) == (2, True)
    assert sample(small_cascade, tmp_path / "out", low)[0] == 0
    assert lines(tmp_path / "out")[0]["seed"] == 0


@pytest.mark.parametrize("stage", ["tiny8", "sr16"])
def test_a_chain_continued_from_kept_pictures_gives_the_same_files(made, small_cascade, tmp_path, stage):
    code, printed = sample(small_cascade, tmp_path / "out", f"low_res={made / 'stages' / stage}")
    assert code == 0, printed
    final = {file: sha256 for file, sha256 in pictures(made).items() if not file.startswith("stages")}
    assert pictures(tmp_path / "out") == final
    rows = lines(tmp_path / "out")
    assert [s["stage"] for s in rows[0]["stages"]] == (["sr16", "sr32"] if stage == "tiny8" else ["sr32"])
    assert len({row["low_res"] for row in rows}) == 9


def test_a_stopped_chain_can_be_continued(made, small_cascade, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert sample(small_cascade, first, "stages=2", "seeds=0-2", "save_stages=true")[0] == 0
    assert pixels(first / "shoe/0.png").shape == (16, 16, 3)
    assert sample(small_cascade, second, f"low_res={first}")[0] == 0
    assert pictures(second)["shoe/0.png"] == pictures(made)["shoe/0.png"]


def test_pictures_without_class_and_seed_take_them_from_the_command(made, small_cascade, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(made / "stages/tiny8/hat/2.png", photos / "my hat.png")
    code, printed = sample(small_cascade, tmp_path / "none", f"low_res={photos}")
    assert (code, "my hat.png is not known: name it CLASS/SEED.png" in printed) == (2, True)
    code, _ = sample(small_cascade, tmp_path / "given", f"low_res={photos}", "classes=hat", "seeds=2")
    assert code == 0
    assert np.array_equal(pixels(tmp_path / "given/my hat.png"), pixels(made / "hat/2.png"))
    assert lines(tmp_path / "given")[0]["class"] == "hat"
    (photos / "hut").mkdir()
    (photos / "my hat.png").rename(photos / "hut/2.png")
    code, printed = sample(small_cascade, tmp_path / "none", f"low_res={photos}")
    assert (code, "lies in 'hut', which is no class; did you mean 'hat'?" in printed) == (2, True)
    shutil.rmtree(photos / "hut")
    # An unlabelled stage needs no class.
    shutil.copy(made / "stages/sr16/hat/2.png", photos / "my hat.png")
    assert sample(small_cascade, tmp_path / "unlabelled", f"low_res={photos}", "seeds=2")[0] == 0
    assert np.array_equal(pixels(tmp_path / "unlabelled/my hat.png"), pixels(made / "hat/2.png"))


def test_another_low_res_picture_of_the_same_name_is_refused(made, small_cascade, tmp_path):
    low, out = Path(shutil.copytree(made / "stages/sr16", tmp_path / "low")), tmp_path / "out"
    assert sample(small_cascade, out, f"low_res={low}")[0] == 0
    shutil.copy(low / "hat/0.png", low / "dress/0.png")
    code, printed = sample(small_cascade, out, f"low_res={low}")
    assert (code, "was made from another low-res picture" in printed) == (2, True)


def test_low_res_pictures_that_fit_nothing_are_refused(small_cascade, tmp_path):
    def refused(message: str, *sizes: tuple[int, int]) -> None:
        folder = tmp_path / message.replace(" ", "")
        folder.mkdir()
        for number, size in enumerate(sizes):
            Image.new("RGB", size).save(folder / f"{number}.png")
        code, printed = sample(small_cascade, tmp_path / "out", f"low_res={folder}", "classes=hat")
        assert (code, message in printed) == (2, True), printed
        assert not (tmp_path / "out").exists()

    refused("of 9 px fit none", (9, 9))
    refused("of 32 px fit none", (32, 32))
    refused("is 8x9 px", (8, 9))
    refused("differ in size", (8, 8), (16, 16))
    (tmp_path / "broken").mkdir()
    number = 10**19
    Image.new("RGB", (8, 8)).save(tmp_path / f"broken/{number}.png")
    with pytest.raises(CascadeError, match=rf"{number}\.png: seed {number} is not .*; give it another name"):
        list_low_res(tmp_path / "broken")
    (tmp_path / f"broken/{number}.png").unlink()
    (tmp_path / "broken/0.png").write_bytes(b"no picture")
    with pytest.raises(CascadeError, match="cannot be read"):
        list_low_res(tmp_path / "broken")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "broken/0.png")
    (tmp_path / "broken/0.png").write_bytes((tmp_path / "broken/0.png").read_bytes()[:80])  # the size can be read
    code, printed = sample(small_cascade, tmp_path / "out", f"low_res={tmp_path / 'broken'}", "classes=hat")
    assert (code, "0.png cannot be read" in printed, (tmp_path / "out").exists()) == (2, True, False)


def test_guidance_scale_is_refused_where_the_base_does_not_run(made, small_cascade, tmp_path):
    code, printed = sample(small_cascade, tmp_path, f"low_res={made / 'stages/tiny8'}", "guidance_scale=2")
    assert (code, "use sr16.guidance_scale" in printed) == (2, True)


def test_an_unlabelled_cascade_numbers_its_pictures(small_configs, make_cascade, tmp_path):
    from dataclasses import replace

    cascade = make_cascade(tmp_path / "cascade", [replace(small_configs[0], class_names=())])
    assert sample(cascade, tmp_path / "out", "seeds=[4,5]")[0] == 0
    assert set(pictures(tmp_path / "out")) == {"4.png", "5.png"}
    code, printed = sample(cascade, tmp_path / "out", "classes=hat")
    assert (code, "knows no classes" in printed) == (2, True)


def test_class_folders_are_distinct_and_stay_in_the_folder():
    folders = class_folders(["a/b", "a_b", "..", "stages", "tench, Tinca tinca", "CON:"])
    assert len(set(folders)) == 6
    assert all(Path(folder).name == folder and folder not in ("..", "stages") for folder in folders)
