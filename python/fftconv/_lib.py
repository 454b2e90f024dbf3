"""The C library libfftconv: how it is found, its prototypes, structures and errors.

The library is searched for in this order:

1. the file that the environment variable FFTCONV_LIBRARY names; if the variable is
   set, nothing else is tried;
2. this package's own directory, where a wheel has the library;
3. the build tree that contains the package: ``build/.libs``, then ``.libs``;
4. the system: the prefix that the package was installed under, then wherever the
   dynamic loader searches.

A status other than OK is raised as an exception with the library's message:

=============  =====================================================
INVALID        ``ValueError``
NO_MEMORY      ``MemoryError``
UNSUPPORTED    ``Unsupported``, a ``RuntimeError``: a correct request
               that this machine or build cannot serve, such as an
               instruction set that the machine lacks
=============  =====================================================
"""

import ctypes
import ctypes.util
import glob
import os
import sys
from ctypes import (
    CDLL,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_void_p,
)

ABI = 4  # FFTCONV_ABI of the header that this package is written for
MAX_ORDER = 16  # FFTCONV_MAX_ORDER
MAX_RADIX = 128  # FFTCONV_MAX_RADIX
MAX_STAGES = 40  # FFTCONV_MAX_STAGES
MAX_THREADS = 255  # of common.h: the most threads of a call

OK, INVALID, NO_MEMORY, UNSUPPORTED = range(4)  # fftconv_status
DTYPES = {"float64": 1, "float32": 2, "float16": 3, "bfloat16": 4, "complex128": 5, "complex64": 6}
MODES = {"causal": 0, "circular": 1, "two_sided": 2}
FORMS = {"auto": 0, "right_angle": 1, "folded": 2, "complex": 3, "even_odd": 4, "direct": 5}
ACTIVATIONS = {None: 0, "gelu": 1, "silu": 2}
DEVICES = {"cpu": 0, "cuda": 1}
DISCRETIZATIONS = {"zoh": 0, "bilinear": 1, "dss": 2}
FORWARD, BACKWARD = range(2)  # fftconv_direction
INPUT, OUTPUT = range(2)  # fftconv_side


class Unsupported(RuntimeError):
    """A correct request that this machine or build cannot serve.

    Example:
        >>> import fftconv
        >>> try:
        ...     fftconv.Plan((1, 1, 8), (1, 8), device="cuda:255")
        ... except fftconv.Unsupported:
        ...     print("there is no such device")
        there is no such device
    """


class Tensor(Structure):
    """fftconv_tensor: an array that the caller owns; strides count elements, not bytes."""

    _fields_ = [
        ("data", c_void_p),
        ("dtype", c_int32),
        ("reserved", c_int32),
        ("shape", c_int64 * 3),
        ("stride", c_int64 * 3),
    ]


class PlanDesc(Structure):
    """fftconv_plan_desc: what a plan is made from; 0 leaves a choice to the library."""

    _fields_ = [
        ("size", c_size_t),
        ("batch", c_int64),
        ("channels", c_int64),
        ("length", c_int64),
        ("k_length", c_int64),
        ("k_rev_length", c_int64),
        ("kernels", c_int64),
        ("kernel_batch", c_int64),
        ("fft_size", c_int64),
        ("mode", c_int32),
        ("dtype", c_int32),
        ("form", c_int32),
        ("dense", c_int32),
        ("threads", c_int32),
        ("order", c_int32),
        ("radices", POINTER(c_int64)),
        ("isa", c_char_p),
        ("single_block", c_int32),
        ("history", c_int32),
        ("weights", POINTER(c_double)),
        ("device", c_int32),
        ("device_index", c_int32),
        ("engine", c_char_p),
    ]


class PlanInfo(Structure):
    """fftconv_plan_info: what was chosen for a plan, and what a call of it costs."""

    _fields_ = [
        ("size", c_size_t),
        *((name, c_int32) for name in ("form", "mode", "dtype", "dense", "threads", "lanes")),
        ("device", c_int32),
        ("device_index", c_int32),
        ("isa", c_char_p),
        ("engine", c_char_p),
        ("fft_size", c_int64),
        ("padded_length", c_int64),
        ("transform_length", c_int64),
        ("order", c_int32),
        ("stages", c_int32),
        ("radices", c_int64 * MAX_ORDER),
        ("stage_radices", c_int64 * MAX_STAGES),
        ("stage_flops", c_double * MAX_STAGES),
        ("product_flops", c_double),
        ("fold_flops", c_double),
        ("io_bytes", c_double),
        ("l1_bytes", c_double),
        ("l2_bytes", c_double),
        ("memory_bytes", c_double),
        ("spectrum_bytes", c_int64),
        ("spectra_row_bytes", c_int64),
        ("forward_workspace_bytes", c_int64),
        ("backward_workspace_bytes", c_int64),
        ("predicted_seconds", c_double),
        ("blocks", c_int64),
        ("block_length", c_int64),
        ("kept", c_double),
        ("computed", c_double),
    ]


