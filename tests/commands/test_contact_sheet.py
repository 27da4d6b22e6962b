"""A contact sheet shows every picture where its title says."""

from pathlib import Path

import numpy as np
from PIL import Image

from cascade.commands.contact_sheet import write_contact_sheet


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def test_the_contact_sheet_shows_every_picture_in_its_row(tmp_path):
    colours = {"red": (255, 0, 0), "green": (0, 255, 0)}
    rows = {}
    for name, colour in colours.items():
        rows[name] = [tmp_path / f"{name}{i}.png" for i in range(3)]
        for file in rows[name]:
            Image.new("RGB", (16, 16), colour).save(file)
    write_contact_sheet(tmp_path / "sheet.png", rows)
    sheet = pixels(tmp_path / "sheet.png")
    for colour in colours.values():
        where = (sheet == colour).all(-1)
        assert where.sum() == 3 * 256 * 256
    top = [np.argmax((sheet == colour).all(-1).any(1)) for colour in colours.values()]
    assert top[0] < top[1]


def test_stages_of_a_picture_stay_together_in_a_line_of_the_contact_sheet(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for i, colour in enumerate(colours):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{i}.png")
    write_contact_sheet(tmp_path / "sheet.png", {"": [tmp_path / f"{i % 3}.png" for i in range(30)]}, together=3)
    sheet = pixels(tmp_path / "sheet.png")
    assert sheet.shape[1] == 4 + 15 * 132, "five pictures of three stages in a line"
    for number, colour in enumerate(colours):
        columns = np.flatnonzero((sheet == colour).all(-1).any(0))
        assert set((columns - 4) // 132 % 3) == {number}
