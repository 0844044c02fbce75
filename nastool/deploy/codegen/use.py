"""What stands around the classes of a `model.py`: reading weights and images, and saying what they show."""

from __future__ import annotations

from collections.abc import Sequence

CONSTANTS = ["    pixel_mean, pixel_std, class_names = MEAN, STD, CLASSES"]
FORWARD = """
    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=x.device).reshape(-1, 1, 1) for v in (self.pixel_mean, self.pixel_std))
        return super().forward((x / 255 - mean) / std)
""".rstrip().split("\n")

_LOAD = '''
def load(path: {path}) -> Model:
    """The model with the weights of a safetensors file, in evaluation mode."""
    with open(path, "rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())
    about = entries.pop("__metadata__", {{}})
    weights = {{}}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        values = torch.frombuffer(data[start:end], dtype=DTYPES[entry["dtype"]])
        weights[name] = values.reshape(entry["shape"])
    model = Model()
    model.load_state_dict({weights})
{about}    return model.eval()
'''

_ABOUT = """    for name, key in (("pixel_mean", "mean"), ("pixel_std", "std"), ("class_names", "classes")):
        if key in about:  # of the data that these very weights were trained on
            setattr(model, name, tuple(json.loads(about[key])))
"""

_SIZE = """
if __name__ == "__main__":
    model = load(sys.argv[1]) if len(sys.argv) > 1 else Model().eval()
    with torch.no_grad():
        outputs = model({inputs})
    print(f"{{sum(p.numel() for p in model.parameters()):,}} parameters, output {{tuple(outputs.shape)}}")
"""

_MAIN = '''
def read(path: str) -> Tensor:
    """The image in a file as the network was trained on such: uint8 (1, {shape}). Needs Pillow."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        wide = file.mode.startswith("I;16") or (file.mode == "I" and file.format in ("PNG", "PPM"))
        if file.mode[0] in "IF" and not wide:
            raise ValueError("its pixels are numbers of which none is known as white; convert it to 8 bits a channel")
        tags = getattr(file, "tag_v2", {{}})
        file.load()
        image: Image.Image = file
        with suppress(Exception):  # damaged EXIF data are of many kinds
            image = ImageOps.exif_transpose(file)
        if wide:  # 16 bits a pixel, or what a TIFF says
            hidden = image.info.get("transparency")
            values = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32)
            x = (values.double() * (255 / ((1 << min(tags.get(258, (16,))[0], 16)) - 1))).round().clamp(0, 255)
            x = x.masked_fill(values == hidden, 255) if isinstance(hidden, int) else x
            x = (255 - x if tags.get(262) == 0 else x).to(torch.uint8)
        else:
            mode = "L" if image.mode in ("1", "L") else "RGB"
            if image.has_transparency_data:  # on white
                drawing = image.convert("RGBA")
                image = Image.new("RGBA", drawing.size, "white")
                image.alpha_composite(drawing)
            x = torch.frombuffer(bytearray(image.convert(mode).tobytes()), dtype=torch.uint8)
        x = x.reshape(1, image.height, image.width, -1).permute(0, 3, 1, 2)
{channels}    if x.shape[2:] != ({height}, {width}):
        x = F.interpolate(x.float(), ({height}, {width}), mode="bilinear", antialias=True)
        x = x.round().clamp(0, 255).to(torch.uint8)
    return x


def main(arguments: list[str]) -> int:
    """Say what images show. The weights are the argument that ends in .safetensors, or a file beside this one."""
    images = [path for path in arguments if not path.endswith(".safetensors")]
    given = [Path(path) for path in arguments if path.endswith(".safetensors")]
    if not images:
        model = load(given[0]) if given else Model().eval()
        count = sum(p.numel() for p in model.parameters())
        print(f"{{count:,}} parameters; to classify: python {{sys.argv[0]}} [WEIGHTS.safetensors] IMAGE...")
        return 0
    here = Path(__file__)
    beside = [here.with_suffix(".safetensors"), here.with_name("best.safetensors")]
    there = [path for path in given or beside if path.is_file()]
    if not there:
        print(f"no weights: there is no {{' and no '.join(map(str, given or beside))}}", file=sys.stderr)
        return 2
    try:
        from PIL import Image
    except ImportError:
        print("reading images needs Pillow: pip install pillow", file=sys.stderr)
        return 2
    damaged = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError)
    try:
        model = load(there[0])
    except damaged as error:
        print(f"{{there[0]}} holds no weights of this network: {{str(error).partition(':')[0]}}", file=sys.stderr)
        return 2
    failed = False
    for path in images:
        try:
            with torch.inference_mode():
                probabilities = model(read(path)).softmax(1)[0]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"{{path}}: cannot be read as an image: {{error}}", file=sys.stderr)
            failed = True
            continue
        best = int(probabilities.argmax())
        name = "".join(c if c.isprintable() else "?" for c in model.class_names[best])
        print(f"{{path}}  {{name}} {{probabilities[best]:.4f}}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''

_TO_GREY = """    if x.shape[1] == 3:  # ITU-R 601
        red, green, blue = x.int().unbind(1)
        x = (19595 * red + 38470 * green + 7471 * blue + 0x8000 >> 16).to(torch.uint8)[:, None]
"""
_TO_OTHER = """    if x.shape[1] == 3:
        raise ValueError("it has 3 channels, the network needs {channels}")
"""
_TO_COLOUR = """    x = x.expand(1, {channels}, *x.shape[2:])
"""


def tail(inputs: str, shape: Sequence[int], pixels: bool, more: bool = False) -> str:
    """Everything after the classes.

    Args:
        inputs: An expression for those of one example.
        shape: Of one.
        pixels: The model takes pixels, and so files of images can be shown to it.
        more: Files of weights hold others besides, which are not loaded.
    """
    weights = "{name: weights[name] for name in model.state_dict()}" if more else "weights"
    load = _LOAD.format(about=_ABOUT if pixels else "", path="str | Path" if pixels else "str", weights=weights)
    if not pixels:
        load = load.replace("    about = entries.pop", "    entries.pop")
        return f"{load.strip()}\n\n\n{_SIZE.format(inputs=inputs).strip()}\n"
    colours, height, width = shape
    channels = _TO_GREY if colours == 1 else ("" if colours == 3 else _TO_OTHER) + _TO_COLOUR
    main = _MAIN.format(
        channels=channels if colours == 1 else channels.format(channels=colours),
        shape=f"{colours}, {height}, {width}",
        height=height,
        width=width,
    )
    return f"{load.strip()}\n\n\n{main.strip()}\n"