class Operands(Structure):
    """fftconv_operands: the arrays of one forward or backward call."""

    _fields_ = [
        ("size", c_size_t),
        ("activation", c_int32),
        ("threads", c_int32),
        ("u", Tensor),
        ("k", Tensor),
        ("k_rev", Tensor),
        ("in_gate", Tensor),
        ("out_gate", Tensor),
        ("skip", Tensor),
        ("mask", Tensor),
        ("history", Tensor),
        ("y", Tensor),
        ("dy", Tensor),
        ("du", Tensor),
        ("dk", Tensor),
        ("dk_rev", Tensor),
        ("din_gate", Tensor),
        ("dout_gate", Tensor),
        ("dskip", Tensor),
        ("workspace", c_void_p),
        ("workspace_bytes", c_int64),
        ("stream", c_void_p),
    ]


class SpectraDesc(Structure):
    """fftconv_spectra_desc: the rows or kernels and the spectra of a primitive's call."""

    _fields_ = [
        ("size", c_size_t),
        ("side", c_int32),
        ("threads", c_int32),
        ("rows", Tensor),
        ("k", Tensor),
        ("k_rev", Tensor),
        ("in_", c_void_p),
        ("spectra", c_void_p),
    ]


class ContractionDesc(Structure):
    """fftconv_contraction_desc: a matrix product at every frequency."""

    _fields_ = [
        ("size", c_size_t),
        ("rows", c_int64),
        ("columns", c_int64),
        ("depth", c_int64),
        ("a", c_void_p),
        ("b", c_void_p),
        ("out", c_void_p),
        ("a_stride", c_int64 * 2),
        ("b_stride", c_int64 * 2),
        ("out_stride", c_int64 * 2),
        ("scale", c_double),
        ("conjugate_a", c_int32),
        ("conjugate_b", c_int32),
        ("accumulate", c_int32),
        ("threads", c_int32),
    ]


class SsmDesc(Structure):
    """fftconv_ssm_desc: the parameters of a state-space model, its kernel and gradients."""

    _fields_ = [
        ("size", c_size_t),
        ("inputs", c_int64),
        ("channels", c_int64),
        ("heads", c_int64),
        ("states", c_int64),
        ("length", c_int64),
        ("rank", c_int64),
        ("dtype", c_int32),
        ("discretization", c_int32),
        ("state", c_int32),
        ("threads", c_int32),
        ("isa", c_char_p),
        *(
            (name, c_void_p)
            for name in ("A", "B", "C", "P", "Q", "k", "dk", "dA", "dB", "dC", "dP", "dQ")
        ),
    ]


class MatmulDesc(Structure):
    """fftconv_matmul_desc: a product of matrices, or of a batch of them."""

    _fields_ = [
        ("size", c_size_t),
        ("isa", c_char_p),
        ("threads", c_int32),
        ("reserved", c_int32),
        ("a", Tensor),
        ("b", Tensor),
        ("out", Tensor),
    ]


class ProjectionDesc(Structure):
    """fftconv_projection_desc: input and output projections B and C around kernels, at
    every frequency."""

    _fields_ = [
        ("size", c_size_t),
        *((name, c_int64) for name in ("batch", "inputs", "states", "outputs")),
        *((name, c_void_p) for name in ("in_", "kernels", "B", "C", "out")),
        ("imaginary", c_int32),
        ("threads", c_int32),
    ]


class DftDesc(Structure):
    """fftconv_dft_desc: the Monarch transform by itself."""

    _fields_ = [
        ("size", c_size_t),
        ("n", c_int64),
        ("count", c_int64),
        ("dtype", c_int32),
        ("inverse", c_int32),
        ("dense", c_int32),
        ("stages", c_int32),
        ("order", c_int32),
        ("reserved", c_int32),
        ("radices", POINTER(c_int64)),
        ("isa", c_char_p),
        ("in_", c_void_p),
        ("out", c_void_p),
    ]


class RdftDesc(Structure):
    """fftconv_rdft_desc: a DFT of real rows, with bins in natural order."""

    _fields_ = [
        ("size", c_size_t),
        ("n", c_int64),
        ("dtype", c_int32),
        ("threads", c_int32),
        ("isa", c_char_p),
    ]


class Hardware(Structure):
    """fftconv_hardware: a machine in the four numbers of the FlashFFTConv paper's cost
    model (Table 19): bandwidths sigma_h, sigma_s and speeds tau_m, tau_g."""

    _fields_ = [
        ("size", c_size_t),
        ("name", c_char * 32),
        ("sigma_h", c_double),
        ("sigma_s", c_double),
        ("tau_m", c_double),
        ("tau_g", c_double),
        ("mu", c_int64),
        ("fast_points", c_int64),
        ("measured", c_int32),
        ("reserved", c_int32),
    ]


