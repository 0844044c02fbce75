"""`nastool devices`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from nastool.cli import common

TOOL_SECONDS = 10.0
"""How long nvidia-smi may take to say who is at work."""


@click.command("devices", cls=common.Command)
@click.option("--device", default="auto", metavar="NAME", help="As of a search: auto, cpu, cuda or cuda:N.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="As of a search.")
@common.json_option
def command(device: str, workers: int, json_flag: bool | None) -> None:
    """Show GPUs and CPU, and which of them a search would take.

    GPUs are those that CUDA shows, in its order, so CUDA_VISIBLE_DEVICES counts; MIG instances are devices, too. Who
    uses them is what nvidia-smi knows.

    \b
    Examples:
      nastool devices
      nastool devices --workers 4 --device cuda:1
      nastool devices --json | jq -r 'select(.free > 20e9) | .device'
    """
    from nastool.core import machine
    from nastool.nets import devices

    devices.check(device)
    known = _known()
    found = devices.look()
    if any("free" not in known.get(gpu.uuid or "", {}) for gpu in found.gpus):
        found = devices.look(free=True)  # of MIG instances, say; takes some memory of each device for a moment
    takes = devices.assigned(found, device, workers)
    for note in devices.notes(found, device, workers):
        common.say(f"note: {note}")
    lines: list[dict[str, Any]] = []
    for gpu in found.gpus:
        lines.append(
            {
                "device": f"cuda:{gpu.index}",
                "name": gpu.model,
                devices.VARIABLE: gpu.names,
                "uuid": gpu.uuid,
                "capability": "{}.{}".format(*gpu.capability),
                "memory": gpu.memory,
                "free": gpu.free,
                **known.get(gpu.uuid or "", {}),
                "problem": gpu.problem,
                "precision": devices.auto_precision(gpu.capability),
                "workers": [i for i, taken in enumerate(takes) if taken == gpu],
            }
        )
    total, free = _memory()
    lines.append(
        {
            "device": "cpu",
            "name": machine.processor(),
            "cores": devices.usable_cores(),
            "free_cores": devices.free_cores(),
            "memory": total,
            "free": free,
            "precision": devices.auto_precision(None),
            "workers": [i for i, taken in enumerate(takes) if taken is None],
        }
    )
    if common.as_json(json_flag):
        for line in lines:
            common.emit(line)
    else:
        common.show(_table(lines), nl=False)


def _known() -> dict[str, dict[str, Any]]:
    """By a GPU's UUID what nvidia-smi says: bytes that are free, per cent busy, and processes; {}: it says nothing."""
    found: dict[str, dict[str, Any]] = {}
    for uuid, free, busy in _ask("--query-gpu=uuid,memory.free,utilization.gpu", 3):
        about: dict[str, Any] = {"busy": int(busy) if busy.isdigit() else None, "processes": []}
        found[uuid] = about | ({"free": int(free) << 20} if free.isdigit() else {})
    for uuid, pid, used, name in _ask("--query-compute-apps=gpu_uuid,pid,used_memory,process_name", 4):
        if uuid in found and pid.isdigit():
            process = {"pid": int(pid), "user": _user(int(pid)), "name": Path(name).name}
            found[uuid]["processes"].append({**process, "memory": int(used) << 20 if used.isdigit() else None})
    return found


def _ask(query: str, fields: int) -> list[list[str]]:
    import subprocess

    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TOOL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.decode(errors="replace").splitlines() if done.returncode == 0 else []
    rows = [[field.strip() for field in line.split(",", fields - 1)] for line in lines]
    return [row for row in rows if len(row) == fields]


def _user(pid: int) -> str | None:
    """Whose process it is; None: it is not to be seen from here."""
    import pwd

    try:
        return pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
    except (OSError, KeyError):
        return None


def _memory() -> tuple[int | None, int | None]:
    """The machine's bytes, and those that are free."""
    try:
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(facts[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None, None
    return total, free


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    """For people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
    for head in ("device", "name", "free", "in use by", "workers of a search"):
        table.add_column(head, overflow="fold")
    for line in lines:
        free = "?" if line["free"] is None else f"{line['free'] / 2**30:.1f}"
        memory = "" if line["memory"] is None else f"{free} of {line['memory'] / 2**30:.1f} GiB"
        if "cores" in line:
            memory += f", {line['free_cores']} of {line['cores']} cores"
        workers = ", ".join(map(str, line["workers"]))
        use = f"{workers} in {line['precision']}" if workers else "none"
        cells = (line["device"], line["name"], memory, _use(line), line.get("problem") or use)
        table.add_row(*(Text(cell) for cell in cells))
    console = Console(width=shutil.get_terminal_size().columns)
    shown = ("".join(part.text for part in line).rstrip() for line in console.render_lines(table, pad=False))
    return "\n".join(shown).strip("\n") + "\n"


def _use(line: Mapping[str, Any]) -> str:
    if "processes" not in line:
        return "" if "cores" in line else "not known"
    each = []
    for process in line["processes"]:
        whose = f" of {process['user']}" if process["user"] else ""
        size = "" if process["memory"] is None else f", {process['memory'] / 2**30:.1f} GiB"
        each.append(f"{process['name']} (process {process['pid']}{whose}{size})")
    busy = "" if line["busy"] is None else f"{line['busy']}% busy"
    return "; ".join(filter(None, (busy, *each))) or "nobody"
