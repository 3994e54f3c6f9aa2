"""Make a page of each notebook of docs/, and publish the notebook beside it."""

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# Not mkdocs-jupyter: its pages load scripts from elsewhere, and it leaves links to other pages as they are.


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add NAME.md for each NAME.ipynb."""
    for notebook in [each for each in files if each.src_uri.endswith(".ipynb")]:
        name = notebook.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, name, content=_markdown(notebook.content_string)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let links to a notebook lead to its page, except where it is offered to be downloaded."""
    return markdown.replace(".ipynb)", ".md)").replace(".ipynb#download)", ".ipynb)")


def _markdown(notebook: str) -> str:
    cells = nbformat.reads(notebook, as_version=4).cells
    return "\n\n".join(
        f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source for cell in cells
    )
