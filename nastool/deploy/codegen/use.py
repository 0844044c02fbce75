"""What stands around the classes of a `model.py`: reading weights and data, and saying what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nastool.core.task import Task
from nastool.tasks.images.task import ImageTask
from nastool.tasks.language.task import LanguageTask
from nastool.tasks.language.text import ENDS


@dataclass(frozen=True)
class Around:
    """What is put around a network: the constants of a `Model` that takes what the data hold, and says what they mean.

    Attributes:
        task: The network's.
        classes, mean, std, targets, shift, spread: As of `nastool.deploy.models.Model`; they become constants where
            they are not empty.
        columns: Those of a table, as JSON; (): it is for none.
        raw: `Model` is the bare network all the same.
    """

    task: Task
    classes: Sequence[str] = ()
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    targets: Sequence[str] = ()
    shift: Sequence[float] = ()
    spread: Sequence[float] = ()
    columns: Sequence[Mapping[str, Any]] = ()
    raw: bool = False

    @property
    def there(self) -> bool:
        """Whether anything is."""
        return bool(self.mean and (self.classes or self.targets)) and not self.raw

    @property
    def pixels(self) -> bool:
        """Whether `Model` takes pixels, so that files of images can be shown to it."""
        return self.there and isinstance(self.task, ImageTask)

    @property
    def rows(self) -> bool:
        """Whether rows of a CSV file can be shown to it."""
        return self.there and bool(self.columns)

    @property
    def unit(self) -> str:
        """What the tokens of texts are that can be shown to it, by the words in a file of weights; "": none can."""
        return self.task.unit if isinstance(self.task, LanguageTask) and not self.raw else ""

    @property
    def end(self) -> str:
        """The token at the end of a line."""
        return ENDS["char" if self.unit == "char" else "word"]

    @property
    def _attributes(self) -> list[tuple[str, str, str]]:
        """Names in `Model`, of the constants, and in files of weights."""
        kind = "pixel" if self.pixels else "input"
        found = [(f"{kind}_mean", "MEAN", "mean"), (f"{kind}_std", "STD", "std")]
        if self.targets:
            return [*found, ("target_mean", "SHIFT", "target_mean"), ("target_std", "SPREAD", "target_std")]
        return [*found, ("class_names", "CLASSES", "classes")]

    def constants(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Those of the module, by name; what is not empty."""
        yield from (("CLASSES", self.classes), ("MEAN", self.mean), ("STD", self.std))
        yield from (("TARGETS", self.targets), ("SHIFT", self.shift), ("SPREAD", self.spread))

    @property
    def attributes(self) -> str:
        """A line of `Model`; "": it has none."""
        if self.unit:
            return "    token_names: tuple[str, ...] = ()  # by number; they stand in a file of weights"
        if not self.there:
            return ""
        names, constants = (", ".join(each[i] for each in self._attributes) for i in (0, 1))
        return f"    {names} = {constants}"

    @property
    def forward(self) -> list[str]:
        """A method of `Model`."""
        dims = self.task.example(1, "meta")[0].ndim - 2
        reshape = f".reshape({', '.join(['-1', *['1'] * dims])})" if dims else ""
        kind = self._attributes[0][0].removesuffix("_mean")
        value = "x / 255 - mean" if self.pixels else "x - mean"
        constant = f"torch.tensor(v, device=x.device){reshape}"
        lines = ["", "    def forward(self, x: Tensor) -> Tensor:"]
        lines += [f"        mean, std = ({constant} for v in (self.{kind}_mean, self.{kind}_std))"]
        network = f"super().forward(({value}) / std)"
        if self.columns:
            lines += ["        x = (x - mean) / std"]
            network = "super().forward(torch.where(x.isnan(), 0.0, x))"
        if self.targets:
            names = "(self.target_mean, self.target_std)"
            lines += [f"        shift, spread = (torch.tensor(v, device=x.device) for v in {names})"]
            network += " * spread + shift"
        return [*lines, f"        return {network}"]

    @property
    def from_file(self) -> str:
        """Lines of `load` that take constants from a file of weights."""
        if self.unit:
            return '    model.token_names = tuple(json.loads(about.get("words", "[]")))\n'
        if not self.there:
            return ""
        pairs = ", ".join(f'("{name}", "{key}")' for name, _, key in self._attributes)
        return _ABOUT.replace("PAIRS", pairs)


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

