"""`cascade report`: one page that holds all it shows, an entry for each picture, and commands that make them again."""

import json
import shlex
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from PIL import Image

from cascade.commands import report_steps
from cascade.commands import sample as sample_command
from cascade.commands.command_line import main
from cascade.commands.overrides import check
from cascade.commands.report_html import Entry, Page
from cascade.commands.report_pictures import data_uri
from cascade.commands.report_samples import read_samples
from cascade.commands.report_settings import known
from cascade.commands.report_steps import Replay
from cascade.data.procedural import ProceduralDataset
from cascade.files import sha256_of
from cascade.progress import progress_bars
from tests.commands.browser import CHROMIUM, chromium
from tests.commands.report_reader import DATA, Read, report
from tests.conftest import small_stage

pytestmark = pytest.mark.usefixtures("one_thread")
NASTY = '<script>window.stolen = 1</script> & "it\'s"'


@pytest.fixture(scope="module")
def cascade(make_cascade, tmp_path_factory) -> Path:
    """8 → 16 → 32 px, of the classes of the drawn pictures."""
    classes = tuple(ProceduralDataset.class_names)
    stages = [small_stage("tiny8", 8, chunk=4, class_names=classes), small_stage("sr16", 16, 8, class_names=classes),
              small_stage("sr32", 32, 16, chunk=2, class_names=())]  # fmt: skip
    return make_cascade(tmp_path_factory.mktemp("report") / "cascade", stages)


def sampled(cascade: Path, out: Path, *settings: str) -> Path:
    assert main(["sample", f"cascade={cascade}", f"out={out}", "threads=1", "precision=fp32", *settings]) == 0
    return out


@pytest.fixture(scope="module")
def samples(cascade, tmp_path_factory) -> Path:
    """Two classes with two seeds, with other settings than the cascade's. Copied before it is changed."""
    out = tmp_path_factory.mktemp("with (é) space") / "samples"
    settings = ("classes=[leaf,gem]", "seeds=[0,7]", "save_stages=true", "tiny8.sampler.eta=0.5", "sr16.aug_log_snr=2",
                "sr32.steps=2", "sr32.sampler=dpm_solver_pp", "guidance_scale=1.5")  # fmt: skip
    return sampled(cascade, out, *settings)


@pytest.fixture
def copied(samples, tmp_path) -> Path:
    return Path(shutil.copytree(samples, tmp_path / "copied"))


def rewrite(folder: Path, change) -> None:
    """Change each line of the manifest."""
    file = folder / "manifest.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        change(line)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def page(samples, cascade, tmp_path_factory) -> Path:
    """A report of everything there is."""
    root = tmp_path_factory.mktemp("page")
    (root / "run").mkdir()
    (root / "run" / "metrics.csv").write_text("step,train/loss,val/loss,val/mse[0,1]\n1,0.5,,\n2,0.25,0.5,0.1\n")
    card = {"made_by": "cascade evaluate", "figures": [{"name": "KID<tiny>", "value": 0.5, "num_images": 4}]}
    (root / "evaluation.json").write_text(json.dumps(card))
    threads = torch.get_num_threads()
    more = [f"runs={root}", f"cards=[{root / 'evaluation.json'}]", "trajectories=3", "moments=3"]
    assert report(samples, f"out={root / 'out'}", f"cascade={cascade}", *DATA, *more) == 0
    torch.set_num_threads(threads)
    return root / "out" / "report.html"


def test_the_page_holds_all_that_it_shows(page):
    read = Read(page)
    for tag, attributes in read.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "audio", "video"}
        assert not [key for key in attributes if key.startswith("on") or key == "srcset"]
        assert attributes.get("src", "data:image/").startswith("data:image/")
        href = urlsplit(attributes.get("href") or "")
        assert not href.scheme
        assert not href.netloc
    style, script = read.text["style"], read.text["script"]
    assert "url(" not in style
    assert "@import" not in style
    assert not [word for word in ("fetch(", "XMLHttpRequest", "WebSocket", "innerHTML", "http") if word in script]


def test_every_picture_says_in_words_what_it_is(page):
    pictures = [img for img in Read(page).all("img") if img.get("id") != "large-img"]
    assert all(img["alt"] for img in pictures)
    assert all(view["alt"] for detail in Read(page).details() for view in [*detail["views"], *detail["near"]])
    assert all(svg["aria-label"] for svg in Read(page).all("svg"))


def test_there_is_one_entry_for_each_line_of_the_manifest_and_its_link_leads_to_the_file(page, samples):
    details = Read(page).details()
    assert [detail["file"] for detail in details] == [picture.file for picture in read_samples(samples).pictures]
    for detail in details:
        assert (page.parent / unquote(detail["href"])).resolve() == (samples / detail["file"]).resolve()


