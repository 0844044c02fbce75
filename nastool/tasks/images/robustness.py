"""Images changed so that a network may fail on them: by an attacker who knows its weights, and by shifts of the data.

A network here is a function of pixels: images (N, C, H, W) float32 in [0, 1] to logits (N, classes), or to what differs
from logits by a constant for each image, as the logarithms of an ensemble's mean probabilities; or to numbers
(N, targets).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nastool.core import options
from nastool.core.errors import InputError, hint, short

if TYPE_CHECKING:
    from nastool.core.task import Batch, Network
    from nastool.tasks.images.augment import ImageBatches
    from nastool.tasks.images.task import ImageTask

# --- attacks


class PGD:
    """Projected gradient descent: steps uphill in loss by the gradient's sign, within eps of each pixel and in [0, 1].

    The last step's images count (Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks",
    section 2).
    """

    def __init__(
        self,
        *,
        eps: float | str = "8/255",
        steps: int = 20,
        step: float | str | None = None,
        random_start: bool = True,
    ) -> None:
        """Makes an attack.

        Args:
            eps: By how much a pixel may change, from 0 to 1, where black is 0 and white 1: a number or a fraction.
            steps: Number of steps, at least 1.
            step: Length of a step, in the same unit; by default a quarter of eps.
            random_start: Begin at a place drawn uniformly from all within eps instead of at the image.

        Raises:
            InputError: A value is out of its range.
        """
        self.eps = _pixels("eps", eps)
        self.step = self.eps / 4 if step is None else _pixels("step", step)
        self.steps, self.random_start = steps, random_start
        if steps < 1:
            raise InputError(f"steps: need at least 1, got {steps}")

    def __call__(self, network: Network, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The images (N, C, H, W) attacked.

        Args:
            network: A function of pixels.
            x: Pixels in [0, 1].
            y: What it should say of each, classes (N,) int64 or numbers (N, targets).
            generator: Of the CPU, for the start; None: torch's own.
        """
        low, high = (x - self.eps).clamp_min(0), (x + self.eps).clamp_max(1)
        found = x
        if self.random_start:
            start = torch.rand(x.shape, generator=generator).to(x.device)
            found = torch.lerp(x - self.eps, x + self.eps, start).clamp(low, high)
        for _ in range(self.steps):
            found = (found + self.step * _uphill(network, found, y)).clamp(low, high)
        return found


class FGSM(PGD):
    """Fast gradient sign method: one step of length eps (Goodfellow et al. 2015, section 4)."""

    def __init__(self, *, eps: float | str = "8/255") -> None:
        """Makes an attack.

        Args:
            eps: By how much each pixel changes, from 0 to 1, where black is 0 and white 1: a number or a fraction.

        Raises:
            InputError: It is out of its range.
        """
        super().__init__(eps=eps, steps=1, step=eps, random_start=False)


ATTACKS: Mapping[str, type[PGD]] = {"fgsm": FGSM, "pgd": PGD}


def attack_of(spec: str) -> PGD:
    """The attack that NAME:KEY=VALUE,... describes. InputError: it describes none."""
    name, given = options.split(spec, "attack")
    if name not in ATTACKS:
        raise InputError(f"no attack {short(name)}; {hint(name, ATTACKS)}")
    values: dict[str, Any] = options.check(f"attack {name}", ATTACKS[name], given)
    try:
        return ATTACKS[name](**values)
    except InputError as error:
        raise InputError(f"attack {name}: {error}") from None


def _pixels(name: str, value: float | str) -> float:
    """A number from 0 to 1, or a fraction such as 8/255."""
    above, slash, below = str(value).partition("/")
    try:
        found = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        found = math.nan
    if not 0 <= found <= 1:
        raise InputError(f"{name}: need a number or a fraction from 0 to 1, such as 8/255, got {short(str(value))}")
    return found


def _uphill(network: Network, x: Tensor, y: Tensor) -> Tensor:
    """The sign of the gradient of each image's loss, (N, C, H, W)."""
    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.clone().requires_grad_(), y.clone()  # copies, as tensors made in inference mode have no gradient
        output = network(x).double()  # in float32 a network that is sure of itself has a gradient of 0
        loss = F.mse_loss(output, y.double(), reduction="sum") if y.is_floating_point() else None
        loss = F.cross_entropy(output, y, reduction="sum") if loss is None else loss
        return torch.autograd.grad(loss, x)[0].sign().nan_to_num()


# --- shifts, at severities 1 to 5: formulas and numbers are those of CIFAR-10-C (Hendrycks & Dietterich 2019)


def noise(x: Tensor, severity: int, generator: torch.Generator | None) -> Tensor:
    """Gaussian noise of standard deviation 0.04 to 0.1 in every pixel."""
    drawn = torch.randn(x.shape, generator=generator).to(x.device)
    return x + (0.04, 0.06, 0.08, 0.09, 0.1)[severity - 1] * drawn


