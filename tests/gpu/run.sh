#!/usr/bin/env bash
# Compiles the CUDA kernels, their tests and benchmarks with nothing but nvcc
# and runs them on this machine's GPU: all of them, in about four minutes, or
# with "decode" or "prefill" as the only argument what is about that, decode in
# about one. Results and logs go to $OUT (default: out/gpu). With "compile" as
# the only argument it stops after compiling all, for which no GPU is needed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out="${OUT:-$PWD/out/gpu}"
build="${BUILD:-/tmp/sparseserve-gpu}"
what="${1:-all}"
case "$what" in  # and which files are not for it
  all | compile) skipped='^$' ;;
  decode) skipped='prefill|hopper' ;;
  prefill) skipped='decode' ;;
  *)
    echo "usage: run.sh [decode|prefill|compile]" >&2
    exit 2
    ;;
esac
wanted() { [[ ! "$1" =~ $skipped ]]; }
nvcc="${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}"
mkdir -p "$out" "$build"

compile() {  # object, source
  local code=(-gencode=arch=compute_80,code=sm_80
    -gencode=arch=compute_90,code=sm_90
    -gencode=arch=compute_80,code=compute_80)
  [[ "$1" != hopper_* ]] || code=(-gencode=arch=compute_90a,code=sm_90a)
  engine/backend/cuda/compile_strictly.sh "$nvcc" -c "$2" -o "$build/$1.o" \
    -std=c++20 -O3 -I. -lineinfo -Xptxas -v "${code[@]}" \
    > "$build/$1.log" 2>&1 || {
    cat "$build/$1.log"
    return 1
  }
}

pids=()
objects=()
for source in engine/backend/cuda/*.cu tests/engine/backend/cuda/*.c[cu] \
  tests/bench/cuda/*.cc; do
  name="$(basename "${source%.*}")"
  wanted "$name" || continue
  objects+=("$name")
  compile "$name" "$source" &
  pids+=($!)
  # On small machines one after another.
  [ "$(nproc)" -ge 8 ] || wait "${pids[-1]}" || exit 1
done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
cat "$build"/*.log > "$out/compile.log"

kernels=()
shared=()
programs=()
for name in "${objects[@]}"; do
  case "$name" in
    *_test | *_bench) programs+=("$name") ;;
    *) shared+=("$build/$name.o") ;;
  esac
done
for name in "${programs[@]}"; do
  "$nvcc" -o "$build/$name" "$build/$name.o" "${shared[@]}" -ldl || exit 1
done
[ "$what" = compile ] && exit 0

failed=0
report() {  # name, command...
  local name="$1" begin=$SECONDS
  shift
  timeout "${LIMIT:-45}" "$@" > "$build/$name.out" 2>&1
  local code=$?
  tail -n "${LINES_SHOWN:-4}" "$build/$name.out"
  echo "=== $name: exit code $code, $((SECONDS - begin)) s" |
    tee -a "$build/$name.out"
  cat "$build/$name.out" >> "$out/run.log"
  [ "$code" = 0 ] || failed=1
}

: > "$out/run.log"
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,power.limit \
  --format=csv | tee "$out/device.csv"
"$nvcc" --version | tail -n 2 | tee -a "$out/device.csv"
for name in decode_attention_test hopper_primitives_test \
  prefill_attention_test hopper_prefill_pace_test; do
  wanted "$name" || continue
  LINES_SHOWN=25 report "$name" "$build/$name"
done
peers() {  # script, benchmark
  wanted "$2" && [ "$failed" = 0 ] || return 0
  LINES_SHOWN=60 LIMIT=100 report "$1" python3 "tests/bench/cuda/$1.py" \
    --bench="$build/$2" --out="$out"
}
peers decode_peers decode_attention_bench
peers attention_peers prefill_attention_bench
for name in decode_attention_test hopper_primitives_test \
  hopper_prefill_pace_test prefill_attention_test; do
  wanted "$name" || continue
  arguments=()
  # Under memcheck a launch takes many times as long.
  [ "$name" != decode_attention_test ] || arguments=(--short)
  LIMIT=60 report "memcheck_$name" compute-sanitizer --tool=memcheck \
    --error-exitcode=9 "$build/$name" "${arguments[@]}"
done
exit "$failed"
