"""The interface is the same in fftconv.h, in the symbols that the library exports, and in the
ctypes table of the Python package."""

import ctypes
import os
import re

import pytest
from build_tree import CC, HEADER, LIBRARY, TOP, need, run

TEXT = re.sub(r"/\*.*?\*/", " ", HEADER.read_text(), flags=re.S)


def functions():
    """{name: (result, [arguments])} of every function of the header, as C types without the
    arguments' names."""
    pattern = re.compile(
        r"FFTCONV_API\s+(?:FFTCONV_MUST_CHECK\s+)?([\w\s]+?[\s*]+)(fftconv_\w+)"
        r"\s*\(([^)]*)\)\s*;"
    )
    return {
        name: (
            spell(result),
            [
                spell(re.sub(r"\w+\s*$", "", argument))
                for argument in arguments.split(",")
                if argument.strip() != "void"
            ],
        )
        for result, name, arguments in pattern.findall(TEXT)
    }


def spell(c_type):
    """A C type in one spelling: without const, with single spaces."""
    words = re.sub(r"\bconst\b", " ", c_type).replace("*", " * ").split()
    return " ".join(words)


def structures():
    """{name: [field, ...]} of every struct that the header defines."""
    found = {}
    for body, name in re.findall(r"typedef struct \w+\s*\{(.*?)\}\s*(fftconv_\w+);", TEXT, re.S):
        fields = []
        for declaration in body.split(";"):
            declarators = re.sub(r"^\s*(const\s+)?\w+\s", "", declaration)
            fields += re.findall(r"(\w+)\s*(?:\[\w+\]\s*)?(?:,|$)", declarators.strip())
        found[name] = fields
    return found


def enums():
    """{name: {enumerator: value}} of every enum that the header defines."""
    return {
        name: {word: int(value) for word, value in re.findall(r"(\w+) = (-?\d+)", body)}
        for body, name in re.findall(r"typedef enum \w+\s*\{(.*?)\}\s*(fftconv_\w+);", TEXT, re.S)
    }


FUNCTIONS = functions()
STRUCTURES = structures()
ENUMS = enums()


@pytest.fixture(scope="module")
def lib():
    return pytest.importorskip("fftconv._lib")


def python_name(c_name):
    """The name of a struct in fftconv._lib: PlanDesc for fftconv_plan_desc."""
    words = c_name.replace("fftconv_", "", 1).split("_")
    return "".join(word.capitalize() for word in words)


def allowed(c_type, lib):
    """The ctypes that may stand for a C type in the table."""
    plain = {
        "void": None,
        "int": ctypes.c_int,
        "int64_t": ctypes.c_int64,
        "double": ctypes.c_double,
    }
    if c_type in plain:
        return [plain[c_type]]
    target = c_type[:-1].strip()
    assert c_type.endswith("*"), c_type
    if target == "char":
        return [ctypes.c_char_p]
    if target in plain and target != "void":
        return [ctypes.POINTER(plain[target]), ctypes.c_void_p]
    if target in STRUCTURES:
        return [ctypes.POINTER(getattr(lib, python_name(target)))]
    if target.endswith("*"):  # where a new handle is written
        return [ctypes.POINTER(ctypes.c_void_p)]
    return [ctypes.c_void_p]  # a handle, or memory of any type


def test_header_is_read_whole():
    """The parser above finds every declaration of the header; otherwise these tests prove
    nothing."""
    assert set(FUNCTIONS) == set(re.findall(r"\b(fftconv_\w+)\s*\(", TEXT))
    assert len(STRUCTURES) == len(re.findall(r"typedef struct \w+\s*\{", TEXT))
    assert len(ENUMS) == len(re.findall(r"\benum\b", TEXT))
    # Each number belongs to an enumerator that was found.
    assert sum(map(len, ENUMS.values())) == len(re.findall(r"^ +\w+ = ", TEXT, re.M))
    assert "fftconv_forward" in FUNCTIONS
    assert FUNCTIONS["fftconv_isa_available"] == ("int", ["char *"])
    assert STRUCTURES["fftconv_tensor"] == ["data", "dtype", "reserved", "shape", "stride"]
    assert ENUMS["fftconv_direction"] == {
        "FFTCONV_DIRECTION_FORWARD": 0,
        "FFTCONV_DIRECTION_BACKWARD": 1,
    }


