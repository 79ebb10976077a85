// Runs every check, then says what passed where. A row in which nothing passed is a failure.
//
//   node scripts/test.mjs [STEP…]     all steps, or those whose names begin so: fmt clippy native mutants tint web chromium firefox soak
//
// The last line is `N passed, N failed, N skipped`, over all rows.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const wanted = process.argv.slice(2);
/** Test files whose tests need a GPU adapter, software ones too. */
const gpuTests = /^tests\/(kernels|gpu_\w+)\.rs$/;
/** What a test prints when it could not check anything, for example because other people's data is not there. */
const notChecked = /^(NOT CHECKED|SKIPPED): /m;

/** The software driver, unless the caller chose one; shaders on the calling thread: small dispatches are 15 times cheaper. */
const drivers = "/usr/share/vulkan/icd.d";
const software = existsSync(drivers) ? readdirSync(drivers).filter((name) => /^lvp_icd.*json$/.test(name)) : [];
/** Drivers want such a folder. Only this one is removed at the end: the caller's own is not ours. */
const runtime = mkdtempSync(join(tmpdir(), "sinkstream-"));
const environment = {
  LP_NUM_THREADS: "0",
  XDG_RUNTIME_DIR: runtime,
  ...(software.length > 0 ? { VK_DRIVER_FILES: join(drivers, software[0]) } : {}),
  ...process.env,
  SINKSTREAM_WGSL_DIR: join(target, "wgsl"), // emptied first, so never the caller's own
};

const rows = new Map();
/** What failed, each with the first line of its reason: shown again at the end. */
const failures = [];
function count(row, passed, failed, skipped) {
  const sums = rows.get(row) ?? { passed: 0, failed: 0, skipped: 0 };
  rows.set(row, { passed: sums.passed + passed, failed: sums.failed + failed, skipped: sums.skipped + skipped });
}

/** Runs a command, shows what it prints, at its end if it runs beside another, and gives that and the exit code. */
async function run(command, args, cwd = root, isBeside = false) {
  const show = (text) => isBeside || process.stdout.write(text);
  const begin = `\n> ${command} ${args.join(" ")}\n`;
  show(begin);
  const ended = await new Promise((resolve) => {
    const child = spawn(command, args, { cwd, env: environment, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
        show(text);
      });
    }
    child.on("error", (error) => resolve({ code: 1, output: `${output}\n${error}` }));
    child.on("close", (code) => resolve({ code: code ?? 1, output }));
  });
  if (isBeside) process.stdout.write(begin + ended.output);
  return ended;
}

/** A command that is one check in itself. */
async function check(row, command, args, cwd) {
  const { code } = await run(command, args, cwd);
  count(row, code === 0 ? 1 : 0, code === 0 ? 0 : 1, 0);
  if (code !== 0) failures.push(`${row}: ${command} ${args.join(" ")}`);
  return code === 0;
}

/** `cargo test`, counted by test binary. */
async function cargoTest(args) {
  const { code, output } = await run("cargo", ["test", "--release", "--locked", "--no-fail-fast", ...args, "--", "--show-output"]);
  let sum = 0;
  for (const section of output.split(/^ +(?=Running |Doc-tests )/m).slice(1)) {
    const row = gpuTests.test(/^Running (\S+)/.exec(section)?.[1] ?? "") ? "native GPU" : "CPU";
    const result = /^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored/m.exec(section);
    if (!result) continue; // it crashed: counted below
    const unchecked = section.split(/^---- /m).filter((report) => / stdout ----\n/.test(report) && notChecked.test(report)).length;
    const [passed, failed, ignored] = result.slice(1).map(Number);
    count(row, passed - unchecked, failed, ignored + unchecked);
    sum += failed;
    for (const [, name] of section.matchAll(/^test (.*) \.\.\. FAILED$/gm)) {
      const reason = section.split(`thread '${name}' `)[1]?.split("\n").slice(0, 2).join(" ") ?? "";
      failures.push(`${row}: ${name}: ${reason}`);
    }
  }
  if (code === 0 || sum > 0) return;
  count("CPU", 0, 1, 0);
  failures.push(`cargo test ${args.join(" ")}: did not compile, or crashed`);
}

