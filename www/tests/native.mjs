// Decoding in Chromium on SwiftShader beside the native binary on SwiftShader's Vulkan driver: the same model and cache, in
// turns, with the shaders' run-time checks on in both. Prints tokens per second and their ratio.
//
//   node www/tests/native.mjs [ROUNDS [LAYERS DIM FFN]]     after `cargo build --release` and `npm run build`
//
// The bundled model, or a llama in Q8_0 of that shape with made-up weights. SWIFTSHADER=…/vk_swiftshader_icd.json

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { launchChromium } from "./browsers.mjs";
import { madeModel } from "./made.mjs";
import { serve, target } from "./server.mjs";

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const [rounds = 5, layers, dim, ffn] = process.argv.slice(2).map(Number);
const isMade = ffn !== undefined;
const model = isMade ? `made/model.gguf?layers=${layers}&dim=${dim}&ffn=${ffn}` : "models/sinkstream-2m.gguf";
const folder = mkdtempSync(join(tmpdir(), "sinkstream-native-"));
const file = isMade ? join(folder, "made.gguf") : join(root, model);
const cache = { sinks: 1, window: 255 };
/** How long the browser writes in a round; as long again, before, until it runs evenly. */
const seconds = isMade ? 15 : 5;

const driver = process.env.SWIFTSHADER ?? "/usr/lib/chromium/vk_swiftshader_icd.json";
if (!existsSync(driver)) throw new Error(`no SwiftShader: ${driver} does not exist, and SWIFTSHADER is not set`);
if (isMade) {
  const { size, read } = madeModel({ layers, dim, ffn });
  writeFileSync(file, Buffer.concat([...read(0, size)]));
}
const environment = { ...process.env, VK_DRIVER_FILES: driver };
const bench = ["bench", "--model", file, "--device", "gpu", "--sinks", cache.sinks, "--window", cache.window, "--json", "--quiet"];

/** Tokens per second of the native binary. */
function native() {
  const report = JSON.parse(execFileSync(join(target, "release/sinkstream"), bench, { env: environment, stdio: ["ignore", "pipe", "ignore"] }));
  if (!/SwiftShader/i.test(report.adapter)) throw new Error(`not SwiftShader: ${report.adapter}`);
  return { rate: report.decode_tokens_per_second, adapter: report.adapter, commit: report.commit };
}

/** Loads the model in a page, which keeps a stream with a full cache. */
async function load(page, settings) {
  return await page.evaluate(async (settings) => {
    const { Engine } = await import("/dist/index.js");
    const engine = await Engine.load(settings);
    const session = await engine.createSession();
    await session.append("It was a dark and stormy night. ".repeat(40));
    globalThis.session = session;
    return engine.info.adapter;
  }, settings);
}

/** Tokens per second in the page. */
async function browser(page) {
  return await page.evaluate(async (seconds) => {
    let begin, first;
    const start = performance.now();
    for await (const _ of session.promptStreaming("", { temperature: 0 })) {
      const now = performance.now();
      if (begin === undefined) {
        if (now - start > 1000 * seconds) [begin, first] = [now, session.position];
      } else if (now - begin > 1000 * seconds) {
        return (1000 * (session.position - first)) / (now - begin);
      }
    }
    throw new Error("the stream ended");
  }, seconds);
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

const server = await serve();
const chromium = await launchChromium();
try {
  const page = await chromium.newPage();
  await page.goto(`${server.url}/blank`);
  const adapter = await load(page, { model: `/${model}`, device: "gpu", ...cache });
  const found = { native: [], browser: [], ratio: [] };
  let before = native();
  console.log(`native: ${before.adapter}, commit ${before.commit}; Chromium ${chromium.version()}: ${adapter}`);
  for (let round = 0; round < rounds; round++) {
    const rate = await browser(page);
    const after = native();
    const beside = (before.rate + after.rate) / 2;
    found.native.push(beside);
    found.browser.push(rate);
    found.ratio.push(rate / beside);
    console.log(`native ${before.rate.toFixed(1)} and ${after.rate.toFixed(1)} tokens/s, Chromium between them ${rate.toFixed(1)}: ${(rate / beside).toFixed(3)}`);
    before = after;
  }
  const [ofNative, ofBrowser, ratio] = Object.values(found).map(median);
  console.log(`medians: native ${ofNative.toFixed(1)}, Chromium ${ofBrowser.toFixed(1)} tokens/s; ratio ${ratio.toFixed(3)} (wanted: 0.85)`);
} finally {
  await chromium.close();
  await server.close();
  rmSync(folder, { recursive: true });
}
