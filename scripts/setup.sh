#!/usr/bin/env bash
# Installs what is missing, and nothing else: `scripts/setup.sh demo` for the page, `lint` for `make lint`, `evidence`, `test` for all tests.
# Rust (with rustup) and Node.js must be there. Browsers and a software Vulkan driver come from Debian's packages.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-test}

fail() {
  echo "setup: $1" >&2
  exit 1
}

command -v cargo >/dev/null || fail "Rust is missing: https://rustup.rs"
command -v npm >/dev/null || fail "Node.js 20.19 or newer is missing: https://nodejs.org"
node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' ||
  fail "Node.js $(node --version) is too old: 20.19 or newer is needed"

packages=()
install() {
  if [ ${#packages[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "please install ${packages[*]} (or set CHROMIUM, FIREFOX, VK_DRIVER_FILES)"
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"
  fi
}

command -v xz >/dev/null || packages+=(xz-utils)
if [ "$what" = evidence ]; then
  install
  exit 0
fi

# WebAssembly for the compiler that builds here. Without rustup it may be there all the same.
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ]; then
  command -v rustup >/dev/null || fail "the Rust target wasm32-unknown-unknown is missing, and rustup to install it"
  rustup target add wasm32-unknown-unknown
fi

# The exact packages of www/package-lock.json.
if ! cmp -s www/package-lock.json www/node_modules/.from-lock; then
  (cd www && npm ci --no-audit --no-fund)
  cp www/package-lock.json www/node_modules/.from-lock
fi

[ "$what" != demo ] || exit 0
for tool in clippy fmt; do
  cargo "$tool" --version >/dev/null 2>&1 || rustup component add "${tool/fmt/rustfmt}"
done

[ "$what" = test ] || exit 0
command -v chromium >/dev/null || [ -n "${CHROMIUM:-}" ] || packages+=(chromium)
command -v firefox-esr >/dev/null || [ -n "${FIREFOX:-}" ] || packages+=(firefox-esr)
compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null || [ -n "${VK_DRIVER_FILES:-}" ] || packages+=(mesa-vulkan-drivers)
ldconfig -p | grep -q 'libvulkan\.so\.1' || packages+=(libvulkan1)
install
