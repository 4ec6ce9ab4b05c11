"""Write what a study found into the page of its protocol, behind the mark of the command that found it."""

from pathlib import Path

from benchmarks.runs import between

PAGES = Path("docs/results/claims")
IMAGES = Path("docs/images/claims")


def publish(study: str, *tables: str, page: str | None = None) -> None:
    """Print the tables of a study, and put them into a page; the protocol around them stays.

    Args:
        study: module of this package whose command made them; the page has a mark with its name.
        tables: Markdown.
        page: name of the page, that of the study if None.

    Raises:
        ValueError: for a page without the mark.
    """
    text = "\n\n".join(table.strip() for table in tables)
    print(text)
    path = PAGES / f"{page or study}.md"
    mark = f"<!-- written by python -m experiments.{study} -->"
    path.write_text(between(path.read_text(encoding="utf-8"), mark, [text]), encoding="utf-8")
