"""nastool.tasks.images.data: what is read, how it is split, and one test per error message."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nastool.core.errors import InputError
from nastool.tasks.images import data, shapes
from nastool.tasks.images.data import ImageData, Images, load
from nastool.tasks.images.task import ImageTask
from nastool.tasks.tensors import note_on_few
from tests.helpers.running import Run

RNG = np.random.default_rng


def numbered(n: int, classes: int = 2) -> dict[str, NDArray[Any]]:
    """n different 4x4 images: the first two pixels hold their number, the labels go round."""
    x = np.zeros((n, 4, 4), dtype=np.uint8)
    x[:, 0, 0], x[:, 0, 1] = np.arange(n) % 256, np.arange(n) // 256
    return {"x_train": x, "y_train": np.arange(n) % classes}


def numbers(images: Images | None) -> set[int]:
    assert images is not None
    x = images.x.astype(int)
    found = x[:, 0, 0, 0] + 256 * x[:, 0, 0, 1]
    assert len(set(found)) == len(found)
    return set(found.tolist())


def npz(tmp_path: Path, **arrays: Any) -> str:
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"


def parts(d: ImageData) -> list[Images]:
    assert d.test is not None
    return [d.train, d.val, d.test]


# --- digits and splits


def test_digits() -> None:
    d = load("digits")
    assert [len(p) for p in parts(d)] == [1078, 360, 359]
    assert d.task == ImageTask(1, 8, 8, 10)
    assert d.classes == tuple("0123456789")
    for part in parts(d):
        assert part.x.dtype == np.uint8 and part.y.dtype == np.int64 and part.x.shape[1:] == (1, 8, 8)
        assert np.bincount(part.y, minlength=10).min() >= len(part) / 10 * 0.9
    assert d.train.x.max() == 255 and d.train.x.min() == 0
    from sklearn.datasets import load_digits

    source = load_digits()
    pairs = {(x.astype(int).tobytes(), int(y)) for x, y in zip(source.data, source.target, strict=True)}
    for part in parts(d):  # sixteenths of 255, rounded, lead back to the source's 0 .. 16
        for x, y in zip(part.x, part.y, strict=True):
            assert (np.rint(x.ravel() / 255 * 16).astype(int).tobytes(), int(y)) in pairs


def test_shapes_are_the_same_everywhere() -> None:
    d = load("shapes")
    assert d.digest == "2a766fb8cf586d1f"  # of all pixels: figures in docs/data.md and the results are of these
    assert [len(p) for p in parts(d)] == [3000, 2000, 2000] and d.task == ImageTask(1, 16, 16, 10)
    for part in parts(d):
        assert (np.bincount(part.y) == len(part) // 10).all()
    every = np.concatenate([part.x for part in parts(d)])
    assert len(np.unique(every.reshape(len(every), -1), axis=0)) == len(every)  # none is in two parts
    few, labels = shapes.draw(30, seed=1)
    assert not np.array_equal(few, shapes.draw(30, seed=2)[0]) and list(labels) == 3 * list(range(10))


def test_mean_and_std_are_those_of_the_training_images() -> None:
    d = load("digits")
    scaled = d.train.x / 255
    assert d.mean == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-6)
    assert d.std == pytest.approx(scaled.std((0, 2, 3)), abs=1e-6)
    assert d.mean.dtype == d.std.dtype == np.float32


def test_std_of_constant_images_is_not_zero(tmp_path: Path) -> None:
    d = load(npz(tmp_path, x_train=np.full((20, 4, 4), 7, np.uint8), y_train=np.arange(20) % 2))
    assert d.std.tolist() == pytest.approx([1 / 255]) and d.mean.tolist() == pytest.approx([7 / 255])


def test_the_test_images_do_not_depend_on_options() -> None:
    plain = load("digits")
    other = load("digits", split_seed=5, val_fraction=0.5, train_size=50)
    assert plain.test is not None and other.test is not None
    assert np.array_equal(plain.test.x, other.test.x) and np.array_equal(plain.test.y, other.test.y)
    assert not np.array_equal(plain.val.x[:50], other.val.x[:50])
    assert len(other.train) == 50


def test_splits_repeat() -> None:
    for a, b in zip(parts(load("digits", split_seed=3)), parts(load("digits", split_seed=3)), strict=True):
        assert np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y)


@given(
    n=st.integers(6, 400),
    classes=st.integers(2, 6),
    seed=st.integers(0, 99),
    fraction=st.floats(0.01, 0.99),
)
@settings(max_examples=30)
def test_splits_are_disjoint_complete_and_stratified(
    tmp_path_factory: pytest.TempPathFactory, n: int, classes: int, seed: int, fraction: float
) -> None:
    n = max(n, 3 * classes)
    name = npz(tmp_path_factory.mktemp("d"), **numbered(n, classes))
    d = load(name, split_seed=seed, val_fraction=fraction)
    sets = [numbers(p) for p in parts(d)]
    assert set.union(*sets) == set(range(n)) and sum(map(len, sets)) == n
    assert abs(len(parts(d)[2]) - 0.2 * n) <= max(1, classes)
    for part in parts(d):
        assert set(part.y.tolist()) == set(range(classes))
        counts = np.bincount(part.y, minlength=classes)
        assert counts.max() - counts.min() <= 2
        x = part.x.astype(int)
        for number, label in zip(x[:, 0, 0, 0] + 256 * x[:, 0, 0, 1], part.y, strict=True):
            assert number % classes == label


@given(size=st.integers(2, 60), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_train_size_keeps_exactly_that_many(tmp_path_factory: pytest.TempPathFactory, size: int, seed: int) -> None:
    name = npz(tmp_path_factory.mktemp("d"), **numbered(100, 3))
    whole, some = load(name, split_seed=seed), load(name, split_seed=seed, train_size=size)
    assert len(some.train) == size
    assert numbers(some.train) <= numbers(whole.train)
    assert numbers(some.val) == numbers(whole.val)
    counts = np.bincount(some.train.y, minlength=3)
    assert counts.max() - counts.min() <= 1


def test_rare_classes_reach_every_part(tmp_path: Path) -> None:
    y = np.array([0] * 97 + [1] * 3)
    d = load(npz(tmp_path, x_train=numbered(100)["x_train"], y_train=y))
    assert [set(p.y.tolist()) for p in parts(d)] == [{0, 1}] * 3


def test_too_few_images_to_hold_out_a_test(tmp_path: Path) -> None:
    arrays = numbered(2)
    d = load(npz(tmp_path, **arrays, x_val=arrays["x_train"], y_val=arrays["y_train"]))
    assert d.test is None and len(d.train) == 2


def test_image_size() -> None:
    d = load("digits", image_size=16)
    assert d.task == ImageTask(1, 16, 16, 10) and d.train.x.shape[1:] == (1, 16, 16)
    assert abs(float(d.mean[0]) - float(load("digits").mean[0])) < 0.01
    small = load("digits", image_size=1)
    assert small.train.x.shape[1:] == (1, 1, 1) and len(np.unique(small.train.x)) > 10


# --- npz


def test_npz_with_all_parts_and_classes(tmp_path: Path) -> None:
    arrays = numbered(6)
    more = {"x_val": arrays["x_train"][:2], "y_val": arrays["y_train"][:2]}
    more |= {"x_test": arrays["x_train"][2:5], "y_test": arrays["y_train"][2:5]}
    d = load(npz(tmp_path, **arrays, **more, classes=np.array(["cat", "dog"]), other=np.zeros(3)))
    assert [numbers(p) for p in parts(d)] == [{0, 1, 2, 3, 4, 5}, {0, 1}, {2, 3, 4}]
    assert d.classes == ("cat", "dog") and d.task == ImageTask(1, 4, 4, 2)


@pytest.mark.parametrize("layout", ["NHW", "NHW1", "N1HW", "NHW3", "N3HW"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_npz_layouts_and_dtypes(tmp_path: Path, layout: str, dtype: str) -> None:
    channels = 3 if "3" in layout else 1
    pixels = RNG(0).integers(0, 256, (40, channels, 6, 5), dtype=np.uint8)
    x = pixels if layout[1].isdigit() else pixels.transpose(0, 2, 3, 1)
    x = x[..., 0] if layout == "NHW" else x
    given_x = x if dtype == "uint8" else (x / 255).astype(dtype)
    d = load(npz(tmp_path, x_train=given_x, y_train=np.arange(40) % 2))
    assert d.task == ImageTask(channels, 6, 5, 2)
    close = 1 if dtype == "float16" else 0
    originals = pixels.astype(int)
    for image in np.concatenate([p.x for p in parts(d)]).astype(int):
        assert (np.abs(originals - image).max((1, 2, 3)) <= close).any()


def test_npz_labels_as_a_column_of_any_integer_type(tmp_path: Path) -> None:
    arrays = numbered(20)
    d = load(npz(tmp_path, x_train=arrays["x_train"], y_train=arrays["y_train"].astype(np.uint8)[:, None]))
    assert d.train.y.dtype == np.int64 and d.train.y.ndim == 1


Change = dict[str, Any]
A = numbered(20)
X, Y = A["x_train"], A["y_train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": None}, "no array 'x_train'; need x_train and y_train, found y_train"),
        ({"y_train": None}, "no array 'y_train'; need x_train and y_train, found x_train"),
        ({"x_val": X}, "x_val is there without y_val"),
        ({"y_test": Y}, "y_test is there without x_test"),
        ({"y_train": Y[:9]}, "x_train has 20 images but y_train 9 labels"),
        ({"x_train": X[0]}, "x_train: need images (N, H, W), (N, H, W, C) or (N, C, H, W), got shape (4, 4)"),
        ({"x_train": X[:, :0]}, "x_train: need images (N, H, W)"),
        ({"x_train": X.astype(int)}, "x_train: need uint8, or float in [0, 1], got int64"),
        ({"x_train": X > 3}, "x_train: need uint8, or float in [0, 1], got bool"),
        (
            {"x_train": X / 9},
            "x_train: need finite values in [0, 1] in float64 images; divide by 255, or give uint8",
        ),
        ({"x_train": X / -255}, "x_train: need finite values in [0, 1]"),
        ({"x_train": np.full((20, 4, 4), np.nan)}, "x_train: need finite values in [0, 1]"),
        (
            {"x_train": X.astype(object)},
            "x_train holds Python objects, which are not loaded; save plain numbers",
        ),
        ({"y_train": Y.astype(object)}, "y_train holds Python objects"),
        ({"y_train": Y - 1}, "y_train: need labels >= 0, got -1"),
        ({"y_train": Y * 1.0}, "y_train: need whole numbers of shape (N,), got float64 (20,); save y.astype(int)"),
        ({"y_train": Y[:, None] * [1, 1]}, "y_train: need whole numbers of shape (N,), got int64 (20, 2)"),
        (
            {"y_train": Y * 3},
            "no training example has label 1, but there are higher ones; number the labels 0, 1,",
        ),
        ({"y_train": Y + 1}, "no training example has label 0, but"),
        ({"y_train": Y.astype(np.int64) * 2**40}, "y_train: need labels <= 1000000, got 1099511627776"),
        ({"y_train": Y * 0}, "y_train has 1; need at least 2 classes"),
        ({"x_test": X, "y_test": Y + 1}, "y_train has 2: need labels < 2, got 2 in y_test"),
        ({"x_val": X, "y_val": Y + 5}, "y_train has 2: need labels < 2, got 6 in y_val"),
        (
            {"classes": np.array(["a", "b"]), "y_train": Y + 1},
            "classes names 2: need labels < 2, got 2 in y_train",
        ),
        ({"classes": np.array(["a"]), "y_train": Y * 0}, "classes names 1; need at least 2 classes"),
        ({"classes": np.array(["a", "a"])}, "classes must be strings of shape (K,) that differ"),
        ({"classes": np.arange(2)}, "classes must be strings of shape (K,) that differ, got int64 (2,)"),
        ({"x_test": X[:, :3], "y_test": Y}, "images of x_test are 1x3x4, those of x_train 1x4x4"),
        ({"x_val": X[:0], "y_val": Y[:0]}, "x_val holds no image"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "x_train holds no image"),
        (
            {"x_train": X[:1], "y_train": Y[:1], "classes": np.array(["a", "b"])},
            "need at least 2 training images",
        ),
        (
            {"x_train": X[:2], "y_train": Y[:2]},
            "no image is left for validation; give more images of each class",
        ),
    ],
)
def test_npz_errors(tmp_path: Path, change: Change, message: str) -> None:
    arrays = {key: value for key, value in (A | change).items() if value is not None}
    name = npz(tmp_path, **arrays)
    with pytest.raises(InputError) as caught:
        load(name)
    assert message in str(caught.value)
    assert str(caught.value).removeprefix("npz:").startswith(f"{tmp_path / 'd.npz'}: ") or "objects" in message
    assert "\n" not in str(caught.value)


def test_npz_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read /nowhere\.npz: No such file"):
        load("npz:/nowhere.npz")
    name = npz(tmp_path, **numbered(500))
    path = tmp_path / "d.npz"
    whole = path.read_bytes()
    for broken in (b"", b"PK", b"no archive at all", whole[:100], whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"d\.npz is no \.npz file, or cut short: write it anew with") as caught:
            load(name)
        assert "\n" not in str(caught.value)
    damaged = bytearray(whole)
    damaged[2000:2100] = bytes(255 - b for b in damaged[2000:2100])
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"is damaged \(Bad CRC-32"):
        load(name)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match=r"d\.npz is no \.npz file"):
        load(name)


# --- arguments


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "no data set 'digit'; did you mean 'digits'?"),
        ("cifar", {}, "no data set 'cifar'; did you mean 'cifar10'?"),
        ("zzz", {}, "no data set 'zzz'; there are digits"),
        (
            "npz",
            {},
            "no data set 'npz'; ",
        ),
        ("npz:", {}, "no data set 'npz:'; "),
        ("digits", {"split_seed": -1}, "need split_seed >= 0, got -1"),
        ("digits", {"val_fraction": 0.0}, "need 0 < val_fraction < 1, got 0.0"),
        ("digits", {"val_fraction": 1.0}, "need 0 < val_fraction < 1, got 1.0"),
        ("digits", {"val_fraction": float("nan")}, "need 0 < val_fraction < 1, got nan"),
        ("digits", {"train_size": 1}, "need train_size >= 2, got 1"),
        ("digits", {"train_size": 1079}, "digits: need train_size <= 1078 (its training images), got 1079"),
        ("digits", {"image_size": 0}, "need 1 <= image_size <= 1024 (pixels), got 0"),
    ],
)
def test_argument_errors(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(name, **options)
    assert message in str(caught.value)


def test_val_fraction_where_validation_images_are_given(tmp_path: Path) -> None:
    name = npz(tmp_path, **A, x_val=X, y_val=Y)
    with pytest.raises(InputError, match="brings its own validation images: leave out val_fraction"):
        load(name, val_fraction=0.2)


def test_every_listed_name_is_accepted() -> None:
    for name in ImageTask.datasets:
        data.check_options(name)


def test_importing_the_module_imports_no_torch() -> None:
    code = "import sys, nastool.tasks.images.data;"
    code += "print([m for m in ('torch', 'torchvision', 'sklearn', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert out.stdout.strip() == "[]"


# --- folders


def picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "1", "I;16") else (value, 1, 2)).save(path)


def flat(root: Path, each: int = 10, mode: str = "RGB") -> Path:
    for label, name in enumerate(["ant", "bee"]):
        for i in range(each):
            picture(root / name / f"{i}.png", mode=mode, value=100 * label + i)
    return root


def test_flat_folder(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / "ant" / "notes.txt").write_text("ignored")
    (tmp_path / ".cache").mkdir()
    d = load(f"folder:{tmp_path}")
    assert d.classes == ("ant", "bee") and d.task == ImageTask(3, 4, 6, 2)
    assert [len(p) for p in parts(d)] == [12, 4, 4]
    for part in parts(d):
        assert np.array_equal(part.x[:, 0, 0, 0] // 100, part.y)
        assert set(part.x[:, 1].ravel()) == {1} and set(part.x[:, 2].ravel()) == {2}
    reds = [value for part in parts(d) for value in part.x[:, 0, 0, 0].tolist()]
    assert sorted(reds) == [*range(10), *range(100, 110)]


def test_folder_with_parts(tmp_path: Path) -> None:
    for part, n in (("train", 5), ("val", 2), ("test", 3)):
        flat(tmp_path / part, n)
    assert [len(p) for p in parts(load(f"folder:{tmp_path}"))] == [10, 4, 6]


def test_grey_images_have_one_channel_and_colour_among_them_three(tmp_path: Path) -> None:
    flat(tmp_path, mode="L")
    assert load(f"folder:{tmp_path}").task.channels == 1
    picture(tmp_path / "ant" / "c.JPG")
    picture(tmp_path / "bee" / "a.webp", mode="RGBA")
    Image.new("P", (6, 4)).save(tmp_path / "bee" / "p.gif")
    d = load(f"folder:{tmp_path}")
    assert d.task.channels == 3 and sum(map(len, parts(d))) == 23


def test_few_validation_images_are_noted() -> None:
    note = note_on_few(5)
    assert note is not None and "only 5 validation images" in note and "0.2" in note and "-E val_fraction=" in note
    assert [note_on_few(count) for count in (0, 50, None)] == [None, None, None]  # 0: all are trained on


@pytest.mark.usefixtures("inline", "one_thread")
def test_few_validation_images_are_noted_by_commands(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", x_train=rng.integers(0, 256, (60, 6, 6), np.uint8), y_train=np.arange(60) % 2)
    common = ["--data", "npz:few.npz", "--epochs", "1", "--scale", "channels=4,cells=1"]
    common += ["-E", "val_fraction=0.1"]
    note = "note: only 5 validation images, so accuracies move in steps of 0.2"
    searched = run("search", "-s", "random", *common, "--trials", "1", "--out", "a", "--no-report")
    assert searched.code == 0 and searched.err.count(note) == 1
    again = run("search", "-s", "random", *common, "--trials", "2", "--out", "a", "--no-report")
    assert again.code == 0 and note not in again.err
    assert note in run("eval", "a", *common).err


def test_folder_image_size(tmp_path: Path) -> None:
    flat(tmp_path)
    picture(tmp_path / "ant" / "big.png", (60, 40))
    several = load(f"folder:{tmp_path}")
    assert several.task == ImageTask(3, 8, 8, 2)
    assert several.note.endswith("of several sizes, so all are resized to 8x8: -E image_size=N decides")
    for number in range(40):
        picture(tmp_path / "ant" / f"big{number}.png", (60, 40))
    assert load(f"folder:{tmp_path}").task == ImageTask(3, 32, 32, 2)
    assert load(f"folder:{tmp_path}", image_size=5).task == ImageTask(3, 5, 5, 2)


def test_folder_errors(tmp_path: Path) -> None:
    name = f"folder:{tmp_path}"
    with pytest.raises(InputError, match="no folder /nowhere: give folder:DIR, with one folder of images a class"):
        load("folder:/nowhere")
    with pytest.raises(InputError, match="need at least 2 classes, one folder of images each, found 0"):
        load(name)
    flat(tmp_path)
    (tmp_path / "cow").mkdir()
    with pytest.raises(InputError, match="cow: no image in this class folder; fill it, or remove it"):
        load(name)
    whole = (tmp_path / "ant" / "0.png").read_bytes()
    for broken in (b"", b"no image", whole[: len(whole) // 2]):
        (tmp_path / "cow" / "broken.png").write_bytes(broken)
        with pytest.raises(InputError, match=r"broken\.png: [a-z ]+; remove or replace it"):
            load(name)


def test_folder_parts_errors(tmp_path: Path) -> None:
    flat(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(InputError, match="test: no class folder in it; fill it, or remove it"):
        load(f"folder:{tmp_path}")
    picture(tmp_path / "test" / "cow" / "0.png")
    with pytest.raises(InputError, match=r"cow: no class 'cow' in .*train"):
        load(f"folder:{tmp_path}")


# --- torchvision


def idx(path: Path, array: NDArray[np.uint8]) -> None:
    """MNIST's file format: magic number, sizes (big-endian), bytes."""
    head = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4").tobytes()
    path.write_bytes(head + array.tobytes())


