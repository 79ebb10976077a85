#!/usr/bin/env bash
# What to run on a machine with a real GPU: the adapter, every GPU test, and a look at the speed. Takes a few minutes.
# It fails if only a software adapter is found. Results for docs/checks.md; there is no benchmark command yet.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --release --locked
sinkstream=${CARGO_TARGET_DIR:-target}/release/sinkstream
"$sinkstream" devices
adapter=$("$sinkstream" devices --json)
case $adapter in
  *'"type":"DiscreteGpu"'* | *'"type":"IntegratedGpu"'*) ;;
  *) echo "gpu-check: no real GPU found" >&2; exit 1 ;;
esac
git log -1 --format='commit %h, %cs'

cargo test --release --locked --test kernels --test gpu_model --test shaders
for device in gpu cpu; do
  "$sinkstream" generate --device "$device" --prompt "Once upon a time" -n 2000 --ignore-eos --seed 1 --json --quiet |
    grep -oE '"(adapter|executor|prompt_tokens_per_second|tokens_per_second)":[^,}]*'
done

# Figs. 3 and 10 on this GPU, if there is a text of 20,000 tokens: TEXT=book.txt, or the held-out books beside the project.
text=${TEXT:-}
books=../shared/data/text/pg19_test_books.txt.xz
if [ -z "$text" ] && [ -e "$books" ] && command -v xz >/dev/null; then
  text=$(mktemp)
  xz -dc "$books" >"$text"
fi
[ -z "$text" ] || "$sinkstream" compare --device gpu --text "$text"
