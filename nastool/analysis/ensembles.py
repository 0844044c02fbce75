"""An ensemble: made of runs, and in words, tables and figures, on the screen and as a page, from best.json's object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nastool.analysis.blocks import Block, Code, Heading, Lines, Plots, Table
from nastool.analysis.comparison.engine import Pair, pairs
from nastool.analysis.comparison.render import differences
from nastool.core.errors import InputError
from nastool.core.wording import format_number
from nastool.engine import arguments, ensembling
from nastool.engine.command_options import nobody
from nastool.engine.events import Listener, Note
from nastool.engine.pools import candidates
from nastool.engine.study import Study

NAMES = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "brier": "Brier",
    "ece_15": "ECE-15",
    "ece_adaptive": "adaptive ECE",
}
"""Metrics of networks alone, too, by their names in best.json."""


def blocks(said: Mapping[str, Any]) -> Iterator[Block]:
    """What there is to say. InputError: it is damaged."""
    try:
        yield from _blocks(said)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"best.json is no ensemble of this version, or was changed ({error!r})") from None


def _blocks(said: Mapping[str, Any]) -> Iterator[Block]:
    members, judged, single = said["members"], said["judged"], said["best_single"]
    chose, judges = said["examples"]["chose"], said["examples"]["judged"]
    size = f"{len(members)} network{'s' * (len(members) > 1)}"
    yield Heading(f"Ensemble of {size}", 1)
    yield Lines(tuple(_sentences(said, chose, judges)))
    rows = [("ensemble", judged), ("best single network", single["metrics"])]
    yield Table(("", *NAMES.values()), [(name, *_row(own)) for name, own in rows])
    if single["metrics"]["nll"] < judged["nll"]:
        better = f"{format_number(single['metrics']['nll'])} against {format_number(judged['nll'])}"
        yield Lines(
            (
                f"WARNING: the best single network has the lower NLL by itself, {better}: the others are too weak to "
                "help it. Give fewer members (-m), --selector quick-greedy or stacking, or a better pool.",
            )
        )
    if "tested" in said:
        yield Heading("On test data")
        tested = [(name, *_row(own)) for name, own in said["tested"].items()]
        yield Table(("", *NAMES.values()), tested)
        changed = [each for each in said["tested"]["ensemble"] if each.startswith(("robust_", "shifted_"))]
        if changed:
            tested = [(name, *(format_number(own[key]) for key in changed)) for name, own in said["tested"].items()]
            yield Table(("", *changed), tested)
    yield Heading("Members")
    hot = any("temperature" in member for member in members)
    heads = ("", "weight", *(["temperature"] if hot else []), "accuracy", "NLL", "architecture")
    listed = []
    for i, member in enumerate(members, 1):
        own = [format_number(member["weight"]), *([format_number(member.get("temperature", 1.0))] if hot else [])]
        quality = (format_number(member["metrics"][key]) for key in ("accuracy", "nll"))
        listed.append((f"{i}: {_where(member)}", *own, *quality, Code(member["key"])))
    yield Table(heads, listed)
    if len(members) > 1:
        yield Lines(
            (
                f"Two members differ on {judged['disagreement']:.1%} of the examples in the mean, "
                f"{format_number(judged['normalised_disagreement'])} times the errors of one; the NLL of the mean is "
                f"{format_number(judged['jensen_gap'])} below that of the members in the mean, and would be "
                f"{format_number(judged['oracle_nll'])} if on each example the best of them spoke.",
            )
        )


def _sentences(said: Mapping[str, Any], chose: int, judges: int) -> Iterator[str]:
    hot = said["temperature"]
    after = f", at temperature {format_number(hot)}" if hot != 1 else ""
    both = f", as they are and shifted ({said['choose_shift']})" if "choose_shift" in said else ""
    yield (
        f"Chosen from {said['pool']:,} networks by {said['selector']} on {chose:,} validation examples{both}{after}; "
        f"all figures are of {judges:,} others, which chose nothing."
    )
    if min(chose, judges) < ensembling.FEW:
        yield "note: of so few examples the figures say little, and the choice fits them by chance"
    params = f"{said['metrics']['params']:,} parameters in all"
    yield f"It has {params}. The best single network, by the examples that chose, is {_where(said['best_single'])}."


def _where(member: Mapping[str, Any]) -> str:
    return f"trial {member['trial']} of {member['run']}"


def compared(given: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    """Several ensembles side by side, each with the best single network of its pool. given: best.json's objects."""
    yield Heading(f"{len(given)} ensembles", 1)
    found, problem = tested(given)
    if problem:
        yield Lines((problem,))
    some = [key for key in NAMES if key not in ("brier", "ece_adaptive")]
    heads = ("", "networks", "parameters", *(NAMES[key] for key in some), "disagreement")
    rows = []
    for name, said in given.items():
        counts = (str(len(said["members"])), f"{said['metrics']['params']:,}")
        rows.append((name, *counts, *_row(said["judged"], some), format_number(said["judged"]["disagreement"])))
        rows.append((f"{name}: best single", "1", "", *_row(said["best_single"]["metrics"], some), ""))
    yield Table(heads, rows)
    if found:
        yield Heading("Differences in NLL")
        yield differences(found)
        yield Lines(
            (
                "Paired by example: Wilcoxon's signed-rank test; effect: rank-biserial correlation; bootstrap: "
                "interval of the mean; p two-sided, corrected by Holm's method. It says what other examples would show "
                "of these very networks, not what other seeds would.",
            )
        )
    if any("tested" in said for said in given.values()):
        yield Heading("On test data")
        rivals = ((f"{n}: {who}", own) for n, said in given.items() for who, own in said.get("tested", {}).items())
        yield Table(("", *NAMES.values()), [(name, *_row(own)) for name, own in rivals])


