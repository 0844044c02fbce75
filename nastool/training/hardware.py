"""What the options of a training about the machine mean on the one at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nastool.core.errors import InputError
from nastool.nets import devices

if TYPE_CHECKING:
    import torch


def device_of(option: str) -> torch.device:
    """The device an option means, found to be there."""
    import torch

    gpus = devices.usable(devices.seen(), option) if option != "cpu" else []
    return torch.device("cuda", gpus[0].index) if gpus else torch.device("cpu")


def precision_of(option: str, device: torch.device) -> str:
    """What an option means on the device: "bf16", "tf32" or "fp32". InputError: the device does not have that.

    Before compute capability 8.0 GPUs have neither bf16 nor TF32. They have fp16, but that takes scaled gradients in
    all trainings, for machines that get fewer; so there "auto" is fp32.
    """
    import torch

    gpu = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if gpu else None
    if option == "auto":
        return devices.auto_precision(capability)
    if (capability or (0, 0)) < (8, 0) and (option == "tf32" or (option == "bf16" and gpu)):
        here = "this is the CPU"
        if capability is not None:
            here = f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
        other = "fp32" if gpu else "fp32 or bf16"
        raise InputError(
            f"precision={option} is for GPUs of compute capability 8.0 or higher, and {here}: give precision={other}"
        )
    return option