_ABOUT = """    for name, key in (PAIRS):
        if key in about:  # of the data that these very weights were trained on
            setattr(model, name, tuple(json.loads(about[key])))
"""

_SIZE = """
if __name__ == "__main__":
    model = load(sys.argv[1]) if len(sys.argv) > 1 else Model().eval()
    with torch.no_grad():
        outputs = model({inputs}){index}
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
                {said} = model(read(path)){softmax}[0]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            print(f"{{path}}: cannot be read as an image: {{error}}", file=sys.stderr)
            failed = True
            continue
{say}    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''

_SAY_CLASS = """        best = int(probabilities.argmax())
        name = "".join(c if c.isprintable() else "?" for c in model.class_names[best])
        print(f"{path}  {name} {probabilities[best]:.4f}")
"""
_SAY_NUMBERS = """        print(f"{path}  " + "  ".join(f"{number:.6g}" for number in numbers.tolist()))
"""

_ROWS = '''
def features(row: dict[str, str]) -> list[float]:
    """What the network reads of a row of a table, by the names of its columns."""
    found = []
    for name, categories, may_be_missing in COLUMNS:
        text = (row[name] or "").strip()
        missing = text.lower() in ABSENT
        number = float("nan") if missing or categories else float(text)
        found += [float(text == each and not missing) for each in categories] or [number]
        found += [float(missing)] * may_be_missing
    return found


def main(arguments: list[str]) -> int:
    """Say what rows of CSV files show. The weights are the argument that ends in .safetensors, or beside this file."""
    tables = [path for path in arguments if not path.endswith(".safetensors")]
    given = [Path(path) for path in arguments if path.endswith(".safetensors")]
    here = Path(__file__)
    beside = [here.with_suffix(".safetensors"), here.with_name("best.safetensors")]
    there = [path for path in given or beside if path.is_file()]
    if not there or not tables:
        print(f"python {sys.argv[0]} [WEIGHTS.safetensors] TABLE.csv...", file=sys.stderr)
        return 2
    model = load(there[0])
    for path in tables:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\\t|", key=head.count), skipinitialspace=True)
            try:
                x = torch.tensor([features(row) for row in reader])
            except (KeyError, ValueError) as error:
                print(f"{path}, line {reader.line_num}: {error}", file=sys.stderr)
                return 2
        with torch.inference_mode():
            outputs = model(x)
        for row, output in enumerate(outputs, 1):
SAY
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''
_ROW_CLASS = """            probabilities = output.softmax(0)
            best = int(probabilities.argmax())
            print(f"{path}:{row}  {model.class_names[best]} {probabilities[best]:.4f}")"""
_ROW_NUMBERS = """            print(f"{path}:{row}  " + "  ".join(f"{number:.6g}" for number in output.tolist()))"""

_TEXTS = '''
def tokens(text: str) -> list[str]:
    """The TOKENS of a text, with the ends of its lines."""
    SPLIT
    if not found:
        raise ValueError("it is empty")
    return found if found[-1] == END else [*found, END]


def main(arguments: list[str]) -> int:
    """Say how likely texts are, and what comes next. The weights are the argument that ends in .safetensors, or beside
    this file."""
    texts = [path for path in arguments if not path.endswith(".safetensors")]
    given = [Path(path) for path in arguments if path.endswith(".safetensors")]
    here = Path(__file__)
    beside = [here.with_suffix(".safetensors"), here.with_name("best.safetensors")]
    there = [path for path in given or beside if path.is_file()]
    if not there or not texts:
        print(f"python {sys.argv[0]} [WEIGHTS.safetensors] TEXT...", file=sys.stderr)
        return 2
    model = load(there[0])
    places = {word: i for i, word in enumerate(model.token_names)}
    if END not in places:
        print(f"{there[0]} does not say which words the network knows", file=sys.stderr)
        return 2
    failed = False
    for path in texts:
        try:
            with open(path, encoding="utf-8-sig") as file:
                found = tokens(file.read())
        except (OSError, ValueError) as error:
            print(f"{path}: cannot be read as a text: {error}", file=sys.stderr)
            failed = True
            continue
        known = [places.get(token, places.get("<unk>")) for token in found]
        numbers = torch.tensor([places[END], *(number for number in known if number is not None)])
        loss, state = 0.0, None
        with torch.inference_mode():
            for start in range(0, len(numbers) - 1, PIECE):
                said = numbers[start + 1 : start + 1 + PIECE]
                logits, state = model(numbers[None, start : start + len(said)], state)
                loss += nn.functional.cross_entropy(logits[0].float(), said, reduction="sum").item()
        loss /= len(numbers) - 1
        likely, best = map(Tensor.tolist, logits[0, -1].float().softmax(0).topk(min(5, len(places))))
        following = "  ".join(f"{model.token_names[i]!r} {p:.4f}" for p, i in zip(likely, best, strict=True))
        unknown = sum(token not in places for token in found)
        print(f"{path}  METRIC  {len(found):,} tokens, {unknown:,} unknown  next: {following}")
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''
_SPLIT = {
    "word": 'found = text.replace("\\n", f" {END} ").split()',
    "char": 'found = list("\\n".join(line.strip(" \\t\\r\\f\\v") for line in text.split("\\n")))',
}
_METRIC = {"word": "ppl {math.exp(loss):.4g}", "char": "bpc {loss / math.log(2):.4g}"}

_TO_GREY = """    if x.shape[1] == 3:  # ITU-R 601
        red, green, blue = x.int().unbind(1)
        x = (19595 * red + 38470 * green + 7471 * blue + 0x8000 >> 16).to(torch.uint8)[:, None]
