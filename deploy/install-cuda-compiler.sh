#!/usr/bin/env bash
# Obtains NVIDIA's CUDA compiler for machines that have none: enough to compile
# the GPU's kernels, for which no GPU is needed. Prints where nvcc is.
set -euo pipefail

version="13.0.88"

usage() {
  cat <<'END'
Usage: deploy/install-cuda-compiler.sh [DIR]

Downloads nvcc 13.0, the headers and static libraries of the CUDA runtime and the
headers of cuBLAS from PyPI (530 MB, of which it keeps 270 MB, under NVIDIA's
licence) into DIR unless they are there. DIR is ${XDG_CACHE_HOME:-$HOME/.cache}/sparseserve/cuda-13.0.88 if
none is named. Progress goes to standard error; the last line of standard output
is the path of nvcc, for

  cmake --preset release -DCMAKE_CUDA_COMPILER=PATH
  NVCC=PATH tests/gpu/run.sh compile

To run on a GPU, install NVIDIA's CUDA Toolkit: here are no cuBLAS to load, no
profiler and no debugger.
END
}

case "${1:-}" in
  --help | -h) usage; exit 0 ;;
  -*) usage >&2; exit 2 ;;
esac
(($# <= 1)) || { usage >&2; exit 2; }

target="${1:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/sparseserve/cuda-$version}"
nvcc="$target/bin/nvcc"

if [[ -x "$nvcc" ]]; then
  echo "CUDA compiler: is there." >&2
  "$nvcc" --version >&2
  echo "$nvcc"
  exit 0
fi
if [[ -e "$target" ]]; then
  echo "CUDA compiler: $target is there and holds no bin/nvcc: name another" \
    "directory." >&2
  exit 1
fi
if [[ "$(uname -sm)" != "Linux x86_64" ]]; then
  echo "CUDA compiler: made for Linux x86_64; this is $(uname -sm)." >&2
  exit 1
fi

mkdir -p "$(dirname "$target")"
# Beside the target, so that the last step is one rename: nobody ever sees half
# a compiler.
work="$(mktemp -d "$target.XXXXXX")"
trap 'rm -rf "$work"' EXIT

echo "CUDA compiler: downloading nvcc $version (105 MB) and cuBLAS (425 MB)" \
  "..." >&2
# nvcc and ptxas; cicc and libdevice; headers of the compiler, of the runtime
# with its static library, of CCCL, which cuda_bf16.h includes, and of cuBLASLt.
cat > "$work/requirements.txt" <<'END'
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-cublas==13.1.0.3 --hash=sha256:ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171
END
python3 -m pip download --dest "$work" --no-deps --only-binary=:all: \
  --require-hashes --no-cache-dir --disable-pip-version-check \
  --requirement "$work/requirements.txt" < /dev/null >&2

echo "CUDA compiler: unpacking ..." >&2
toolkit="$work/toolkit"
python3 - "$toolkit" "$work"/*.whl <<'END'
import pathlib
import shutil
import sys
import zipfile

toolkit, *wheels = map(pathlib.Path, sys.argv[1:])
for wheel in wheels:
    package = wheel.name.split("-")[0]
    # Of cuBLAS only the headers: programs load it when they run, and half a
    # gigabyte is not what compiling needs.
    folder = "nvidia/cu13/"
    if package == "nvidia_cublas":
        folder += "include/"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.filename.startswith(folder):
                target = toolkit / member.filename.removeprefix("nvidia/cu13/")
            elif "/licenses/" in member.filename:
                target = toolkit / "licenses" / package
            else:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            if member.external_attr >> 16 & 0o111:
                target.chmod(0o755)
END
if [[ ! -x "$toolkit/bin/nvcc" ]]; then
  echo "CUDA compiler: the wheels hold no nvcc." >&2
  exit 1
fi
# What nvcc and CMake look for, and wheels do not hold: the other name of lib,
# and the shared runtime without its number.
ln -s lib "$toolkit/lib64"
ln -s libcudart.so.13 "$toolkit/lib/libcudart.so"
mv "$toolkit" "$target"

"$nvcc" --version >&2
echo "CUDA compiler: ready." >&2
echo "$nvcc"
