"""Images: files are seen as a viewer shows them, nothing is left out unsaid."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import unicodedata
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from nastool import api
from nastool.core import files
from nastool.core.errors import InputError
from nastool.core.files import Limit
from nastool.deploy.codegen import use
from nastool.tasks.images import folder as imagefolder
from nastool.tasks.images import reading as images
from nastool.tasks.images.data import ImageData, load, read_image
from nastool.tasks.images.task import ImageTask
from tests.helpers.running import Run

RNG = np.random.default_rng
LIMIT = Limit()


def drawing(number: int, mode: str = "RGBA", size: int = 12) -> Image.Image:
    """A black circle or cross on nothing, in one of the modes that can hold that."""
    image = Image.new("LA", (size, size), (0, 0))
    draw = ImageDraw.Draw(image)
    if number % 2:
        draw.line((1, 1, size - 2, size - 2), (0, 255), 1 + number % 3)
    else:
        draw.ellipse((1, 1, size - 2, size - 2 - number % 3), (0, 255))
    if mode != "P":
        return image.convert(mode)
    palette = Image.fromarray((np.asarray(image)[..., 1] > 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 0, 0, 0])
    palette.info["transparency"] = 0
    return palette


def put(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or drawing(len(str(path)), "L")).save(path, **options)
    return path


def folder(root: Path, names: tuple[str, ...] = ("circle", "cross"), each: int = 6, suffix: str = ".png") -> Path:
    for label, name in enumerate(names):
        for i in range(each):
            shade = Image.new("L", (6, 4), 100 * label + i)
            put(root / name / f"{i}{suffix}", shade)
    return root


def read(root: Path, **options: Any) -> ImageData:
    return load(f"folder:{root}", **options)


def seen(path: Path) -> NDArray[np.uint8]:
    return images.read_pixels(path, LIMIT)[0]


# --- one file


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(tmp_path: Path, mode: str) -> None:
    """As shared/inputs' alpha, alphaLA and alphaP, which were black all over."""
    expected = 255 - np.asarray(drawing(0))[..., 3]
    found = seen(put(tmp_path / "a.png", drawing(0, mode)))
    assert found.shape == (3, 12, 12) and np.array_equal(found[0], found[2])
    assert np.array_equal(found[0], expected)


def test_half_transparent_red_on_white_is_pink(tmp_path: Path) -> None:
    found = seen(put(tmp_path / "a.png", Image.new("RGBA", (2, 2), (255, 0, 0, 128))))
    assert found[:, 0, 0].tolist() == [255, 127, 127]


def test_fingerprints_of_transparent_drawings_differ_from_black(tmp_path: Path) -> None:
    for mode in ("RGBA", "LA", "P"):
        for i in range(20):
            put(tmp_path / mode / ["circle", "cross"][i % 2] / f"{i}.png", drawing(i, mode))
            put(tmp_path / "black" / ["circle", "cross"][i % 2] / f"{i}.png", Image.new("RGB", (12, 12)))
    found = {name: read(tmp_path / name) for name in ("RGBA", "LA", "P", "black")}
    assert len({d.fingerprint for d in found.values()}) == 2  # the three are one drawing
    assert all(d.std.min() > 0.2 for name, d in found.items() if name != "black")


def test_a_colour_that_stands_for_transparency(tmp_path: Path) -> None:
    grey = Image.fromarray(np.array([[10, 20], [20, 30]], np.uint8))
    assert seen(put(tmp_path / "l.png", grey, transparency=20)).tolist() == [[[10, 255], [255, 30]]]
    colour = Image.new("RGB", (2, 1), (1, 2, 3))
    colour.putpixel((1, 0), (4, 5, 6))
    found = seen(put(tmp_path / "rgb.png", colour, transparency=(1, 2, 3)))
    assert found[:, 0].T.tolist() == [[255, 255, 255], [4, 5, 6]]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    found = seen(put(tmp_path / f"a{suffix}", Image.fromarray(values)))
    assert found.shape == (1, 32, 32)
    assert np.array_equal(found[0], np.rint(values / 257))


