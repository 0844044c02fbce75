"""Values that a shell offers on Tab.

click's own machinery, with scripts and classes that say nothing where something goes wrong, that know values which go
on (`population=`), and that get along with bash's way of breaking words at "=" and ":".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click import shell_completion
from click.shell_completion import CompletionItem, FishComplete, ShellComplete, ZshComplete, split_arg_string

VARIABLE = "_NASTOOL_COMPLETE"
Item = CompletionItem[str]
OPEN = "open"
"""The type of a value that goes on, such as "population=": no space follows it."""
MOST_FOLDERS = 1000
"""Most folders that are looked into for runs."""

Plugin = Literal["strategy", "space", "evaluator", "executor"]
Offer = Callable[[click.Context, str], Iterable[Item]]
"""Items that may stand at a place, of a command as far as it is typed and the beginning of the word there."""


# --- what is offered


def items(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[Item]:
    """Values that a parameter may have and that begin as what is typed; any files only where there are no others."""
    offer = _OFFERS.get(f"{ctx.info_name} {parameter.name}") or _OFFERS.get(parameter.name or "")
    if offer is None:
        metavar = parameter.metavar or ""
        kind = "dir" if "DIR" in metavar else "file" if re.search("FILE|IMAGE|WEIGHTS", metavar) else None
        return [CompletionItem(typed, type=kind)] if kind else parameter.shell_complete(ctx, typed)
    found = [item for item in offer(ctx, typed) if item.value.startswith(typed)]
    return [item for item in found if item.type != "file"] or found


def _item(value: str, about: str | None = None, kind: str = "plain") -> Item:
    line = " ".join((about or "").split())
    return CompletionItem(value, type=kind, help=(line if len(line) <= 100 else line[:99] + "…") or None)


def _names(kind: Plugin) -> Offer:
    """Offer of a kind of plugins; known without importing any."""
    return lambda ctx, typed: map(_item, _registered(kind))


def _registered(kind: Plugin) -> list[str]:
    from importlib.metadata import entry_points

    kinds = "strategies" if kind == "strategy" else f"{kind}s"
    return sorted({point.name for point in entry_points(group=f"nastool.{kinds}")})


def _devices(ctx: click.Context, typed: str) -> Iterable[Item]:
    return map(_item, ("auto", "cpu", "cuda"))


def _recipes(ctx: click.Context, typed: str) -> Iterable[Item]:
    from nastool.training.recipes import recipe_names

    return [*map(_item, recipe_names()), CompletionItem(typed, type="file")]


def _data(ctx: click.Context, typed: str) -> Iterable[Item]:
    from importlib.metadata import entry_points

    datasets: dict[str, str] = {}
    for point in entry_points(group="nastool.tasks"):  # the registry would import numpy
        datasets |= point.load().datasets
    suffixes = {"npz:": ".npz", "folder:": None, "csv:": ".csv", "tabular:": ".npz", "signals:": ".npz"}
    for prefix, suffix in suffixes.items():
        if typed.startswith(prefix):
            return _paths(typed, prefix, suffix)
    names = [_item(name, text) for name, text in datasets.items() if name.isidentifier() or "-" in name]
    own = {"npz:": "your own images as arrays", "folder:": "your own images, one folder a class"}
    own |= {"csv:": "your own table", "tabular:": "your own rows as arrays", "signals:": "your own signals as arrays"}
    return names + [_item(prefix, text, OPEN) for prefix, text in own.items()]


def _paths(typed: str, prefix: str, suffix: str | None) -> Iterator[Item]:
    """Files after a prefix, which the shell would not find by itself. suffix: of the files; None: folders."""
    base, slash, tail = typed.removeprefix(prefix).rpartition("/")
    base += slash
    for entry in sorted(os.scandir(Path(base).expanduser() if base else "."), key=lambda entry: entry.name):
        if entry.name.startswith(".") and not tail:
            continue
        if entry.is_dir():
            yield CompletionItem(f"{prefix}{base}{entry.name}{'' if suffix is None else '/'}", type=OPEN)
        elif suffix is not None and entry.name.endswith(suffix):
            yield CompletionItem(f"{prefix}{base}{entry.name}")


def _runs(ctx: click.Context, typed: str) -> Iterable[Item]:
    """Folders with a run.db, in the folder that is typed so far, in those below it, and in theirs."""
    base = typed.rpartition("/")[0] + "/" if "/" in typed else ""
    waiting = [(os.path.expanduser(base) if base else ".", base, 0)]
    for _ in range(MOST_FOLDERS):
        if not waiting:
            break
        folder, shown, depth = waiting.pop(0)
        try:
            entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError:
            continue
        if any(entry.name == "run.db" for entry in entries) and shown:
            yield CompletionItem(shown.rstrip("/"))
        elif depth < 2:
            inner = (e for e in entries if e.is_dir(follow_symlinks=depth == 0))
            waiting += [(e.path, f"{shown}{e.name}/", depth + 1) for e in inner]
    yield CompletionItem(typed, type="file")


def _architectures(ctx: click.Context, typed: str) -> Iterable[Item]:
    """Run folders, published architectures, files; for `show` recipes, too."""
    recipes = ctx.info_name == "show"
    if typed.startswith("zoo:"):
        from nastool.core.zoo import PUBLISHED

        return [_item(f"zoo:{name}", entry.summary) for name, entry in PUBLISHED.items()]
    if typed.startswith("recipe:") and recipes:
        from nastool.training.recipes import recipe_names

        return [_item(f"recipe:{name}") for name in recipe_names()]
    prefixes = {"zoo:": "published architectures"} | ({"recipe:": "training recipes"} if recipes else {})
    return [*_runs(ctx, typed), *(_item(prefix, text, OPEN) for prefix, text in prefixes.items())]


def _metrics(ctx: click.Context, typed: str) -> Iterator[Item]:
    """Metrics of the run that is named, or of the evaluator; with what is better."""
    from nastool.core.values import METRICS

    name, colon, _ = typed.partition(":")
    if colon:
        yield from map(_item, (f"{name}:max", f"{name}:min"))
        return
    names = _metrics_of_run(ctx.params.get("source") or ctx.params.get("run"))
    if not names and "evaluator" in ctx.params:
        names = {*_chosen(ctx, "evaluator").metrics, "seconds"}
    if not names or names == {"seconds"}:
        names = set(METRICS)
    for name in sorted(names):
        if name in METRICS:
            yield _item(name, f"{METRICS[name]}, unless told otherwise")
        else:
            yield _item(f"{name}:", "max or min", OPEN)


def _metrics_of_run(run: object) -> set[str]:
    if not isinstance(run, str) or not (path := Path(run) / "run.db").is_file():
        return set()
    from nastool.engine.store import Store

    with Store.read(path) as store:
        return {name for trial in store.best(1) if trial.evaluation for name in trial.evaluation.all_metrics}


def _chosen(ctx: click.Context, kind: Plugin) -> Any:
    """The class of the strategy, space or evaluator that the command will take."""
    from nastool.core import defaults, registry

    name = str(ctx.params.get(kind) or getattr(defaults, kind.upper()))
    by_default = ctx.get_parameter_source(kind) is not click.core.ParameterSource.COMMANDLINE
    if kind != "strategy" and by_default and isinstance(strategy := ctx.params.get("strategy"), str):
        name = registry.load("strategy", strategy).goes_with.get(kind, name)
    return registry.load(kind, name)


def _options(kind: Plugin) -> Offer:
    """Offer of KEY=VALUE for the options of what was chosen."""

    def offer(ctx: click.Context, typed: str) -> Iterable[Item]:
        taken = {str(pair).partition("=")[0] for pair in ctx.params.get(f"{kind}_options") or ()}
        return _key_values(ctx, _chosen(ctx, kind), typed, taken)

    return offer


def _key_values(
    ctx: click.Context, target: type[Any], typed: str, taken: Iterable[str] = (), prefix: str = ""
) -> Iterator[Item]:
    """Keys of target's options, or values of the one whose key is typed. prefix: what stands before the key."""
    from nastool.core import options

    known = options.of(target)
    key, equals, value = typed.removeprefix(prefix).partition("=")
    if not equals:
        told = options.descriptions(target)
        for name, option in known.items():
            if name not in taken:
                about = [str(option).partition(": ")[2], *told.get(name, "").split(". ")[:1]]
                yield _item(f"{prefix}{name}=", "; ".join(filter(None, about)), OPEN)
        return
    head, name = f"{prefix}{key}=", key.replace("-", "_")
    if name in ("file", "from_checkpoint"):
        yield from _paths(typed, head, "")
    elif name in known and name in _OFFERS and not prefix:
        for item in _OFFERS[name](ctx, value):
            if item.type in ("plain", OPEN):
                yield CompletionItem(head + item.value, type=item.type, help=item.help)
    elif name in known:
        yield from (_item(head + choice) for choice in _values(known[name].type))


