"""`nastool export` and `nastool predict`: what a search found, in use."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from nastool.core import archfile, files, registry, zoo
from nastool.core.errors import InputError, NastoolError
from nastool.core.space import SearchSpace, make_scale
from nastool.core.values import Arch, Proposal
from nastool.deploy import exports, models
from nastool.evaluators.train import Train
from nastool.nets import networks
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.morph_cnn import MorphCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.data import load, read_image
from nastool.tasks.images.task import ImageTask
from nastool.tasks.language.task import LanguageTask
from tests.helpers.running import Run
from tests.unit.deploy import test_codegen


def trained(folder: Path, space: SearchSpace, arch: Arch) -> tuple[Path, dict[str, float]]:
    """A checkpoint of a short training on digits, and its metrics on the test images."""
    train = Train(space, data="digits", epochs=1, train_size=200, scale={"channels": 4}, device="cpu")
    train.workdir = folder
    proposal = Proposal(arch)
    evaluation = train.evaluate(0, proposal, seed=0, report=lambda step, metrics: None)
    assert evaluation.checkpoint is not None
    return folder / evaluation.checkpoint, dict(train.test(proposal, evaluation))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    space = NasBench201()
    arch = space.from_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_3x3~2|")
    return trained(tmp_path_factory.mktemp("trained"), space, arch)


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    test = load("digits").test
    assert test is not None
    return test.x, test.y


# --- a model


def test_what_only_training_needs_is_left_behind(tmp_path: Path) -> None:
    """An auxiliary head, and cells that it alone reads; the run's weights fit the code all the same."""
    space = CellCNN(blocks=1)
    scale = {"channels": 4, "cells": 1, "auxiliary": 1}
    train = Train(space, data="digits", epochs=1, train_size=100, scale=scale, device="cpu")
    train.workdir = tmp_path
    arch = space.arch([0] * len(space.decisions))
    evaluation = train.evaluate(0, Proposal(arch), seed=0, report=lambda step, metrics: None)
    path = tmp_path / str(evaluation.checkpoint)
    model = models.load(str(path))
    assert any("auxiliary" in name for name in files.read_tensors(path)[0])
    assert not any("auxiliary" in name for name in model.network.state_dict())
    (tmp_path / "model.py").write_text(exports.python(model))
    assert not re.search(r"uxiliary(?!=0)", (tmp_path / "model.py").read_text())
    code: dict[str, Any] = {"__name__": "model"}
    exec(compile((tmp_path / "model.py").read_text(), "model.py", "exec", dont_inherit=True), code)
    x = digits()[0]
    probabilities = code["load"](path)(torch.from_numpy(x.copy())).softmax(1)
    torch.testing.assert_close(probabilities, torch.from_numpy(model.predict(x)), rtol=1e-4, atol=1e-5)
    test = train.test(Proposal(arch), evaluation)
    assert (model.predict(x).argmax(1) == digits()[1]).mean() == test["test_acc"]
    bare = exports.untrained_python(space, arch, ImageTask(1, 8, 8, 10), make_scale(space, scale))
    assert "self.auxiliary = " in bare, "the network as it is asked for"


def test_a_model_gives_the_accuracy_that_was_reported(checkpoint: tuple[Path, dict[str, float]]) -> None:
    model = models.load(str(checkpoint[0]))
    x, y = digits()
    assert (model.predict(x).argmax(1) == y).mean() == checkpoint[1]["test_acc"]
    assert model.predict(x).sum(1) == pytest.approx(1, abs=1e-5)
    assert model.classes == tuple("0123456789")


@pytest.mark.parametrize("damage", ["changed", "metadata", "cut"])
def test_a_damaged_file_is_no_model(checkpoint: tuple[Path, dict[str, float]], damage: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoint[0].read_bytes())
    weights, metadata = files.read_tensors(path)
    if damage == "changed":
        next(iter(weights.values())).view(-1)[0] += 1
        save_file(weights, path, metadata)
    elif damage == "metadata":
        save_file(weights, path, {"arch": "{}"})
    else:
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"a\.safetensors"):
        models.load(str(path))


# --- exports