class HeadsDesc(Structure):
    """fftconv_heads_desc: the arrays of one call of the multi-head convolution of H3."""

    _fields_ = [
        ("size", c_size_t),
        ("activation", c_int32),
        ("gelu_u", c_int32),
        ("gelu_q", c_int32),
        ("threads", c_int32),
        ("u", Tensor),
        ("v", Tensor),
        ("q", Tensor),
        ("k", Tensor),
        ("k_rev", Tensor),
        ("skip", Tensor),
        ("mask", Tensor),
        ("y", Tensor),
        ("dy", Tensor),
        ("du", Tensor),
        ("dv", Tensor),
        ("dq", Tensor),
        ("dk", Tensor),
        ("dk_rev", Tensor),
        ("dskip", Tensor),
    ]


class DepthwiseDesc(Structure):
    """fftconv_depthwise_desc: the arrays of one call of the short depthwise convolution."""

    _fields_ = [
        ("size", c_size_t),
        ("activation", c_int32),
        ("threads", c_int32),
        ("isa", c_char_p),
        ("left", c_int64),
        ("x", Tensor),
        ("weight", Tensor),
        ("bias", Tensor),
        ("state", Tensor),
        ("y", Tensor),
        ("next_state", Tensor),
        ("dy", Tensor),
        ("dx", Tensor),
        ("dweight", Tensor),
        ("dbias", Tensor),
        ("dstate", Tensor),
    ]


# Opaque handles are passed as plain pointers: fftconv_plan *, fftconv_spectrum * and
# fftconv_rdft *.
_PLAN = _SPECTRUM = _RDFT = c_void_p

# name: (result, [arguments]) of each function of fftconv.h, in the order of the header.
# A result of STATUS is a fftconv_status, which `_check` turns into an exception.
STATUS = c_int
PROTOTYPES = {
    "fftconv_version": (c_char_p, []),
    "fftconv_abi": (c_int, []),
    "fftconv_last_error": (c_char_p, []),
    "fftconv_isa_name": (c_char_p, [c_int]),
    "fftconv_isa_available": (c_int, [c_char_p]),
    "fftconv_default_threads": (c_int, []),
    "fftconv_set_default_threads": (STATUS, [c_int]),
    "fftconv_plan_create": (STATUS, [POINTER(_PLAN), POINTER(PlanDesc)]),
    "fftconv_plan_destroy": (None, [_PLAN]),
    "fftconv_plan_get_info": (STATUS, [_PLAN, POINTER(PlanInfo)]),
    "fftconv_spectrum_create": (STATUS, [POINTER(_SPECTRUM), _PLAN, POINTER(Operands)]),
    "fftconv_spectrum_destroy": (None, [_SPECTRUM]),
    "fftconv_forward": (STATUS, [_PLAN, _SPECTRUM, POINTER(Operands)]),
    "fftconv_backward": (STATUS, [_PLAN, _SPECTRUM, POINTER(Operands)]),
    "fftconv_workspace_bytes": (
        STATUS,
        [_PLAN, _SPECTRUM, POINTER(Operands), c_int, POINTER(c_int64)],
    ),
    "fftconv_rows_to_spectra": (STATUS, [_PLAN, POINTER(SpectraDesc)]),
    "fftconv_spectra_to_rows": (STATUS, [_PLAN, POINTER(SpectraDesc)]),
    "fftconv_multiply": (STATUS, [_PLAN, _SPECTRUM, POINTER(SpectraDesc)]),
    "fftconv_kernels_to_spectra": (STATUS, [_PLAN, POINTER(SpectraDesc)]),
    "fftconv_spectra_to_kernels": (STATUS, [_PLAN, POINTER(SpectraDesc)]),
    "fftconv_contract": (STATUS, [_PLAN, POINTER(ContractionDesc)]),
    "fftconv_spectra_offsets": (STATUS, [_PLAN, POINTER(c_int64)]),
    "fftconv_dft": (STATUS, [POINTER(DftDesc)]),
    "fftconv_hardware_get": (STATUS, [c_char_p, POINTER(Hardware)]),
    "fftconv_hardware_name": (c_char_p, [c_int]),
    "fftconv_monarch_cost": (
        STATUS,
        [POINTER(c_int64), c_int, POINTER(Hardware), POINTER(c_double)],
    ),
    "fftconv_balanced_radices": (STATUS, [c_int64, c_int, POINTER(c_int64)]),
    "fftconv_best_radices": (STATUS, [c_int64, c_int, POINTER(Hardware), POINTER(c_int64)]),
    "fftconv_rdft_create": (STATUS, [POINTER(_RDFT), POINTER(RdftDesc)]),
    "fftconv_rdft_destroy": (None, [_RDFT]),
    "fftconv_rdft_forward": (STATUS, [_RDFT, POINTER(Tensor), POINTER(Tensor), c_double]),
    "fftconv_rdft_inverse": (STATUS, [_RDFT, POINTER(Tensor), POINTER(Tensor), c_double]),
    "fftconv_heads_forward": (STATUS, [_PLAN, POINTER(HeadsDesc)]),
    "fftconv_heads_backward": (STATUS, [_PLAN, POINTER(HeadsDesc)]),
    "fftconv_depthwise_forward": (STATUS, [POINTER(DepthwiseDesc)]),
    "fftconv_depthwise_backward": (STATUS, [POINTER(DepthwiseDesc)]),
    "fftconv_ssm_kernel": (STATUS, [POINTER(SsmDesc)]),
    "fftconv_ssm_kernel_backward": (STATUS, [POINTER(SsmDesc)]),
    "fftconv_matmul": (STATUS, [POINTER(MatmulDesc)]),
    "fftconv_project": (STATUS, [_PLAN, POINTER(ProjectionDesc)]),
    "fftconv_cuda_devices": (c_int, []),
    "fftconv_cuda_allocate": (STATUS, [POINTER(c_void_p), c_int64, c_int]),
    "fftconv_cuda_release": (None, [c_void_p, c_int]),
    "fftconv_cuda_copy": (STATUS, [c_void_p, c_void_p, c_int64, c_int, c_void_p]),
    "fftconv_cuda_device_of": (STATUS, [c_void_p, POINTER(c_int)]),
    "fftconv_cuda_wait": (STATUS, [c_int, c_void_p, c_void_p]),
    "fftconv_cuda_synchronize": (STATUS, [c_int, c_void_p]),
}
# The functions whose int result is not a fftconv_status.
_PLAIN_INT = {
    "fftconv_abi",
    "fftconv_isa_available",
    "fftconv_cuda_devices",
    "fftconv_default_threads",
}