def _values(kind: object) -> list[str]:
    """Values of an option's type, as far as they can be listed."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for member in get_args(kind) for value in _values(member)]


def _list(ctx: click.Context, target: type[Any], typed: str, head: str = "") -> Iterable[Item]:
    """KEY=VALUE,... after a head, for target's options."""
    before, comma, _ = typed.removeprefix(head).rpartition(",")
    taken = [pair.partition("=")[0] for pair in before.split(",")]
    return _key_values(ctx, target, typed, taken, head + before + comma)


def _scale(ctx: click.Context, typed: str) -> Iterable[Item]:
    return _list(ctx, _chosen(ctx, "space").Scale, typed)


def _bench_strategy(ctx: click.Context, typed: str) -> Iterable[Item]:
    """NAME[:KEY=VALUE,...]."""
    name, colon, _ = typed.partition(":")
    if not colon:
        return map(_item, _registered("strategy"))
    from nastool.core import registry

    return _list(ctx, registry.load("strategy", name), typed, f"{name}:")


def _bench_table(ctx: click.Context, typed: str) -> Iterable[Item]:
    """SPACE:file=FILE,..."""
    head, equals, rest = typed.partition(":file=")
    if not equals:
        return [_item(f"{name}:file=", kind=OPEN) for name in _registered("space")]
    found = (item for suffix in (".npz", ".json") for item in _paths(typed, head + equals, suffix))
    return [] if "," in rest else {item.value: item for item in found}.values()


