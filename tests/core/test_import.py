"""How the package finds the C library, and what importing the package costs."""

import importlib
import os
import shutil
import subprocess
import sys
import textwrap
import types

import fftconv
import pytest
from fftconv import _lib

pytestmark = pytest.mark.slow
PACKAGE = os.path.dirname(os.path.realpath(fftconv.__file__))


def run(code, package=None, **environment):
    """Runs Python with the package at `package`; returns (exit status, output)."""
    here = os.path.dirname(package or PACKAGE)
    env = {k: v for k, v in os.environ.items() if k != "FFTCONV_LIBRARY"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd="/",
        env={**env, "PYTHONPATH": here, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    return done.returncode, done.stdout


def copy(to):
    """Copies the package to a place where there is no library beside it."""
    to = to / "tree" / "python" / "fftconv"
    shutil.copytree(PACKAGE, to, ignore=shutil.ignore_patterns("*.so*", "*.dylib", "__pycache__"))
    return str(to)


SHOW = "import fftconv; print(fftconv._lib.path)"


def test_environment_names_it(tmp_path):
    status, out = run(SHOW, copy(tmp_path), FFTCONV_LIBRARY=_lib.path)
    assert (status, out.strip()) == (0, _lib.path)


def test_environment_is_not_passed_over(tmp_path):
    """If FFTCONV_LIBRARY names a file that does not exist, that is an error, whatever other
    libraries there are."""
    status, out = run(SHOW, FFTCONV_LIBRARY=str(tmp_path / "none.so"))
    assert status and "ImportError" in out and "none.so" in out


def test_package_directory_comes_first(tmp_path):
    package = copy(tmp_path)
    mine = shutil.copy(_lib.path, os.path.join(package, "libfftconv.so"))
    libs = tmp_path / "tree" / "build" / ".libs"
    libs.mkdir(parents=True)
    shutil.copy(_lib.path, libs / "libfftconv.so")
    assert run(SHOW, package)[1].strip() == mine
    os.remove(mine)
    assert run(SHOW, package)[1].strip() == str(libs / "libfftconv.so")
    beside = tmp_path / "tree" / ".libs"
    beside.mkdir()
    shutil.move(str(libs / "libfftconv.so"), beside)
    assert run(SHOW, package)[1].strip() == str(beside / "libfftconv.so")


def test_system_comes_last(tmp_path):
    """The system's loader is asked last, for the name with the ABI number."""
    if sys.platform == "darwin":
        pytest.skip("the name is another there")
    package = copy(tmp_path)
    libs = tmp_path / "lib"
    libs.mkdir()
    name = f"libfftconv.so.{_lib.ABI}"
    shutil.copy(_lib.path, libs / name)
    status, out = run(
        SHOW,
        package,
        LD_LIBRARY_PATH=os.pathsep.join(
            filter(None, [str(libs), os.environ.get("LD_LIBRARY_PATH")])
        ),
    )
    assert (status, out.strip()) == (0, name)


def test_a_wrong_abi_is_said(tmp_path):
    compiler = shutil.which(os.environ.get("CC", "cc").split()[0])
    if compiler is None:
        pytest.skip("no C compiler here")
    source = tmp_path / "old.c"
    source.write_text("int fftconv_abi(void) { return 99; }\n")
    library = str(tmp_path / "old.so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(source)], check=True)
    status, out = run("import fftconv", FFTCONV_LIBRARY=library)
    assert status and f"ABI number 99, and this package needs {_lib.ABI}" in out


def test_a_missing_function_is_said(tmp_path):
    compiler = shutil.which(os.environ.get("CC", "cc").split()[0])
    if compiler is None:
        pytest.skip("no C compiler here")
    source = tmp_path / "part.c"
    source.write_text(f"int fftconv_abi(void) {{ return {_lib.ABI}; }}\n")
    library = str(tmp_path / "part.so")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, str(source)], check=True)
    status, out = run("import fftconv", FFTCONV_LIBRARY=library)
    assert status and f"ImportError: {library} lacks fftconv_version, " in out
    assert "fftconv_plan_create" in out and "build the library again" in out


def test_not_a_library(tmp_path):
    """A file that is not our library is skipped, and the error names it."""
    file = tmp_path / "text.so"
    file.write_text("no library")
    status, out = run("import fftconv", FFTCONV_LIBRARY=str(file))
    assert status and "libfftconv was not found" in out and "text.so" in out


def test_import_is_light():
    """Importing the package imports neither torch nor what only bfloat16, figures or tests need."""
    code = """
        import sys, fftconv, numpy as np
        fftconv.conv(np.ones((1, 1, 8), np.float32), np.ones((1, 8), np.float32))
        print([m for m in ("torch", "ml_dtypes", "scipy", "matplotlib", "tqdm",
                           "multiprocessing") if m in sys.modules])
        """
    status, out = run(code, FFTCONV_LIBRARY=_lib.path)
    assert (status, out.strip()) == (0, "[]")


def test_exit_is_quiet():
    """The interpreter exits quietly with live plans and spectra, also after their use in
    threads."""
    code = """
        import threading, numpy as np, fftconv
        u, k = np.ones((4, 4, 4096), "f4"), np.ones((4, 4096), "f4")
        plan = fftconv.Plan(u.shape, k.shape, threads=3)
        spectrum = plan.spectrum(k)
        plan(u, spectrum)
        t = threading.Thread(target=lambda: plan(u, spectrum))
        t.start(); t.join()
        print("done")
        """
    assert run(code, FFTCONV_LIBRARY=_lib.path) == (0, "done\n")


def test_version():
    major, minor, patch = fftconv.__version__.split(".")[:3]
    assert int(major) >= 0 and int(minor) >= 0 and patch


def test_public_names():
    for name in fftconv.__all__:
        assert getattr(fftconv, name) is not None, name


def test_isas():
    isas = fftconv.isas()
    assert isas and len(set(isas)) == len(isas)
    for isa in isas:
        assert fftconv.Plan((1, 1, 8), (1, 8), isa=isa).isa == isa


def test_torch_is_missing(monkeypatch):
    """Without PyTorch, or with a folder in its place, fftconv.torch says what it needs."""
    monkeypatch.delitem(sys.modules, "fftconv.torch", raising=False)
    for instead in (None, types.ModuleType("torch")):
        monkeypatch.setitem(sys.modules, "torch", instead)
        with pytest.raises(ImportError, match="needs PyTorch"):
            importlib.import_module("fftconv.torch")
