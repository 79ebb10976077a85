#!/usr/bin/env bash
# Everything to run on a machine with a real GPU, in less than eight minutes (without the build): every GPU test, the speed of
# well-known shapes, what the device itself gives, flatness, 64 streams, recompute beside streaming, and the papers' figures.
#
#   scripts/gpu-check.sh [--out FOLDER] [--software-ok]    writes gpu-check.json and gpu-check.md, for docs/benchmarks.md
#   scripts/gpu-check.sh --pack FOLDER                     builds here, for a machine without cargo: carry FOLDER there
#
# Where cargo is missing, the binaries in gpu-check-bin/ (or PACK=FOLDER) are taken. It fails if there is only a software adapter;
# with --software-ok it runs in a tiny form there, to see that it works. TEXT=book.txt: a text of 20,000 tokens for `compare`.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "gpu-check: $1" >&2
  exit 1
}

out=target/gpu-check software_ok= pack=
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out needs a folder}; shift ;;
    --pack) pack=${2:?--pack needs a folder}; shift ;;
    --software-ok) software_ok=1 ;;
    *) fail "unknown option $1" ;;
  esac
  shift
done

tests=(kernels shaders)
for file in tests/gpu_*.rs; do tests+=("$(basename "$file" .rs)"); done
commit=$(git describe --always --dirty '--exclude=*' 2>/dev/null || echo unknown)
if [ -n "$pack" ]; then
  mkdir -p "$pack"
  export SINKSTREAM_COMMIT=$commit
  cargo build --release --locked
  strip -o "$pack/sinkstream" "${CARGO_TARGET_DIR:-target}/release/sinkstream"
  for name in "${tests[@]}"; do
    file=$(cargo test --release --locked --no-run --test "$name" 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
    strip -o "$pack/$name" "$file"
  done
  echo "$commit" >"$pack/commit"
  du -sh "$pack"
  exit
fi

if command -v cargo >/dev/null; then
  cargo build --release --locked
  sinkstream=${CARGO_TARGET_DIR:-target}/release/sinkstream
else
  bin=$(cd "${PACK:-gpu-check-bin}" 2>/dev/null && pwd) || fail "neither cargo nor a folder gpu-check-bin: make one with --pack"
  sinkstream=$bin/sinkstream
  commit=$(cat "$bin/commit")
fi

adapters=$("$sinkstream" devices --json)
device=gpu
case $adapters in
  *'"type":"DiscreteGpu"'* | *'"type":"IntegratedGpu"'* | *'"type":"VirtualGpu"'*) software= ;;
  *'"type":"Cpu"'*)
    [ -n "$software_ok" ] || fail "only a software adapter here: its numbers say nothing of a GPU (--software-ok runs it all the same)"
    software=1 ;;
  *) fail "no adapter at all; on NVIDIA machines VK_DRIVER_FILES may have to name the driver's .json" ;;
esac
"$sinkstream" devices

mkdir -p "$out"
failed=() runs=() rows=()
started=$SECONDS

# A value of a flat field of a JSON object.
field() {
  grep -oE "\"$1\":(\"[^\"]*\"|[^,}]*)" <<<"$2" | head -1 | sed -E 's/^"[^"]*"://; s/^"//; s/"$//' || true # none
}

# Rounded for the table.
short() {
  case ${1:-null} in null) printf %s - ;; *) printf '%.4g' "$1" ;; esac
}

# `bench` with these options: one object more among the results, one row more in the table.
bench() {
  echo "bench $*" >&2
  if ! last=$(timeout 120 "$sinkstream" bench --device "$device" --quiet --json "$@"); then
    failed+=("\"bench $*\"")
    last={}
    return
  fi
  runs+=("$last")
  local row cells=
  for row in prefill_tokens_per_second decode_tokens_per_second decode_ms_p50 decode_ms_p99 dispatches_per_token \
    submits_per_token bandwidth_ratio share; do
    cells+=" $(short "$(field "$row" "$last")") |"
  done
  rows+=("| $(field model "$last") $(field quant "$last") | $(field attention "$last") $(field sinks "$last") + $(field window "$last") |\
 $(field streams "$last") | $(field position "$last") | $(field tier "$last") |$cells")
}

# Whether a number reaches what is wanted of it, for the end of the table.
wanted=()
want() {
  local verdict=missed
  awk -v value="${2:-null}" -v least="$3" -v most="${4:-1e99}" \
    'BEGIN { exit !(value != "null" && value != "" && value + 0 >= least && value + 0 <= most) }' && verdict=met
  local wish="≥ $3"
  [ -z "${4:-}" ] || wish="$3 to $4"
  wanted+=("| $1 | $(short "$2") | $wish | $verdict |")
}

if command -v cargo >/dev/null; then
  # In the tiny form the kernels alone: the others take minutes in software.
  [ -z "$software" ] || tests=(kernels)
  for name in "${tests[@]}"; do
    cargo test --release --locked --test "$name" || failed+=("\"test $name\"")
  done
else
  [ -z "$software" ] || tests=(kernels)
  for name in "${tests[@]}"; do
    CARGO_MANIFEST_DIR=$PWD SINKSTREAM_BIN=$sinkstream "$bin/$name" || failed+=("\"test $name\"")
  done
fi
echo "tests: $((SECONDS - started)) s" >&2

