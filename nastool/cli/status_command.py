"""`nastool status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nastool.cli import common


@click.command("status", cls=common.Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, runs: tuple[str, ...], json_flag: bool | None) -> None:
    """Show how far a run is: trials, best so far, failures, time. It may be running meanwhile."""
    for run in runs:
        facts = _status(Path(run))
        if common.as_json(json_flag):
            common.emit(facts)
        else:
            _text(facts)


def _status(folder: Path) -> dict[str, Any]:
    from nastool import registry
    from nastool.config import RunFolder
    from nastool.store import Store
    from nastool.study import best_trials

    with Store.read(folder / "run.db") as store:
        space = registry.make_space(store.space)
        config, counts = store.get("config"), store.count()
        cost, started, finished = store.spent()
        best = best_trials(store, space, 1)
        wanted, final = store.get("trials"), store.get("final")
        enough = final is not None and (final.get("exhausted") or final["trials"] >= (wanted or 0))
        finished_all = enough and not counts["running"]
        state = "running" if RunFolder(folder).busy() else "finished" if finished_all else "interrupted"
        return {
            "run": str(folder),
            "state": state,
            "strategy": config["strategy"],
            "space": config["space"],
            "evaluator": config["evaluator"],
            "objective": store.get("objective"),
            "seed": config["seed"],
            "trials": counts,
            "trials_wanted": wanted,
            "evaluation_seconds": round(cost, 3),
            "started": started or None,
            "last_finished": finished or None,
            "best": common.trial_document(space, best[0], {"run": str(folder)}) if best else None,
            "failures": [{"trial": trial.id, "error": trial.error} for trial in store.failures(5)],
        }


def _text(facts: dict[str, Any]) -> None:
    import time

    counts = facts["trials"]
    click.echo(f"{facts['run']}: {facts['state']}")
    for kind in ("strategy", "space", "evaluator"):
        options = ", ".join(f"{k}={v}" for k, v in facts[kind]["options"].items() if v is not None)
        click.echo(f"  {kind:<10} {facts[kind]['name']}  {options}".rstrip())
    click.echo(f"  objective  {facts['objective']}   seed {facts['seed']}")
    wanted = f" of {facts['trials_wanted']}" if facts["trials_wanted"] else ""
    click.echo(f"  trials     {counts['done']} done, {counts['failed']} failed, {counts['running']} running{wanted}")
    if facts["started"]:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["started"]))
        click.echo(f"  time       begun {begun}, {common.format_seconds(facts['evaluation_seconds'])} of evaluations")
    if facts["best"]:
        best = facts["best"]
        click.echo(f"  best       trial {best['trial']}, architecture {best['key']}")
        click.echo(f"             {common.describe_metrics(best['metrics'])}")
    for failure in facts["failures"]:
        click.echo(f"  failed     trial {failure['trial']}: {failure['error']}")
