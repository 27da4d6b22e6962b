"""Every kind of file gives the picture it shows, or a reason why not."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from cascade.data.picture import UnreadablePicture, looks_like_picture, read_square

SIDE = 32


def scene(width=SIDE, height=SIDE) -> np.ndarray:
    """Smooth, asymmetric in every way, (height, width, 3) in [0, 1]."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return np.stack([0.2 + 0.6 * x, 0.8 - 0.5 * y, 0.3 + 0.4 * x * y], axis=-1)


def rgb(*size) -> Image.Image:
    return Image.fromarray(np.rint(scene(*size) * 255).astype(np.uint8))


def read(path, resolution=SIDE) -> np.ndarray:
    pixels, _ = read_square(path, resolution)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, resolution, resolution)
    return pixels.permute(1, 2, 0).numpy().astype(int)


def distance(a, b) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max())


LOSSLESS = ["png", "bmp", "tiff", "ppm", "tga", "webp", "gif", "jp2", "qoi", "pcx", "sgi"]


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_give_the_pixels(tmp_path, suffix):
    source = rgb()
    if suffix == "gif":  # 256 colours only
        source = source.quantize(200).convert("RGB")
    source.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert distance(read(tmp_path / f"a.{suffix}"), source) == 0


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "avif", "mpo"])
def test_lossy_formats_are_near(tmp_path, suffix):
    if suffix == "avif" and not ("avif" in features.modules and features.check("avif")):
        pytest.skip("this Pillow has no AVIF")
    rgb().save(tmp_path / f"a.{suffix}", quality=95)
    assert distance(read(tmp_path / f"a.{suffix}"), rgb()) <= 12


GREY = scene()[..., 0]


def grey_files():
    levels16 = np.rint(GREY * 65535)
    yield "L.png", Image.fromarray(np.rint(GREY * 255).astype(np.uint8)), 0
    yield "I16.png", Image.fromarray(levels16.astype(np.uint16)), 0.5
    yield "I16.tiff", Image.fromarray(levels16.astype(np.uint16)), 0.5
    yield "I.tiff", Image.fromarray(levels16.astype(np.int32)), 0.5
    yield "F.tiff", Image.fromarray(GREY.astype(np.float32)), 0.5
    yield "LA.png", Image.fromarray(np.rint(GREY * 255).astype(np.uint8)).convert("LA"), 0


@pytest.mark.parametrize(("name", "image", "tolerance"), list(grey_files()), ids=lambda value: str(value)[:9])
def test_grey_of_any_depth_is_scaled_to_8_bits(tmp_path, name, image, tolerance):
    image.save(tmp_path / name)
    pixels = read(tmp_path / name)
    assert distance(pixels[..., 0], np.rint(GREY * 255)) <= tolerance * 2
    assert distance(pixels[..., 0], GREY * 255) <= 0.5 + tolerance
    assert distance(pixels[..., 1], pixels[..., 0]) == distance(pixels[..., 2], pixels[..., 0]) == 0


def test_16_bit_extremes_are_black_and_white(tmp_path):
    ends = np.array([[0, 65535], [65535, 0]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(ends).save(tmp_path / name)
        assert read(tmp_path / name, 2)[..., 0].tolist() == [[0, 255], [255, 0]]
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535\n" + ends.astype(">u2").tobytes())
    assert read(tmp_path / "a.pgm", 2)[..., 0].tolist() == [[0, 255], [255, 0]]


def test_16_bit_colour_is_scaled_to_8_bits(tmp_path):
    (tmp_path / "a.png").write_bytes(png16(np.rint(scene() * 65535).astype(np.uint16)))
    assert distance(read(tmp_path / "a.png"), scene() * 255) <= 1


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits for each channel, which Pillow cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_floats_with_unknown_white_are_not_guessed_at(tmp_path):
    for name, values in (("big.tiff", GREY * 300), ("nan.tiff", np.where(GREY > 0.5, np.nan, GREY))):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / name)
        with pytest.raises(UnreadablePicture, match="whose white is unknown"):
            read(tmp_path / name)


def test_transparency_lies_over_white(tmp_path):
    colour = np.full((4, 4, 4), (200, 100, 0, 255), np.uint8)
    colour[:2, :, 3] = 0
    colour[3, :, 3] = 51
    expected = np.array([[255, 255, 255], [255, 255, 255], [200, 100, 0], [244, 224, 204]])
    for name in ("a.png", "a.webp", "a.tiff"):
        Image.fromarray(colour).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
        assert distance(read(tmp_path / name, 4)[:, 0], expected) <= 1
    Image.fromarray(colour).convert("LA").save(tmp_path / "la.png")
    assert read(tmp_path / "la.png", 4)[:2].min() == 255


@pytest.mark.parametrize("transparency", [0, bytes([0, 255, 128])])
def test_palette_with_transparency_lies_over_white(tmp_path, transparency):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.png", transparency=transparency)
    pixels = read(tmp_path / "a.png", 2)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [200, 0, 0]
    assert distance(pixels[1, 0], (127, 127, 227) if isinstance(transparency, bytes) else (0, 0, 200)) <= 1


def test_a_transparent_colour_of_an_rgb_png_lies_over_white(tmp_path):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (50, 60, 70))
    image.resize((4, 4), Image.Resampling.NEAREST).save(tmp_path / "a.png", transparency=(1, 2, 3))
    pixels = read(tmp_path / "a.png", 4)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 3].tolist() == [50, 60, 70]