def test_each_picture_is_shown_stage_by_stage(page):
    for detail in Read(page).details():
        names = [view["name"] for view in detail["views"]]
        assert names == ["tiny8", "augmented", "sr16", "augmented", "sr32", "real"]
        assert [view["size"] for view in detail["views"]] == ["8 px", "8 px", "16 px", "16 px", "32 px", "32 px"]
        assert "noise of 47 levels of 255 (λ = 2)" in detail["views"][1]["caption"]


@pytest.mark.parametrize("told", [True, False])
def test_the_command_makes_the_picture_again(page, samples, cascade, tmp_path, told):
    """With the cascade only what was changed is in it, without it everything."""
    if not told:
        assert report(samples, f"out={tmp_path / 'page'}") == 0
        page = tmp_path / "page" / "report.html"
    details = Read(page).details()
    for detail in details:
        program, command, *words = shlex.split(detail["command"])
        assert (program, command) == ("cascade", "sample")
        words = [word.replace("cascade=CASCADE", f"cascade={cascade}") for word in words]
        check("sample", words, extra_keys=sample_command.extra_keys)
    assert ("sr32.sampler=dpm_solver_pp" in words, "sr32.threshold=static" in words) == (True, not told)
    words = [word for word in words if not word.startswith("out=")]
    assert main(["sample", *words, f"out={tmp_path / 'again'}"]) == 0
    last = details[-1]["file"]
    assert sha256_of(tmp_path / "again" / last) == sha256_of(samples / last)
    assert len(list((tmp_path / "again").rglob("[0-9]*.png"))) == 3


def test_watching_changes_no_bit_and_sees_every_call(samples, cascade):
    of = read_samples(samples)
    replay = Replay(known(of, str(cascade), None), "cpu")
    with progress_bars(quiet=True) as bars:
        found = replay.paths(of.pictures, bars)
    for picture, paths in zip(of.pictures, found, strict=True):
        there = of.of_stages(picture)
        assert [path.stage for path in paths] == list(there)
        assert all(torch.equal(path.made, there[path.stage]) for path in paths)
        assert [len(path.moments) for path in paths] == [row["steps"] for row in of.stages]
        for path, stage, before in zip(paths[1:], replay.plan[1:], paths, strict=False):
            assert torch.equal(path.low_res, replay.augmented(stage, picture, there[before.stage]))
            levels = [moment.log_snr for moment in path.moments]
            assert levels == pytest.approx(stage.log_snrs[:-1].tolist(), abs=1e-4)
        # The last step into +inf returns the guess, so the last guess is the picture.
        assert torch.equal(paths[-1].moments[-1].guess, there["sr32"])


def test_of_a_large_guess_the_middle_is_kept_at_its_own_pixels(samples, cascade, monkeypatch):
    """Also of the last stage, whose pictures are shown smaller: what it adds would be lost there."""
    monkeypatch.setattr(report_steps, "SHOWN", 12)
    of = read_samples(samples)
    with progress_bars(quiet=True) as bars:
        ((small, middle, large),) = Replay(known(of, str(cascade), None), "cpu").paths(of.pictures[:1], bars)
    assert all(moment.detail is None for moment in small.moments)
    assert all(moment.detail.shape == moment.guess.shape == (3, 12, 12) for moment in middle.moments + large.moments)
    assert torch.equal(large.moments[-1].detail, large.made[:, 10:22, 10:22])


def test_the_page_shows_the_paths_of_each_class_in_turn(page):
    read = Read(page)
    assert [article["id"] for article in read.all("article")] == ["steps-0", "steps-1", "steps-2"]
    assert read.source.count("it is the same bits as the file") == 3
    films = [group for group in read.all("div") if group.get("class") == "film"]
    assert len(films) == 3 * 3


def test_a_sample_that_is_a_training_picture_is_found_to_be_one(copied, tmp_path):
    copy = ProceduralDataset(resolution=32, split="train", size=12, val_size=12).image(5).permute(1, 2, 0).numpy()

    def change(line):
        if line["file"] == "gem/7.png":
            Image.fromarray(copy[:, ::-1]).save(copied / line["file"])  # mirrored, as it is trained on too
            line["png_sha256"] = sha256_of(copied / line["file"])

    rewrite(copied, change)
    assert report(copied, f"out={tmp_path}", *DATA) == 0
    read = Read(tmp_path / "report.html")
    assert read.details()[3]["near"][0] == {
        "of": "trained-5",
        "alt": "the nearest training picture in pixels at 8 px",
        "caption": "in pixels at 8 px: 0 levels",
        "exact": False,
    }
    pairs = read.source.partition("Nearest in pixels")[2]
    assert pairs.index("gem, seed 7") < pairs.index("gem, seed 0")


