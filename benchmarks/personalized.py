"""PPD in the world of pictures: what each user likes, in pictures for that user, for others and for nobody.

Takes a finished world at runs/images (`prl quickstart --world images`): its base model, pairs of its pictures, and the
random convolutions that its reward model begins with, which tell users apart. Training has users of three tastes;
pictures are made for new users of these tastes and of a fourth that mixes two, by four comparisons of each. All
pictures of a seed are from one set of noises. A run that is in the results file already is not repeated.
"""

from pathlib import Path
from typing import Any

from runs import make_missing, run_options, table

WORLD = Path("runs/images")
STEPS, NEW_USERS, PROMPTS = 300, 6, 60
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the user who likes small figures, mixed with the one who likes large ones."""
COLUMNS = {
    **{"base": ("base", 3), "others": ("for other tastes", 3), "own": ("for this taste", 3), "gain": ("own - base", 3)},
    "lead": ("own - others", 3),
    **{"gold_base": ("gold of base", 3), "gold_own": ("gold for this taste", 3)},
}


def train(name: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Make one run, and measure tastes in pictures for new users."""
    from time import perf_counter

    from prl.cli.app import run_stage
    from prl.quickstart.images.data import SPLITS
    from prl.quickstart.images.own_pairs import write_own_user_pairs

    run = out / f"ppd.{seed}"
    args = ["fit", "--config", "configs/images/preference.yaml", "--config", "configs/methods/images/ppd.yaml"]
    for split in SPLITS:
        path = write_own_user_pairs(WORLD / "pairs", out / f"users.{split}.jsonl", split)
        args += [f"--data.init_args.{split}.path", str(path)]
    args += ["--model.init_args.users.path", str(out / "users.train.jsonl"), "--run_dir", str(run)]
    args += ["--overwrite", "true", "--seed_everything", str(seed), "--data.init_args.seed", str(seed)]
    args += ["--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", str(STEPS // 3)]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    start = perf_counter()
    cli = run_stage([*args, "--checkpoint.keep", "1", *overrides])
    logged = {key: float(cli.trainer.callback_metrics[f"val/{key}"]) for key in ("loss", "accuracy")}
    return {**logged, "seconds": perf_counter() - start, **measured(run / "model", out, seed)}


def measured(model: Path, out: Path, seed: int) -> dict[str, Any]:
    """Measure tastes in pictures for new users of each taste, for nobody, and between two users."""
    from prl.quickstart.images import ALL, TASTES, figure_share, gold
    from prl.quickstart.images.own_pairs import ImageSampling, make_pictures, write_own_user_pairs

    new = write_own_user_pairs(WORLD / "pairs", out / "new_users.jsonl", "validation", tuple(TASTES), NEW_USERS)
    tokens = tokens_of(new)
    texts = [scene.prompt for scene in ALL][:PROMPTS]

    def made(users: Any) -> Any:
        told = None if users is None else users.expand(len(texts), -1, -1)
        return make_pictures(model, texts, seed, "personalized", ImageSampling(steps=10), users=told)

    of_base = made(None)
    pictures = {user: made(each) for user, each in tokens.items()}
    tastes: dict[str, dict[str, float]] = {}
    for taste, likes in TASTES.items():
        liked = {user: float(likes.score(each).mean()) for user, each in pictures.items()}
        own = [user for user in liked if user.rpartition("_")[0] == taste]
        found = {"base": float(likes.score(of_base).mean()), "own": mean(liked[user] for user in own)}
        found |= {
            "others": mean(liked[user] for user in liked if user not in own),
            "gain": found["own"] - found["base"],
        }
        found["lead"] = found["own"] - found["others"]
        found["gold_base"] = float(gold(of_base, texts).mean())
        found["gold_own"] = mean(float(gold(pictures[user], texts).mean()) for user in own)
        tastes[taste] = found
    both = [(tokens[f"large_{n}"], tokens[f"small_{n}"]) for n in range(NEW_USERS)]
    between = [mean(float(figure_share(made(between_users(*each, share))).mean()) for each in both) for share in SHARES]
    return {"tastes": tastes, "between": between}


def tokens_of(examples: Path) -> dict[str, Any]:
    """Read new users: [1, E, D] of each."""
    from prl.diffusion.users import UserExamples, Users

    users = Users(UserExamples(str(examples), str(WORLD / "world" / "scorer")))
    return {name: users.of([name]) for name in users.numbers}


def between_users(first: Any, second: Any, share: float) -> Any:
    """Mix two users, comparison by comparison."""
    return (1 - share) * first + share * second


def mean(values: Any) -> float:
    """Compute a mean."""
    each = list(values)
    return sum(each) / len(each)


def main() -> None:
    """Run what is missing, then print the tables."""
    options = run_options(__doc__, "runs/personalized", ("PPD",))
    rows = make_missing(options, train)
    print(
        table([{"variant": taste, **found} for row in rows for taste, found in row["tastes"].items()], "taste", COLUMNS)
    )
    shares = [{"variant": "figure share", **dict(zip(map(str, SHARES), row["between"], strict=True))} for row in rows]
    print(table(shares, "share of the user who likes small", {str(share): (str(share), 3) for share in SHARES}))
    print(table(rows, "method", {"loss": ("val/loss", 3), "accuracy": ("val/accuracy", 3), "seconds": ("seconds", 0)}))


if __name__ == "__main__":
    main()
