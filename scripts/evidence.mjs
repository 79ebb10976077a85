// The papers' tables and figures with the bundled model, on this machine: `make evidence`, `make evidence-4m`.
//
//   node scripts/evidence.mjs tables|4m [TEXT]     TEXT: a long plain text; default: the held-out books beside the project
//
// Writes what every command printed (JSON) and drew (SVG) to target/evidence, and prints tables in Markdown, beside the
// numbers of StreamingLLM (arXiv 2309.17453). A run of 4m that was ended goes on where it stood.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const out = join(target, "evidence");
const [what = "tables", given] = process.argv.slice(2);
const held = join(root, "../shared/data/text/pg19_test_books.txt.xz");
/** Tokens of a row of the tables. */
const TOKENS = 100_000;

function fail(message) {
  console.error(`evidence: ${message}`);
  process.exit(1);
}

/** Runs the command and gives its JSON, which is kept as NAME.json. */
function sinkstream(name, args, input) {
  console.error(`> sinkstream ${args.join(" ")}`);
  const stdio = [input === undefined ? "ignore" : "pipe", "pipe", "inherit"];
  const options = { input, stdio, maxBuffer: 1 << 30, encoding: "utf8" };
  let text;
  try {
    text = execFileSync(join(target, "release/sinkstream"), args, options);
  } catch (error) {
    fail(`sinkstream ${args[0]} ended with ${error.status ?? error.signal}`);
  }
  if (name) writeFileSync(join(out, `${name}.json`), text);
  return JSON.parse(text);
}

/** The books, as a plain text file. */
function text() {
  if (given) return existsSync(given) ? given : fail(`no file ${given}`);
  if (!existsSync(held)) fail(`no text: name one (make ${what === "4m" ? "evidence-4m" : "evidence"} TEXT=book.txt)`);
  const path = join(out, "books.txt");
  if (!existsSync(path)) writeFileSync(path, execFileSync("xz", ["-dc", held], { maxBuffer: 1 << 30 }));
  return path;
}

function table(title, head, rows) {
  console.log(`\n**${title}**\n\n| ${head.join(" | ")} |\n|${" --- |".repeat(head.length)}`);
  for (const row of rows) console.log(`| ${row.join(" | ")} |`);
}

const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

/** Perplexity after the first eviction with S + R cached tokens. */
function row(name, source, sinks, window) {
  const mode = sinks > 0 ? ["--sinks", `${sinks}`] : ["--attention", "window"];
  const args = ["perplexity", ...source, ...mode, "--window", `${window}`, "--json", "--quiet"];
  return sinkstream(name, args).perplexity_after_eviction;
}

function tables() {
  const path = text();
  const started = Date.now();
  const source = ["--text", path, "--tokens", `${TOKENS}`];
  const size = 1024;

  const sinks = [0, 1, 2, 4, 8];
  const found = sinks.map((count) => row(`table2-${count}`, source, count, size - count));
  table(
    "Table 2: how many sinks (perplexity after the first eviction)",
    ["", ...sinks.map((count) => `${count} + ${size - count}`)],
    [
      ["sinkstream-2m", ...found.map((value) => number(value))],
      ["paper, Pythia-12B, cache 2,048", "21.62", "11.95", "12.09", "12.09", "12.02"],
      ["paper, Llama-2-7B, cache 4,096", "3359.95", "11.88", "10.51", "9.59", "9.54"],
      ["paper, 160M with a sink token, cache 1,024 (Table 3)", "1235", "18.01", "18.01", "18.02", "–"],
    ],
  );

  // Table 1: what the first tokens say does not matter to the paper's models, only that they are there.
  const ids = sinkstream(undefined, ["tokenize"], readFileSync(path).subarray(0, 8 * TOKENS)).slice(0, TOKENS);
  const [newline] = sinkstream(undefined, ["tokenize", "--no-bos"], "\n");
  const replaced = (first) => {
    const file = join(out, "ids.json");
    writeFileSync(file, JSON.stringify([...ids.slice(0, first), ...Array(4 - first).fill(newline), ...ids.slice(4)]));
    return ["--tokens-file", file];
  };
  table(
    "Table 1: what the sinks are",
    ["", `0 + ${size}`, `4 + ${size - 4}`, `four newlines + ${size - 4}`, `sink token, three newlines + ${size - 4}`],
    [
      [
        "sinkstream-2m",
        number(found[0]),
        number(found[3]),
        number(row("table1-newlines", replaced(0), 4, size - 4)),
        number(row("table1-sink-newlines", replaced(1), 4, size - 4)),
      ],
      ["paper, Llama-2-13B", "5158.07", "5.40", "5.60", "–"],
    ],
  );

  const caches = [256, 512, 1024];
  table(
    "Table 6: cache sizes, four sinks",
    ["", ...caches.map((cache) => `4 + ${cache - 4}`)],
    [
      ["sinkstream-2m", ...caches.map((cache) => number(cache === size ? found[3] : row(`table6-${cache}`, source, 4, cache - 4)))],
      ["paper, Pythia-12B", "13.17", "12.52", "12.08"],
      ["paper, Falcon-7B", "13.61", "12.84", "12.34"],
    ],
  );

  // Fig. 7.
  const inspected = sinkstream("inspect", ["inspect", "--text", path, "--plot", join(out, "inspect.svg"), "--json", "--quiet"]);
  table(
    "Figure 7: mean attention on the first token, by layer",
    inspected.mean_by_layer.map((_, layer) => `layer ${layer}`),
    [inspected.mean_by_layer.map((value) => number(value, 3))],
  );

  // Table 7.
  const model = join(root, "models/streameval.gguf");
  const { rows } = sinkstream("streameval", ["streameval", "--model", model, "--plot", join(out, "streameval.svg"), "--json", "--quiet"]);
  const sizes = [...new Set(rows.map((row) => row.cache))];
  table(
    "Table 7: StreamEval, right answers in %, by lines between number and question (models/streameval.gguf)",
    ["lines", ...sizes.map((size) => `cache ${size}`)],
    [...new Set(rows.map((row) => row.distance_lines))].map((distance) => [
      distance,
      ...sizes.map((size) => number(100 * rows.find((row) => row.cache === size && row.distance_lines === distance).accuracy, 0)),
    ]),
  );

  // Figs. 3 and 10.
  const compared = sinkstream("compare", ["compare", "--text", path, "--plot", join(out, "compare.svg"), "--json", "--quiet"]);
  table(
    "Figures 3 and 10: four modes in one run",
    ["mode", "cache", "tokens", "perplexity after the first eviction", "ms per token"],
    compared.rows.map((row) => [
      row.attention,
      `${row.sinks} + ${row.window}`,
      row.tokens,
      number(row.perplexity_after_eviction),
      number(row.ms_per_token_p50, 3),
    ]),
  );
  console.log(`\nRecompute / streaming at the largest cache: ${number(compared.recompute_over_streaming, 1)} (paper: 22.2)`);
  const prefill = compared.prefill_tokens_per_second;
  const beside = llamaCpp(ids.slice(0, size));
  console.log(`Prefill, ${size} tokens: ${number(prefill, 0)} tokens/s; llama.cpp on the same file, cores and minute: ${beside}`);
  console.log(`\n${Math.round((Date.now() - started) / 1000)} seconds on ${machine()}.`);
}

