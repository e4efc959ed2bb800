#!/usr/bin/env bash
# Installs what sparseserve needs from Debian's packages. Safe to repeat: what
# is there is left alone.
set -euo pipefail

usage() {
  cat <<'END'
Usage: deploy/install-dependencies.sh [--tests] [--list]

Installs the Debian 12 packages that building and running sparseserve needs,
as root or through sudo. Packages that are already there are left alone.

  --tests  also what the tests and the checks need
  --list   print the packages instead, one a line
  --help   this text
END
}

# To build and run the server and the client, and to fetch the default model.
build_packages=(
  build-essential cmake ninja-build pkg-config
  libgrpc++-dev libgrpc-dev protobuf-compiler-grpc libssl-dev
  libprotobuf-dev protobuf-compiler libabsl-dev
  prometheus-cpp-dev nlohmann-json3-dev zlib1g-dev
  libdnnl-dev libhwy-dev libpcre2-dev libutf8proc-dev
  ca-certificates python3 python3-pip
)
# promtool is in the package of the Prometheus server: rules and dashboards are tried
# with both. buildah and mmdebstrap build the image without a registry.
test_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev
  clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev lld
  prometheus python3-grpcio python3-protobuf python3-yaml
  chromium chromium-driver python3-selenium
  buildah mmdebstrap openssl
)

packages=("${build_packages[@]}")
list=false
for argument in "$@"; do
  case "$argument" in
    --tests) packages+=("${test_packages[@]}") ;;
    --list) list=true ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

if $list; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi

if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
  echo "This script knows Debian's apt-get, which is not here. Needed are" \
    "(by their Debian names): ${packages[*]}" >&2
  exit 1
fi
# shellcheck source=/dev/null
system="$(. /etc/os-release && echo "${ID:-?} ${VERSION_ID:-?}")"
if [[ "$system" != "debian 12" ]]; then
  echo "Note: made for Debian 12; this is $system. Going on with the same" \
    "package names." >&2
fi

missing=()
for package in "${packages[@]}"; do
  state="$(dpkg-query --show --showformat='${db:Status-Status}' "$package" \
    2> /dev/null || true)"
  # Several architectures of one package are listed one after the other.
  [[ "$state" == installed* ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "Dependencies: all ${#packages[@]} packages are installed."
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo > /dev/null; then
    echo "Not root, and there is no sudo. As root, run:" \
      "apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "Dependencies: installing ${#missing[@]} packages: ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet
  -o Dpkg::Use-Pty=0)
"${apt[@]}" update < /dev/null
"${apt[@]}" install --no-install-recommends "${missing[@]}" < /dev/null

# Tests start their own; the service would hold port 9090.
if [[ " ${missing[*]} " == *" prometheus "* && -d /run/systemd/system ]]; then
  echo "Dependencies: stopping the prometheus service that came with its package."
  "${as_root[@]}" systemctl disable --now prometheus.service
fi
echo "Dependencies: done."
