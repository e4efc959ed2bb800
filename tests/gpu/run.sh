#!/usr/bin/env bash
# Compiles the CUDA kernels, their tests and benchmarks with nothing but nvcc
# and runs them all on this machine's GPU, in about six minutes. Results and
# logs go to $OUT (default: out/gpu). An argument says what else:
#   compile  stops after compiling, for which no GPU is needed
#   prefill  only what is about prefill attention
#   decode   only what is about decode attention, in about one minute
#   rows     only what is about rows: embedding, norms, rope and storing, gated
#            activations, products of few rows
#   selection  only what is about the choice of blocks
#   sampling only what is about sampling
#   flex     only prefill over lists of given densities and up to 128K tokens,
#            beside cuDNN and FlexAttention
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
what="${1:-all}"
row_kernels='embedding|rms_norm|rope_and_store|gated_activation|few_rows'
row_kernels+='|row_kernels|memory_passes'
case "$what" in  # and which files are not for it
  all | compile) skipped='^$' ;;
  prefill) skipped="decode|selection|sampler|$row_kernels" ;;
  decode) skipped="prefill|hopper|selection|sampler|$row_kernels" ;;
  rows)
    skipped='decode|prefill|hopper|attention|selection|sampler|list_kinds|tensor_map'
    ;;
  selection)
    skipped="(decode_attention|prefill_attention|pace|primitives)_(test|bench)$"
    skipped="$skipped|sampler|$row_kernels"
    ;;
  sampling)
    skipped="prefill|decode|primitives|tensor_map|attention|list_kinds|selection"
    skipped="$skipped|matrix_products|cublas|$row_kernels"
    ;;
  flex) skipped="decode|selection|sampler|_test$|$row_kernels" ;;
  *)
    echo "unknown: $what; all, compile, prefill, decode, rows, selection," \
      "sampling, flex are known" >&2
    exit 2
    ;;
esac
wanted() { [[ ! "$1" =~ $skipped ]]; }
out="${OUT:-$PWD/out/gpu}"
build="${BUILD:-/tmp/sparseserve-gpu}"
nvcc="${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}"
mkdir -p "$out" "$build"

# FlexAttention is compiled while nvcc works; what it leaves in torch's cache is
# found later.
flex_compiler=""
if [ "$what" = flex ]; then
  timeout 80 python3 tests/bench/cuda/attention_peers.py --compile_only \
    > "$out/flex_compile.log" 2>&1 &
  flex_compiler=$!
fi

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
  tests/bench/cuda/*.c[cu]; do
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

tests() {  # names...
  for name in "$@"; do
    wanted "$name" || continue
    LINES_SHOWN=25 report "$name" "$build/$name"
  done
}

peers() {  # seconds, script, benchmark, arguments...
  wanted "$3" && [ "$failed" = 0 ] || return 0
  LIMIT="$1" LINES_SHOWN=80 report "$2" python3 "tests/bench/cuda/$2.py" \
    --bench="$build/$3" --out="$out" "${@:4}"
}

memchecks() {  # names...
  for name in "$@"; do
    wanted "$name" || continue
    arguments=()
    # Under memcheck a launch takes many times as long.
    [[ "$name" != @(decode_attention|device_sampler|*selection)_test ]] ||
      arguments=(--short)
    LIMIT=60 report "memcheck_$name" compute-sanitizer --tool=memcheck \
      --error-exitcode=9 "$build/$name" "${arguments[@]}"
  done
}

run_all() {
  local names=(decode_attention_test device_sampler_test hopper_primitives_test
    hopper_prefill_pace_test prefill_attention_test selection_test
    last_rows_selection_test embedding_test rms_norm_test rope_and_store_test
    gated_activation_test few_rows_product_test)
  tests "${names[@]}"
  peers 100 decode_peers decode_attention_bench
  peers 240 attention_peers prefill_attention_bench
  if wanted row_kernels_bench && [ "$failed" = 0 ]; then
    LINES_SHOWN=80 report row_kernels_bench "$build/row_kernels_bench" \
      --csv="$out/row_kernels.csv"
  fi
  choices
  memchecks "${names[@]}"
}

choices() {  # times, then races
  wanted selection_test && [ "$failed" = 0 ] || return 0
  LINES_SHOWN=12 report block_selection_bench "$build/block_selection_bench" \
    --csv="$out/block_selection_bench.csv"
  for name in selection_test last_rows_selection_test; do
    LIMIT=120 report "racecheck_$name" compute-sanitizer --tool=racecheck \
      --error-exitcode=9 "$build/$name" --short
  done
}

run_flex() {
  # It says itself what it did not compile; the peers then try once more.
  wait "$flex_compiler"
  cat "$out/flex_compile.log"
  peers 200 attention_peers prefill_attention_bench --cases=densities
}

case "$what" in
  flex) run_flex ;;
  *) run_all ;;
esac
exit "$failed"