/** llama.cpp's prefill of the same tokens, if a Python has it (PYTHON, else python3). */
function llamaCpp(ids) {
  const file = join(out, "prompt.json");
  writeFileSync(file, JSON.stringify(ids));
  const args = ["scripts/llama_cpp_speed.py", "models/sinkstream-2m.gguf", file, `${cpus().length}`];
  try {
    const text = execFileSync(process.env.PYTHON ?? "python3", args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
    writeFileSync(join(out, "llama_cpp.json"), text);
    return `${number(JSON.parse(text).prefill_tokens_per_second, 0)} tokens/s`;
  } catch {
    return "not measured (pip install llama-cpp-python; PYTHON=…)";
  }
}

function machine() {
  const commit = execFileSync("git", ["-C", root, "log", "-1", "--format=%h, %cs"], { encoding: "utf8" }).trim();
  return `${cpus().length} cores (${cpus()[0]?.model ?? "unknown"}), commit ${commit}`;
}

/** Fig. 5: four million tokens in one stream. */
function fourMillion() {
  const file = (name) => join(out, name);
  const report = sinkstream("4m", [
    ...["perplexity", "--text", text(), "--tokens", "4000001", "--blocks", "10000", "--recompute", "2000"],
    ...["--checkpoint", file("4m.checkpoint"), "--plot", file("4m.svg"), "--json"],
  ]);
  const { blocks, recompute } = report;
  const [first, last] = recompute;
  const bytes = new Set(blocks.map((block) => block.bytes));
  const drift = Math.log(last.ratio) - Math.log(first.ratio);
  const error = Math.hypot(first.standard_error, last.standard_error);
  table(
    "Figure 5: four million tokens, one stream, one cache",
    ["", ""],
    [
      ["tokens", report.tokens],
      ["cache", `${report.sinks} + ${report.window}, ${report.kv_bytes} bytes`],
      ["perplexity", number(report.perplexity)],
      ["blocks of 10,000: lowest, highest perplexity", [Math.min, Math.max].map((f) => number(f(...blocks.map((block) => block.perplexity)))).join(", ")],
      ["bytes held, of all blocks", [...bytes].join(", ")],
      ["tokens per second, first and last tenth", [blocks.slice(0, 40), blocks.slice(-40)].map((part) => number(part.length / part.reduce((sum, block) => sum + 1 / block.tokens_per_second, 0), 0)).join(", ")],
      ...[first, last].map((end) => [
        `streaming / recompute, ${end.pairs} tokens of ${end.from} to ${end.to}`,
        `${number(end.ratio, 4)} (standard error of its logarithm ${number(end.standard_error, 4)})`,
      ]),
      ["drift: last less first, in nats", `${number(drift, 4)} (standard error ${number(error, 4)})`],
    ],
  );
  console.log(`\n${Math.round(report.seconds)} seconds of streaming on ${machine()}, ${report.executor} (${report.adapter}).`);
}

mkdirSync(out, { recursive: true });
if (what === "tables") tables();
else if (what === "4m") fourMillion();
else fail(`tables or 4m, not ${what}`);
