"""A run has its folder alone, goes on under its own settings only, and keeps its name at W&B as long as it goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image

from cascade.commands.command_line import main
from cascade.errors import CascadeError
from cascade.lock import beside
from stages.checkpoint import read_checkpoint
from stages.metrics import MetricsCSV
from stages.run import Outcome, train
from stages.run_folder import RunFolder

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]

TINY = ["debug=fast", "stage.resolution=16", "data.size=2", "data.val_size=2", "trainer.sample_every=0"]
TINY += ["trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.max_steps=1"]


def given(*words: str) -> list[str]:
    """TINY with `words` in the place of the words for the same keys."""
    settings = dict(word.split("=", 1) for word in [*TINY, *words])
    return [f"{key}={value}" for key, value in settings.items()]


def run(folder: Path, *overrides: str) -> tuple[Outcome, list[str]]:
    with initialize_config_module("conf", version_base="1.3"):
        settings = given(f"runs={folder}", *overrides)
        config = OmegaConf.to_container(compose("train", overrides=settings), resolve=True)
    lines: list[str] = []
    return train(config, lines.append), lines


def test_a_second_call_of_train_is_held_off_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "base64"
    with beside(folder), pytest.raises(CascadeError, match=r"process \d+ is writing to .*base64") as caught:
        run(tmp_path, "name=mine")
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    outcome, _ = run(tmp_path, "name=mine")
    assert outcome.step == 1
    assert [path.name for path in folder.parent.iterdir()] == ["base64"]


def test_other_settings_are_refused_by_the_first_key_that_differs_and_leave_the_run_alone(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, "name=mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CascadeError, match=r"was made with trainer\.gradient_clip=1\.0, not 2\.0; continue"):
        run(tmp_path, "name=mine", "trainer.optimizer.lr=0.1", "trainer.gradient_clip=2.0")
    with pytest.raises(CascadeError, match=r"was made with network\.channels=\[16, 32\], not \[8, 32\]"):
        run(tmp_path, "name=mine", "network.channels=[8,32]")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    again, _ = run(tmp_path, "name=mine", "trainer.log_every=7", "guidance=none", "logger=csv")
    assert (again.step, again.resumed_from) == (1, 1)
    assert again.folder == outcome.folder


def test_a_checkpoint_of_another_network_is_refused_by_its_first_odd_tensor(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, "name=mine")
    stored = yaml.safe_load((outcome.folder / "run.yaml").read_text())
    stored["network"]["channels"] = [8, 32]
    (outcome.folder / "run.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(CascadeError, match=r"last\.ckpt' holds weights of another network: 'denoiser\..*' is \("):
        run(tmp_path, "name=mine", "network.channels=[8,32]")


def test_a_run_of_debug_never_stands_in_the_way_of_another(tmp_path: Path) -> None:
    run(tmp_path)
    again, _ = run(tmp_path)
    assert (again.step, again.resumed_from) == (1, 1)
    other, lines = run(tmp_path, "trainer.optimizer.lr=0.1")
    assert (other.step, other.resumed_from) == (1, 0)
    assert lines[0] == f"the run is in {other.folder}; Ctrl-C stops it after a step, and the same command continues it"
    assert lines[1].startswith("moved the old run to ")
    moved = Path(lines[1].removeprefix("moved the old run to "))
    assert yaml.safe_load((moved / "run.yaml").read_text())["trainer"]["optimizer"]["lr"] == 5e-4


def test_what_came_after_the_run_began_keeps_nobody_from_going_on(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, "name=mine")
    file = outcome.folder / "run.yaml"
    stored = yaml.safe_load(file.read_text())
    config = {key: value for key, value in stored.items() if key not in ("run_id", "data_fingerprint")}
    assert RunFolder(outcome.folder).difference({**config, "later": {"name": "new"}}) is None
    before = {**config, "ema": {"name": "exponential", "decay": config["ema"]["decay"]}}  # it had no warm-up then
    file.write_text(yaml.safe_dump({**before, "run_id": "x"}))
    assert RunFolder(outcome.folder).difference(config) is None
    changed = {**config, "ema": {**config["ema"], "warmup": 3.0}}
    assert "made with ema.warmup=10.0, not 3.0" in str(RunFolder(outcome.folder).difference(changed))
    assert "made with ema.decay=0.9995, not null" in str(RunFolder(outcome.folder).difference({**config, "ema": {}}))
    extra = {**config, "trainer": {**config["trainer"], "later": 1}}
    assert "trainer.later=null, not 1" in str(RunFolder(outcome.folder).difference(extra))


def test_a_run_has_one_name_at_wandb_and_a_fresh_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.loggers import CSVLogger

    begun: list[dict[str, Any]] = []

    class Recorded(CSVLogger):
        """W&B's, as far as its name goes."""

        def __init__(self, save_dir: Path, **settings: Any) -> None:
            super().__init__(save_dir)
            begun.append(settings)

        def log_metrics(self, *arguments: Any) -> None:
            """Nowhere."""

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", Recorded)
    monkeypatch.setattr("stages.run.close_loggers", lambda loggers: None)
    mine = ["name=mine", "logger=wandb", "logger.mode=online"]
    run(tmp_path, *mine)
    resumed, _ = run(tmp_path, *mine, "trainer.max_steps=2")
    assert resumed.resumed_from == 1
    run(tmp_path, *mine, "fresh=true")
    first, second, fresh = begun
    assert first["id"] == second["id"] != fresh["id"]
    assert first["name"] == fresh["name"] == "mine-base64"
    assert first["resume"] == "allow"


