// Builds everything the browser needs, in the order of the data: Rust → WebAssembly → ES module → package → page.
//
//   node scripts/build.mjs           the package (pkg/, dist/) and the demo page (site/)
//   node scripts/build.mjs checks    the module of the browser tests too (target/checks/)

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const www = dirname(dirname(fileURLToPath(import.meta.url)));
const root = dirname(www);
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const triple = "wasm32-unknown-unknown";

function run(command, args, cwd = root) {
  console.log(`> ${[command, ...args].join(" ")}`);
  execFileSync(command, args, { cwd, stdio: "inherit" });
}

/** Compiles a crate to an ES module in `out`; `cargo` chooses the crate. */
function wasm(cargo, library, out) {
  run("cargo", ["build", "--release", "--locked", "--target", triple, ...cargo]);
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  run("cargo", ["run", "--quiet", "--locked", "--package", "xtask", "--", join(target, triple, "release", `${library}.wasm`), out]);
}

/** Shrinks and speeds up the module. The npm package's wasm-opt, without feature flags: it reads what the module uses. */
function optimise(module) {
  const before = statSync(module).size;
  run(process.execPath, [join(www, "node_modules/binaryen/bin/wasm-opt"), "-O3", "--output", `${module}.opt`, module]);
  renameSync(`${module}.opt`, module);
  console.log(`${module.slice(root.length + 1)}: ${before} → ${statSync(module).size} bytes`);
}

const pkg = join(www, "pkg");
wasm(["--package", "sinkstream", "--lib", "--no-default-features"], "sinkstream", pkg);
optimise(join(pkg, "sinkstream_bg.wasm"));
rmSync(join(www, "dist"), { recursive: true, force: true });
run(process.execPath, [join(www, "node_modules/typescript/bin/tsc"), "--project", "."], www);
for (const licence of ["LICENSE-MIT", "LICENSE-APACHE"]) copyFileSync(join(root, licence), join(www, licence));
run(process.execPath, [join(www, "node_modules/vite/bin/vite.js"), "build", "--logLevel", "warn"], www);
if (process.argv[2] === "checks") wasm(["--package", "browser-checks"], "checks", join(target, "checks"));
