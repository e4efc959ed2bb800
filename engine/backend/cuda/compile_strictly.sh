#!/bin/sh
# Runs a compiler's command. Fails also where ptxas only remarks that registers
# were spilled, that products of warpgroups run one after another (C7510), or
# that setmaxnreg is ignored (C7508 and neighbours): kernels would be right, and
# slow. With COMPILE_LIMIT_S set, says how many seconds of processor time a file
# took, and fails where they are more than that: kernels are many templates away
# from minutes.
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
[ -n "${COMPILE_LIMIT_S:-}" ] || exit 0
source=""
for argument; do
  case "$argument" in *.cu | *.cc) source="$argument" ;; esac
done
# The second line is of the children: minutes and seconds, of user and system.
times > "$log"
awk -F '[ms ]+' -v source="$source" -v limit="$COMPILE_LIMIT_S" '
  NR == 2 {
    seconds = 60 * ($1 + $3) + $2 + $4
    printf "compile_strictly: %.1f s: %s\n", seconds, source
    if (seconds > limit) {
      printf "compile_strictly: more than %s s\n", limit
      exit 1
    }
  }' "$log" >&2