def blur(x: Tensor, severity: int, generator: torch.Generator | None) -> Tensor:
    """Gaussian blur of standard deviation 0.4 to 1 pixels, cut off after four of these; the border goes on outside."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    reach = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(x.dtype).expand(x.shape[1], 1, -1)
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel[..., None, :], groups=x.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=x.shape[1])


def contrast(x: Tensor, severity: int, generator: torch.Generator | None) -> Tensor:
    """Each channel's distance from its mean over the image, of which 75% to 15% are left."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] * (x - mean)


def brightness(x: Tensor, severity: int, generator: torch.Generator | None) -> Tensor:
    """Value (the largest channel, as in HSV) raised by 0.05 to 0.3; hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    raised = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]).clamp_max(1)
    return torch.where(value > 0, x * (raised / value.clamp_min(torch.finfo(x.dtype).tiny)), raised)


SHIFTS: Mapping[str, Callable[[Tensor, int, torch.Generator | None], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "brightness": brightness,
}
SEVERITIES = range(1, 6)


def shifted(x: Tensor, kind: str, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Pixels (N, C, H, W) in [0, 1], shifted and clipped to [0, 1].

    Args:
        x: Pixels in [0, 1].
        kind: A key of SHIFTS.
        severity: From 1 to 5.
        generator: Of the CPU, for what is random; None: torch's own.
    """
    return SHIFTS[kind](x, severity, generator).clamp(0, 1)


def shifts_of(spec: str) -> list[str]:
    """The kinds of shifts that "noise,blur" or "all" names. InputError: there is no such kind, or one comes twice."""
    kinds = [*SHIFTS] if spec == "all" else [kind.strip() for kind in spec.split(",")]
    for kind in kinds:
        if kind not in SHIFTS:
            raise InputError(f"no shift {short(repr(kind))}; {hint(kind, [*SHIFTS, 'all'])}")
        if kinds.count(kind) > 1:
            raise InputError(f"shift: {kind} is given twice; keep one")
    return kinds


def in_turn(batches: ImageBatches, shift: str) -> Iterator[Batch]:
    """Every image once, in order, at the highest severity: the first of K by the first of K kinds, and so on.

    For the same batches they are the same. shift: as of `shifts_of`.
    """
    kinds, generator, done = shifts_of(shift), torch.Generator().manual_seed(0), 0
    for x, y in batches.pixels():
        found = x.clone()
        for i, kind in enumerate(kinds):
            part = slice((i - done) % len(kinds), None, len(kinds))
            if len(x[part]):
                found[part] = shifted(x[part], kind, SEVERITIES[-1], generator)
        done += len(x)
        yield batches.of_pixels(found), y


# --- measuring

_Change = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Makes of pixels and labels other pixels."""


def measured(
    task: ImageTask, network: Network, batches: ImageBatches, attack: str | None, shift: str | None, parts: int = 1
) -> dict[str, float]:
    """The task's metrics of a network on changed images, the same for every network.

    Of attacked ones "robust_acc", "robust_loss", ...; of shifted ones "shifted_acc", the mean over kinds and
    severities, "noise_acc", "blur_acc", ..., over severities, "severity1_acc" to "severity5_acc", over kinds.

    Args:
        task: What the network is for.
        network: In evaluation mode, called with images as training normalises them.
        batches: The images.
        attack: As of `attack_of`; None: there is none.
        shift: As of `shifts_of`; None: there is none.
        parts: A batch is the parts-th part of what usually fits.
    """

    def of_pixels(x: Tensor) -> Any:
        return network(batches.of_pixels(x))

    def changed(change: _Change) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)

        def following() -> Iterator[Batch]:
            for x, y in batches.pixels(parts):
                yield batches.of_pixels(change(x, y, generator)), y

        return task.measure(network, following())

    def shift_to(kind: str, severity: int) -> _Change:
        return lambda x, _, generator: shifted(x, kind, severity, generator)

    found: dict[str, float] = {}
    if attack is not None:
        attacked = attack_of(attack)
        robust = changed(lambda x, y, generator: attacked(of_pixels, x, y, generator))
        found |= {f"robust_{name}": value for name, value in robust.items()}
    if shift is not None:
        kinds = shifts_of(shift)
        cells = {at: changed(shift_to(*at)) for at in itertools.product(kinds, SEVERITIES)}
        groups = ["shifted", *kinds, *(f"severity{severity}" for severity in SEVERITIES)]
        for group in groups:
            chosen = [cell for at, cell in cells.items() if group in ("shifted", at[0], f"severity{at[1]}")]
            found |= {f"{group}_{name}": sum(cell[name] for cell in chosen) / len(chosen) for name in chosen[0]}
    return found
