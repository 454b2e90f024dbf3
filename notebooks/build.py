"""Turn the lessons' text, notebooks/src/*.py, into executed notebooks/*.ipynb.

    python notebooks/build.py                    runs every lesson
    python notebooks/build.py 02                 runs the lessons whose name contains 02
    python notebooks/build.py --keep-outputs 02  runs nothing and keeps the old outputs,
                                                 for changes of the text alone

A lesson is plain Python in percent format.  `# %% [markdown]` opens a cell of text, in
which each line begins with `# `, and `# %%` opens a cell of code.  Edit the .py file, run
this script, and commit both files; tests/studies/test_notebooks.py checks that they agree.
"""

import argparse
import pathlib
import time

import nbclient
import nbformat

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = HERE / "src"
MARKDOWN, CODE = "# %% [markdown]", "# %%"


def lessons():
    """Return the paths of the lessons' sources, in order."""
    return sorted(SOURCES.glob("[0-9][0-9]_*.py"))


def notebook_path(source):
    """Return the path of a source's notebook."""
    return HERE / (source.stem + ".ipynb")


def read_percent(text):
    """Return the cells of a text in percent format as (cell_type, source) pairs."""
    cells = []
    for number, line in enumerate(text.splitlines(), 1):
        if line in (MARKDOWN, CODE):
            cells.append(("markdown" if line == MARKDOWN else "code", []))
        elif line.startswith(CODE):
            raise ValueError(
                f"line {number}: {line!r} opens a cell of an unknown kind; "
                f"the kinds are {MARKDOWN!r} and {CODE!r}"
            )
        elif not cells:
            if line.strip():
                raise ValueError(f"line {number}: there is text before the first cell")
        elif cells[-1][0] == "markdown":
            if line.strip() and line != "#" and not line.startswith("# "):
                raise ValueError(
                    f"line {number}: {line!r} is in a markdown cell but does not begin with '# '"
                )
            cells[-1][1].append(line[2:])
        else:
            cells[-1][1].append(line)
    return [(kind, "\n".join(lines).strip("\n")) for kind, lines in cells]


def make_notebook(source):
    """Return a notebook of one lesson's source, not yet executed."""
    book = nbformat.v4.new_notebook()
    book.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    new = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    for number, (kind, text) in enumerate(read_percent(source.read_text("utf-8"))):
        # The ids are positions, so that building an unchanged lesson again changes no id.
        book.cells.append(new[kind](text, id=f"cell-{number:02d}"))
    return book


def execute(book):
    """Run every cell in a new kernel in notebooks/, and return the notebook; raise on an error."""
    client = nbclient.NotebookClient(
        book,
        timeout=300,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()
    book.metadata.pop("language_info", None)  # it names the Python version
    return book


def keep_outputs(book, path):
    """Copy the outputs of the existing notebook, whose code must be the same, and return book."""
    old = nbformat.read(path, as_version=4)
    outputs = [c for c in old.cells if c.cell_type == "code"]
    code = [c for c in book.cells if c.cell_type == "code"]
    if [c.source for c in code] != [c.source for c in outputs]:
        raise SystemExit(
            f"{path.name}: the code of its cells has changed; run it without --keep-outputs"
        )
    for cell, was in zip(code, outputs):
        cell.outputs, cell.execution_count = was.outputs, was.execution_count
    return book


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of the names of the lessons to build")
    parser.add_argument(
        "--keep-outputs",
        action="store_true",
        help="keep the old outputs and run nothing, if only the text has changed",
    )
    options = parser.parse_args()
    chosen = [s for s in lessons() if not options.names or any(n in s.stem for n in options.names)]
    if not chosen:
        parser.error(
            f"no lesson has a name that contains {' or '.join(options.names)}; there are "
            + ", ".join(s.stem for s in lessons())
        )
    for source in chosen:
        start = time.perf_counter()
        book = make_notebook(source)
        path = notebook_path(source)
        book = keep_outputs(book, path) if options.keep_outputs else execute(book)
        nbformat.validate(book)
        nbformat.write(book, path)
        print(
            f"{path.name}  {time.perf_counter() - start:.1f} s  "
            f"{path.stat().st_size / 1024:.0f} KiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
