"""What a shell offers on Tab: which values an option or argument may have.

`CLASSES` are click's own, with scripts that say nothing where something goes wrong, that know values which go on
(`population=`), and that get along with bash's way of breaking words at "=" and ":".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem, FishComplete, ShellComplete, ZshComplete, split_arg_string

if TYPE_CHECKING:
    from nastool.core.options import Option

VARIABLE = "_NASTOOL_COMPLETE"
Item = CompletionItem[str]
OPEN = "open"
"""The type of a value that goes on, such as "population=": no space follows it."""
MOST_FOLDERS = 1000
"""So many folders are looked into for runs, at most."""

_KIND = {"strategy": "strategies", "space": "spaces", "evaluator": "evaluators"}


# --- what is offered


def items(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Item]:
    """The values that a parameter may have and that begin as what is typed so far."""
    complete = _OFFERS.get(f"{ctx.info_name} {parameter.name}") or _OFFERS.get(parameter.name or "")
    if complete is not None:
        return complete(ctx, incomplete)
    if isinstance(parameter.type, click.Choice):
        return list(parameter.shell_complete(ctx, incomplete))
    metavar = parameter.metavar or ""
    if "DIR" in metavar:
        return [CompletionItem(incomplete, type="dir")]
    if "FILE" in metavar or "IMAGE" in metavar or "WEIGHTS" in metavar:
        return [CompletionItem(incomplete, type="file")]
    return []


def _starting(incomplete: str, values: Mapping[str, str | None], prefix: str = "", kind: str = "plain") -> list[Item]:
    """values: names and what helps to choose. prefix: stands before each, in what is typed as well."""
    return [
        CompletionItem(prefix + value, type=kind, help=_short(text))
        for value, text in values.items()
        if (prefix + value).startswith(incomplete)
    ]


def _short(text: str | None) -> str | None:
    if not text:
        return None
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"


def _names(kind: str) -> Callable[[click.Context, str], list[Item]]:
    """Of strategies, spaces or evaluators; known without importing any."""

    def complete(ctx: click.Context, incomplete: str) -> list[Item]:
        return _starting(incomplete, dict.fromkeys(_registered(kind)))

    return complete


def _registered(kind: str) -> list[str]:
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group=f"nastool.{_KIND[kind]}")})


def _recipes(ctx: click.Context, incomplete: str) -> list[Item]:
    from nastool.training.recipes import recipe_names

    return _starting(incomplete, dict.fromkeys(recipe_names())) or [CompletionItem(incomplete, type="file")]


def _data(ctx: click.Context, incomplete: str) -> list[Item]:
    from nastool.tasks.images.data import DATASETS

    for prefix, folders in (("npz:", False), ("folder:", True)):
        if incomplete.startswith(prefix):
            return _paths(incomplete, prefix, (".npz",), folders)
    names = {name: text for name, text in DATASETS.items() if name.isidentifier() or "-" in name}
    others: dict[str, str | None] = {"npz:": "your own arrays", "folder:": "your own images, one folder a class"}
    return _starting(incomplete, names) + _starting(incomplete, others, kind=OPEN)


def _paths(incomplete: str, prefix: str, suffixes: tuple[str, ...], folders: bool) -> list[Item]:
    """Files after a prefix, which the shell would not find by itself. folders: they are wanted themselves."""
    typed = incomplete.removeprefix(prefix)
    head, _, tail = typed.rpartition("/")
    base = head + "/" if "/" in typed else ""
    found = []
    for entry in sorted(os.scandir(Path(base).expanduser() if base else "."), key=lambda entry: entry.name):
        if not entry.name.startswith(tail or "") or (entry.name.startswith(".") and not tail):
            continue
        if entry.is_dir():
            found.append(CompletionItem(f"{prefix}{base}{entry.name}{'' if folders else '/'}", type=OPEN))
        elif not folders and entry.name.endswith(suffixes):
            found.append(CompletionItem(f"{prefix}{base}{entry.name}"))
    return found


def _run_folders(incomplete: str) -> list[str]:
    """Folders with a run.db, in the folder that is typed so far, in those below it, and in runs/."""
    base = incomplete.rpartition("/")[0] + "/" if "/" in incomplete else ""
    start = os.path.expanduser(base) if base else "."
    found: list[str] = []
    waiting = [(start, base, 0)]
    for _ in range(MOST_FOLDERS):
        if not waiting:
            break
        folder, shown, depth = waiting.pop(0)
        try:
            entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError:
            continue
        if any(entry.name == "run.db" for entry in entries) and shown:
            found.append(shown.rstrip("/"))
        elif depth < 2:
            waiting += [
                (e.path, f"{shown}{e.name}/", depth + 1) for e in entries if e.is_dir(follow_symlinks=depth == 0)
            ]
    return [folder for folder in found if folder.startswith(incomplete)]


def _runs(ctx: click.Context, incomplete: str) -> list[Item]:
    return _starting(incomplete, dict.fromkeys(_run_folders(incomplete))) or [CompletionItem(incomplete, type="file")]


def _architectures(ctx: click.Context, incomplete: str) -> list[Item]:
    """Run folders, published architectures, files."""
    if incomplete.startswith("zoo:"):
        from nastool.core.zoo import PUBLISHED

        return _starting(incomplete, {name: entry.summary for name, entry in PUBLISHED.items()}, "zoo:")
    if incomplete.startswith("recipe:") and ctx.info_name == "show":
        from nastool.training.recipes import recipe_names

        return _starting(incomplete, dict.fromkeys(recipe_names()), "recipe:")
    found = _starting(incomplete, dict.fromkeys(_run_folders(incomplete)))
    prefixes: dict[str, str | None] = {"zoo:": "published architectures"}
    if ctx.info_name == "show":
        prefixes["recipe:"] = "training recipes"
    found += _starting(incomplete, prefixes, kind=OPEN)
    return found or [CompletionItem(incomplete, type="file")]


def _metrics(ctx: click.Context, incomplete: str) -> list[Item]:
    """Of the run that is named, or of the evaluator; with what is better."""
    from nastool.core.values import METRICS

    names = _metrics_of_run(ctx.params.get("source") or ctx.params.get("run"))
    if not names and "evaluator" in ctx.params:
        from nastool.core import registry

        names = {*registry.load("evaluator", _chosen(ctx, "evaluator")).metrics, "seconds"}
    if not names or names == {"seconds"}:
        names = set(METRICS)
    if ":" in incomplete:
        return _starting(incomplete, {"max": None, "min": None}, incomplete.partition(":")[0] + ":")
    known = {name: f"{METRICS[name]}, unless told otherwise" for name in sorted(names) if name in METRICS}
    others: dict[str, str | None] = {f"{name}:": "max or min" for name in sorted(names) if name not in METRICS}
    return _starting(incomplete, known) + _starting(incomplete, others, kind=OPEN)


def _metrics_of_run(run: object) -> set[str]:
    if not isinstance(run, str) or not (path := Path(run) / "run.db").is_file():
        return set()
    from nastool.engine.store import Store

    with Store.read(path) as store:
        return {name for trial in store.best(1) if trial.evaluation for name in trial.evaluation.all_metrics}


def _chosen(ctx: click.Context, kind: Literal["strategy", "space", "evaluator"]) -> str:
    """The strategy, space or evaluator that the command will take."""
    from nastool.core import registry

    given = str(ctx.params.get(kind) or "")
    if kind != "strategy" and "strategy" in ctx.params and isinstance(ctx.params["strategy"], str):
        by_default = ctx.get_parameter_source(kind) is not click.core.ParameterSource.COMMANDLINE
        goes_with = registry.load("strategy", ctx.params["strategy"]).goes_with
        if by_default and kind in goes_with:
            return str(goes_with[kind])
    return given


def _keys(kind: Literal["strategy", "space", "evaluator"]) -> Callable[[click.Context, str], list[Item]]:
    """KEY=VALUE options of what was chosen."""

    def complete(ctx: click.Context, incomplete: str) -> list[Item]:
        from nastool.core import registry

        target = registry.load(kind, _chosen(ctx, kind))
        taken = {str(pair).partition("=")[0] for pair in ctx.params.get(f"{kind}_options") or ()}
        return _key_values(ctx, target, incomplete, taken)

    return complete


def _key_values(
    ctx: click.Context, target: type[Any], incomplete: str, taken: Iterable[str] = (), prefix: str = ""
) -> list[Item]:
    """Keys of target's options, or values of the one whose key is typed. prefix: what stands before the key."""
    from nastool.core import options

    known = options.of(target)
    key, equals, _ = incomplete.removeprefix(prefix).partition("=")
    if not equals:
        texts = help_texts(target, known)
        free: dict[str, str | None] = {f"{name}=": texts[name] for name in known if name not in taken}
        return _starting(incomplete, free, prefix, OPEN)
    option = known.get(key.replace("-", "_"))
    head = f"{prefix}{key}="
    if option is None:
        return []
    if option.name in _OFFERS and not prefix:
        typed = incomplete.removeprefix(head)
        found = [i for i in _OFFERS[option.name](ctx, typed) if i.type in ("plain", OPEN)]
        return [CompletionItem(head + item.value, type=item.type, help=item.help) for item in found]
    if option.name in ("file", "from_checkpoint"):
        return _paths(incomplete, head, ("",), False)
    return _starting(incomplete, dict.fromkeys(_values(option.type)), head)


