"""Where the command line finds the configs that come with prl, with a clone around it or without."""

from pathlib import Path

CONFIGS = Path("configs")


def shipped_configs() -> Path:
    """Return the folder of the configs that come with prl: in the installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / CONFIGS
    return inside if inside.is_dir() else package.parent / CONFIGS


def find_config(path: Path) -> Path:
    """Return a path as it is, or the shipped file or folder of this name when there is none here."""
    if not path.exists() and path.parts[:1] == CONFIGS.parts:
        shipped = shipped_configs().joinpath(*path.parts[1:])
        return shipped if shipped.exists() else path
    return path


def with_shipped_configs(arguments: list[str]) -> list[str]:
    """Let `--config configs/...` name a config that comes with prl where the current folder has no such file."""
    found = []
    for before, given in zip(["", *arguments], arguments, strict=False):
        option, equals, value = given.partition("=")
        if equals and option == "--config":
            found.append(f"{option}={find_config(Path(value))}")
        else:
            found.append(str(find_config(Path(given))) if before in ("--config", "-c") else given)
    return found