def test_tiff_of_twelve_bits_or_with_white_zero(tmp_path: Path) -> None:
    """Grey levels in files of other depths and senses, written field by field."""

    def tiff(name: str, values: NDArray[np.uint16], photometric: int, bits: int = 16) -> Path:
        height, width = values.shape
        data = values.astype("<u2").tobytes()
        if bits == 12:
            pairs = values.reshape(-1, 2).astype(int)
            packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
            data = packed.astype(np.uint8).tobytes()
        tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
        tags += [(273, 8), (277, 1), (278, height), (279, len(data))]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        path = tmp_path / name
        start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
        path.write_bytes(start + data + struct.pack("<H", len(tags)) + entries + bytes(4))
        return path

    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    assert seen(tiff("black.tif", values, 1)).tolist() == [[[0, 100], [200, 255]]]
    assert seen(tiff("white.tif", values, 0)).tolist() == [[[255, 155], [55, 0]]]
    values = np.array([[0, 4095], [819, 1638]], np.uint16)
    assert seen(tiff("12.tif", values, 1, 12)).tolist() == [[[0, 255], [51, 102]]]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("F", "its pixels are floating-point numbers, none of them known as white; convert it to 8 bits a channel"),
        ("I", "its pixels are 32-bit or signed numbers, none of them known as white"),
    ],
)
def test_numbers_that_are_no_colours(tmp_path: Path, mode: str, reason: str) -> None:
    path = put(tmp_path / "a.tif", Image.new(mode, (4, 4)))
    with pytest.raises(InputError, match=rf"a\.tif: {reason}"):
        seen(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    values = np.full((16, 32, 3), 255, np.uint8)
    values[:8, :8] = 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path / f"a{suffix}", Image.fromarray(values), exif=exif)
    plain = Image.fromarray(values)
    plain.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(plain)).transpose(2, 0, 1)
    assert expected.shape == ((3, 16, 32) if orientation < 5 else (3, 32, 16))
    assert np.abs(seen(path).astype(int) - expected).max() < 40  # JPEG and WebP lose a little