def _values(kind: Any) -> list[str]:
    """The values of an option's type, as far as they can be listed."""
    if kind is bool:
        return ["true", "false"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for member in get_args(kind) for value in _values(member)]


def help_texts(target: type[Any], known: Mapping[str, Option]) -> dict[str, str]:
    """Type and default of each option, and the first sentence of its description."""
    from nastool.core import options

    told = options.descriptions(target)
    found = {}
    for name, option in known.items():
        about = str(option).partition(": ")[2]
        found[name] = f"{about}; {told[name].split('. ')[0]}" if told.get(name) else about
    return found


def _scale(ctx: click.Context, incomplete: str) -> list[Item]:
    """KEY=N,... of the space that was chosen."""
    from nastool.core import registry

    if not (name := _chosen(ctx, "space")):
        return []
    before = incomplete.rpartition(",")[0]
    prefix = before + "," if before else ""
    taken = [pair.partition("=")[0] for pair in before.split(",")]
    if "=" in incomplete.removeprefix(prefix):
        return []
    return _key_values(ctx, registry.load("space", name).Scale, incomplete, taken, prefix)


def _bench_strategy(ctx: click.Context, incomplete: str) -> list[Item]:
    """NAME[:KEY=VALUE,...]."""
    name, colon, rest = incomplete.partition(":")
    if not colon:
        return _starting(incomplete, dict.fromkeys(_registered("strategy")))
    from nastool.core import registry

    before = rest.rpartition(",")[0]
    prefix = f"{name}:{before}," if before else f"{name}:"
    taken = [pair.partition("=")[0] for pair in before.split(",")]
    return _key_values(ctx, registry.load("strategy", name), incomplete, taken, prefix)


