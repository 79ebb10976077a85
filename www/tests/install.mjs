// The package as npm packs it, installed elsewhere: into a fresh Vite project with strict types, and into a folder of files
// with an import map.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { until } from "./browsers.mjs";
import { folders, www } from "./server.mjs";

/** Most bytes of the engine without weights: WebAssembly and JavaScript, each file with `gzip -9`. */
const MOST_BYTES = 1_300_000;
const tool = (name) => join(www, "node_modules", name);
const run = (command, args, cwd) => execFileSync(command, args, { cwd, stdio: ["ignore", "pipe", "pipe"] }).toString();

const PROGRAM = `
import { Engine, DownloadError, type Info, type Session } from "sinkstream";
import { languageModel, type LanguageModelSession } from "sinkstream/prompt-api";

const model = new URLSearchParams(location.search).get("model")!;
const engine: Engine = await Engine.load({ model, device: "cpu", window: 60, onProgress: ({ loaded, total, phase }) => console.debug(phase, loaded, total) });
const info: Info = engine.info;
const session: Session = await engine.createSession({ initialPrompts: [{ role: "system", content: "Be brief." }] });
session.addEventListener("contextoverflow", (event) => console.debug(event.evicted, event.newlyEvicted));
let text = "";
for await (const piece of session.promptStreaming("Hello", { temperature: 0, maxTokens: 12, signal: new AbortController().signal })) text += piece;
const completion = await engine.chat.completions.create({ messages: [{ role: "user", content: "Hello" }], max_tokens: 2 });
const tokens: number = completion.usage.completion_tokens;
const other: LanguageModelSession = await languageModel({ model, device: "cpu" }).create();
other.destroy();
document.title = \`\${info.model}: \${tokens} \${text.length} \${new DownloadError("").name}\`;
`;
const PLAIN = PROGRAM.replace(/, type [A-Za-z]+/g, "").replace(/: (Engine|Info|Session|number|LanguageModelSession) =/g, " =").replace('get("model")!', 'get("model")');
const IMPORT_MAP = { imports: { sinkstream: "./node_modules/sinkstream/dist/index.js", "sinkstream/prompt-api": "./node_modules/sinkstream/dist/prompt-api.js" } };
const page = (head) => `<!doctype html><html lang="en"><head><title>…</title><link rel="icon" href="data:,">${head}</head><body></body></html>`;

export function installTests(setting) {
  const folder = folders.installed;
  const opened = async (address) => {
    const { page, complaints } = await setting.browser.open(`${setting.server.url}${address}?model=/models/sinkstream-2m.gguf`);
    try {
      const title = await until(page, "the first token", () => document.title !== "…" && document.title, undefined, 120_000);
      assert.match(title, /^sinkstream-2m: 2 \d+ DownloadError$/);
      assert.deepEqual(complaints, []);
    } finally {
      await page.close();
    }
  };

  test("npm packs what is needed and nothing else, and the engine is small", () => {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    const [{ filename, files }] = JSON.parse(run("npm", ["pack", "--json", "--pack-destination", folder], www));
    const names = files.map(({ path }) => path);
    for (const name of ["dist/index.js", "dist/index.d.ts", "dist/worker.js", "dist/shared-worker.js", "dist/prompt-api.js", "dist/ai-sdk.d.ts", "pkg/sinkstream.js", "pkg/sinkstream_bg.wasm", "README.md", "LICENSE-MIT", "LICENSE-APACHE"]) {
      assert.ok(names.includes(name), `${name} is not packed`);
    }
    assert.deepEqual(names.filter((name) => !/^(dist\/.*\.(js|d\.ts)|pkg\/sinkstream.*|package\.json|README\.md|LICENSE-\w+)$/.test(name)), []);
    run("npm", ["init", "-y"], folder);
    run("npm", ["install", "--offline", "--no-audit", "--no-fund", join(folder, filename)], folder);
    const installed = join(folder, "node_modules/sinkstream");
    const parts = ["dist", "pkg"].flatMap((part) => readdirSync(join(installed, part)).map((name) => join(installed, part, name)));
    const sizes = parts.filter((name) => /\.(js|wasm)$/.test(name)).map((name) => gzipSync(readFileSync(name), { level: 9 }).length);
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    console.log(`the engine: ${bytes} bytes gzipped, ${statSync(join(installed, "pkg/sinkstream_bg.wasm")).size} bytes of WebAssembly`);
    assert.ok(bytes < MOST_BYTES, `${bytes} bytes`);
  });

  test("a fresh Vite project: types under strict, first token from the built page", async () => {
    writeFileSync(join(folder, "index.html"), page('<script type="module" src="/main.ts"></script>'));
    writeFileSync(join(folder, "main.ts"), PROGRAM);
    const options = { target: "es2022", module: "es2022", moduleResolution: "bundler", lib: ["es2023", "dom", "dom.iterable", "dom.asynciterable"], strict: true, exactOptionalPropertyTypes: true, noEmit: true, types: [] };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, files: ["main.ts"] }));
    run(process.execPath, [tool("typescript/bin/tsc"), "--project", folder], folder);
    run(process.execPath, [tool("vite/bin/vite.js"), "build", "--base", "./", "--logLevel", "warn", "--target", "es2022"], folder);
    await opened("/installed/dist/");
  });

  test("a bare page with an import map", async () => {
    const bare = join(folder, "bare");
    mkdirSync(bare, { recursive: true });
    cpSync(join(folder, "node_modules"), join(bare, "node_modules"), { recursive: true });
    const map = `<script type="importmap">${JSON.stringify(IMPORT_MAP)}</script>`;
    writeFileSync(join(bare, "index.html"), page(`${map}<script type="module">${PLAIN}</script>`));
    await opened("/installed/bare/");
  });
}
