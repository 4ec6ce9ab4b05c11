"""`prl pairs`: write preference pairs of a policy's own responses, judged against each other, or the best of them.

The file is for `data.init_args.train` of preference training or, with --rule BestOfN, of supervised training. Where it
comes from, and what was left out for what reason, is in OUTPUT.provenance.json. A command that was killed goes on from
OUTPUT.parts when it is given again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from prl.cli.commands.sources import add_source_options, errors_in_options, number_of_rows, positive
from prl.config import DTYPES
from prl.system.outputs import check_file, json_with


def main(args: list[str]) -> None:
    """Write the rows, and print what was counted."""
    parser = _parser()
    options = parser.parse_args(args)
    if (options.judge is None) == (options.reward is None):
        parser.error("give either --judge, a folder, or --reward, a class with its settings")
    if options.output.exists() and not options.output.with_suffix(".parts").exists():
        parser.error(f"--output {options.output} exists; choose another name")
    if options.output.suffix != ".jsonl":
        parser.error(f"--output {options.output}: expected a name that ends in .jsonl")
    check_file(
        *(options.output.with_suffix(".provenance.json"), "the description beside --output,"),
        json_with("policy", "inputs", "counts"),
    )
    maker = _maker(options)
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    with errors_in_options(can_skip=False):
        counts = maker.write(options.output, settings)
    rows = maker.rule.rows
    print(f"wrote {counts.pop(rows, 0)} {rows} of {counts.pop('prompts', 0)} prompts to {options.output}")
    for words, count in counts.items():
        print(f"{count:>8} {words}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("prl pairs", description=__doc__)
    parser.add_argument("--policy", required=True, help="folder or hub id of the model that answers")
    parser.add_argument("--prompts", required=True, help="file or hub id of prompts, in any shape of docs/data.md")
    parser.add_argument("--output", type=Path, required=True, help=".jsonl file to write; must not exist")
    parser.add_argument("--judge", help="folder or hub id of a judge, generative or Bradley-Terry")
    parser.add_argument(
        "--reward", type=_class, help="in its place a reward source: a class path, or class_path and init_args as JSON"
    )
    parser.add_argument(
        "--rule",
        type=_class,
        default="BestWorst",
        help="which responses become a pair: BestWorst, AllPairs, BySource, RejectionSampled; or a demonstration: "
        "BestOfN; or a class of your own, with its settings as JSON (BestWorst)",
    )
    _add_writers(parser)
    parser.add_argument("--samples", type=positive, default=5, help="responses to each prompt (5)")
    parser.add_argument("--max_new_tokens", type=positive, default=256, help="length limit of a response (256)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampling (1)")
    _add_row_options(parser)
    _add_methods(parser)
    parser.add_argument("--max_prompt_length", type=positive, default=1024, help="longest prompt in tokens (1024)")
    parser.add_argument("--batch_size", type=positive, default=16, help="responses sampled together (16)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="type in which policy and judge work")
    parser.add_argument("--limit", type=number_of_rows, help="read only the first so many prompts")
    add_source_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--chat_template_kwargs", type=json.loads, help="variables of the policy's chat template, as JSON"
    )
    parser.add_argument(
        "--directions",
        type=json.loads,
        help='tell the policy how to weigh attributes, drawn for each prompt, as JSON: {"attributes": [NAMES]} '
        "(docs/methods/rounds.md)",
    )
    parser.add_argument("--keep_thoughts", action="store_true", help="judge and write what stands before </think> too")
    return parser


def _add_row_options(parser: argparse.ArgumentParser) -> None:
    """Add what decides which rows are written, and what they have beside the responses."""
    parser.add_argument(
        "--min_win_prob",
        type=float,
        default=0.5,
        help="leave out pairs whose chosen response wins with less than this probability (0.5)",
    )
    parser.add_argument(
        "--any_order", action="store_true", help="keep pairs of which the other order names another winner"
    )
    parser.add_argument("--keep_unfinished", action="store_true", help="take responses that hit the length limit")
    parser.add_argument("--soft_labels", action="store_true", help="write the judge's probability as `preference`")


def _add_writers(parser: argparse.ArgumentParser) -> None:
    """Add the options that name who answers beside the policy."""
    parser.add_argument(
        "--others",
        nargs="+",
        default=[],
        metavar="NAME=MODEL",
        help="further policies that answer too; rows then name who wrote them, and the rule BySource mixes them",
    )
    parser.add_argument(
        "--written", metavar="COLUMN", help='column of the prompts with further responses: {"NAME": ["text", ...]}'
    )


def _add_methods(parser: argparse.ArgumentParser) -> None:
    """Add the options of what single methods read."""
    parser.add_argument(
        "--lists",
        action="store_true",
        help="write all candidates of the prompt beside each row, `responses`, with their `rewards`",
    )
    parser.add_argument(
        "--proposal_logprobs",
        action="store_true",
        help="with --lists, write their log-probabilities under the policy too, for BRAIn with another reference",
    )
    parser.add_argument(
        "--revisions", type=int, default=0, help="how often the policy revises each response, as it learns by SRPO (0)"
    )
    parser.add_argument("--revision_prompt", help="how it is asked, with {prompt} and {response}; SRPO's when left out")
    parser.add_argument(
        "--calibration",
        metavar="MODEL",
        help="folder or hub id of a model of which a response to each prompt is written beside, `calibration`, for VPO",
    )


def _class(text: str) -> Any:
    return json.loads(text) if text.lstrip().startswith("{") else text


def _maker(options: argparse.Namespace) -> Any:
    from prl.cli.classes import built
    from prl.config import ModelSource, Sampling
    from prl.data import DataSource
    from prl.judge.loading import judge_in
    from prl.pairs.base import CandidateRule
    from prl.pairs.checks import PairChecks
    from prl.pairs.directions import Directions
    from prl.pairs.making import PairMaker
    from prl.rewards.base import RewardSource

    named = [text.partition("=") for text in options.others]
    if wrong := ["".join(parts) for parts in named if not all(parts)]:
        raise ValueError(f"--others {wrong[0]}: expected NAME=MODEL, a folder or hub id")
    reward = built("reward", RewardSource, options.reward) if options.reward is not None else None
    template = {"dtype": options.dtype, "chat_template_kwargs": options.chat_template_kwargs}
    calibration = None if options.calibration is None else ModelSource(path=options.calibration, **template)
    return PairMaker(
        ModelSource(path=options.policy, **template),
        DataSource(options.prompts, options.split, options.name, options.columns, options.limit),
        judge_in(options.judge, options.dtype) if reward is None else reward,
        built("rule", CandidateRule, options.rule),
        Sampling(options.max_new_tokens, options.temperature, options.samples),
        PairChecks(options.min_win_prob, not options.any_order, options.keep_unfinished),
        "soft" if options.soft_labels else "hard",
        max_prompt_length=options.max_prompt_length,
        batch_size=options.batch_size,
        seed=options.seed,
        keep_thoughts=options.keep_thoughts,
        lists=options.lists,
        proposal_logprobs=options.proposal_logprobs,
        calibration=calibration,
        revisions=options.revisions,
        others={name: ModelSource(path=path, **template) for name, _, path in named},
        written=options.written,
        **({} if options.revision_prompt is None else {"revision_prompt": options.revision_prompt}),
        directions=None if options.directions is None else built("directions", Directions, options.directions),
    )
