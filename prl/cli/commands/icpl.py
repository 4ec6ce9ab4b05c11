"""`prl icpl`: have a language model write rewards of a small control task as code, and learn which is preferred.

Code runs in a restricted process (docs/restricted.md). Preferences are those of the task's own reward, which neither
the model nor the training sees, or yours with --ask. OUTPUT gets rounds.jsonl with all code, and best.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prl.cli.commands.sources import positive
from prl.system.outputs import check_folder, write_text


def main(args: list[str]) -> None:
    """Run all rounds, and say after each how good the best is."""
    parser = argparse.ArgumentParser("prl icpl", description=__doc__)
    parser.add_argument("--base_url", required=True, help="of an OpenAI-compatible server, up to and including /v1")
    parser.add_argument("--model", required=True, help="name of the language model on the server")
    parser.add_argument("--output", type=Path, default=Path("runs/icpl"), help="folder to write; must be new or empty")
    parser.add_argument("--rounds", type=positive, default=5, help="rounds (5)")
    parser.add_argument("--candidates", type=positive, default=6, help="rewards written in each round (6)")
    parser.add_argument("--tries", type=positive, default=4, help="answers for each reward before giving up (4)")
    parser.add_argument("--steps", type=positive, default=12, help="generations of training on each reward (12)")
    parser.add_argument("--ask", action="store_true", help="ask on the terminal which behaviours are best and worst")
    parser.add_argument("--seed", type=int, default=0, help="of every draw here; the server has its own")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the language model (1)")
    parser.add_argument("--max_tokens", type=positive, default=1500, help="longest answer, tokens (1500)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for an answer (120)")
    parser.add_argument("--api_key_env", help="environment variable with the key of the server")
    options = parser.parse_args(args)
    check_folder(options.output, "--output")
    from prl.control import PointMass
    from prl.control.icpl import ICPLSettings, by_return, run_icpl, true_return
    from prl.control.reward_training import TrainingSettings
    from prl.system.restricted import check_restricted

    check_restricted()
    environment = PointMass()
    settings = ICPLSettings(options.rounds, options.candidates, options.tries, TrainingSettings(steps=options.steps))
    rank = _asked if options.ask else by_return(environment)
    rows: list[str] = []
    for found in run_icpl(environment, _proposer(options), rank, settings, options.seed):
        for each in found.candidates:
            facts = {"round": each.round, "code": each.code, "curves": each.curves, "faults": each.faults}
            is_best, is_worst = each is found.best, each is found.worst
            facts |= {"return": true_return(environment, each), "best": is_best, "worst": is_worst}
            rows.append(json.dumps(facts) + "\n")
        write_text(options.output / "rounds.jsonl", "".join(rows))
        write_text(options.output / "best.py", found.best.code + "\n")
        print(f"round {found.number}: the best has a return of {true_return(environment, found.best):.1f} (expert 100)")


def _proposer(options: argparse.Namespace) -> Any:
    """Return a function that asks the server."""
    from prl.system.http import Server, check_connection

    url = check_connection(options.base_url, concurrency=1, timeout=options.timeout, retries=3)
    given: dict[str, Any] = {"timeout": options.timeout, "retries": 3, "concurrency": 1}
    server = Server(url, **given, api_key_env=options.api_key_env)

    def propose(prompt: str) -> str:
        body = {"model": options.model, "messages": [{"role": "user", "content": prompt}]}
        body |= {"temperature": options.temperature, "max_tokens": options.max_tokens}
        return str(server.ask(f"{url}/chat/completions", body, _content))

    return propose


def _content(answer: Any) -> str:
    """Read the text of an answer. Raises ValueError for an answer without text."""
    try:
        found = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, str):
        raise ValueError(f"the answer is {str(answer)[:100]!r}; expected text at choices.0.message.content")
    return found


def _asked(candidates: Sequence[Any]) -> list[int]:
    """Show where each policy ends from the same four places, and ask for the best and the worst."""
    import torch

    from prl.control import PointMass, play

    for number, each in enumerate(candidates):
        states, _, _ = play(PointMass(), each.policy, 4, torch.Generator().manual_seed(1000))
        ways = [" ".join(f"({x:+.2f} {y:+.2f})" for x, y in way[::13, :2].tolist()) for way in states]
        print(f"[{number}] places at steps 0, 13, 26 and 39:\n    " + "\n    ".join(ways))
    while True:
        print(f"best and worst, two numbers from 0 to {len(candidates) - 1}: ", end="", flush=True)
        if not (line := sys.stdin.readline()):
            raise ValueError("--ask reads preferences from the terminal, whose input has ended")
        words = line.split()
        if len(words) == 2 and all(word.isdecimal() and int(word) < len(candidates) for word in words):
            best, worst = map(int, words)
            if best != worst:
                return [best, *(n for n in range(len(candidates)) if n not in (best, worst)), worst]
