#!/usr/bin/env bash
# Measures anew what deploy/profiles has of the default model.
set -euo pipefail

usage() {
  cat <<'END'
Usage: deploy/profiles/calibrate-default-model.sh [FLAG...]

Runs sparseserve-calibrate on the default model, with texts of Debian 12's
packages, and writes deploy/profiles/SmolLM2-135M-Instruct.Q4_1.textproto. What
was measured is kept beside the model: after an interruption it goes on. Flags
go to the program:

  --minutes=20   stop after so long, with fewer texts and wider bounds
  --output=FILE  write elsewhere

CALIBRATE names the program, if it is not
build/release/server/calibration/sparseserve-calibrate.
END
}

case "${1:-}" in
  --help | -h) usage; exit 0 ;;
esac

folder="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$folder/../.." && pwd)"
calibrate="${CALIBRATE:-$root/build/release/server/calibration/sparseserve-calibrate}"

# Package and files of it: prose, then programs.
texts=(
  vim-runtime
  /usr/share/vim/vim90/doc/usr_41.txt
  /usr/share/vim/vim90/doc/intro.txt
  /usr/share/vim/vim90/doc/motion.txt
  /usr/share/vim/vim90/doc/quickfix.txt
  /usr/share/vim/vim90/doc/insert.txt
  /usr/share/vim/vim90/doc/windows.txt
  /usr/share/vim/vim90/doc/spell.txt
  perl-modules-5.36
  /usr/share/perl/5.36.0/pod/perldiag.pod
  /usr/share/perl/5.36.0/Locale/Maketext/TPJ13.pod
  /usr/share/perl/5.36.0/CPAN.pm
  libpython3.11-stdlib
  /usr/lib/python3.11/pydoc_data/topics.py
  /usr/lib/python3.11/tarfile.py
  /usr/lib/python3.11/mailbox.py
  /usr/lib/python3.11/statistics.py
  /usr/lib/python3.11/pdb.py
  libpython3.11-minimal
  /usr/lib/python3.11/argparse.py
  /usr/lib/python3.11/inspect.py
  /usr/lib/python3.11/subprocess.py
  /usr/lib/python3.11/pathlib.py
  libstdc++-12-dev
  /usr/include/c++/12/bits/stl_algo.h
  /usr/include/c++/12/bits/regex.h
  /usr/include/c++/12/bits/hashtable.h
  base-files
  /usr/share/common-licenses/GPL-3
)

package=""
files=()
for entry in "${texts[@]}"; do
  if [[ "$entry" != /* ]]; then
    package="$entry"
  elif [[ -f "$entry" ]]; then
    files+=("$entry")
  else
    echo "$entry is missing: install Debian 12's package $package" >&2
    exit 1
  fi
done
if [[ ! -x "$calibrate" ]]; then
  echo "$calibrate is missing: cmake --build --preset release" >&2
  exit 1
fi

model="$("$root/deploy/fetch-model.sh" | tail -n 1)"
exec "$calibrate" --model="$model" \
  --output="$folder/SmolLM2-135M-Instruct.Q4_1.textproto" \
  --resume="$(dirname "$model")/calibration.jsonl" \
  --texts_per_file=1 "$@" "${files[@]}"