def tested(given: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[Pair, ...], str]:
    """How surely the NLL of one is lower than another's, by the examples that judged them all; or why that is unknown.

    given: best.json's objects by the folders that they are in.
    """
    divisions = {(said["fingerprint"], *sorted(said["examples"].items())) for said in given.values()}
    if len(divisions) > 1:
        return (), "WARNING: they are judged by different examples, so differences may be those of the examples"
    try:
        of_each = {name: ensembling.losses(Path(name), said) for name, said in given.items()}
    except InputError as error:
        return (), f"note: differences are not tested: {error}: give `nastool ensemble` again"
    return pairs({name: dict(enumerate(own.tolist())) for name, own in of_each.items()}), ""


def document(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same as JSON values."""
    found = [
        {"first": pair.first, "second": pair.second, **asdict(pair.difference), "p_holm": pair.p}
        for pair in tested(given)[0]
    ]
    return {"ensembles": dict(given), "differences": found}


def _row(measured: Mapping[str, float], names: Iterable[str] = NAMES) -> tuple[str, ...]:
    return tuple(format_number(measured[key]) for key in names)


def page(said: Mapping[str, Any]) -> str:
    """The report, one HTML file. InputError: it is damaged."""
    from nastool.analysis import pages
    from nastool.analysis.figures import ensembles

    words = list(blocks(said))
    figures = Plots(tuple(ensembles.all_of(said)))
    return pages.render("comparison.html", title="ensemble - nastool report", content=[*words, figures], version=None)


def ensemble(
    runs: str | Path | Study | Sequence[str | Path | Study],
    *,
    size: int = 5,
    selector: str = "forward",
    temperature: ensembling.Temperature = "none",
    judge: float = 0.5,
    seed: int = 0,
    test: bool = False,
    attack: str | None = None,
    shift: str | None = None,
    choose_shift: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
    report: bool = True,
    on_event: Listener = nobody,
) -> dict[str, Any]:
    """Choose trained networks of runs whose mean is better than each, and write them as one.

    Args:
        runs: Run folders whose evaluator trains, or such that `evaluate(save=)` has written.
        size: Number of members, at most, >= 1.
        selector: Who chooses, with its options, such as "beam:width=10"; see `nastool.ensembles.selection`.
        temperature: Calibrate each network before the mean, or the mean afterwards.
        judge: Share of the validation examples that judge and do not choose, in (0, 1).
        seed: Of that division, and of selectors that draw, >= 0.
        test: Measure test data, too.
        attack: Also attack test images with the gradients of the mean, as `evaluate` does one network.
        shift: Also shift test images.
        choose_shift: Choose by validation images as they are and shifted so, at the highest severity.
        out: Folder; None: `ensemble` in that of the first run.
        force: Replace an ensemble that is there.
        report: Write report.html, too.
        on_event: As for `search`.

    Returns:
        The object in best.json.

    Raises:
        InputError: There are no networks with weights, they predict other data, or the folder holds something else.
    """
    several = [runs] if isinstance(runs, str | Path | Study) else list(runs)
    folders = [Path(arguments.word(run)) for run in several]
    first = folders[0].parent if folders[0].name == "run.db" else folders[0]
    folder = Path(out) if out is not None else first / "ensemble"
    ensembling.check_folder(folder, force)
    pool = candidates(folders, on_event)
    tests: dict[str, Any] = {"test": test, "attack": attack, "shift": shift, "choose_shift": choose_shift}
    chosen = ensembling.choose(pool, size, selector, temperature=temperature, judge=judge, seed=seed, **tests)
    found, problems = ensembling.write(chosen, folder, page if report else None)
    for problem in problems:
        on_event(Note(problem))
    return found