def test_mnist_from_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 50), ("t10k", 20)):
        x = RNG(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
        idx(raw / f"{part}-images-idx3-ubyte", x)
        idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    d = load("mnist", data_dir=str(tmp_path))
    assert [len(p) for p in parts(d)] == [38, 12, 20]  # a quarter of few
    assert d.task == ImageTask(1, 28, 28, 10) and len(d.classes) == 10
    assert d.test is not None
    assert np.array_equal(d.test.x[:, 0], RNG(20).integers(0, 256, (20, 28, 28), dtype=np.uint8))
    labels = raw / "t10k-labels-idx1-ubyte"
    damaged: list[Callable[[], object]] = [
        lambda: labels.write_bytes(b"\0"),
        lambda: idx(labels, np.zeros(19, np.uint8)),
        lambda: idx(labels, np.full(20, 10, np.uint8)),
    ]
    for damage in damaged:
        damage()
        with pytest.raises(InputError, match=r"mnist is not in .* \(or is damaged there\)"):
            load("mnist", data_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"cannot download mnist .*labels do not match its images; check"):
        load("mnist", data_dir=str(tmp_path), download=True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist", "svhn"])
def test_missing_files_say_download_or_data_dir(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(name, data_dir=str(tmp_path))
    assert str(caught.value) == (
        f"{name} is not in {tmp_path} (or is damaged there): give --download, or --data-dir where it is"
    )


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match=rf"cifar10 is not in {tmp_path}/nastool "):
        load("cifar10")


@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn"])
def test_no_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(InputError) as caught:
        load(name, data_dir=str(tmp_path), download=True)
    assert str(caught.value).startswith(f"cannot download {name} to {tmp_path}: ")
    assert str(caught.value).endswith("; check the network, or empty the folder and retry")
    assert "\n" not in str(caught.value) and capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "first"), [("cifar10", False), ("svhn", True)])