def test_names_are_text_and_nothing_else(copied, tmp_path):
    rewrite(copied, lambda line: line.update({"class": NASTY} if line["class"] == "gem" else {}))
    assert report(copied, f"out={tmp_path}") == 0
    read = Read(tmp_path / "report.html")
    assert read.classes == ["leaf", "leaf", NASTY, NASTY]
    assert [detail["name"] for detail in read.details()][2] == f"{NASTY}, seed 0"
    assert len(read.all("script")) == 1 + 4
    assert not [script for script in read.all("script") if "src" in script]
    assert "window.stolen = 1</script>" not in read.source
    (word,) = [word for word in shlex.split(read.details()[2]["command"]) if word.startswith("classes=")]
    assert check("sample", ["cascade=x", "out=o", word]).config.classes == [NASTY]


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is(copied, tmp_path):
    rewrite(copied, lambda line: line.update({"class": "g\udcffm"} if line["class"] == "gem" else {}))
    assert report(copied, f"out={tmp_path}") == 0
    assert Read(tmp_path / "report.html").classes == ["leaf", "leaf", "g?m", "g?m"]


def test_pictures_made_from_given_ones_are_shown_beside_them(samples, cascade, tmp_path):
    given = samples / "stages" / "tiny8"
    made = sampled(cascade, tmp_path / "made", f"low_res={given}", "seeds=7", "classes=gem")
    assert report(made, f"cascade={cascade}", f"low_res={given}", "trajectories=1") == 0
    (detail,) = Read(made / "report.html").details()
    assert [view["name"] for view in detail["views"]] == ["given", "augmented", "sr16", "augmented", "sr32"]
    words = shlex.split(detail["command"])[2:]
    assert f"low_res={given}" in words
    assert main(["sample", *words[:-1], f"out={tmp_path / 'again'}"]) == 0
    assert sha256_of(tmp_path / "again/gem/7.png") == sha256_of(made / "gem/7.png")


def test_the_same_folder_gives_the_same_page_and_another_page_is_left_alone(copied, capsys):
    assert report(copied, "full=true") == 0
    first = (copied / "report.html").read_bytes()
    assert report(copied, "full=true") == 0
    assert (copied / "report.html").read_bytes() == first
    full = Read(copied / "report.html").details()[0]["views"][-1]["full"]
    assert full.startswith("data:image/png;base64,")
    (copied / "report.html").write_text("<p>mine</p>")
    capsys.readouterr()
    assert report(copied) == 2
    assert "was not made by cascade report" in capsys.readouterr().err
    assert (copied / "report.html").read_text() == "<p>mine</p>"


WRONG = [
    (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "holds no picture that Pillow reads"),
    (lambda folder: (folder / "manifest.jsonl").write_text('{"version": 9}\n'), "or of another version"),
    (lambda folder: (folder / "manifest.jsonl").write_text(""), "names no picture yet"),
    (lambda folder: rewrite(folder, lambda line: line.pop("seed")), "leaf/0.png has no 'seed', so this manifest is of"),
    (
        lambda folder: rewrite(folder, lambda line: line["stages"][0].pop("grid")),
        "has no stages.grid, so this manifest",
    ),
    *(
        (
            lambda folder, key=key, value=value: rewrite(folder, lambda line: line["stages"][1].update({key: value})),
            f"leaf/0.png: stages.{key} {value!r} is nothing that cascade sample writes",
        )
        for key, value in (("sampler", "ddim"), ("grid", {}), ("steps", "4"), ("threads", 0), ("aug_log_snr", "much"))
    ),
    (lambda folder: rewrite(folder, lambda line: line.update(file="../x.png")), "a file outside its folder"),
    (
        lambda folder: (folder / "gem/7.png").unlink(),
        "gem/7.png is in the manifest and not there; cascade sample makes",
    ),
    (lambda folder: (folder / "stages/sr16/gem/0.png").unlink(), "stages/sr16/gem/0.png is in the manifest and not"),
    (lambda folder: (folder / "gem/7.png").write_bytes(b"x"), "gem/7.png was changed since it was sampled"),
]


