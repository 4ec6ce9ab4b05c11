"""`prl anchors`: write a file of prompts with anchors of a policy: the best of n samples, or plain samples.

The file is for `data.init_args.train` of pairwise PPO. A knockout tournament under a judge chooses the best of n. The
provenance of the anchors is in OUTPUT.provenance.json, and in the column `anchor_id` of each row.
"""

import argparse
import json
from pathlib import Path

from prl.cli.commands.sources import add_source_options, errors_in_options, number_of_rows, positive
from prl.config import DTYPES
from prl.system.outputs import check_file, json_with


def main(args: list[str]) -> None:
    """Write the file of prompts with anchors."""
    parser = argparse.ArgumentParser("prl anchors", description=__doc__)
    parser.add_argument(
        "--policy", required=True, help="folder or hub id of the model that answers, usually the SFT one"
    )
    parser.add_argument("--prompts", required=True, help="file or hub id of prompts, in any shape of docs/data.md")
    parser.add_argument(
        "--output", type=Path, required=True, help=".jsonl file to write; must not exist, nor its .provenance.json"
    )
    parser.add_argument("--judge", help="folder or hub id of a judge; needed for more than one sample")
    parser.add_argument("--samples", type=positive, default=8, help="responses per prompt; 1 is taken as is (8)")
    parser.add_argument("--max_new_tokens", type=positive, default=256, help="length limit of a response (256)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampling (default 1)")
    parser.add_argument("--max_prompt_length", type=positive, default=1024, help="longest prompt in tokens (1024)")
    parser.add_argument("--batch_size", type=positive, default=16, help="responses sampled together (default 16)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--limit", type=number_of_rows, help="read only the first so many prompts")
    add_source_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep_unfinished", action="store_true", help="let responses that hit the length limit enter")
    parser.add_argument(
        "--chat_template_kwargs", type=json.loads, help="variables of the policy's chat template, as JSON"
    )
    parser.add_argument(
        "--keep_thoughts",
        action="store_true",
        help="judge and write what stands before </think> too, not answers alone",
    )
    options = parser.parse_args(args)
    if options.samples > 1 and options.judge is None:
        parser.error("--samples above 1 needs a --judge to choose among them")
    if options.output.exists():
        parser.error(f"--output {options.output} exists; choose another name")
    if options.output.suffix != ".jsonl":
        parser.error(f"--output {options.output}: expected a name that ends in .jsonl")
    own = json_with("prl", "method", "anchor_id")  # left by a command that was interrupted
    provenance = options.output.with_suffix(".provenance.json")
    check_file(provenance, "the description beside --output,", own)
    from prl.anchors.writing import write_anchors

    with errors_in_options(can_skip=False):
        number, told = write_anchors(options, provenance)
    print(
        f"wrote {number} prompts with anchors to {options.output}: {options.samples} samples each, "
        f"{told['num_comparisons']} comparisons; {told['num_unfinished_samples']} samples hit the length limit"
    )
    if silent := told["left_out_prompts"]:
        print(f"left out, since all samples were empty: prompt {', '.join(map(str, silent))}")
