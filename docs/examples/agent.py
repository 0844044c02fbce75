"""A search whose strategy is another program, such as a language model's command or an evolutionary code agent.

usage: python agent.py COMMAND... -- OPTIONS OF nastool search

For each trial COMMAND is started anew. On stdin it gets the space's decisions, and what the best trials so far gave; of
what it prints the last line that is a JSON object is the proposal: {"1<-0": "skip_connect", ...}. What is wrong with a
proposal is said the next time.
"""

import json
import subprocess
import sys

from nastool.core import registry
from nastool.core.values import SpaceRef


def ask(command: list[str], about: str, told: list[dict], error: str) -> dict:
    best = sorted((line for line in told if "metrics" in line), key=lambda line: -line["metrics"]["val_acc"])[:10]
    history = "\n".join(f"{line['metrics']['val_acc']:.4f} {json.dumps(line['choices'])}" for line in best)
    prompt = f"{about}\nThe best so far:\n{history}\n{error}\nPropose a better one: one JSON object, on one line.\n"
    said = subprocess.run(command, input=prompt, capture_output=True, text=True, check=True).stdout
    for line in reversed(said.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def main(words: list[str]) -> None:
    at = words.index("--")
    command, options = words[:at], words[at + 1 :]
    space = registry.make_space(SpaceRef(options[options.index("--space") + 1]))
    about = "\n".join(f"{decision.name}: one of {', '.join(decision.options)}" for decision in space.decisions)
    search = ["nastool", "search", "--strategy", "external", *options]
    with subprocess.Popen(search, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as running:
        assert running.stdin is not None and running.stdout is not None
        told: list[dict] = []
        error = ""
        trials = int(options[options.index("-n") + 1])
        while len(told) < trials:
            print(json.dumps({"choices": ask(command, about, told, error)}), file=running.stdin, flush=True)
            answer = json.loads(running.stdout.readline() or "null")
            if answer is None:  # the search has ended, and said why
                break
            error = answer.get("error", "")
            told += [answer] if "trial" in answer else []
        running.stdin.close()
        print(running.stdout.read(), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
