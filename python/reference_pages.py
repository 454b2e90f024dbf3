"""Write the reference of the Python package as pages that need no network.

    python reference_pages.py DIR         needs pdoc, the extra "docs"

The pages are the docstrings of every public name, each with the lesson that teaches it.  Where
PyTorch is missing, fftconv.torch is left out.
"""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import fftconv

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
# The lesson about each module, by the beginning of its number; the names at the top have one of
# their own where another fits better.
LESSONS = {
    "fftconv": "01",
    "fftconv.conv_backward": "04",
    "fftconv.conv_matrix": "05",
    "fftconv.conv_matrix_backward": "05",
    "fftconv.Counters": "03",
    "fftconv.depthwise_conv1d": "07",
    "fftconv.depthwise_conv1d_backward": "07",
    "fftconv.FFTConv": "04",
    "fftconv.Gradients": "04",
    "fftconv.Pattern": "07",
    "fftconv.Plan": "02",
    "fftconv.Spectrum": "02",
    "fftconv.Stream": "07",
    "fftconv.cost": "03",
    "fftconv.cuda": "03",
    "fftconv.flash": "07",
    "fftconv.hippo": "06",
    "fftconv.hyena": "04",
    "fftconv.lrnnx": "05",
    "fftconv.lrnnx.FFTConvS4": "06",
    "fftconv.lrnnx.S4DKernel": "06",
    "fftconv.lrnnx.S4Kernel": "06",
    "fftconv.monarch": "02",
    "fftconv.reference": "01",
    "fftconv.ssm": "06",
    "fftconv.torch": "08",
    "fftconv.torch.lrnnx": "06",
}


def lesson_of(name):
    """The path of the lesson about a public name, given with its modules: "fftconv.cost"."""
    while name not in LESSONS:
        name = name.rpartition(".")[0]
    (lesson,) = NOTEBOOKS.glob(f"{LESSONS[name]}_*.ipynb")
    return lesson


def markdown(text):
    """A docstring with its arguments, lines such as "u, k: (B, H, L)", as a list."""
    text = re.sub(
        r"^(\w+(?:(?:,| and) \w+)*): (?=\S)", lambda m: f"- **{m[1]}**: ", "\n" + text, flags=re.M
    )
    # A list begins after an empty line.
    return re.sub(r"(\n(?![- ])[^\n]*\S)\n(?=- \*\*)", r"\1\n\n", text).strip("\n")


def public(module):
    """{name: object} of all public names below a module, modules included."""
    found = {module.__name__: module}
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, x in vars(module).items()
            if name[0] != "_" and getattr(x, "__module__", None) == module.__name__
        ]
    for name in names:
        x = getattr(module, name)
        full = f"{module.__name__}.{name}"
        found |= public(x) if inspect.ismodule(x) else {full: x}
    return found


def describe(name, x):
    """Make the docstring of a public name, and those of a class's methods, ready for the page."""
    inside = vars(x).values() if inspect.isclass(x) else ()
    for part in (x, *inside):
        part = getattr(part, "__func__", part)  # of a class method
        if inspect.isroutine(part) or isinstance(part, (type, property)) or inspect.ismodule(part):
            try:
                part.__doc__ = markdown(inspect.getdoc(part) or "")
            except AttributeError:  # a method that C defines
                continue
    lesson = lesson_of(name)
    title = lesson.stem[3:].replace("_", " ")
    if callable(x) or inspect.ismodule(x):
        x.__doc__ += f"\n\nLesson {int(lesson.stem[:2])} is about it: [{title}]({lesson.as_uri()})."


def write(folder):
    import pdoc

    modules = [fftconv]
    if importlib.util.find_spec("torch"):
        modules.append(importlib.import_module("fftconv.torch"))
    described = set()  # some have two names
    for module in modules:
        for name, x in public(module).items():
            if id(x) not in described:
                described.add(id(x))
                describe(name, x)
    pdoc.render.configure(docformat="google", show_source=False)
    left_out = [] if len(modules) > 1 else ["!fftconv.torch"]
    pdoc.pdoc(*(module.__name__ for module in modules), *left_out, output_directory=folder)
    print(folder.resolve() / "index.html")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    write(Path(sys.argv[1]))