def test_palette_bilevel_and_cmyk(tmp_path):
    rgb().quantize(64).save(tmp_path / "p.png")
    assert distance(read(tmp_path / "p.png"), rgb().quantize(64).convert("RGB")) == 0
    checks = Image.fromarray(np.indices((8, 8)).sum(0) % 2 == 0)
    checks.save(tmp_path / "1.png")
    assert read(tmp_path / "1.png", 8)[0, :2, 0].tolist() == [255, 0]
    for name in ("c.tiff", "c.jpg"):
        rgb().convert("CMYK").save(tmp_path / name, **({"quality": 95} if name == "c.jpg" else {}))
        assert distance(read(tmp_path / name), rgb()) <= 12


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", list(TURNS))
@pytest.mark.parametrize("name", ["a.png", "a.tiff", "z.tiff", "a.webp"])
def test_exif_orientation_turns_the_picture_upright(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"a.webp": {"lossless": True}, "z.tiff": {"compression": "tiff_lzw"}}.get(name, {})
    rgb(48, 32).save(tmp_path / name, exif=exif, **options)
    upright = TURNS[orientation](np.asarray(rgb(48, 32)))
    pixels, size = read_square(tmp_path / name, 32)
    height, width, _ = upright.shape
    square = upright[(height - 32) // 2 :, (width - 32) // 2 :][:32, :32]
    assert distance(pixels.permute(1, 2, 0).numpy(), square) == 0
    assert size == (width, height)


def test_exif_orientation_of_a_jpeg_decoded_at_a_fraction(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb(1200, 800).save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels, size = read_square(tmp_path / "a.jpg", 16)
    upright = rgb(1200, 800).transpose(Image.Transpose.ROTATE_270).crop((0, 200, 800, 1000))
    expected = upright.resize((16, 16), Image.Resampling.BICUBIC)
    assert size == (800, 1200)
    assert distance(pixels.permute(1, 2, 0).numpy(), expected) <= 4


def test_broken_exif_in_a_sound_picture_turns_nothing(tmp_path):
    buffer = io.BytesIO()
    rgb().save(buffer, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\x01" * 9)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    assert distance(read(tmp_path / "a.png"), rgb()) == 0


def test_the_centre_square_is_resized_as_pillow_resizes_it(tmp_path):
    rgb(150, 101).save(tmp_path / "wide.png")
    expected = rgb(150, 101).crop((24, 0, 125, 101)).resize((40, 40), Image.Resampling.BICUBIC)
    assert distance(read(tmp_path / "wide.png", 40), expected) == 0
    rgb(33, 32).save(tmp_path / "odd.png")
    assert distance(read(tmp_path / "odd.png", 32), rgb(33, 32).crop((0, 0, 32, 32))) == 0  # no half pixel


def test_reducing_first_leaves_no_trace(tmp_path):
    rgb(1000, 1000).save(tmp_path / "a.png")
    expected = rgb(1000, 1000).resize((20, 20), Image.Resampling.BICUBIC)
    assert distance(read(tmp_path / "a.png", 20), expected) <= 1


def test_the_first_picture_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.tiff", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert distance(read(tmp_path / name, 8)[4, 4], (255, 0, 0)) <= 3


def test_unreadable_files_say_why(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "whole.png")
    noise.save(tmp_path / "whole.jpg")
    for suffix in ("png", "jpg"):
        raw = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    bomb = struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "bomb.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 54 + 40, 0, 0, 54) + bomb)
    for name, reason in {
        "cut.png": "truncated",
        "cut.jpg": "truncated",
        "text.jpg": "not a picture that Pillow can read",
        "empty.png": "not a picture that Pillow can read",
        "folder.png": "not a regular file",
        "nowhere.png": "No such file or directory",
        "pipe.png": "not a regular file",
        "bomb.bmp": "decompression bomb",
    }.items():
        with pytest.raises(UnreadablePicture, match=reason) as caught:
            read_square(tmp_path / name, 16)
        assert "\n" not in str(caught.value)


def test_what_looks_like_a_picture(tmp_path):
    rgb().save(tmp_path / "suffixless", "PNG")
    for name in ("README", "a.txt", "Thumbs.db", "a.json", "b.pdf", "c.eps", "d.mp4"):
        (tmp_path / name).write_text("MIT License, see https://opensource.org for details. " * 20)
    for name in ("x.JPG", "x.jpeg", "x.heic", "x.Png", "x.tif", "x.webp", "x.DNG"):
        (tmp_path / name).touch()
    seen = {path.name for path in tmp_path.iterdir() if looks_like_picture(path)}
    assert seen == {"suffixless", "x.JPG", "x.jpeg", "x.heic", "x.Png", "x.tif", "x.webp", "x.DNG"}