def test_python_needs_no_nastool(checkpoint: tuple[Path, dict[str, float]], run: Run, tmp_path: Path) -> None:
    """In another process, without nastool, the reported accuracy exactly."""
    assert run("export", str(checkpoint[0]), "--to", "python").code == 0
    x, y = digits()
    np.savez("test.npz", x=x, y=y)
    script = """
import sys
import numpy as np, torch
sys.modules["nastool"] = None
import model
data = np.load("test.npz")
with torch.inference_mode():
    logits = model.load(sys.argv[1])(torch.from_numpy(data["x"]))
print((logits.argmax(1).numpy() == data["y"]).mean())
"""
    Path("use.py").write_text(script)
    command = [sys.executable, "use.py", str(checkpoint[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) == checkpoint[1]["test_acc"]


def test_pt2_computes_the_same(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    outcome = run("export", str(checkpoint[0]), "--to", "pt2", "-o", "a.pt2")
    assert outcome.code == 0, outcome
    assert "wrote a.pt2" in outcome.err
    extra = {"nastool.json": ""}
    program = torch.export.load("a.pt2", extra_files=extra)
    assert json.loads(extra["nastool.json"])["classes"] == json.dumps(list("0123456789"))
    assert "uint8 (N, 1, 8, 8): pixels from 0 (black) to 255" in outcome.err
    assert json.loads(extra["nastool.json"])["input"].startswith("uint8 (N, 1, 8, 8)")
    x, y = digits()
    with torch.inference_mode():
        logits = program.module()(torch.from_numpy(x.copy()))
    assert (logits.argmax(1).numpy() == y).mean() == checkpoint[1]["test_acc"]


def test_the_bare_network(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    """--raw: normalised images, and nothing else is different."""
    model = models.load(str(checkpoint[0]))
    inputs = model.inputs(digits()[0][:5])
    with torch.inference_mode():
        wanted = model.network(inputs)
    extra = {"nastool.json": ""}
    assert run("export", str(checkpoint[0]), "--to", "pt2", "--raw").code == 0
    found = torch.export.load("model.pt2", extra_files=extra).module()(inputs)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert json.loads(extra["nastool.json"])["input"] == "float32 (N, 1, 8, 8): (pixel / 255 - mean) / std"
    assert run("export", str(checkpoint[0]), "--to", "python", "--raw").code == 0
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(Path("model.py").read_text(), "model.py", "exec", dont_inherit=True), namespace)
    torch.testing.assert_close(namespace["load"](str(checkpoint[0]))(inputs), wanted, rtol=0, atol=1e-4)
    run("export", str(checkpoint[0]), "--to", "safetensors", "--raw").refused("--raw")


def classified(*arguments: str) -> tuple[int, list[str], str]:
    """What `python model.py ...` says, in this process, where torch is imported."""
    out, err = io.StringIO(), io.StringIO()
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["model.py", *arguments])
        runpy.run_path("model.py", run_name="__main__")
    return int(ended.value.code or 0), out.getvalue().splitlines(), err.getvalue()


def test_the_code_classifies_files_as_predict_does(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    """Of every kind that training reads; with the weights beside it, or named."""
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (8, 8), dtype=np.uint8), rng.integers(0, 256, (21, 13, 3), dtype=np.uint8)
    Image.fromarray(digits()[0][0, 0]).save("digit.png")
    Image.fromarray(grey).save("grey.png")
    Image.fromarray(grey > 99).save("black.png")
    Image.fromarray(colour).save("colour.png")
    Image.fromarray(colour).save("colour.jpg")
    Image.fromarray(colour).convert("P").save("palette.png")
    Image.fromarray(colour).convert("CMYK").save("cmyk.jpg")
    Image.fromarray(np.dstack([colour, colour[..., 0]])).save("alpha.png")
    Image.fromarray(colour).convert("P").save("palette_alpha.png", transparency=7)
    Image.merge("LA", [Image.fromarray(colour[..., i]) for i in (0, 1)]).save("grey_alpha.png")
    Image.fromarray(colour).save("one_colour_hidden.png", transparency=tuple(map(int, colour[0, 0])))
    deep = rng.integers(0, 65536, (9, 7), dtype=np.uint16)
    Image.fromarray(deep).save("deep.png")
    Image.fromarray(deep).save("deep_hidden.png", transparency=int(deep[0, 0]))
    Image.fromarray(deep).save("deep.tif")
    Image.fromarray(deep).save("deep_inverted.tif", tiffinfo={262: 0})
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(colour).save("turned.jpg", exif=turned)
    Image.fromarray(colour).save("frames.gif", save_all=True, append_images=[Image.fromarray(255 - colour)])
    images = sorted(str(path) for path in Path().glob("*.*"))
    assert run("export", str(checkpoint[0]), "--to", "python").code == 0
    code, _, err = classified(*images)
    assert code == 2 and "no model.safetensors and no " in err.replace(f"{Path().resolve()}/", "")
    assert run("export", str(checkpoint[0]), "--to", "safetensors").code == 0
    wanted = run("predict", str(checkpoint[0]), *images, "--text").out.splitlines()
    assert len(wanted) == len(images) == 17
    done = subprocess.run([sys.executable, "model.py", *images], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, wanted, "")
    Path("model.safetensors").rename("best.safetensors")
    assert classified("digit.png")[1] == [line for line in wanted if line.startswith("digit.png")]
    Path("best.safetensors").rename("other.safetensors")
    Path("text.png").write_text("no image")
    code, out, err = classified("missing.png", "digit.png", "other.safetensors", "text.png")
    assert code == 2 and out == [line for line in wanted if line.startswith("digit.png")]
    assert [line.partition(":")[0] for line in err.splitlines()] == ["missing.png", "text.png"]
    Path("other.safetensors").write_bytes(b"no weights")
    code, out, err = classified("digit.png", "other.safetensors")
    assert code == 2 and not out and "holds no weights of this network" in err
    assert "parameters" in classified()[1][0]


def test_the_code_knows_the_data_of_its_weights(checkpoint: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """Other weights of the same network were trained on other data: these say how to normalise."""
    weights, metadata = files.read_tensors(checkpoint[0])
    other = {**metadata, "mean": "[0.5]", "std": "[0.25]", "classes": json.dumps(list("abcdefghij"))}
    save_file(weights, tmp_path / "b.safetensors", other)
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(exports.python(models.load(str(checkpoint[0]))), "model.py", "exec", dont_inherit=True), namespace)
    model = models.load(str(tmp_path / "b.safetensors"))
    images = digits()[0][:5]
    found = namespace["load"](str(tmp_path / "b.safetensors"))
    with torch.inference_mode():
        logits = found(torch.from_numpy(images.copy()))
        torch.testing.assert_close(logits, model.network(model.inputs(images)), rtol=0, atol=1e-4)
    assert found.class_names == tuple("abcdefghij")


def test_onnx_computes_the_same(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    outcome = run("export", str(checkpoint[0]), "--to", "onnx")
    assert outcome.code == 0, outcome
    session = onnxruntime.InferenceSession("model.onnx")
    x, y = digits()
    assert session.get_inputs()[0].type == "tensor(uint8)"
    about = session.get_modelmeta().custom_metadata_map
    assert about["input"].startswith("uint8 (N, 1, 8, 8)") and json.loads(about["classes"]) == list("0123456789")
    (found,) = session.run(None, {"images": x})
    assert (found.argmax(1) == y).mean() == checkpoint[1]["test_acc"]
    (one,) = session.run(None, {"images": x[:1]})
    assert np.allclose(one, found[:1], atol=1e-4)


def model(space: SearchSpace, arch: Arch, scale: dict[str, int]) -> models.Model:
    """With numbers in all its weights and statistics."""
    task = ImageTask(3, 8, 8, 5)
    network = test_codegen.build(space, arch, task, scale).eval()
    made = make_scale(space, scale)
    names, ones = tuple("abcde"), (1.0,) * task.channels
    return models.Model(
        network, space, arch, made, task, names, (0.5,) * task.channels, ones, Path("a.safetensors"), {}
    )


FIRST = {
    name: (options, scale)
    for name, options, scale in reversed(test_codegen.SPACES)
    if "images" in registry.load("space", name).tasks
}
"""The first of each space for images."""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.parametrize("name", FIRST)
def test_every_space_round_trips(name: str, form: str, tmp_path: Path) -> None:
    """50 random architectures each."""
    options, scale = FIRST[name]
    space = test_codegen.make_space(name, options)
    write = exports.pt2 if form == "pt2" else exports.onnx
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 8, 8), dtype=np.uint8)
    found = [write(model(space, arch, scale), tmp_path / "a", images) for arch in test_codegen.samples(space, 50)]
    assert len(found) == 50 and max(found) < 1e-4
    print(f"{name} {form}: largest difference {max(found):.1e}")


@pytest.mark.parametrize(("name", "form"), [("enas-lm", "pt2"), ("nas-cell", "onnx")])
def test_a_network_for_texts_is_exported_step_by_step(name: str, form: str, tmp_path: Path) -> None:
    """It takes a token and the state before it, and returns logits and the state after it."""
    if form == "onnx":
        pytest.importorskip("onnxscript")
    document = archfile.from_json(zoo.document(name))
    task, scale = LanguageTask(7), make_scale(document.space, {"hidden": 4})
    network = networks.build(document.space, document.arch, task, scale).eval()
    bare = models.Model(network, document.space, document.arch, scale, task, (), (), (), Path("a.safetensors"), {})
    found = dataclasses.replace(bare, about={"words": tuple("abcdefg")})
    assert json.loads(exports.facts(found, False)["words"]) == list("abcdefg")
    states = 1 if name == "enas-lm" else 2
    assert exports.takes(found, False) == " and ".join(["int64 (N, 1)", *["float32 (N, 4)"] * states])
    write = exports.pt2 if form == "pt2" else exports.onnx
    assert write(found, tmp_path / "a", exports.examples(found)[0]) < 1e-5
    if form == "pt2":
        tokens, state = torch.tensor([[1], [5], [3]]), tuple(torch.randn(3, 4) for _ in range(states))
        logits, after = torch.export.load(str(tmp_path / "a")).module()(tokens, state)
        wanted, wanted_after = network(tokens, state)
        torch.testing.assert_close((logits, after), (wanted, wanted_after))


def test_onnx_says_what_it_needs(
    checkpoint: tuple[Path, dict[str, float]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    run("export", str(checkpoint[0]), "--to", "onnx").refused("pip install 'nastool[onnx]'")
    assert not list(Path().iterdir())


def test_what_differs_is_not_written(
    checkpoint: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.load(str(checkpoint[0]))
    images = digits()[0][:4]
    (tmp_path / "a.pt2").write_bytes(b"from before")
    monkeypatch.setattr(exports, "TOLERANCE", -1.0)
    with pytest.raises(NastoolError, match="outputs differ"):
        exports.pt2(model, tmp_path / "a.pt2", images)
    assert (tmp_path / "a.pt2").read_bytes() == b"from before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt2"]


def test_a_grown_network_is_exported(tmp_path: Path) -> None:
    space = MorphCNN(stages=2, layers=3)
    arch = space.sample(np.random.default_rng(3))
    path, _ = trained(tmp_path, space, arch)
    model = models.load(str(path))
    assert exports.pt2(model, tmp_path / "a.pt2", digits()[0][:4]) <= 1e-4
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(exports.python(model), "model.py", "exec", dont_inherit=True), namespace)
    network, images = namespace["load"](str(path)), digits()[0][:5]
    with torch.inference_mode():
        logits = network(torch.from_numpy(images.copy()))
        torch.testing.assert_close(logits, model.network(model.inputs(images)), rtol=0, atol=1e-5)


def test_an_architecture_alone_becomes_code(run: Run) -> None:
    run("export", "zoo:darts-v2", "--to", "python").refused("--input")
    run("export", "zoo:darts-v2", "--to", "onnx", "--input", "3x32x32").refused("needs weights")
    scale = ["--scale", "channels=4,cells=1"]
    assert run("export", "zoo:darts-v2", "--to", "python", "--input", "3x32x32", *scale).code == 0
    namespace: dict[str, object] = {"__name__": "model"}
    exec(compile(Path("model.py").read_text(), "model.py", "exec", dont_inherit=True), namespace)
    network = namespace["Model"]()  # type: ignore[operator]  # whatever the text defines
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_a_line_that_names_its_weights(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    model = models.load(str(checkpoint[0]))
    line = {**archfile.to_json(model.space, model.arch), "weights": str(checkpoint[0])}
    Path("a.json").write_text(archfile.dumps(line))
    assert run("export", "a.json", "--to", "safetensors", "-o", "b.safetensors").code == 0
    assert load_file("b.safetensors").keys() == load_file(checkpoint[0]).keys()


def test_files_that_are_there_stay(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    Path("model.py").write_text("mine")
    run("export", str(checkpoint[0]), "--to", "python").refused("model.py exists", "--force")
    assert Path("model.py").read_text() == "mine"
    run("export", str(checkpoint[0]), "--to", "python", "-o", "no/model.py").refused("there is no no")
    run("export", "nothing.safetensors", "--to", "python", "-o", "b.py").refused("nothing.safetensors")
    assert run("export", str(checkpoint[0]), "--to", "python", "--force").code == 0


# --- predict


def test_predicts_images(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    x, _ = digits()
    for i in range(3):
        Image.fromarray(x[i, 0]).save(f"{i}.png")
    lines = run("predict", str(checkpoint[0]), "0.png", "1.png", "2.png", "-k", "2").accepted()
    expected = models.load(str(checkpoint[0])).predict(x[:3])
    for i, line in enumerate(lines):
        assert line["image"] == f"{i}.png"
        assert line["class"] == str(expected[i].argmax())
        assert line["probability"] == pytest.approx(expected[i].max(), rel=1e-5)
        assert [each["class"] for each in line["top"]] == [str(c) for c in np.argsort(-expected[i])[:2]]
    text = run("predict", str(checkpoint[0]), "0.png", "--text").out
    assert text.startswith(f"0.png  {expected[0].argmax()} ")


def test_a_bad_image_costs_no_other(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    x, _ = digits()
    Image.fromarray(x[0, 0]).save("good.png")
    Path("text.png").write_text("no image")
    outcome = run("predict", str(checkpoint[0]), "none.png", "good.png", "text.png", "good.png")
    assert outcome.code == 2
    assert [json.loads(line)["image"] for line in outcome.out.splitlines()] == ["good.png", "good.png"]
    missing, unreadable = outcome.err.splitlines()
    assert missing == "nastool: none.png: No such file or directory"
    assert "text.png: cannot be read as an image" in unreadable


def test_images_are_fitted_to_the_network(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((20, 10, 3), (255, 0, 0), np.uint8)).save(path)
    assert read_image(path, ImageTask(3, 6, 5, 2)).shape == (3, 6, 5)
    grey = read_image(path, ImageTask(1, 20, 10, 2))
    assert grey.shape == (1, 20, 10) and (grey == 76).all(), "0.299 of 255"
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(path)
    assert (read_image(path, ImageTask(3, 4, 4, 2)) == 9).all()


def test_bad_images_and_models(checkpoint: tuple[Path, dict[str, float]], run: Run) -> None:
    Path("text.png").write_text("no image")
    run("predict", str(checkpoint[0]), "text.png").refused("text.png", "cannot be read as an image")
    run("predict", str(checkpoint[0]), "missing.png").refused("missing.png: No such file")
    run("predict", "nothing", "text.png").refused("no model nothing")
    run("predict", ".", "text.png").refused(". has no best.json: give a run that has finished")


def test_a_run_without_weights(run: Run, tmp_path: Path) -> None:
    """Of a table's, say: its architecture can become code."""
    (line,) = run("sample", "--space", "nasbench201").accepted()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "best.json").write_text(json.dumps(line))
    run("predict", "r", "a.png").refused("r has a result without weights: nastool retrain r --data")
    run("export", "r", "--to", "pt2").refused("--to pt2 needs weights, and r/best.json names none")
    run("export", "r", "--to", "python").refused("--input 3x32x32")
    assert run("export", "r", "--to", "python", "--input", "3x32x32").code == 0
    assert "class" in (tmp_path / "model.py").read_text()
