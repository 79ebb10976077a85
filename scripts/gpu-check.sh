#!/usr/bin/env bash
# Everything to run on a machine with a real GPU, in less than eight minutes (without the build): the figures that are judged first,
# flatness, 64 streams, recompute beside streaming, the papers' figures, every GPU test, then more shapes and caches.
# What does not fit into the time is skipped and said so. The results are written anew after each part, so a killed run keeps its own.
#
#   scripts/gpu-check.sh [--out FOLDER] [--software-ok]    writes gpu-check.json and gpu-check.md, for docs/benchmarks.md
#   scripts/gpu-check.sh --pack FOLDER                     builds here, for a machine without cargo: carry FOLDER there
#
# Where cargo is missing, the binaries in gpu-check-bin/ (or PACK=FOLDER) are taken. It fails if there is only a software adapter;
# with --software-ok it runs in a tiny form there, to see that it works. TEXT=book.txt: a text of 20,000 tokens for
# `compare`; else a book that lies beside the project, else what the bundled model writes.
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
# The objects of the list by line, without their outer brackets.
listed=$(sed 's/},{"backend"/}\n{"backend"/g' <<<"$adapters")
software=
adapter=$(for type in DiscreteGpu IntegratedGpu VirtualGpu; do grep -m1 "\"type\":\"$type\"" <<<"$listed" || true; done | head -1)
if [ -z "$adapter" ]; then
  adapter=$(grep -m1 '"type":"Cpu"' <<<"$listed") || fail "no adapter at all; on NVIDIA machines VK_DRIVER_FILES may have to name the driver's .json"
  [ -n "$software_ok" ] || fail "only a software adapter here: its numbers say nothing of a GPU (--software-ok runs it all the same)"
  software=1
fi
"$sinkstream" devices

# A value of a flat field of a JSON object; a list of numbers too.
field() {
  grep -oE "\"$1\":(\"[^\"]*\"|\[[^]]*\]|[^,}]*)" <<<"$2" | head -1 | sed -E 's/^"[^"]*"://; s/^"//; s/"$//' || true # none
}

# Rounded for the table.
short() {
  case ${1:-null} in null) printf %s - ;; *) printf '%.4g' "$1" ;; esac
}

ratio() {
  awk -v a="${1:-null}" -v b="${2:-null}" 'BEGIN { print (a + 0 > 0 && b + 0 > 0 ? a / b : "null") }'
}

join() {
  local IFS=,
  echo "$*"
}

mkdir -p "$out"
device=$(field index "$adapter")
most=470 # seconds in all
failed=() skipped=() runs=() rows=() tested=() wanted=() compare=null last={}
started=$SECONDS

# Seconds left, or failure if there are fewer than $1: then $2 is skipped.
left() {
  seconds=$((most - (SECONDS - started)))
  [ "$seconds" -ge "$1" ] || {
    skipped+=("\"$2\"")
    return 1
  }
}

# What there is so far.
write() {
  local is_software=false first=${runs[0]:-{\}} spent=$((SECONDS - started))
  [ -z "$software" ] || is_software=true
  {
    echo "{\"commit\":\"$commit\",\"date\":\"$(date -u +%F)\",\"seconds\":$spent,\"software\":$is_software,"
    echo "\"failed\":[$(join "${failed[@]}")],\"skipped\":[$(join "${skipped[@]}")],\"tests\":[$(join "${tested[@]}")],"
    echo "\"devices\":$adapters,\"compare\":$compare,\"runs\":[$(join "${runs[@]}")]}"
  } >"$out/gpu-check.json"
  {
    echo "$(field adapter "$first"), driver $(field driver "$first"), commit $commit, $(date -u +%F); \`scripts/gpu-check.sh\`, $spent s."
    echo "Copy bandwidth $(short "$(field copy_gbps "$first")") GB/s, $(short "$(field dispatch_us "$first")") µs a dispatch, $(short "$(field submit_us "$first")") µs a submit; recompute over streaming of the bundled model: $(short "$(field recompute_over_streaming "$compare")")."
    echo
    echo "| figure | found | wanted | |"
    echo "| --- | --- | --- | --- |"
    printf '%s\n' "${wanted[@]}"
    echo
    echo "| model | cache | chunk | streams | position | tier | prefill tokens/s | decode tokens/s | ms p50 | ms p99 | dispatches | submits | bandwidth ratio | roofline share |"
    echo "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    printf '%s\n' "${rows[@]}"
    echo
    echo "| bytes a dispatch reads | GB/s |"
    echo "| --- | --- |"
    grep -oE '\{[^{}]*"gbps"[^{}]*\}' <<<"$first" | while read -r read; do echo "| $(field bytes "$read") | $(short "$(field gbps "$read")") |"; done
    echo
    echo "Failed: $(join "${failed[@]:-nothing}"). Skipped for want of time: $(join "${skipped[@]:-nothing}"). Tests: $(join "${tested[@]:-none}")."
  } >"$out/gpu-check.md"
}
trap write EXIT
trap 'exit 143' TERM INT