@pytest.mark.parametrize(("spoil", "line"), WRONG)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(copied, capsys, spoil, line):
    spoil(copied)
    capsys.readouterr()
    assert report(copied) == 2
    printed = capsys.readouterr().err
    assert line in printed
    assert printed.splitlines()[-1].startswith("cascade: ")
    assert not (copied / "report.html").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["cascade={small}"], "did not make these samples: the weights of 'tiny8' differ"),
        (["runs={photos}"], "holds no metrics.csv"),
        (["runs={photos}/0.png"], "is no metrics.csv of a run"),
        (["cards={photos}"], "holds neither card.json nor evaluation.json"),
        (["cards={photos}/0.png"], "is no report of cascade evaluate or cascade card"),
        (["cards=nowhere"], "cards=nowhere does not exist"),
        (["data=folder"], "needs data.root"),
        (["moments=1"], "moments=1 must be at least 2"),
        (["out={photos}/0.png"], "is a file"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said_in_one_line(samples, places, capsys, settings, line):
    capsys.readouterr()
    assert report(samples, *(word.format(photos=places["photos"], small=places["cascade"]) for word in settings)) == 2
    assert line in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_of_a_thousand_pictures_a_browser_lays_out_those_that_are_seen(tmp_path):
    uri = data_uri(torch.zeros(3, 32, 32, dtype=torch.uint8), 32)
    view = {"name": "base", "size": "32 px", "caption": "made", "alt": "made", "exact": True, "output": True}
    detail = {"file": "x", "href": "x", "command": "c", "views": [view], "near": [], "steps": ""}
    entries = [Entry(f"n{i}", f"c{i % 7}", i, "x", uri, 32, {**detail, "name": f"n{i}"}) for i in range(1000)]
    (tmp_path / "report.html").write_text(Page("many", "", entries, []).html(), encoding="utf-8")
    with chromium(tmp_path / "profile") as tab:
        tab.open(tmp_path / "report.html")
        seen = "[...document.querySelectorAll('.card img')].map(i => i.checkVisibility({contentVisibilityAuto: true}))"
        assert tab.run(f"{seen}.length") == 1000
        tab.drawn()
        assert 0 < tab.run(f"{seen}.filter(Boolean).length") < 300
        tab.run("document.querySelectorAll('.card a')[998].focus()")
        tab.press("ArrowRight", "Enter")
        assert tab.run("document.getElementById('detail-title').textContent") == "n999"
        tab.drawn()
        assert tab.run(f"{seen}.at(-1)")
        assert tab.errors == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_shows_it_by_keyboard_at_any_width_without_a_network(copied, tmp_path):
    rewrite(copied, lambda line: line.update({"class": NASTY} if line["class"] == "gem" else {}))
    assert report(copied, f"out={tmp_path / 'page'}") == 0
    file = tmp_path / "page" / "report.html"
    with chromium(tmp_path / "profile") as tab:
        tab.open(file)
        light = tab.run("getComputedStyle(document.body).backgroundColor")
        shown = "[...document.querySelectorAll('.card')].filter(card => !card.hidden).length"
        assert tab.run(shown) == 4
        tab.press("/", "l", "e", "a", "f")
        assert (tab.run("document.activeElement.id"), tab.run("document.getElementById('find').value")) == (
            "find",
            "leaf",
        )
        assert (tab.run(shown), tab.run("document.getElementById('count').textContent")) == (2, "2 of 4")
        tab.press("Escape")
        assert tab.run(shown) == 4
        focused = "document.activeElement.closest('.card')?.id ?? null"
        tab.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
        assert tab.run(focused) == "p1"
        tab.press("ArrowRight", "Enter")
        title = "document.getElementById('detail').open && document.getElementById('detail-title').textContent"
        assert tab.run(title) == f"{NASTY}, seed 0"
        stage = "document.querySelector('#views [aria-pressed=true]').innerText.split('\\n')[0]"
        assert tab.run(stage) == "sr32"
        tab.press("ArrowUp")
        assert tab.run(stage) == "sr16"
        tab.press("ArrowRight")
        assert (tab.run(title), tab.run(stage)) == (f"{NASTY}, seed 7", "sr16")
        assert tab.run("document.getElementById('command').textContent").startswith("cascade sample cascade=CASCADE")
        tab.press("Escape")
        assert not tab.run("document.getElementById('detail').open")
        tab.run(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )  # its event comes later
        assert tab.run(focused) == "p3"
        for width in (360, 1280):
            tab.open(file, width, dark=True)
            assert tab.run("document.documentElement.scrollWidth") <= width
            tab.run("document.querySelector('.card a').click()")
            assert tab.run("document.getElementById('detail').scrollWidth") <= width
        assert tab.run("getComputedStyle(document.body).backgroundColor") != light
        assert tab.run("typeof window.stolen") == "undefined"
        assert tab.run("[...document.images].every(img => img.complete && (img.naturalWidth || img.loading == 'lazy'))")
        assert all(url.startswith(("file:", "data:")) for url in tab.requests)
        assert tab.errors == []
