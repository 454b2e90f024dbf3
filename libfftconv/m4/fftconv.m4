# fftconv.m4: the checks that configure.ac makes more than once, or at length.

# FFTCONV_CHECK_FLAG(FLAGS, [IF-YES], [IF-NO])
# Does the compiler take FLAGS?  -Werror, because clang only warns of an option
# it does not know.
AC_DEFUN([FFTCONV_CHECK_FLAG],
[fftconv_save_CFLAGS=$CFLAGS
CFLAGS="$CFLAGS -Werror $1"
AC_MSG_CHECKING([whether $CC accepts $1])
AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
  [fftconv_flag=yes], [fftconv_flag=no])
AC_MSG_RESULT([$fftconv_flag])
CFLAGS=$fftconv_save_CFLAGS
AS_IF([test $fftconv_flag = yes], [$2], [$3])])

# FFTCONV_CHECK_LINK_FLAG(FLAG, [IF-YES], [IF-NO])
AC_DEFUN([FFTCONV_CHECK_LINK_FLAG],
[fftconv_save_LDFLAGS=$LDFLAGS
LDFLAGS="$LDFLAGS $1"
AC_MSG_CHECKING([whether $CC links with $1])
AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])],
  [fftconv_flag=yes], [fftconv_flag=no])
AC_MSG_RESULT([$fftconv_flag])
LDFLAGS=$fftconv_save_LDFLAGS
AS_IF([test $fftconv_flag = yes], [$2], [$3])])

# FFTCONV_ADD_FLAGS(VARIABLE, FLAGS): add FLAGS to VARIABLE if they are taken.
AC_DEFUN([FFTCONV_ADD_FLAGS],
[FFTCONV_CHECK_FLAG([$2], [$1="$$1 $2"])])

# FFTCONV_ISA(NAME, FLAGS, [CONDITION])
# The conditional HAVE_<NAME>, the substitution <NAME>_CFLAGS and, in config.h,
# FFTCONV_HAVE_<NAME>, if CONDITION (a command; none: always) holds, the host is
# x86 and the compiler takes FLAGS.
AC_DEFUN([FFTCONV_ISA],
[m4_pushdef([UP], m4_toupper([$1]))dnl
AS_CASE([$host_cpu],
  [x86_64|amd64|i?86],
  [FFTCONV_CHECK_FLAG([$2], [fftconv_isa=yes], [fftconv_isa=no])],
  [fftconv_isa=no])
m4_ifnblank([$3], [$3 || fftconv_isa=no])
AS_IF([test $fftconv_isa = yes],
  [ISA_NAMES="$ISA_NAMES $1"
   AC_DEFINE([FFTCONV_HAVE_]UP, [1],
     [Define to 1 if the engine is compiled for the instruction set $1.])])
AC_SUBST(UP[_CFLAGS], ["$2"])
AM_CONDITIONAL([HAVE_]UP, [test $fftconv_isa = yes])
m4_popdef([UP])])

# FFTCONV_SANITIZERS
# Flags for the library and the C tests, and in SANITIZER_PRELOAD the runtime
# that a Python without sanitizers must load first.  libstdc++ goes with it:
# AddressSanitizer looks up the C++ throw before NumPy brings the library in.
# The three checks of pointers left out triple the engine's compile time, and
# what they guard against AddressSanitizer sees when the memory is touched; that
# of C++ objects has a runtime of its own, and there is none to check.
AC_DEFUN([FFTCONV_SANITIZERS],
[SANITIZER_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
SANITIZER_FLAGS="$SANITIZER_FLAGS -fno-sanitize=null,object-size,pointer-overflow,vptr"
AC_MSG_CHECKING([for the AddressSanitizer runtime])
AS_IF([$CC --version 2>/dev/null | grep -i clang >/dev/null],
  [SANITIZER_FLAGS="$SANITIZER_FLAGS -shared-libasan"
   fftconv_asan=`$CC -print-file-name=libclang_rt.asan-$host_cpu.so`],
  [fftconv_asan=`$CC -print-file-name=libasan.so`
   fftconv_ubsan=`$CC -print-file-name=libubsan.so`])
fftconv_stdcxx=`$CC -print-file-name=libstdc++.so.6`
AS_IF([test -f "$fftconv_asan"], [],
  [AC_MSG_ERROR([--enable-sanitizers was asked for, but $CC has no shared AddressSanitizer])])
AC_MSG_RESULT([$fftconv_asan])
SANITIZER_PRELOAD=$fftconv_asan
AS_IF([test -f "$fftconv_stdcxx"],
  [SANITIZER_PRELOAD="$SANITIZER_PRELOAD:$fftconv_stdcxx"])
# Libtool links C++ libraries without the runtimes that -fsanitize asks for.
AS_IF([test -f "$fftconv_ubsan"],
  [SANITIZER_PRELOAD="$SANITIZER_PRELOAD:$fftconv_ubsan"])
LIB_CFLAGS="$LIB_CFLAGS $SANITIZER_FLAGS"
# Named again for the linker: libtool drops -fsanitize from compiler flags of
# shared libraries unless it comes as a linker flag too.
LIB_LDFLAGS="$LIB_LDFLAGS $SANITIZER_FLAGS"
FFTCONV_CHECK_LINK_FLAG([$SANITIZER_FLAGS], [],
  [AC_MSG_ERROR([--enable-sanitizers was asked for, but $CC cannot link with it])])])