# `bench` with these options: one object more among the results, one row more in the table.
bench() {
  last={}
  left 15 "bench $*" || return 0
  echo "bench $*" >&2
  if ! last=$(timeout "$((seconds < 120 ? seconds : 120))" "$sinkstream" bench --device "$device" --quiet --json "$@"); then
    failed+=("\"bench $*\"")
    last={}
    return
  fi
  runs+=("$last")
  local row cells= chunk=default options="$*"
  [[ $options != *--chunk* ]] || chunk=${options##*--chunk } chunk=${chunk%% *}
  for row in prefill_tokens_per_second decode_tokens_per_second decode_ms_p50 decode_ms_p99 dispatches_per_token \
    submits_per_token bandwidth_ratio share; do
    cells+=" $(short "$(field "$row" "$last")") |"
  done
  rows+=("| $(field model "$last") $(field quant "$last") | $(field attention "$last") $(field sinks "$last") + $(field window "$last") |\
 $chunk | $(field streams "$last") | $(field position "$last") | $(field tier "$last") |$cells")
  write
}

# Whether a number lies where it is wanted: at least $3, or from $3 to $4.
want() {
  local verdict=missed
  awk -v value="${2:-null}" -v least="$3" -v most="${4:-1e99}" \
    'BEGIN { exit !(value != "null" && value != "" && value + 0 >= least && value + 0 <= most) }' && verdict=met
  [ "${2:-null}" != null ] || verdict="not measured"
  local wish="≥ $3"
  [ -z "${4:-}" ] || wish="$3 to $4"
  wanted+=("| $1 | $(short "$2") | $wish | $verdict |")
}

# The counts of the last run, which have limits too.
counts() {
  want "$1: dispatches a token" "$(field dispatches_per_token "$last")" 1 "$((5 * $(field layers "$last" | grep -E '^[0-9]+$' || echo 0) + 4))"
  want "$1: submits a token" "$(field submits_per_token "$last")" 0 0.25
  want "$1: waits on one token" "$(field waits_on_one_token "$last")" 0 0
}

cache=(--sinks 4 --window 1020)
seven=(--shape llama-2-7b --quant q4_0)
if [ -n "$software" ]; then
  bench --shape tiny --quant q4_0 --sinks 4 --window 60
  counts "tiny Q4_0"
  bench --shape tiny --quant q8_0 --sinks 4 --window 60 --attention recompute
  bench --shape tiny --quant f16 --sinks 4 --window 60 --streams 4 --chunk 64
else
  bench "${seven[@]}" "${cache[@]}" --chunk 512
  want "7B Q4_0, cache 1024: part of the copy bandwidth" "$(field bandwidth_ratio "$last")" 0.6
  want "7B Q4_0, chunks of 512: prefill, tokens/s" "$(field prefill_tokens_per_second "$last")" 5000
  counts "7B Q4_0"
  bench --shape smollm2-135m --quant q8_0 "${cache[@]}"
  want "135M Q8_0: decode, tokens/s" "$(field decode_tokens_per_second "$last")" 1000
  counts "135M Q8_0"
  bench --shape smollm2-360m --quant q4_0 "${cache[@]}" --streams 64
  want "64 streams of 360M Q4_0: tokens/s in all" "$(field decode_tokens_per_second "$last")" 20000
  bench "${seven[@]}" --sinks 4 --window 4092
  streaming=$(field decode_ms_p50 "$last")
  bench "${seven[@]}" --sinks 4 --window 4092 --attention recompute
  recompute=$(field decode_ms_p50 "$last")
  want "7B Q4_0, cache 4096: recompute / streaming ($(short "$recompute") ms, $(short "$streaming") ms)" "$(ratio "$recompute" "$streaming")" 22.2
  for tier in portable matrix; do
    [[ $(field tiers "$adapter") == *"\"$tier\""* ]] || continue
    bench "${seven[@]}" "${cache[@]}" --tier "$tier" --chunk 512
    want "7B Q4_0, tier $tier, chunks of 512: prefill, tokens/s" "$(field prefill_tokens_per_second "$last")" 5000
  done
fi

flat=(--shape smollm2-135m --quant q4_0 "${cache[@]}")
[ -z "$software" ] || flat=(--shape tiny --quant q4_0 --sinks 4 --window 60)
bench "${flat[@]}" --position 1000000 --against 2000
want "decode at position 1,000,000 / at 2,000" "$(field ratio "$last")" 0.98 1.02

if left 60 compare; then
  text=${TEXT:-} made= tokens=21000
  options=(--device "$device")
  [ -z "$software" ] || options=(--device cpu --tokens 400 --caches 64) tokens=1000 # a software adapter takes minutes
  books=../shared/data/text/pg19_test_books.txt.xz
  if [ -z "$text" ]; then
    text=$(mktemp) made=$text
    if [ -e "$books" ] && command -v xz >/dev/null; then
      xz -dc "$books" >"$text"
    else
      timeout 30 "$sinkstream" generate --device cpu --quiet --tokens "$tokens" >"$text" || : # what there is in half a minute must do
    fi
  fi
  echo compare >&2
  compare=$(timeout "$((seconds < 150 ? seconds - 30 : 120))" "$sinkstream" compare "${options[@]}" --quiet --json --text "$text") || {
    failed+=('"compare"')
    compare=null
  }
  [ -z "$made" ] || rm -f "$made"
  write
fi

# In the tiny form the kernels alone, which take minutes in software themselves.
longest=150
[ -z "$software" ] || tests=(kernels) longest=300
for name in "${tests[@]}"; do
  left 20 "test $name" || continue
  begun=$SECONDS
  run=(cargo test --release --locked --test "$name")
  command -v cargo >/dev/null || run=(env CARGO_MANIFEST_DIR="$PWD" SINKSTREAM_BIN="$sinkstream" "$bin/$name")
  if timeout "$((seconds < longest ? seconds : longest))" "${run[@]}"; then
    tested+=("\"$name: passed in $((SECONDS - begun)) s\"")
  else
    failed+=("\"test $name\"")
  fi
  write
done

if [ -z "$software" ]; then
  for tier in matrix subgroup; do
    [[ $(field tiers "$adapter") == *"\"$tier\""* ]] || continue
    bench "${seven[@]}" "${cache[@]}" --tier "$tier"
    bench --shape smollm2-135m --quant q8_0 "${cache[@]}" --tier "$tier"
  done
  for shape in llama-3.2-1b smollm2-360m qwen2.5-0.5b smollm2-135m; do
    for quant in q4_0 q8_0 f16; do
      [ "$shape $quant" = "smollm2-135m q8_0" ] || bench --shape "$shape" --quant "$quant" "${cache[@]}"
    done
  done
  for quant in q8_0 f16; do bench --shape llama-2-7b --quant "$quant" "${cache[@]}"; done
  for window in 252 4092; do
    bench --shape smollm2-135m --quant q4_0 --sinks 4 --window "$window"
    bench --shape llama-3.2-1b --quant q4_0 --sinks 4 --window "$window"
  done
fi
bench "${flat[@]}" --position 4294967396

write
cat "$out/gpu-check.md"
[ ${#failed[@]} -eq 0 ] || fail "failed: $(join "${failed[@]}")"