def test_what_cannot_be_read_is_named_whichever_split_it_is_of(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = tmp_path / "photos" / split / "hat"
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 16), (90 * number, 0, 0)).save(folder / f"{number}.png")
        (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff garbage")
    settings = [word for word in TINY if not word.startswith("data.")]
    overrides = [*settings, f"runs={tmp_path}/runs", "name=mine", "data=folder", f"data.root={tmp_path}/photos"]
    with initialize_config_module("conf", version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    lines: list[str] = []
    outcome = train(config, lines.append)
    named = (outcome.folder / "bad_files.csv").read_text()
    assert [f"{split}/hat/broken.jpg" in named for split in ("train", "val")] == [True, True]
    assert any(line.startswith("2 files could not be used") for line in lines)


def test_a_run_of_other_classes_says_which(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(("hat", "shoe", "coat")):
        (photos / name).mkdir(parents=True)
        for shade in range(2):
            Image.new("RGB", (16, 16), (90 * number, 90 * shade, 0)).save(photos / name / f"{shade}.png")
    settings = [word for word in TINY if not word.startswith("data.")]
    settings += [f"runs={tmp_path}/runs", "name=mine", "data=folder", f"data.root={photos}", "data.val_fraction=0"]
    settings += ["trainer.validation_images=0"]

    def trained() -> None:
        with initialize_config_module("conf", version_base="1.3"):
            train(OmegaConf.to_container(compose("train", overrides=settings), resolve=True), print)

    trained()
    (photos / "hat").rename(photos / "cap")
    with pytest.raises(CascadeError, match=r"of other classes \(only the run has hat, only the data has cap\)"):
        trained()
    (photos / "cap").rename(photos / "hat")
    (photos / "coat" / "1.png").unlink()
    with pytest.raises(CascadeError, match="was made with other pictures; use those"):
        trained()


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_checkpoint_that_holds_code_or_was_cut_is_refused_and_executes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "bomb": Bomb()}, "code.ckpt")
    Path("cut.ckpt").write_bytes(Path("code.ckpt").read_bytes()[:-200])
    for name, line in {"code.ckpt": "is not a checkpoint", "cut.ckpt": "is damaged or no check"}.items():
        with pytest.raises(CascadeError, match=line):
            read_checkpoint(Path(name))
    assert not Path("exploded").exists()


def command(*words: str) -> int:
    return main(["train", *given("name=mine", *words)])


@pytest.mark.parametrize(
    "text", [b"step;loss\n1;2\n", b"step,loss\n1.0,2\n", b"step,loss\n1,2,3\n", b"loss\n2\n", b"step\n\xff\n"]
)
def test_a_table_that_a_spreadsheet_has_saved_is_one_line(tmp_path: Path, text: bytes) -> None:
    rows = MetricsCSV(tmp_path)
    rows.path.write_bytes(text)
    with pytest.raises(CascadeError, match=r"metrics\.csv is not as the run wrote it.*move it away"):
        rows.resume(3)
    rows.path.write_bytes(b"step,loss\n1,2\n5,1\n")
    rows.resume(3)
    rows.log_metrics({"loss": 0.5}, 2)
    assert rows.path.read_bytes() == b"step,loss\n1,2\n2,0.5\n"


@pytest.mark.parametrize("text", [b"\xff", b"a: [", b"text"])
def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "run.yaml").write_bytes(text)
    with pytest.raises(CascadeError, match=r"run\.yaml is not .*; use fresh=true"):
        RunFolder(tmp_path).stored()


def test_keys_of_a_later_version_keep_nobody_from_going_on_unless_they_are_used(tmp_path, monkeypatch, capsys) -> None:
    """The stored configuration is one of before `trainer.gradient_clip`, `stage.flip` and the whole group `loss`."""
    monkeypatch.chdir(tmp_path)
    assert command() == 0
    file = tmp_path / "runs" / "mine" / "base64" / "run.yaml"
    stored = yaml.safe_load(file.read_text())
    del stored["trainer"]["gradient_clip"], stored["stage"]["flip"], stored["loss"]
    file.write_text(yaml.safe_dump(stored))
    capsys.readouterr()
    for words, line in {
        ("trainer.gradient_clip=2",): "was made with trainer.gradient_clip=1.0, not 2.0",
        ("stage.flip=false",): "was made with stage.flip=True, not False",
        ("loss=uncertainty",): "was made with loss.name=plain, not uncertainty",
    }.items():
        assert command(*words) == 2
        assert line in capsys.readouterr().err
    assert command("trainer.max_steps=2") == 0
    assert "resuming at step 1" in capsys.readouterr().out


def test_a_run_keeps_the_validation_pictures_it_began_with(tmp_path: Path) -> None:
    """Their number follows that of the others where nobody says it; a run of when it did not keeps its own."""
    few = ["name=mine", "data.size=20", "data.val_size=null"]
    outcome, lines = run(tmp_path, *few)
    assert "20 pictures, 6 for validation" in lines[1]
    file = outcome.folder / "run.yaml"
    stored = yaml.safe_load(file.read_text())
    assert stored["data"]["val_size"] == 6
    file.write_text(yaml.safe_dump({**stored, "data": {**stored["data"], "val_size": 600}}))
    again, lines = run(tmp_path, *few, "trainer.max_steps=2")
    assert again.resumed_from == 1
    assert "20 pictures, 600 for validation" in lines[1]
    with pytest.raises(CascadeError, match=r"made with data\.val_size=600, not 7"):
        run(tmp_path, *few, "data.val_size=7")
