"""A contact sheet: small pictures in labelled rows, drawn by Pillow."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cascade.commands.png import marked_png
from cascade.files import write_whole

CELL, WIDE = 128, 256
"""Side of a small picture, and where there are few in a line."""
COLUMNS, LINES, ROWS = 16, 4, 64
"""At most so many pictures in a line, lines of a row, and rows; what is beyond them is left out."""
_GAP, _TITLE = 4, 20


def write_contact_sheet(path: Path, rows: "Mapping[str, Sequence[Path | Image.Image]]", together: int = 1) -> None:
    """Write a PNG of the pictures of each row under the row's title ("": without one).

    So many pictures that follow each other stay `together` in a line.
    """
    most = max(1, COLUMNS // together) * together
    shown = {title: list(files)[: most * LINES] for title, files in list(rows.items())[:ROWS] if files}
    columns = min(most, max(map(len, shown.values()), default=1))
    cell = WIDE if columns <= COLUMNS // 4 else CELL
    step = cell + _GAP
    heights = {title: (_TITLE if title else 0) + -(-len(files) // columns) * step for title, files in shown.items()}
    sheet = Image.new("RGB", (columns * step + _GAP, sum(heights.values()) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    top = _GAP
    for title, files in shown.items():
        if title:
            draw.text((_GAP, top), title, fill="black", font=font)
        first = top + (_TITLE if title else 0)
        for i, file in enumerate(files):
            sheet.paste(_small(file, cell), (_GAP + i % columns * step, first + i // columns * step))
        top += heights[title]
    write_whole(path, marked_png(sheet))


def _small(picture: Path | Image.Image, cell: int) -> Image.Image:
    with Image.open(picture) if isinstance(picture, Path) else nullcontext(picture) as image:
        # Pixels of a small picture stay squares; a large one is averaged.
        grow = max(image.size) <= cell
        return image.convert("RGB").resize((cell, cell), Image.Resampling.NEAREST if grow else Image.Resampling.LANCZOS)