/** A file of Node's own test runner. */
async function nodeTest(row, file, isBeside) {
  const { code, output } = await run(process.execPath, ["--test", "--test-reporter=tap", file], join(root, "www"), isBeside);
  const number = (name) => Number(new RegExp(`^# ${name} (\\d+)$`, "m").exec(output)?.[1] ?? 0);
  const failed = number("fail") + number("cancelled");
  for (const report of output.split(/^ *not ok \d+ - /m).slice(1)) {
    const [error, type] = ["error", "failureType"].map((key) => new RegExp(`^ *${key}: (?:\\|-\\n *)?(.*)$`, "m").exec(report)?.[1]);
    if (type !== "'subtestsFailed'") failures.push(`${row}: ${report.slice(0, report.indexOf("\n"))}: ${error}`);
  }
  count(row, number("pass"), code !== 0 && failed === 0 ? 1 : failed, number("skipped") + number("todo"));
}

const strict = ["--", "-D", "warnings"];
const wasm = ["--target", "wasm32-unknown-unknown", "--no-default-features"];
const steps = {
  fmt: () => check("rules", "cargo", ["fmt", "--all", "--check"]),
  clippy: async () => {
    await check("rules", "cargo", ["clippy", "--locked", "--all-targets", ...strict]);
    await check("rules", "cargo", ["clippy", "--locked", "--lib", ...wasm, ...strict]);
  },
  native: async () => {
    rmSync(environment.SINKSTREAM_WGSL_DIR, { recursive: true, force: true });
    mkdirSync(environment.SINKSTREAM_WGSL_DIR, { recursive: true });
    await cargoTest([]);
  },
  mutants: () => cargoTest(["--features", "mutants", "--test", "mutants"]),
  tint: () => nodeTest("Tint", "tests/tint.test.mjs"),
  web: async () => {
    const built = await check("rules", process.execPath, ["scripts/build.mjs", "checks"], join(root, "www"));
    if (built) await check("rules", process.execPath, ["node_modules/typescript/bin/tsc", "--project", "demo"], join(root, "www"));
  },
  chromium: () => nodeTest("Chromium", "tests/chromium.test.mjs"),
  firefox: () => nodeTest("Firefox", "tests/firefox.test.mjs", chosen.includes("chromium")),
  soak: () => nodeTest("Chromium", "tests/soak.test.mjs"),
};
/** Steps that run at the same time: each keeps one core busy, most of the time compiling kernels. */
const together = ["chromium", "firefox"];

const chosen = Object.keys(steps).filter((name) => wanted.length === 0 || wanted.some((start) => name.startsWith(start)));
if (wanted.length === 0) for (const row of ["CPU", "native GPU", "Chromium", "Firefox"]) count(row, 0, 0, 0);
const times = [];
async function step(name) {
  const begin = Date.now();
  await steps[name]();
  times.push(`${name} ${Math.round((Date.now() - begin) / 1000)} s`);
}
const left = new Set(chosen);
for (const name of chosen) {
  const next = together.includes(name) ? together : [name];
  await Promise.all(next.filter((name) => left.delete(name)).map(step));
}
rmSync(runtime, { recursive: true, force: true });

console.log(`\n${times.join(", ")}\n`);
for (const failure of failures) console.log(`FAILED ${failure}`);
const total = { passed: 0, failed: 0, skipped: 0 };
console.log(`${"".padEnd(12)}${"passed".padStart(8)}${"failed".padStart(8)}${"skipped".padStart(9)}`);
for (const [name, row] of rows) {
  const isEmpty = row.passed === 0;
  if (isEmpty && row.failed === 0) row.failed = 1;
  console.log(`${name.padEnd(12)}${String(row.passed).padStart(8)}${String(row.failed).padStart(8)}${String(row.skipped).padStart(9)}${isEmpty ? "   nothing passed" : ""}`);
  for (const key in total) total[key] += row[key];
}
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
