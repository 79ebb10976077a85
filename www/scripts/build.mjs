// Builds everything the browser needs, in the order of the data: Rust → WebAssembly → ES module → package → page.
//
//   node scripts/build.mjs           the package (pkg/, dist/) and the demo page (site/)
//   node scripts/build.mjs checks    the module of the browser tests too (target/checks/)

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { minifySync } from "vite";

const www = dirname(dirname(fileURLToPath(import.meta.url)));
const root = dirname(www);
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const triple = "wasm32-unknown-unknown";
/**
 * What makes the module smaller once more when it is gzipped: the compiler has optimised all of it in one piece, and binaryen's own
 * order of functions and locals, its inlining and its `-O3` and `-Oz` make it larger.
 */
const OPTIMISE = [
  "--strip-producers", "--remove-unused-module-elements", "--duplicate-function-elimination", "--memory-packing", "--dce", "--vacuum",
  "--remove-unused-brs", "--remove-unused-names", "--merge-blocks", "--optimize-instructions", "--precompute", "--simplify-locals-nostructure",
  "--vacuum", "--duplicate-function-elimination",
];

function run(command, args, cwd = root) {
  console.log(`> ${[command, ...args].join(" ")}`);
  execFileSync(command, args, { cwd, stdio: "inherit" });
}

/** Compiles a crate to an ES module in `out`; `cargo` chooses the crate. */
function wasm(cargo, profile, library, out) {
  run("cargo", ["build", "--profile", profile, "--locked", "--target", triple, ...cargo]);
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  run("cargo", ["run", "--quiet", "--locked", "--package", "xtask", "--", join(target, triple, profile, `${library}.wasm`), out]);
}

/** Shrinks the module. The npm package's wasm-opt, without feature flags: it reads what the module uses. */
function optimise(module) {
  const before = statSync(module).size;
  run(process.execPath, [join(www, "node_modules/binaryen/bin/wasm-opt"), ...OPTIMISE, "--output", `${module}.opt`, module]);
  renameSync(`${module}.opt`, module);
  console.log(`${module.slice(root.length + 1)}: ${before} → ${statSync(module).size} bytes`);
}

/** Takes comments and white space out of ES modules; their types keep the comments. */
function minify(folder) {
  for (const name of readdirSync(folder).filter((name) => name.endsWith(".js"))) {
    const file = join(folder, name);
    const { code, errors } = minifySync(file, readFileSync(file, "utf8"), { module: true, compress: false, mangle: { keepNames: true } });
    if (errors.length > 0) throw new Error(`${file}: ${JSON.stringify(errors)}`);
    writeFileSync(file, code);
  }
}

const pkg = join(www, "pkg");
wasm(["--package", "sinkstream", "--lib", "--no-default-features"], "web", "sinkstream", pkg);
optimise(join(pkg, "sinkstream_bg.wasm"));
rmSync(join(www, "dist"), { recursive: true, force: true });
run(process.execPath, [join(www, "node_modules/typescript/bin/tsc"), "--project", "."], www);
for (const folder of [pkg, join(www, "dist")]) minify(folder);
for (const licence of ["LICENSE-MIT", "LICENSE-APACHE"]) copyFileSync(join(root, licence), join(www, licence));
run(process.execPath, [join(www, "node_modules/vite/bin/vite.js"), "build", "--logLevel", "warn"], www);
if (process.argv[2] === "checks") wasm(["--package", "browser-checks"], "release", "checks", join(target, "checks"));