def test_other_kinds_of_colour(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    for name, image in (
        ("cmyk.jpg", red.convert("CMYK")),
        ("p.gif", red.convert("P")),
        ("ycc.tif", red.convert("YCbCr")),
        ("lab.tif", red.convert("LAB")),
    ):
        assert np.abs(seen(put(tmp_path / name, image))[:, 0, 0].astype(int) - [255, 0, 0]).max() <= 5, name
    bits = Image.new("1", (2, 1))
    bits.putpixel((0, 0), 1)
    assert seen(put(tmp_path / "1.png", bits)).tolist() == [[[255, 0]]]


def test_of_several_frames_the_first_and_it_is_said(tmp_path: Path) -> None:
    folder(tmp_path)
    first, second = Image.new("L", (6, 4), 10), Image.new("L", (6, 4), 200)
    for name in ("a.gif", "b.tif"):
        path = put(tmp_path / "cross" / name, first, save_all=True, append_images=[second])
        found, several = images.read_pixels(path, LIMIT)
        assert several and found[:, 0, 0].tolist() == [10] * len(found)
    assert read(tmp_path).note == f"{tmp_path}: 14 images of 2 classes; of 2 with several frames or pages the first"


def test_a_file_is_what_it_holds(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 7).save(tmp_path / "lie.png", format="JPEG")
    assert seen(tmp_path / "lie.png").tolist() == [[[7] * 4] * 4]
    (tmp_path / "program.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(InputError, match="cannot be read as an image"):  # and not by starting Ghostscript
        seen(tmp_path / "program.png")


def test_damaged_files_say_how(tmp_path: Path) -> None:
    noise = RNG(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = put(tmp_path / "a.png", Image.fromarray(noise)).read_bytes()
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for content, reason in (
        (b"", r"a\.png: is empty; remove or replace it"),
        (b"no image", r"a\.png: cannot be read as an image; remove or replace it"),
        (whole[: len(whole) // 2], r"a\.png: is cut short; remove or replace it"),
        (lfs, r"a\.png is a pointer of Git LFS, no image: fetch the images with git lfs pull"),
    ):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=reason):
            seen(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="is a device or a pipe"):
        seen(tmp_path / "pipe.png")


def test_damaged_exif_data_turn_nothing(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jpg", Image.new("L", (8, 4), 9), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert seen(path).shape == (1, 4, 8)


def test_grey_is_pils(tmp_path: Path) -> None:
    image = Image.fromarray(RNG(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = put(tmp_path / "a.png", image)
    found = read_image(path, ImageTask(1, 64, 64, 2), LIMIT)
    assert np.array_equal(found[0], np.asarray(image.convert("L")))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_exported_network_sees_the_same(tmp_path: Path, channels: int) -> None:
    rng = RNG(3)
    colour = Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    alpha = Image.fromarray(rng.integers(0, 256, (12, 10, 4), dtype=np.uint8), "RGBA")
    wide = Image.fromarray(rng.integers(0, 65536, (12, 10), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [put(tmp_path / "e.png", colour, exif=exif), put(tmp_path / "t.png", colour.convert("L"), transparency=9)]
    paths += [put(tmp_path / f"{mode}.png", colour.convert(mode)) for mode in ("RGB", "L", "P", "1")]
    paths += [put(tmp_path / f"a{mode}.png", alpha.convert(mode)) for mode in ("RGBA", "LA")]
    paths += [put(tmp_path / "p.png", drawing(0, "P")), put(tmp_path / "c.jpg", colour.convert("CMYK"))]
    paths += [put(tmp_path / f"w{suffix}", wide) for suffix in (".png", ".pgm", ".tif")]
    for size in ((12, 10), (9, 7)):
        task = ImageTask(channels, *size, 2)
        namespace: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "Tensor": torch.Tensor, "Path": Path}
        namespace["suppress"] = suppress
        around = use.Around(task, ("a", "b"), (0.5,) * channels, (0.2,) * channels)
        exec(
            compile("from __future__ import annotations\n" + use.tail("", around), "model.py", "exec"),
            namespace,
        )
        for path in paths:
            assert np.array_equal(namespace["read"](str(path))[0].numpy(), read_image(path, task, LIMIT)), path


# --- folders


def test_parts_by_their_usual_names(tmp_path: Path) -> None:
    """As Roboflow's exports, whose valid/ was ignored."""
    for names in ("train valid test", "Training validation testing", "TRAIN dev Test"):
        train, val, test = names.split()
        root = tmp_path / train
        for part, n in ((train, 5), (val, 2), (test, 3)):
            folder(root / part, each=n)
        d = read(root)
        assert d.test is not None and [len(d.train), len(d.val), len(d.test)] == [10, 4, 6]
        assert d.note == f"{root}: 20 images of 2 classes (10 train, 4 val, 6 test)"


def test_suffixes_are_those_that_pil_reads(tmp_path: Path) -> None:
    """Of the 40 images of shared/inputs' suffix, 10 were used."""
    folder(tmp_path, each=5)
    for name in ("a.jfif", "b.JPE", "c.AVIF", "d.jp2", "e.tga", "f.WebP", "g.dib", "h.qoi"):
        kind = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000", "dib": "BMP"}.get(name[2:].lower())
        put(tmp_path / "cross" / name, Image.new("RGB", (6, 4)), **({"format": kind} if kind else {}))
    for name in ("a.svg", "b.svg", "c.heic", "d.pdf", "e.eps", "noext", "f.h5"):
        (tmp_path / "cross" / name).write_text("x")
    d = read(tmp_path)
    assert d.note == (
        f"{tmp_path}: 18 images of 2 classes; left out: 2 .svg files, 1 .eps file, 1 .h5 file, 1 .heic file, "
        "1 .pdf file, 1 file without suffix"
    )


def test_images_in_subfolders_belong_to_the_class(tmp_path: Path) -> None:
    """Of the 96 images of shared/inputs' nested, 16 were used."""
    folder(tmp_path)
    folder(tmp_path / "circle", ("s1", "s2"), each=4)
    folder(tmp_path / "cross", ("s1/deep/er",), each=3)
    d = read(tmp_path)
    assert d.classes == ("circle", "cross") and d.note == f"{tmp_path}: 23 images of 2 classes"


def test_what_systems_leave_in_folders_is_left_out_and_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    plain = read(tmp_path).fingerprint
    for name in (".DS_Store", "._0.png", ".hidden.png", "Thumbs.db", "desktop.ini", "Icon\r", "notes.txt", "b.txt"):
        (tmp_path / "cross" / name).write_text("x")
    for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
        put(tmp_path / name / "0.png")
        put(tmp_path / "circle" / name / "0.png")
    d = read(tmp_path)
    assert d.note == (f"{tmp_path}: 12 images of 2 classes; left out: 7 system files, 5 hidden files, 2 .txt files")
    assert d.fingerprint == plain


def test_accents_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    """As shared/inputs' nf."""
    names = ("café", "thé")
    folder(tmp_path / "train", names)
    folder(tmp_path / "val", tuple(unicodedata.normalize("NFD", name) for name in names), each=2)
    d = read(tmp_path)
    assert d.classes == names and len(d.val) == 4 and d.val.y.tolist() == [0, 0, 1, 1]
    folder(tmp_path / "train", (unicodedata.normalize("NFD", "café"),))
    with pytest.raises(InputError, match="two folders 'café', in two Unicode forms"):
        read(tmp_path)


def test_classes_are_in_lexical_order(tmp_path: Path) -> None:
    names = ("10", "2", "B", "a", "é")
    folder(tmp_path, names)
    assert read(tmp_path).classes == names


def test_links(tmp_path: Path) -> None:
    folder(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for name in ("circle", "cross"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    assert read(tmp_path / "linked").fingerprint == read(tmp_path / "real").fingerprint
    (tmp_path / "real" / "cross" / "x.png").symlink_to(tmp_path / "real" / "cross" / "1.png")
    (tmp_path / "real" / "cross" / "x.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "real" / "cross" / "y.png")
    assert read(tmp_path / "real").note.endswith(
        "real: 13 images of 2 classes; left out: 1 broken link, 1 device or pipe"
    )
    (tmp_path / "real" / "cross" / "z.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"z\.png is a link to nothing: mend or remove it"):
        read(tmp_path / "real")
    (tmp_path / "real" / "cross" / "z.png").unlink()
    (tmp_path / "real" / "cross" / "again").symlink_to(".")
    with pytest.raises(InputError, match="again is a link to a folder that it lies in: remove it"):
        read(tmp_path / "real")


def test_a_flat_test_folder_has_no_labels(tmp_path: Path) -> None:
    folder(tmp_path / "train")
    for i in range(3):
        put(tmp_path / "test" / f"{i}.png")
    d = read(tmp_path)
    assert d.note == f"{tmp_path}: 12 images of 2 classes; left out: 3 images without class in test/"
    assert d.test is not None and len(d.test) == 2


def test_what_lies_beside_the_parts_is_named(tmp_path: Path) -> None:
    folder(tmp_path / "train")
    folder(tmp_path / "val", ("cross",))
    put(tmp_path / "extra" / "0.png")
    put(tmp_path / "sample.png")
    (tmp_path / "README.md").write_text("x")
    assert read(tmp_path).note == (
        f"{tmp_path}: 18 images of 2 classes (12 train, 6 val); left out: 1 .md file, 1 folder 'extra', "
        "1 image beside train/; val/ has no circle"
    )


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folder(tmp_path, ("car", "plane", "train"))
    assert read(tmp_path).classes == ("car", "plane", "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cp -r train training", "has train/ and training/, which mean the same: keep one"),
        ("cp -r val Valid", "has Valid/ and val/, which mean the same: keep one"),
        ("cp train/cross/0.png train/x.png", "1 image lies in .*train beside the class folders, such as x.png: move"),
        ("cp -r val/cross val/7", "7: no class '7' in .*train; there are circle, cross"),
        ("mv val/cross val/Cross", "no class 'Cross' in .*train; did you mean 'cross'"),
        ("mkdir train/cow", "cow: no image in this class folder; fill it, or remove it"),
        ("mkdir test", "test: no class folder in it; fill it, or remove it"),
        ("mv val/cross/* val; rm -r val/c*", "val: it holds images, but no class folders"),
        ("rm -r train", "has val/, but no train/: is val a part, or a class"),
        ("mv train/cross/* train; rm -r train/c*", "train holds no class folders: put its images into one folder a"),
        ("mv train/cross .", "train: need at least 2 classes, one folder of images each, found 1"),
        (r"mv train/cross train/$(printf 'caf\351')", r"the name b'caf\\xe9' is no UTF-8: rename this class"),
        ("mkdir -p in/all; mv train val in/all", r"found 1; did you mean folder:.*/data/in\?"),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path: Path, change: str, message: str) -> None:
    root = tmp_path / "data"
    folder(root / "train")
    folder(root / "val", each=2)
    subprocess.run(change, shell=True, check=True, cwd=root)
    with pytest.raises(InputError, match=message) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_parts_inside_of_classes_are_not_mixed(tmp_path: Path) -> None:
    for name in ("circle", "cross"):
        folder(tmp_path / name, ("train", "test"))
    with pytest.raises(InputError, match="circle has test/ and train/: put the parts first and the classes into them"):
        read(tmp_path)


def test_a_folder_too_many(tmp_path: Path) -> None:
    folder(tmp_path / "photos" / "photos")
    with pytest.raises(InputError, match=rf"found 1; did you mean folder:{tmp_path}/photos/photos\?"):
        read(tmp_path / "photos")


def test_many_kinds_of_files_are_counted_together() -> None:
    things = {f".{c} file": 9 - i for i, c in enumerate("abcdefgh")}
    shown = imagefolder.counted(things)
    assert shown == "9 .a files, 8 .b files, 7 .c files, 6 .d files, 5 .e files, 9 other files"


def test_grey_among_colour_and_back(tmp_path: Path) -> None:
    folder(tmp_path)
    put(tmp_path / "cross" / "a.png", Image.new("RGB", (6, 4), (1, 2, 3)))
    d = read(tmp_path)
    whole = np.concatenate([d.train.x, d.val.x, d.test.x if d.test else d.val.x])
    assert whole.shape == (13, 3, 4, 6)
    grey = whole[(whole != np.array([1, 2, 3]).reshape(1, 3, 1, 1)).any((1, 2, 3))]
    assert len(grey) == 12 and (grey == grey[:, :1]).all()


# --- arrays

X = RNG(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)
Y = np.arange(40) % 2


def npz(tmp_path: Path, **arrays: Any) -> str:
    np.savez(tmp_path / "d.npz", **arrays)
    return f"npz:{tmp_path / 'd.npz'}"


@pytest.mark.parametrize(
    ("x", "y"),
    [("X_train", "Y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y"), ("X", "targets")],
)
def test_other_common_names_of_arrays(tmp_path: Path, x: str, y: str) -> None:
    d = load(npz(tmp_path, **{x: X, y: Y}))
    assert d.fingerprint == load(npz(tmp_path, x_train=X, y_train=Y)).fingerprint
    assert f"40 images of 2 classes; read from {x}, {y}" in load(npz(tmp_path, **{x: X, y: Y})).note


def test_validation_arrays_by_their_usual_names(tmp_path: Path) -> None:
    d = load(npz(tmp_path, x_train=X, y_train=Y, x_valid=X[:9], y_valid=Y[:9], meta=np.zeros(3)))
    assert len(d.val) == 9 and d.note.endswith("; read from x_valid, y_valid; left out: array meta")
    both = {"x_val": X[:9], "y_val": Y[:9], "x_valid": X[:9], "y_valid": Y[:9]}
    with pytest.raises(InputError, match="x_val and x_valid mean the same: keep one"):
        load(npz(tmp_path, x_train=X, y_train=Y, **both))


@pytest.mark.parametrize(
    ("shape", "task"),
    [
        ((6, 5, 3), (3, 6, 5)),
        ((3, 6, 5), (3, 6, 5)),
        ((3, 4, 4), (3, 4, 4)),
        ((4, 4, 3), (3, 4, 4)),
        ((13, 8, 8), (13, 8, 8)),
        ((8, 8, 13), (13, 8, 8)),
        ((2, 7, 6), (2, 7, 6)),
        ((1, 1, 1), (1, 1, 1)),
        ((3, 8, 3), None),
        ((4, 4, 4), None),
        ((10, 12, 14), None),
        ((1, 28, 1), None),
        ((8, 3, 8), None),
    ],
)
def test_axes_are_not_guessed(tmp_path: Path, shape: tuple[int, ...], task: tuple[int, ...] | None) -> None:
    x = RNG(1).integers(0, 256, (40, *shape), dtype=np.uint8)
    if task is not None:
        d = load(npz(tmp_path, x_train=x, y_train=Y))
        assert (d.task.channels, d.task.height, d.task.width) == task
        return
    with pytest.raises(InputError, match=r"may be \(N, H, W, C\) or \(N, C, H, W\): add an array layout='NHWC' or"):
        load(npz(tmp_path, x_train=x, y_train=Y))
    first, last = (load(npz(tmp_path, x_train=x, y_train=Y, layout=layout)).task for layout in ("NCHW", "NHWC"))
    assert (first.channels, first.height, first.width) == shape
    assert (last.height, last.width, last.channels) == shape
    with pytest.raises(InputError, match="array layout must be 'NHWC' or 'NCHW', got 'CHWN'"):
        load(npz(tmp_path, x_train=x, y_train=Y, layout="CHWN"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X.astype(int)}, "got int64; save 0 .. 255 as x.astype('uint8')"),
        ({"x": X / 255 / 255}, "no value is above 1/255, as if divided by 255 twice; divide once, or give uint8"),
        ({"x": X.astype(float)}, "need finite values in [0, 1] in float64 images; divide by 255, or give uint8"),
        ({"x": X / 255 * 2 - 1}, "need finite values in [0, 1]"),
        ({"y": np.eye(2)[Y]}, "got float64 (40, 2); if they are one-hot, save y.argmax(1)"),
        ({"y": Y.astype(float)}, "got float64 (40,); save y.astype(int)"),
        ({"y": Y > 0}, "got bool (40,); save y.astype(int)"),
    ],
)
def test_arrays_that_are_refused_come_with_a_remedy(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {"x_train": change.get("x", X), "y_train": change.get("y", Y)}
    with pytest.raises(InputError) as caught:
        load(npz(tmp_path, **arrays))
    assert message in str(caught.value)


def test_labels_may_be_texts(tmp_path: Path) -> None:
    d = load(npz(tmp_path, x_train=X, y_train=np.array(["dog", "cat"])[Y]))
    assert d.classes == ("cat", "dog") and np.bincount(d.train.y).tolist() == np.bincount(1 - d.train.y).tolist()
    with pytest.raises(InputError, match=r"y_val: no class 'cow'; there are cat, dog"):
        load(npz(tmp_path, x_train=X, y_train=np.array(["dog", "cat"])[Y], x_val=X[:1], y_val=np.array(["cow"])))


def test_byte_order_and_memory_order_do_not_matter(tmp_path: Path) -> None:
    plain = load(npz(tmp_path, x_train=X / 255, y_train=Y)).fingerprint
    other = load(npz(tmp_path, x_train=np.asfortranarray(X / 255).astype(">f8"), y_train=Y.astype(">i4")))
    assert other.fingerprint == plain


# --- sizes


def test_an_image_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """Refused by its header."""
    path = tmp_path / "big.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 100_000
    message = r"big\.png: the image takes 1\.2 GB of memory, more than the 250 MB allowed: .*, give -E max_gigabytes=39"
    with pytest.raises(InputError, match=message):
        images.read_pixels(path, Limit())
    before = Image.MAX_IMAGE_PIXELS
    small = put(tmp_path / "small.png", Image.new("L", (100, 100)))
    with pytest.raises(InputError, match=r"small\.png: the image takes 0\.03 MB"):
        images.read_pixels(small, Limit(0.0001))
    assert Image.MAX_IMAGE_PIXELS == before


def test_a_folder_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    folder(tmp_path)
    message = r"12 images of 1x1000x1000 takes 12 MB of memory, more than the 10 MB allowed: .* -E max_gigabytes=1"
    with pytest.raises(InputError, match=message):
        read(tmp_path, image_size=1000, max_gigabytes=0.01)
    assert read(tmp_path, image_size=64, max_gigabytes=0.01).task.height == 64


def bomb(path: Path, shape: tuple[int, ...], *, real: int, declared: int | None = None) -> Path:
    """An .npz whose x_train has a header of that shape and so many real zeros; its zip says so, or `declared`."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x_train.npy", "w", force_zip64=True) as file:
            file.write(header.getvalue())
            for _ in range(real // 2**20):
                file.write(bytes(2**20))
        with archive.open("y_train.npy", "w") as file:
            np.save(file, np.arange(shape[0]) % 2)
        if declared is not None:
            archive.getinfo("x_train.npy").file_size = len(header.getvalue()) + declared
    return path


def test_an_archive_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """Nothing is unpacked of 100 MB of zeros in 100 kB: neither the array's header nor the zip's is believed."""
    path = bomb(tmp_path / "a.npz", (100, 1024, 1024), real=100 * 2**20)
    assert path.stat().st_size < 200_000
    message = r"a\.npz: x_train .* takes 105 MB of memory, more than the 50 MB allowed: .*, give -E max_gigabytes=1"
    with pytest.raises(InputError, match=message):
        load(f"npz:{path}", max_gigabytes=0.05)
    bomb(path, (100_000, 1024, 1024), real=2**20)
    with pytest.raises(InputError, match=r"damaged \(x_train is of another size than its header says"):
        load(f"npz:{path}")
    bomb(path, (100, 1024, 1024), real=2**20, declared=100 * 2**20)
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        load(f"npz:{path}")
    bomb(path, (1, 1024), real=100 * 2**20, declared=1024)
    with pytest.raises(InputError, match=r"a\.npz"):
        files.read_npz(path, ["x_train"])


def test_an_array_that_comes_twice(tmp_path: Path) -> None:
    npz(tmp_path, x_train=X, y_train=Y)
    with zipfile.ZipFile(tmp_path / "d.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("x_train.npy", b"")
    with pytest.raises(InputError, match=r"array 'x_train' comes twice"):
        load(f"npz:{tmp_path / 'd.npz'}")


# --- commands


@pytest.mark.usefixtures("inline", "one_thread")
def test_commands_say_what_is_read(run: Run, tmp_path: Path) -> None:
    root = Path("photos")
    for i in range(40):
        put(root / ["circle", "cross"][i % 2] / f"{i}.png", drawing(i))
    (root / "circle" / "._0.png").write_text("x")
    common = ["--data", "folder:photos", "--epochs", "1", "--scale", "channels=4,cells=1"]
    note = "note: photos: 40 images of 2 classes; left out: 1 hidden file\n"
    searched = run("search", "-s", "random", *common, "--trials", "1", "--out", "a", "--no-report")
    assert searched.code == 0 and searched.err.count(note) == 1
    assert run("eval", "a", *common).err.count(note) == 1
    assert run("retrain", "a", "--seeds", "0", "--epochs", "1", "--no-report").err.count(note) == 1
    # An image is for predict what it is for training.
    lines = run("predict", "a", str(root / "circle/0.png"), str(root / "cross/1.png"), "--json").out.splitlines()
    assert [json.loads(line)["image"] for line in lines] == [str(root / "circle/0.png"), str(root / "cross/1.png")]
    refused = run("predict", "a", str(root / "circle/0.png"), "--max-gigabytes", "0.000001")
    assert refused.code == 2 and "give --max-gigabytes 1" in refused.err
    run("predict", "a").refused("name what is to be looked at", "--examples N")
    test = {(x.tobytes(), int(y)) for x, y in zip(*(load("folder:photos").arrays("test") or ()), strict=True)}
    said = run("predict", "a", "--trial", "0", "--examples", "3").accepted()
    for each in said:
        pixels, label = images.read_pixels(Path(each["image"]), Limit())[0], ["circle", "cross"].index(each["truth"])
        assert Path(each["image"]).parent.parent == Path("a/examples") and (pixels.tobytes(), label) in test
    assert len(said) == len({each["image"] for each in said}) == 3
    assert api.predict("a", trial=0, examples=3) == said
    (root / "cross/1.png").unlink()
    run("predict", "a", "--examples", "3").refused("data folder:photos are not those that it was trained with")
    refused = run("search", "-s", "random", *common, "-E", "max_gigabytes=1e-9", "--out", "b")
    assert refused.code == 2 and "-E max_gigabytes=1" in refused.err and not Path("b").exists()


def test_a_table_that_unpacks_to_gigabytes(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, arch=np.zeros((2**20, 6), np.int64), val200=np.zeros(2**20))
    refused = run("search", "-s", "random", "--evaluator", "table", "-E", f"file={path}", "-E", "max_gigabytes=0.01")
    assert refused.code == 2 and "takes 50.3 MB of memory, more than the 10 MB allowed" in refused.err
