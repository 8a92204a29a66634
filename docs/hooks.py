"""Pages that the program writes about itself, when the documentation is built."""

from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from search.cli import app

REPOSITORY = "https://github.com/paretoprune/paretoprune"


def on_files(files: Files, config: Any) -> Files:
    """Add the command reference."""
    files.append(File.generated(config, "commands.md", content=command_reference()))
    return files


def command_reference() -> str:
    """Every command with its options, in Markdown."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="paretoprune")
    return str(text).replace("# `paretoprune`", "# Commands", 1)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files of the repository lead there: the pages live beside them only in a checkout."""
    return markdown.replace("](../", f"]({REPOSITORY}/blob/main/")
