#!/usr/bin/env bash
# Obtains the one library of cuBLAS that the server loads on GPUs.
set -euo pipefail

usage() {
  cat <<'END'
Usage: fetch-cublas.sh TARGET

Downloads cuBLAS from PyPI, in the version and with the hash that
install-cuda-compiler.sh names (425 MB, under NVIDIA's licence), and puts
libcublasLt into TARGET/usr/local/cuda/lib, its licence and the wheel's METADATA
into TARGET/usr/share/doc/cublas.
END
}

case "${1:-}" in
  --help | -h) usage; exit 0 ;;
esac
(($# == 1)) || { usage >&2; exit 2; }
target="$1"

# Beside this script in an image, one folder up in the source tree.
here="$(dirname "${BASH_SOURCE[0]}")"
installer="$here/install-cuda-compiler.sh"
[[ -f "$installer" ]] || installer="$here/../install-cuda-compiler.sh"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if ! grep '^nvidia-cublas==.* --hash=' "$installer" > "$work/requirements.txt"
then
  echo "fetch-cublas.sh: $installer names no nvidia-cublas." >&2
  exit 1
fi
python3 -m pip download --dest "$work" --no-deps --only-binary=:all: \
  --require-hashes --no-cache-dir --disable-pip-version-check \
  --requirement "$work/requirements.txt" < /dev/null >&2

python3 - "$target" "$work"/nvidia_cublas-*.whl <<'END'
import pathlib
import re
import shutil
import sys
import zipfile

target, wheel = map(pathlib.Path, sys.argv[1:])
libraries = 0
with zipfile.ZipFile(wheel) as archive:
    for member in archive.infolist():
        name = pathlib.PurePosixPath(member.filename).name
        if re.fullmatch(r"libcublasLt\.so\.\d+", name):
            file = target / "usr/local/cuda/lib" / name
            libraries += 1
        elif name and ("/licenses/" in member.filename or name == "METADATA"):
            file = target / "usr/share/doc/cublas" / name
        else:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, open(file, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
if libraries != 1:
    sys.exit(f"fetch-cublas.sh: {wheel.name} holds {libraries} files "
             "libcublasLt.so.N, not one.")
END