def _listed(ctx: click.Context, typed: str) -> Iterable[Item]:
    """Kinds, and the names of the last one that is typed."""
    from nastool.cli.list_command import KINDS, names_of

    kinds = [word for word in ctx.params.get("what") or () if word in KINDS]
    return map(_item, [*(names_of(kinds[-1]) if kinds else ()), *KINDS])


_OFFERS: Mapping[str, Offer] = {
    "strategy": _names("strategy"),
    "space": _names("space"),
    "evaluator": _names("evaluator"),
    "executor": _names("executor"),
    "strategy_options": _options("strategy"),
    "space_options": _options("space"),
    "evaluator_options": _options("evaluator"),
    "recipe": _recipes,
    "retrain_recipe": _recipes,
    "data": _data,
    "objective": _metrics,
    "scale": _scale,
    "retrain_scale": _scale,
    "device": _devices,
    "list what": _listed,
    "runs": _runs,
    "run": _runs,
    "warm_start": _runs,
    "model": _runs,
    "source": _architectures,
    "top source": _runs,
    "architecture": _architectures,
    "architectures": _architectures,
    "bench strategies": _bench_strategy,
    "bench strategy": _bench_strategy,
    "bench tables": _bench_table,
    "bench table": _bench_table,
}
"""By the name of the parameter, or by command and parameter where a command calls something else so."""