cache=(--sinks 4 --window 1020)
if [ -n "$software" ]; then
  bench --shape tiny --quant q4_0 --sinks 4 --window 60
  bench --shape tiny --quant q8_0 --sinks 4 --window 60 --attention recompute
  bench --shape tiny --quant f16 --sinks 4 --window 60 --streams 4
else
  bench --shape llama-2-7b --quant q4_0 "${cache[@]}"
  want "7B Q4_0, cache 1024: part of the copy bandwidth" "$(field bandwidth_ratio "$last")" 0.6
  want "7B Q4_0: prefill, tokens/s" "$(field prefill_tokens_per_second "$last")" 5000
  if [[ $adapters == *'"matrix"'* ]]; then
    portable=$(field prefill_tokens_per_second "$last")
    bench --shape llama-2-7b --quant q4_0 "${cache[@]}" --tier matrix
    want "7B Q4_0, tier matrix: prefill, tokens/s" "$(field prefill_tokens_per_second "$last")" 5000
    echo "prefill in tier matrix / portable: $(awk -v a="$(field prefill_tokens_per_second "$last")" -v b="$portable" 'BEGIN { print (b > 0 ? a / b : "null") }')" >&2
  fi
  bench --shape smollm2-135m --quant q8_0 "${cache[@]}"
  want "135M Q8_0: decode, tokens/s" "$(field decode_tokens_per_second "$last")" 1000
  bench --shape llama-2-7b --quant q4_0 --sinks 4 --window 4092
  streaming=$(field decode_ms_p50 "$last")
  bench --shape llama-2-7b --quant q4_0 --sinks 4 --window 4092 --attention recompute
  recompute=$(field decode_ms_p50 "$last")
  want "7B Q4_0, cache 4096: recompute / streaming" "$(awk -v a="$recompute" -v b="$streaming" 'BEGIN { print (b > 0 ? a / b : "null") }')" 22.2
  for shape in smollm2-135m smollm2-360m qwen2.5-0.5b llama-3.2-1b; do
    for quant in q4_0 q8_0 f16; do
      [ "$shape $quant" = "smollm2-135m q8_0" ] || bench --shape "$shape" --quant "$quant" "${cache[@]}"
    done
  done
  for quant in q8_0 f16; do bench --shape llama-2-7b --quant "$quant" "${cache[@]}"; done
  bench --shape smollm2-360m --quant q4_0 "${cache[@]}" --streams 64
  want "64 streams of 360M Q4_0: tokens/s in all" "$(field decode_tokens_per_second "$last")" 20000
  for window in 252 4092; do
    bench --shape smollm2-135m --quant q4_0 --sinks 4 --window "$window"
    bench --shape llama-3.2-1b --quant q4_0 --sinks 4 --window "$window"
  done
fi

flat=(--shape smollm2-135m --quant q4_0 "${cache[@]}")
[ -z "$software" ] || flat=(--shape tiny --quant q4_0 --sinks 4 --window 60)
bench "${flat[@]}" --position 1000000 --against 2000
want "decode at position 1,000,000 / at 2,000" "$(field ratio "$last")" 0.98 1.02
bench "${flat[@]}" --position 4294967396

text=${TEXT:-}
books=../shared/data/text/pg19_test_books.txt.xz
if [ -z "$text" ] && [ -e "$books" ] && command -v xz >/dev/null; then
  text=$(mktemp)
  trap 'rm -f "$text"' EXIT
  xz -dc "$books" >"$text"
fi
compare=null
if [ -n "$text" ]; then
  options=(--device "$device")
  [ -z "$software" ] || options=(--device cpu --tokens 400 --caches 64) # a software adapter takes minutes
  echo compare >&2
  compare=$(timeout 150 "$sinkstream" compare "${options[@]}" --quiet --json --text "$text") || {
    failed+=('"compare"')
    compare=null
  }
else
  echo "NOT CHECKED: compare, because there is no text (TEXT=book.txt)" >&2
fi
seconds=$((SECONDS - started))

join() {
  local IFS=,
  echo "$*"
}
is_software=false
[ -z "$software" ] || is_software=true
{
  echo "{\"commit\":\"$commit\",\"date\":\"$(date -u +%F)\",\"seconds\":$seconds,\"software\":$is_software,"
  echo "\"failed\":[$(join "${failed[@]}")],\"devices\":$adapters,\"compare\":$compare,\"runs\":[$(join "${runs[@]}")]}"
} >"$out/gpu-check.json"

first=${runs[0]:-{\}}
{
  echo "$(field adapter "$first"), commit $commit, $(date -u +%F); \`scripts/gpu-check.sh\`, $seconds s."
  echo "Copy bandwidth $(short "$(field copy_gbps "$first")") GB/s, $(short "$(field dispatch_us "$first")") µs a dispatch, $(short "$(field submit_us "$first")") µs a submit; recompute over streaming of the bundled model: $(short "$(field recompute_over_streaming "$compare")")."
  echo
  echo "| model | cache | streams | position | tier | prefill tokens/s | decode tokens/s | ms p50 | ms p99 | dispatches | submits | bandwidth ratio | roofline share |"
  echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
  printf '%s\n' "${rows[@]}"
  echo
  echo "| figure | found | wanted | |"
  echo "| --- | --- | --- | --- |"
  printf '%s\n' "${wanted[@]}"
} >"$out/gpu-check.md"
cat "$out/gpu-check.md"
[ ${#failed[@]} -eq 0 ] || fail "failed: $(join "${failed[@]}")"