# FFTCONV_CXX: the conditional HAVE_CXX, and LIB_CXXFLAGS: does the C++ compiler
# work, and know C++17?
AC_DEFUN([FFTCONV_CXX],
[AC_LANG_PUSH([C++])
fftconv_save_CXXFLAGS=$CXXFLAGS
LIB_CXXFLAGS="-std=c++17 -Wall -Wextra -fvisibility=hidden -pthread $SANITIZER_FLAGS"
CXXFLAGS="$CXXFLAGS $LIB_CXXFLAGS"
AC_MSG_CHECKING([whether $CXX compiles C++17])
AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <vector>]],
    [[if (const int x = 1; true) return x - 1;]])],
  [fftconv_cxx=yes], [fftconv_cxx=no])
AC_MSG_RESULT([$fftconv_cxx])
CXXFLAGS=$fftconv_save_CXXFLAGS
AC_LANG_POP([C++])
AC_SUBST([LIB_CXXFLAGS])
AM_CONDITIONAL([HAVE_CXX], [test $fftconv_cxx = yes])])

# FFTCONV_CUDA: --with-cuda[=DIR|no], --with-cuda-arch; sets NVCC, NVCC_FLAGS,
# CUDA_LIBS, CUDA_SUMMARY and the conditional HAVE_CUDA.
# The runtime is linked statically: the library loads where there is no driver.
AC_DEFUN([FFTCONV_CUDA],
[AC_ARG_WITH([cuda],
  [AS_HELP_STRING([--with-cuda@<:@=DIR@:>@],
    [the CUDA engine, with DIR/bin/nvcc if given @<:@default=check@:>@])],
  [], [with_cuda=check])
AC_ARG_WITH([cuda-arch],
  [AS_HELP_STRING([--with-cuda-arch=LIST],
    [compute capabilities to compile for, as in 80,90a,100; the first as PTX too, which later devices translate @<:@default=those of this machine's GPUs, else 80@:>@])],
  [], [with_cuda_arch=])
AC_ARG_VAR([NVCC], [CUDA compiler])
AS_CASE([$with_cuda],
  [no], [NVCC=],
  [yes|check],
    [AC_PATH_PROG([NVCC], [nvcc], [], [$PATH$PATH_SEPARATOR/usr/local/cuda/bin])],
  [AC_PATH_PROG([NVCC], [nvcc], [], [$with_cuda/bin])])
# The host code of the engine is tested with sanitizers without it.
AS_IF([test "x$enable_sanitizers" = xyes], [NVCC=])
# Of the GPUs that are seen, what the engine runs on and nvcc knows.
AS_IF([test -n "$NVCC" && test -z "$with_cuda_arch"],
  [for fftconv_arch in `nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
      sed -n 's/^\(@<:@0-9@:>@@<:@0-9@:>@*\)\.\(@<:@0-9@:>@\) *$/\1\2/p' | sort -nu`; do
     AS_IF([test $fftconv_arch -ge 80 &&
            $NVCC --list-gpu-code 2>/dev/null | grep -x sm_$fftconv_arch >/dev/null],
       [with_cuda_arch=$with_cuda_arch${with_cuda_arch:+,}$fftconv_arch])
   done])
: ${with_cuda_arch:=80}
NVCC_FLAGS="-std=c++17 -O3 -forward-unknown-to-host-compiler -fvisibility=hidden"
for fftconv_arch in `echo $with_cuda_arch | tr , ' '`; do
  fftconv_code=sm_$fftconv_arch
  test "$fftconv_arch" = "${with_cuda_arch%%,*}" &&
    fftconv_code="[[$fftconv_code,compute_$fftconv_arch]]"
  NVCC_FLAGS="$NVCC_FLAGS -gencode=arch=compute_$fftconv_arch,code=$fftconv_code"
done
CUDA_LIBS=
AS_IF([test -n "$NVCC"],
  [AC_MSG_CHECKING([whether $NVCC compiles for $with_cuda_arch])
   echo '__global__ void f(int *x) { *x = 1; }' >conftest.cu
   AS_IF([$NVCC $NVCC_FLAGS -c conftest.cu -o conftest.o >&AS_MESSAGE_LOG_FD 2>&1],
     [CUDA_LIBS="`$NVCC --dryrun conftest.cu 2>&1 | sed -n 's/^#\$ LIBRARIES= *//p' | tr -d '\"'` -lcudart_static -lstdc++ -ldl -lrt -Wl,--exclude-libs,libcudart_static.a"
      AC_MSG_RESULT([yes])],
     [AC_MSG_RESULT([no])
      NVCC=])
   rm -f conftest.cu conftest.o])
fftconv_save_LIBS=$LIBS
AS_IF([test -n "$NVCC"],
  [LIBS="$CUDA_LIBS $LIBS"
   AC_MSG_CHECKING([for the static CUDA runtime])
   AC_LINK_IFELSE([AC_LANG_PROGRAM([[int cudaGetDeviceCount(int *);]],
       [[int n; return cudaGetDeviceCount(&n);]])],
     [AC_MSG_RESULT([yes])],
     [AC_MSG_RESULT([no])
      NVCC=])])
LIBS=$fftconv_save_LIBS
AS_IF([test -n "$NVCC"],
  [CUDA_SUMMARY="$NVCC, for compute capability $with_cuda_arch and later"],
  [CUDA_LIBS=
   CUDA_SUMMARY="none: the library runs on the CPU only"
   AS_CASE([$with_cuda],
     [no], [CUDA_SUMMARY="not looked for (--without-cuda)"],
     [check], [],
     [AS_IF([test "x$enable_sanitizers" = xyes],
       [AC_MSG_ERROR([--with-cuda and --enable-sanitizers do not go together])],
       [AC_MSG_ERROR([--with-cuda was asked for, but no nvcc was found that compiles for $with_cuda_arch and has the static runtime; name the toolkit with --with-cuda=DIR, or other architectures with --with-cuda-arch])])])])
AC_SUBST([NVCC_FLAGS])
AC_SUBST([CUDA_LIBS])
AM_CONDITIONAL([HAVE_CUDA], [test -n "$NVCC"])])