# --- what the shells are told: click's own scripts know no values that go on, and none with commas or colons
_BASH = """\
%(complete_func)s() {
    local kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            plain) COMPREPLY+=("$value") ;;
            open) COMPREPLY+=("$value"); compopt -o nospace 2>/dev/null ;;
            dir) COMPREPLY=($(compgen -d -- "$value")); compopt -o filenames 2>/dev/null ;;
            file) COMPREPLY=($(compgen -f -- "$value")); compopt -o filenames 2>/dev/null ;;
        esac
    done < <(COMP_WORDS="${COMP_LINE:0:$COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null || complete -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local kind value text
    local -a response plain described open open_described
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for kind value text in ${response}; do
        case $kind in
            plain) if [[ $text == _ ]]; then plain+=("$value"); else described+=("$value:$text"); fi ;;
            open) if [[ $text == _ ]]; then open+=("$value"); else open_described+=("$value:$text"); fi ;;
            dir) _path_files -/ ;;
            file) _path_files -f ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#open_described )) && _describe -V unsorted open_described -U -S ''
    (( $#plain )) && compadd -U -V unsorted -a plain
    (( $#open )) && compadd -U -V unsorted -S '' -a open
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp | string collect) \\
        COMP_CWORD=(commandline -ct | string collect) %(prog_name)s 2>/dev/null)
    for line in $response
        set -l parts (string split -m 1 "," -- $line)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case plain open
                echo $parts[2]
        end
    end
end
complete --no-files --keep-order --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Quiet(ShellComplete):
    """Offers what `items` knows, and nothing where anything fails."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        try:
            return list(self._offered(list(args), incomplete))
        except Exception:
            return []

    def _offered(self, args: list[str], incomplete: str) -> Iterator[Item]:
        # An option without its value yet would keep click from reading what stands before it.
        whole = args[:-1] if args and args[-1].startswith("-") and args[-1] != "-" else args
        context = shell_completion._resolve_context(self.cli, self.ctx_args, self.prog_name, whole)
        asked, typed = shell_completion._resolve_incomplete(context, args, incomplete)
        if not isinstance(asked, click.Parameter):
            yield from asked.shell_complete(context, typed)
            return
        flag, equals, value = incomplete.partition("=")
        head, typed = (flag + equals, value) if equals and flag.startswith("--") else ("", typed)
        for item in items(context, asked, typed):
            yield CompletionItem(head + item.value, type=item.type, help=item.help)


@shell_completion.add_completion_class
class Bash(_Quiet):
    name = "bash"
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_WORDS", "")
        words = split_arg_string(line)
        complete = not line or (line[-1].isspace() and not line.endswith("\\ "))
        self._typed = "" if complete or not words else words[-1]
        return (words[1:], "") if complete else (words[1:-1], self._typed)

    def format_completion(self, item: CompletionItem[object]) -> str:
        """Bash replaces what stands behind the last of the characters at which it breaks words."""
        value = str(item.value)
        breaks = [c for c in os.environ.get("COMP_BREAKS", "") if c in "=:"]
        cut = max((self._typed.rfind(c) + 1 for c in breaks), default=0)
        if item.type in ("plain", OPEN):
            value = re.sub(r"([^\w@%+=:,./~-])", r"\\\1", value[cut:])
        return f"{item.type},{value}"


@shell_completion.add_completion_class
class Zsh(_Quiet, ZshComplete):
    source_template = _ZSH


@shell_completion.add_completion_class
class Fish(_Quiet, FishComplete):
    source_template = _FISH


def answer(cli: click.Command, instruction: str) -> int:
    """Prints what a shell's script asks for ("bash_complete"), or the script ("bash_source"). 1: no such shell."""
    return shell_completion.shell_complete(cli, {}, "nastool", VARIABLE, instruction)
