#!/usr/bin/env bash
# Finds a kubectl that renders deploy/kustomize, or obtains one.
set -euo pipefail

usage() {
  cat <<'END'
Usage: deploy/install-kubectl.sh

Prints the path of kubectl if the one on PATH has Kustomize 5 or later. Debian
12 has an older one: then that of Debian 13 (17 MB), which runs on both, is
unpacked into ${XDG_CACHE_HOME:-$HOME/.cache}/sparseserve/kubectl, and nothing is
installed. Progress goes to standard error.
END
}

case "${1:-}" in
  "") ;;
  --help | -h) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

renders() {
  local version
  version="$("$1" version --client 2> /dev/null |
    sed -n 's/^Kustomize Version: v\([0-9]*\).*/\1/p')"
  [[ -n "$version" ]] && ((version >= 5))
}

for kubectl in "$(command -v kubectl || true)" \
  "${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/sparseserve/kubectl"; do
  if [[ -x "$kubectl" ]] && renders "$kubectl"; then
    echo "$kubectl"
    exit 0
  fi
done

mkdir -p "$(dirname "$kubectl")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p lists/partial
key=/usr/share/keyrings/debian-archive-keyring.gpg
# Where this system has its own packages from.
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
  sed -n '/\/debian\/$/{p;q}')"
if [[ -z "$mirror" ]]; then
  echo "kubectl: apt knows no mirror of Debian; install kubectl 1.27 or later." >&2
  exit 1
fi
echo "deb [signed-by=$key] $mirror trixie main" > list
# Lists of its own: the system's packages stay those of its release.
apt=(apt-get --quiet -o "Dir::State::lists=$work/lists"
  -o "Dir::Etc::sourcelist=$work/list" -o Dir::Etc::sourceparts=-
  -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
  -o APT::Sandbox::User=root)
echo "kubectl: obtaining Debian 13's ..." >&2
"${apt[@]}" update < /dev/null >&2
"${apt[@]}" download kubectl/trixie < /dev/null >&2
dpkg-deb --extract kubectl_*.deb unpacked
if ! renders unpacked/usr/bin/kubectl; then
  echo "kubectl: Debian 13's has no Kustomize 5." >&2
  exit 1
fi
# In the same directory first, so that nobody ever sees half a program.
cp unpacked/usr/bin/kubectl "$kubectl.$$"
mv "$kubectl.$$" "$kubectl"
echo "$kubectl"
