"""`nastool status`."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common
from nastool.core.wording import as_typed, describe_cost, describe_faults, qualities, trials

if TYPE_CHECKING:
    from nastool.cli.live.stored import Followed
    from nastool.cli.live.view import View

POLL_SECONDS = 0.5
"""How often a run that is followed is looked up."""


@click.command("status", cls=common.Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on until no search works on a run any more, or Ctrl-C: a live view on a terminal, elsewhere a line "
    "whenever something changed (JSON with --json).",
)
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, runs: tuple[str, ...], follow: bool, json_flag: bool | None) -> None:
    """Show how far a run is: trials, best, failures, time. It may be running meanwhile.

    \b
    Examples:
      nastool status runs/a
      nastool status runs/a runs/b --follow
      nastool status runs/* --json | jq -r '[.run, .state] | @tsv'
    """
    if follow:
        _follow([Path(run) for run in runs], bool(json_flag))
        return
    for run in runs:
        facts = _status(Path(run))
        if common.as_json(json_flag):
            common.emit(facts)
        else:
            _text(facts)


def _status(folder: Path) -> dict[str, Any]:
    from nastool.core import registry
    from nastool.engine import earlier
    from nastool.engine.ranking import best_trials, described
    from nastool.engine.results import moved
    from nastool.engine.store import Store
    from nastool.engine.study import document, is_simulated, retrained_in, state_of

    with Store.read(folder / "run.db") as store:
        space = registry.make_space(store.space)
        config, counts = store.get("config"), store.count()
        cost, started, finished = store.spent()
        several = len(store.objectives) > 1
        best = best_trials(store, space, sum(counts.values()) if several else 1)
        final = store.get("final")
        trained = None if retrained_in(folder, final) is None else moved(folder, final["document"])
        state = state_of(folder, store)
        silent = store.silent() if state == "running" else {}
        return {
            "run": str(folder),
            "state": state,
            **{kind: config.get(kind, {"name": "?", "options": {}}) for kind in ("strategy", "space", "evaluator")},
            **({"limits": config["limits"]} if config.get("limits") else {}),
            **({"fidelity": config["fidelity"]} if config.get("fidelity") else {}),
            **({"warm_start": found} if (found := earlier.described(store)) else {}),
            **({"prior": found} if (found := earlier.prior(store)) else {}),
            "objective": store.get("objective"),
            "seed": config.get("seed"),
            "trials": counts,
            "faults": store.faults(),
            "trials_wanted": store.get("trials"),
            "evaluation_seconds": round(cost, 3),
            "simulated": is_simulated(config.get("evaluator", {}).get("name", "?")),
            "started": started or None,
            "last_finished": finished or None,
            "time": store.get("time"),
            "ended": store.get("ended"),
            **({"front": described(best, store.objectives)} if several else {}),
            "best": document(space, best[0], {"run": str(folder)}) if best else None,
            "verdicts": ((final or {}).get("document", {}).get("comparison") or {}).get("verdicts", []),
            **({} if trained is None else {"trained": trained}),
            "silent": [
                {"trial": trial, "how": silence.how, "seconds": round(max(0.0, time.time() - silence.since))}
                for trial, silence in silent.items()
            ],
            "failures": [{"trial": t.id, "error": t.error, "fault": t.fault} for t in store.failures(5)],
        }


def _text(facts: dict[str, Any]) -> None:
    from nastool.engine import earlier

    counts = facts["trials"]
    common.show(f"{facts['run']}: {facts['state']}")
    for kind in ("strategy", "space", "evaluator"):
        _line(kind, f"{facts[kind]['name']}  {as_typed(facts[kind]['options'])}".rstrip())
    if "limits" in facts:
        _line("limits", "  ".join(facts["limits"]))
    if "fidelity" in facts:
        _line("fidelity", facts["fidelity"])
    if "warm_start" in facts:
        _line("warm start", earlier.shown(facts["warm_start"]))
    if "prior" in facts:
        _line(
            "prior", "{proxy} of {architectures:,} architectures, untrained, {seconds:.1f} s".format(**facts["prior"])
        )
    objectives = [facts["objective"]] if isinstance(facts["objective"], str) else facts["objective"]
    several = "s" if len(objectives) > 1 else " "
    common.show(f"  objective{several} {'  '.join(objectives)}   seed {facts['seed']}")
    wanted = f" of {facts['trials_wanted']}" if facts["trials_wanted"] else ""
    running = f"{counts['running']} {'to repeat' if counts['running'] and facts['state'] != 'running' else 'running'}"
    stopped = f"{counts['stopped']} stopped early, " if counts["stopped"] else ""
    failed = f"{counts['failed']} failed{describe_faults(facts['faults'])}"
    common.show(f"  trials     {counts['done']} done, {stopped}{failed}, {running}{wanted}")
    if facts["started"]:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["started"]))
        cost = describe_cost(facts["evaluation_seconds"], simulated=facts["simulated"])
        common.show(f"  time       begun {begun}, {cost}")
    limits = facts["time"] or {}
    if (whole := limits.get("whole")) is not None:
        used, whole = (common.format_seconds(max(0.0, seconds)) for seconds in (limits["used"], whole))
        ends = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(limits["ends"]))
        _line("budget", f"{used} of {whole} used" + (f", it ends by {ends}" if facts["state"] == "running" else ""))
    if facts["ended"] and facts["state"] == "finished" and facts["ended"]["why"] != "trials":
        _line("ended", f"by --{facts['ended']['why']}, after {facts['ended']['trials']} trials")
    for verdict in facts["verdicts"]:
        _line(verdict["about"], verdict["says"])
    if facts["best"]:
        best = facts["best"]
        shared = " (scored with shared weights)" if objectives[0].startswith("shared_") else ""
        by = f" (by {objectives[0].partition(':')[0]})" if len(objectives) > 1 else ""
        _line("best", f"trial {best['trial']}, architecture {best['key']}{by}{shared}")
        _line("", common.describe_metrics(best["metrics"]), "  ")
    if facts.get("front"):
        run = shlex.quote(facts["run"])
        _line(
            "front", f"{trials(len(facts['front']))} that no other beats in all objectives: `nastool top {run} --front`"
        )
    if "trained" in facts:
        _trained(facts["trained"])
    for silent in facts["silent"]:
        how = f"{silent['how']} for {common.format_seconds(silent['seconds'])}"
        _line("silent", f"trial {silent['trial']} {how}; --hung-timeout SECONDS ends such trials")
    for failure in facts["failures"]:
        common.show(f"  failed     trial {failure['trial']}: {failure['error']}")
    if facts["failures"]:
        run, trial = shlex.quote(facts["run"]), facts["failures"][0]["trial"]
        _line("", f"`nastool show {run} --trial {trial}` prints the end of its log")
    if facts["state"] == "interrupted" and facts["strategy"]["name"] != "listed":
        run = shlex.quote(facts["run"])
        _line("next", f"`nastool resume {run}` goes on; `nastool finish {run}` makes a result of these trials")


def _trained(document: Mapping[str, Any]) -> None:
    """What was trained from scratch at the end."""
    _line("trained", f"from scratch: architecture {document['key']}, in {document['run']}")
    metrics = {k: v for k, v in document["metrics"].items() if not k.startswith("shared_")}
    _line("", common.describe_metrics(metrics), "  ")
    comparison = document.get("comparison", {})
    if (random := comparison.get("random")) is not None:
        shown = common.describe_metrics(qualities(random["metrics"]))
        _line("", f"the best of {random['architectures']} random ones {shown}")
    if "verdicts" not in comparison and (verdict := comparison.get("verdict")) is not None:
        _line("", verdict["says"])  # of an earlier version


def _line(label: str, text: str, gap: str = " ") -> None:
    common.show(common.labelled(f"  {label:<10} ", text, gap=gap))


def _follow(folders: Sequence[Path], as_json: bool) -> None:
    """Show runs until they have ended; InputError where there is none. Only reads."""
    from nastool.cli.live.frame import Frame
    from nastool.cli.live.screen import Screen
    from nastool.cli.live.text import suitable

    screen = Screen(sys.stdout) if not as_json and suitable(sys.stdout) else None
    watched = _Watched(folders)
    try:
        while True:
            busy = watched.busy()
            views = watched.views()
            if screen is not None:
                screen.show(Frame(list(views.values())))
            elif as_json:
                watched.emit(list(views))
            else:
                watched.write(views)
            if not busy:
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    finally:
        if screen is not None:
            screen.stop()
    if screen is not None:
        for folder in folders:
            _text(_status(folder))


class _Watched:
    """Run folders, with those below them in which the best are trained from scratch just now."""

    def __init__(self, folders: Sequence[Path]) -> None:
        from nastool.cli.live.stored import Followed

        self.folders = folders
        self._followed: dict[Path, Followed] = {folder: Followed(folder) for folder in folders}
        self._before: dict[Path, Any] = {}
        """What was printed last."""

    def busy(self) -> bool:
        from nastool.engine.config import RunFolder

        return any(RunFolder(folder).busy() for folder in self.folders)

    def views(self) -> dict[Path, View]:
        from nastool.cli.live.stored import Followed, inner_runs
        from nastool.core.errors import InputError

        found: dict[Path, View] = {}
        for folder in self.folders:
            found[folder] = self._followed[folder].view()
            for inner in inner_runs(folder):
                try:
                    if inner not in self._followed:
                        self._followed[inner] = Followed(inner)
                    found[inner] = self._followed[inner].view()
                except InputError:
                    continue  # it is just being created
        return found

    def emit(self, folders: Sequence[Path]) -> None:
        """A JSON line for each run that has changed."""
        for folder in folders:
            facts = {**_status(folder), "running": self._followed[folder].running()}
            if facts != self._before.get(folder):
                self._before[folder] = facts
                common.emit(facts)

    def write(self, views: dict[Path, View]) -> None:
        """A line for each run that has changed."""
        from nastool.cli.live import text

        for folder, view in views.items():
            running = text.at_work(view) + "".join(f"  #{r.id} {r.silent[0]}" for r in view.running if r.silent)
            facts = (view.title, view.done, view.failed, view.best and view.best.row.id, running)
            if facts != self._before.get(folder):
                self._before[folder] = facts
                common.show(f"{view.title}  {text.line(view)}{running}")