def test_names_of_the_header():
    """Enumerators begin with their enum's name, every struct but the tensor begins with its size,
    and one set of functions serves CPUs and GPUs."""
    for name, enumerators in ENUMS.items():
        for enumerator in enumerators:
            assert enumerator.startswith(name.upper() + "_"), enumerator
        assert len(set(enumerators.values())) == len(enumerators), name
    for name, fields in STRUCTURES.items():
        assert (fields[0] == "size") == (name != "fftconv_tensor"), name
    for name in FUNCTIONS:
        twin = name.replace("fftconv_cuda_", "fftconv_")
        assert twin == name or twin not in FUNCTIONS, name


def test_exported_symbols():
    """The library exports the header's functions and nothing else."""
    need("nm")
    lines = run("nm", "-D", "--defined-only", LIBRARY).splitlines()
    # Names with __asan and the like come from a sanitizer.
    symbols = {line.split()[-1].split("@")[0] for line in lines}
    symbols = {name for name in symbols if not re.match(r"_*(asan|ubsan|odr_asan)", name)}
    assert symbols == set(FUNCTIONS)


def test_prototypes_name_every_function(lib):
    assert set(lib.PROTOTYPES) == set(FUNCTIONS)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_prototype(name, lib):
    c_result, c_arguments = FUNCTIONS[name]
    result, arguments = lib.PROTOTYPES[name]
    assert result in allowed(c_result, lib)
    assert len(arguments) == len(c_arguments), c_arguments
    for place, (argument, c_argument) in enumerate(zip(arguments, c_arguments)):
        assert argument in allowed(c_argument, lib), (place, c_argument)


def test_structures_and_constants(lib, tmp_path):
    """Each struct has the fields, offsets and size that C gives it."""
    program = ["#include <fftconv.h>", "#include <stdio.h>", "int main(void) {"]
    for name, fields in STRUCTURES.items():
        program.append(f'printf("{name} - %zu\\n", sizeof({name}));')
        program += [
            f'printf("{name} {field} %zu %zu\\n", '
            f"offsetof({name}, {field}), sizeof((({name} *)0)->{field}));"
            for field in fields
        ]
    program += ["return 0; }"]
    file = tmp_path / "layout.c"
    file.write_text("\n".join(program))
    run(*CC, "-std=c11", f"-I{HEADER.parent}", file, "-o", tmp_path / "layout")
    wanted = {}
    for line in run(tmp_path / "layout").splitlines():
        name, field, *numbers = line.split()
        wanted.setdefault(name, {})[field] = tuple(map(int, numbers))

    for name, layout in wanted.items():
        structure = getattr(lib, python_name(name))
        assert ctypes.sizeof(structure) == layout.pop("-")[0], name
        got = {}
        for field, _ in structure._fields_:
            place = getattr(structure, field)
            got[field.rstrip("_")] = (place.offset, place.size)
        assert got == layout, name


def test_numbers(lib):
    """The ABI number and the limits of the header are those of the Python package, and the ABI
    number is in the library's file name."""
    defined = {name: int(value) for name, value in re.findall(r"#define FFTCONV_(\w+) (\d+)", TEXT)}
    assert lib.ABI == defined["ABI"]
    for name in ("MAX_ORDER", "MAX_RADIX", "MAX_STAGES"):
        assert getattr(lib, name) == defined[name]
    real_name = os.path.realpath(LIBRARY)
    assert real_name.endswith(f".so.{defined['ABI']}.0.0"), real_name


def test_enumerators(lib):
    """The package has every enum's enumerators, each by its name after the prefix."""
    statuses = ("OK", "INVALID", "NO_MEMORY", "UNSUPPORTED")
    tables = {
        "fftconv_status": {name: getattr(lib, name) for name in statuses},
        "fftconv_dtype": lib.DTYPES,
        "fftconv_mode": lib.MODES,
        "fftconv_form": lib.FORMS,
        "fftconv_activation": lib.ACTIVATIONS,
        "fftconv_direction": {name: getattr(lib, name) for name in ("FORWARD", "BACKWARD")},
        "fftconv_device": lib.DEVICES,
        "fftconv_side": {name: getattr(lib, name) for name in ("INPUT", "OUTPUT")},
        "fftconv_discretization": lib.DISCRETIZATIONS,
    }
    assert set(tables) == set(ENUMS)
    for enum, table in tables.items():
        prefix = enum.upper() + "_"
        named = {
            prefix + ("IDENTITY" if name is None else name.upper()): value
            for name, value in table.items()
        }
        assert named == ENUMS[enum], enum


def test_version(lib):
    """The library's version is that of configure.ac, the only file that holds it."""
    text = (TOP / "configure.ac").read_text()
    version = re.search(r"AC_INIT\(\[libfftconv\], \[([^]]+)\]", text).group(1)
    library = ctypes.CDLL(str(LIBRARY))
    library.fftconv_version.restype = ctypes.c_char_p
    assert library.fftconv_version().decode() == version