def _bench_table(ctx: click.Context, incomplete: str) -> list[Item]:
    """SPACE:file=FILE,..."""
    space, colon, rest = incomplete.partition(":")
    if not colon:
        return _starting(incomplete, {f"{name}:file=": None for name in _registered("space")}, kind=OPEN)
    if rest.startswith("file=") and "," not in rest:
        return _paths(incomplete, f"{space}:file=", (".npz", ".json"), False)
    return []


def _listed(ctx: click.Context, incomplete: str) -> list[Item]:
    """Kinds, and the names of the last one that is typed."""
    from nastool.cli.list_command import KINDS, names_of

    kinds = [word for word in ctx.params.get("what") or () if word in KINDS]
    return _starting(incomplete, dict.fromkeys([*(names_of(kinds[-1]) if kinds else ()), *KINDS]))


def _devices(ctx: click.Context, incomplete: str) -> list[Item]:
    return _starting(incomplete, {"auto": None, "cpu": None, "cuda": None})


_OFFERS: Mapping[str, Callable[[click.Context, str], list[Item]]] = {
    "strategy": _names("strategy"),
    "space": _names("space"),
    "evaluator": _names("evaluator"),
    "strategy_options": _keys("strategy"),
    "space_options": _keys("space"),
    "evaluator_options": _keys("evaluator"),
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


# --- what the shells are told

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
        from click.shell_completion import _resolve_context, _resolve_incomplete

        # An option without its value yet would keep click from reading what stands before it.
        whole = args[:-1] if args and args[-1].startswith("-") and args[-1] != "-" else args
        context = _resolve_context(self.cli, self.ctx_args, self.prog_name, whole)
        flag, equals, value = incomplete.partition("=")
        head = flag + equals if equals and flag.startswith("--") else ""
        asked, typed = _resolve_incomplete(context, args, incomplete)
        if not isinstance(asked, click.Parameter):
            yield from asked.shell_complete(context, typed)
            return
        if head:
            typed = value
        for item in items(context, asked, typed):
            yield CompletionItem(head + item.value, type=item.type, help=item.help)


class Bash(_Quiet):
    name = "bash"
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_WORDS", "")
        words = split_arg_string(line)
        complete = not line or (line[-1].isspace() and not line.endswith("\\ "))
        self._typed = "" if complete or not words else words[-1]
        return (words[1:], "") if complete else (words[1:-1], self._typed)

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Bash replaces what stands behind the last of the characters at which it breaks words."""
        value = str(item.value)
        breaks = [c for c in os.environ.get("COMP_BREAKS", "") if c in "=:"]
        cut = max((self._typed.rfind(c) + 1 for c in breaks), default=0)
        if item.type in ("plain", OPEN):
            value = re.sub(r"([^\w@%+=:,./~-])", r"\\\1", value[cut:])
        return f"{item.type},{value}"


class Zsh(_Quiet, ZshComplete):
    source_template = _ZSH


class Fish(_Quiet, FishComplete):
    source_template = _FISH


CLASSES: Mapping[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def script(cli: click.Command, shell: str) -> str:
    """What a shell has to read to complete the command line of `nastool`."""
    return CLASSES[shell](cli, {}, "nastool", VARIABLE).source()


def answer(cli: click.Command, instruction: str) -> int:
    """Print what the shell's script asks for: "bash_complete", "zsh_source", ..."""
    shell, _, what = instruction.partition("_")
    if shell not in CLASSES or what not in ("complete", "source"):
        return 1
    if what == "source":
        click.echo(script(cli, shell), nl=False)
        return 0
    words: Sequence[str] = CLASSES[shell](cli, {}, "nastool", VARIABLE).complete().splitlines()
    click.echo("\n".join(words))
    return 0