"""
_TO_OTHER = """    if x.shape[1] == 3:
        raise ValueError("it has 3 channels, the network needs {channels}")
"""
_TO_COLOUR = """    x = x.expand(1, {channels}, *x.shape[2:])
"""


def tail(inputs: str, around: Around, more: bool = False, index: str = "", piece: int = 1) -> str:
    """Everything after the classes.

    Args:
        inputs: An expression for those of one example.
        around: What is around the network.
        more: Files of weights hold others besides, which are not loaded.
        index: Expression for what of a network's result is its outputs.
        piece: Number of tokens of a text that it takes at once.
    """
    weights = "{name: weights[name] for name in model.state_dict()}" if more else "weights"
    program = around.pixels or around.rows or bool(around.unit)
    load = _LOAD.format(about=around.from_file, path="str | Path" if program else "str", weights=weights)
    if not (around.there or around.unit):
        load = load.replace("    about = entries.pop", "    entries.pop")
    if around.rows:
        say = _ROW_NUMBERS if around.targets else _ROW_CLASS
        return f"{load.strip()}\n\n\n{_ROWS.replace('SAY', say).strip()}\n"
    if unit := around.unit:
        main = _TEXTS.replace("SPLIT", _SPLIT[unit]).replace("TOKENS", f"{unit}s").replace("METRIC", _METRIC[unit])
        return f"{load.strip()}\n\n\n{main.replace('PIECE', str(piece)).strip()}\n"
    if not program:
        return f"{load.strip()}\n\n\n{_SIZE.format(inputs=inputs, index=index).strip()}\n"
    colours, height, width = around.task.example(1, "meta")[0].shape[1:]
    channels = _TO_GREY if colours == 1 else ("" if colours == 3 else _TO_OTHER) + _TO_COLOUR
    main = _MAIN.format(
        channels=channels if colours == 1 else channels.format(channels=colours),
        shape=f"{colours}, {height}, {width}",
        height=height,
        width=width,
        said="numbers" if around.targets else "probabilities",
        softmax="" if around.targets else ".softmax(1)",
        say=_SAY_NUMBERS if around.targets else _SAY_CLASS,
    )
    return f"{load.strip()}\n\n\n{main.strip()}\n"
