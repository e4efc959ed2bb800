#!/bin/sh
# Runs a compiler's command. Fails also where ptxas only remarks that registers
# were spilled, that products of warpgroups run one after another (C7510), or
# that setmaxnreg is ignored (C7508 and neighbours): kernels would be right, and
# slow.
log="$(mktemp)" || exit 1
trap 'rm -f "$log"' EXIT
"$@" > "$log" 2>&1
code=$?
cat "$log" >&2
[ "$code" = 0 ] || exit "$code"
if grep -E '[1-9][0-9]* bytes spill|\(C75[0-9]+\)|setmaxnreg.*ignored' "$log" >&2; then
  echo "compile_strictly: see the lines above" >&2
  exit 1
fi