_EXCEPTIONS = {INVALID: ValueError, NO_MEMORY: MemoryError, UNSUPPORTED: Unsupported}


def _check(status, function, arguments):
    if status:
        message = lib.fftconv_last_error().decode("utf-8", "replace")
        raise _EXCEPTIONS.get(status, RuntimeError)(
            message or f"{function.__name__}: status {status}"
        )
    return status


def _candidates():
    """The files that may be the library, in the order that the module's docstring gives."""
    named = os.environ.get("FFTCONV_LIBRARY")
    if named:
        yield named
        return
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    patterns = ["libfftconv.*dylib"] if suffix == ".dylib" else ["libfftconv.so", "libfftconv.so.*"]
    here = os.path.dirname(os.path.realpath(__file__))
    tree = os.path.dirname(os.path.dirname(here))
    prefix_lib = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    for folder in (
        here,
        os.path.join(tree, "build", ".libs"),
        os.path.join(tree, ".libs"),
        prefix_lib,
    ):
        for pattern in patterns:
            yield from sorted(glob.glob(os.path.join(folder, pattern)))
    # The number in the library's file name is its ABI number.
    yield {".so": f"libfftconv.so.{ABI}", ".dylib": f"libfftconv.{ABI}.dylib"}[suffix]
    found = ctypes.util.find_library("fftconv")
    if found:
        yield found


def _load():
    """(library, path) of the first candidate that loads and is libfftconv.

    Its prototypes are set.  Raises ImportError if its ABI number is another than ABI, if
    it lacks a function, or if there is none.
    """
    tried = []
    for path in _candidates():
        try:
            library = CDLL(path)
        except OSError as error:
            tried.append(str(error))
            continue
        if not hasattr(library, "fftconv_abi"):
            tried.append(f"{path}: no fftconv_abi in it")
            continue
        if library.fftconv_abi() != ABI:
            raise ImportError(
                f"{path} has ABI number {library.fftconv_abi()}, and this "
                f"package needs {ABI}: the library and the Python package "
                "must come from the same version"
            )
        missing = [name for name in PROTOTYPES if not hasattr(library, name)]
        if missing:
            raise ImportError(
                f"{path} lacks {', '.join(missing)}, which this package needs: build the library "
                "again with `make`, or name the right file in FFTCONV_LIBRARY"
            )
        for name, (result, arguments) in PROTOTYPES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            if result is STATUS and name not in _PLAIN_INT:
                function.errcheck = _check
        return library, path
    raise ImportError(
        "libfftconv was not found: build it with `make`, or name the file in "
        "FFTCONV_LIBRARY. Tried: " + ("; ".join(tried) or "nothing to try")
    )


lib, path = _load()


def int64s(values):
    """A C array of int64 from a sequence of checked Python integers."""
    return (c_int64 * len(values))(*values)