def test_layouts_of_torchvision(name: str, first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision's classes hold them: CIFAR (N, H, W, C) and a list, SVHN (N, C, H, W) and `labels`."""
    pixels = RNG(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    asked = []

    class Source:
        def __init__(self, root: Path, download: bool, **part: object) -> None:
            asked.append((str(root), download, part))
            self.data = pixels if first else pixels.transpose(0, 2, 3, 1)
            if first:
                self.labels = np.arange(60) % 10
            else:
                self.targets, self.classes = [i % 10 for i in range(60)], [f"c{i}" for i in range(10)]
            print("chatter")

    monkeypatch.setattr(f"torchvision.datasets.{name.upper()}", Source)
    d = load(name, data_dir=str(tmp_path), download=True)
    assert d.test is not None and np.array_equal(d.test.x, pixels)
    assert d.task == ImageTask(3, 32, 32, 10)
    assert d.classes == (tuple("0123456789") if first else tuple(f"c{i}" for i in range(10)))
    parts_asked: list[dict[str, Any]] = (
        [{"split": "train"}, {"split": "test"}] if first else [{"train": True}, {"train": False}]
    )
    assert asked == [(str(tmp_path), True, part) for part in parts_asked]


def test_gzip_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(gzip.compress(b"x" * 1000))
    with pytest.raises(InputError, match=r"is no \.npz file"):
        load(f"npz:{path}")


def test_a_damaged_image_among_several_sizes_is_named(tmp_path: Path) -> None:
    flat(tmp_path)
    picture(tmp_path / "ant" / "big.png", (60, 40))
    (tmp_path / "bee" / "zzz.png").write_text("x")
    with pytest.raises(InputError, match=r"zzz\.png: cannot be read as an image; remove or replace it"):
        load(f"folder:{tmp_path}")
