#!/usr/bin/env bash
# Gathers the files of an image: programs, the libraries that they load, and who
# they come from.
set -euo pipefail

usage() {
  cat <<'END'
Usage: collect-files.sh TARGET PROGRAM...

Fills the directory TARGET with the programs at their own paths, every shared
library that they load, Debian's record of each library's package in
/var/lib/dpkg/status.d (where scanners look for it) with its copyright file,
user 65532 ("nonroot"), and the empty directories /models and /tmp. Nothing else
is there: no shell, no package manager, no certificates. Needs Debian and root.
END
}

case "${1:-}" in
  --help | -h) usage; exit 0 ;;
esac
(($# >= 2)) || { usage >&2; exit 2; }
target="$1"
shift
programs=("$@")

if [[ -e "$target" ]]; then
  echo "collect-files.sh: $target is there already: name a new directory." >&2
  exit 1
fi

# Its libraries lie below /usr, with links from the root.
mkdir -p "$target"/{dev,etc,models,proc,sys,tmp} "$target"/usr/{bin,lib,lib64} \
  "$target/var/lib/dpkg/status.d"
chmod 1777 "$target/tmp"
for link in bin lib lib64; do
  ln -s "usr/$link" "$target/$link"
done

declare -A packages=()

# Follows links in directories, not the name itself: programs ask for the name.
copy_library() {
  local directory name path
  directory="$(realpath "$(dirname "$1")")"
  name="$(basename "$1")"
  path="$directory/$name"
  mkdir -p "$target$directory"
  [[ -e "$target$path" ]] || cp --dereference --preserve=mode,timestamps \
    "$path" "$target$path"

  # Packages list some files below /usr and some through the links that lead
  # there from the root; dpkg-query complains of the spelling that it lacks.
  local package
  package="$( (dpkg-query --search "$path" "${path#/usr}" 2> /dev/null ||
    true) | head -n 1 | cut -d: -f1)"
  if [[ -z "$package" ]]; then
    echo "collect-files.sh: no package has $path." >&2
    return 1
  fi
  packages["$package"]=1
}

for program in "${programs[@]}"; do
  mkdir -p "$target$(dirname "$program")"
  cp --preserve=mode,timestamps "$program" "$target$program"
  loaded="$(ldd "$program")"
  if [[ "$loaded" == *"not found"* ]]; then
    printf 'collect-files.sh: %s loads what is not here:\n%s\n' "$program" \
      "$(grep 'not found' <<< "$loaded")" >&2
    exit 1
  fi
  while read -r library; do
    copy_library "$library"
  done < <(grep -oE '(=> )?/[^ ]+' <<< "$loaded" | sed 's/^=> //')
done

for package in "${!packages[@]}"; do
  dpkg-query --status "$package" > "$target/var/lib/dpkg/status.d/$package"
  mkdir -p "$target/usr/share/doc/$package"
  cp --dereference "/usr/share/doc/$package/copyright" \
    "$target/usr/share/doc/$package/copyright"
done

licence="$(dirname "${BASH_SOURCE[0]}")/LICENSE"
if [[ -f "$licence" ]]; then
  mkdir -p "$target/usr/share/doc/sparseserve"
  cp "$licence" "$target/usr/share/doc/sparseserve/copyright"
fi

cp --dereference /etc/os-release "$target/etc/os-release"
echo "hosts: files dns" > "$target/etc/nsswitch.conf"
cat > "$target/etc/passwd" <<'END'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin
END
cat > "$target/etc/group" <<'END'
root:x:0:
nonroot:x:65532:
END

echo "collect-files.sh: ${#packages[@]} packages," \
  "$(du -sm "$target" | cut -f1) MiB in $target."
