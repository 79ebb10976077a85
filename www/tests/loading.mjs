// Loading over a network that fails in every way: what was loaded is whole and right, or the error says what is wrong, and
// nothing wrong stays in the cache.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { inPage } from "./pages.mjs";
import { folders } from "./server.mjs";

const MODEL = "/models/sinkstream-2m.gguf";
const file = readFileSync(join(folders.models, "sinkstream-2m.gguf"));
const SHA256 = createHash("sha256").update(file).digest("hex");
/** Bytes of a part of a file of this size (`www/src/parts.ts`). */
const PART = 512 << 10;
const PARTS = Math.ceil(file.length / PART);

export function loadingTests(setting) {
  /** Requests for an address since a moment. */
  const asked = (since, url) => setting.server.requests.slice(since).filter((request) => request.url === url);
  const now = () => setting.server.requests.length;

  test("a model is fetched in parts, several at a time, kept, and loads without a network then", async () => {
    const since = now();
    const seen = await inPage(
      setting,
      async ({ Engine }, { model, SHA256 }) => {
        await Engine.deleteCached();
        const progress = [];
        const load = async () => {
          const engine = await Engine.load({ model, device: "cpu", window: 60, sha256: SHA256.toUpperCase(), onProgress: (p) => progress.push(p) });
          const text = await (await engine.createSession()).prompt("It was", { temperature: 0, maxTokens: 20 });
          await engine.destroy();
          return text;
        };
        const text = await load();
        return { text, progress, cached: await Engine.listCached(), storage: await Engine.storage() };
      },
      { model: MODEL, SHA256 },
    );
    const ranges = asked(since, MODEL).map(({ range }) => range);
    assert.equal(ranges.length, PARTS, `${ranges}`);
    assert.deepEqual([...ranges].sort(), Array.from({ length: PARTS }, (_, n) => `bytes=${n * PART}-${Math.min(file.length, (n + 1) * PART) - 1}`).sort());
    const { url, ...cached } = seen.cached[0];
    assert.ok(url.endsWith(MODEL) && seen.cached.length === 1);
    assert.deepEqual(cached, { size: file.length, stored: file.length, complete: true, sha256: SHA256 });
    assert.ok(seen.storage.usage >= file.length && seen.storage.quota > seen.storage.usage);
    for (const phase of ["download", "model"]) {
      const steps = seen.progress.filter((step) => step.phase === phase);
      assert.ok(steps.length > 3 && steps.every(({ loaded }, n) => n === 0 || loaded >= steps[n - 1].loaded), phase);
      assert.equal(steps.at(-1).loaded, steps.at(-1).total, phase);
    }
    assert.equal(seen.progress.at(-1).phase, "model");
    assert.equal(seen.progress.find(({ phase }) => phase === "download").total, file.length);

    const later = now();
    const again = await inPage(
      setting,
      async ({ Engine }, { model, SHA256 }) => {
        const engine = await Engine.load({ model, device: "cpu", window: 60, sha256: SHA256 });
        const text = await (await engine.createSession()).prompt("It was", { temperature: 0, maxTokens: 20 });
        await engine.destroy();
        const deleted = await Engine.deleteCached(model);
        return { text, deleted, left: await Engine.listCached() };
      },
      { model: MODEL, SHA256 },
    );
    assert.equal(again.text, seen.text);
    assert.deepEqual(asked(later, MODEL), [], "the second time nobody is asked");
    assert.deepEqual([again.deleted, again.left], [1, []]);
  });

  test("a download goes on where a closed page left it", async () => {
    // Four parts come, and the rest does not until the page is closed.
    const url = `${MODEL}?hold=${4 * PART}&closed`;
    setting.server.state.holds = true;
    const { page } = await setting.browser.open(`${setting.server.url}/blank`);
    await page.evaluate(async (model) => {
      const { Engine } = await import("/dist/index.js");
      await Engine.deleteCached();
      Engine.load({ model, device: "cpu" }).catch(() => {});
    }, url);
    const stored = () => inPage(setting, async ({ Engine }) => (await Engine.listCached())[0]?.stored ?? 0);
    try {
      const deadline = Date.now() + 240_000;
      while ((await stored()) < 2 * PART && Date.now() < deadline) await new Promise((later) => setTimeout(later, 300));
      await page.close();
    } finally {
      setting.server.state.holds = false;
    }
    const before = await stored();
    assert.ok(before >= 2 * PART && before < file.length, `${before} bytes`);
    const since = now();
    const rest = await inPage(
      setting,
      async ({ Engine }, { model, SHA256 }) => {
        const engine = await Engine.load({ model, device: "cpu", sha256: SHA256 });
        await engine.destroy();
        return Engine.listCached();
      },
      { model: url, SHA256 },
    );
    assert.deepEqual([rest[0].stored, rest[0].complete], [file.length, true]);
    const ranges = asked(since, url);
    // The first bytes are asked for once more, to see whether the file is still the same.
    assert.ok(ranges.length <= 1 + Math.ceil((file.length - before) / PART), `${ranges.map(({ range }) => range)} after ${before} bytes`);
  });

  const faults = {
    "a connection that breaks again and again": "?break=300000",
    "connections that hang": "?stall=100000",
    "a server without ranges": "?noranges",
    "a server that says nothing of the length": "?noranges&nolength",
  };
  for (const [fault, query] of Object.entries(faults)) {
    test(`${fault}: the model is whole`, async () => {
      const seen = await inPage(
        setting,
        async ({ Engine }, { model, SHA256 }, { failure }) => {
          const kept = [];
          for (const cache of ["opfs", "none"]) {
            kept.push(await failure(Engine.load({ model, device: "cpu", sha256: SHA256, cache }).then((engine) => engine.destroy())));
          }
          const [{ stored, complete, size }] = await Engine.listCached();
          await Engine.deleteCached();
          return { kept, stored, complete, size };
        },
        { model: MODEL + query, SHA256 },
      );
      assert.deepEqual(seen, { kept: ["nothing", "nothing"], stored: file.length, complete: true, size: file.length });
    });
  }

  test("what cannot be had whole and right is a DownloadError, and nothing wrong is kept", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine, DownloadError }, { model, SHA256 }, { failure }) => {
        await Engine.deleteCached();
        const load = (query, options) => failure(Engine.load({ model: model + query, device: "cpu", ...options }));
        const isClass = await Engine.load({ model: `${model}?corrupt=2000000`, device: "cpu", sha256: SHA256 }).catch((error) => error instanceof DownloadError);
        const corrupt = await load("?corrupt=2000000", { sha256: SHA256 });
        const afterCorrupt = await Engine.listCached();
        const corruptBlob = await failure(Engine.load({ model: await (await fetch(`${model}?corrupt=2000000`)).blob(), device: "cpu", sha256: SHA256 }));
        const corruptStream = await failure(Engine.load({ model: (await fetch(`${model}?corrupt=2000000`)).body, device: "cpu", sha256: SHA256 }));
        const errors = {
          longer: await load("?longer=5000"),
          longerNoRanges: await load("?longer=5000&noranges"),
          cut: await load("?break=900000&noranges"),
          changes: await load("?changes"),
          noModel: await failure(Engine.load({ model: "/golden/q8.json", device: "cpu" })),
        };
        const left = (await Engine.listCached()).map(({ url, complete }) => [new URL(url).search, complete]);
        await Engine.deleteCached();
        // Another file than the one that is kept.
        await (await Engine.load({ model, device: "cpu" })).destroy();
        const other = await load("", { sha256: "0".repeat(64) });
        const afterOther = await Engine.listCached();
        return { isClass, corrupt, afterCorrupt, corruptBlob, corruptStream, errors, left, other, afterOther };
      },
      { model: MODEL, SHA256 },
    );
    assert.equal(seen.isClass, true);
    for (const error of [seen.corrupt, seen.corruptBlob, seen.corruptStream, seen.other]) assert.match(error, /^DownloadError: .*SHA-256 is [0-9a-f]{64}, not /);
    assert.deepEqual([seen.afterCorrupt, seen.afterOther], [[], []]);
    const { longer, longerNoRanges, cut, changes, noModel } = seen.errors;
    assert.match(longer, /^DownloadError: .*(HTTP 416|ends at byte)/);
    assert.match(longerNoRanges, /^DownloadError: /);
    assert.match(cut, /^DownloadError: /);
    assert.match(changes, /^DownloadError: .*changed while it was read/);
    assert.match(noModel, /^ModelFormatError: /);
    assert.ok(seen.left.every(([, complete]) => !complete), JSON.stringify(seen.left));
    assert.ok(!seen.left.some(([search]) => search === ""), "what is no model is not kept");
  });

  test("damage in the cache is seen and mended", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, { model, SHA256 }) => {
        await (await Engine.load({ model, device: "cpu", sha256: SHA256 })).destroy();
        const all = await (await navigator.storage.getDirectory()).getDirectoryHandle("sinkstream");
        let damaged;
        for await (const folder of all.values())
          for await (const part of folder.values()) {
            if (!part.name.startsWith("2.")) continue;
            const bytes = new Uint8Array(await (await part.getFile()).arrayBuffer());
            bytes[1000] ^= 1;
            const writable = await part.createWritable();
            await writable.write(bytes);
            await writable.close();
            damaged = part.name;
          }
        await (await Engine.load({ model, device: "cpu", sha256: SHA256 })).destroy();
        return { damaged, cached: await Engine.listCached() };
      },
      { model: `${MODEL}?damaged`, SHA256 },
    );
    assert.match(seen.damaged, /^2\./);
    const model = seen.cached.find(({ url }) => url.endsWith("?damaged"));
    assert.deepEqual([model.stored, model.complete], [file.length, true]);
    const twice = setting.server.requests.filter(({ url, range }) => url.endsWith("?damaged") && range?.startsWith(`bytes=${2 * PART}-`));
    assert.equal(twice.length, 2, "the damaged part is fetched again");
  });

  test("a part counts as stored only when it is wholly written", async () => {
    const url = `${MODEL}?unfinished`;
    const load = async ({ Engine }, { model, SHA256 }) => (await Engine.load({ model, device: "cpu", sha256: SHA256 })).destroy();
    await inPage(setting, load, { model: url, SHA256 });
    // As a page that closes leaves them: made and empty, or, where there is no other way to write, too short.
    const seen = await inPage(
      setting,
      async ({ Engine }, model) => {
        const all = await (await navigator.storage.getDirectory()).getDirectoryHandle("sinkstream");
        for await (const folder of all.values()) {
          const manifest = await (await (await folder.getFileHandle("manifest.json")).getFile()).text();
          if (!JSON.parse(manifest).url.endsWith(model)) continue;
          for await (const part of folder.values()) {
            if (!/^[13]\./.test(part.name)) continue;
            const half = (await part.getFile()).slice(0, part.name.startsWith("1.") ? 0 : 1000);
            const writable = await part.createWritable();
            await writable.write(half);
            await writable.close();
          }
        }
        return (await Engine.listCached()).find(({ url }) => url.endsWith(model));
      },
      url,
    );
    assert.deepEqual([seen.stored, seen.complete], [file.length - 2 * PART, false]);
    const since = now();
    await inPage(setting, load, { model: url, SHA256 });
    const starts = asked(since, url).map(({ range }) => Number(/^bytes=(\d+)-/.exec(range)[1]));
    assert.deepEqual(starts.sort((a, b) => a - b), [0, PART, 3 * PART], "the first bytes, to see whether the file is the same, and what is missing");
  });

  test("an estimate reads the header alone, and says what loading says", async () => {
    const since = now();
    const url = `${MODEL}?estimate`;
    const seen = await inPage(
      setting,
      async ({ Engine }, model) => {
        const settings = { device: "cpu", sinks: 3, window: 100 };
        const estimate = await Engine.estimate(model, settings);
        const requests = performance.getEntriesByType("resource").length;
        const engine = await Engine.load({ model, ...settings });
        const { info } = engine;
        await engine.destroy();
        return { estimate, info, requests };
      },
      url,
    );
    const { file_bytes, ...plan } = seen.estimate;
    assert.equal(file_bytes, file.length);
    for (const [name, value] of Object.entries(plan)) assert.equal(value, seen.info[name], name);
    assert.ok(plan.weights_bytes > 1e6 && plan.kv_bytes > 1000);
    assert.equal(asked(since, url)[0].range, `bytes=0-${PART - 1}`);
    assert.equal(asked(since, url).length, 1 + PARTS, "one request for the estimate, then each part once but the first twice");
  });

  test("a page that has loaded once works offline", async () => {
    const model = `${MODEL}?offline`;
    await inPage(setting, async ({ Engine }, model) => (await Engine.load({ model, device: "cpu" })).destroy(), model);
    const { page } = await setting.browser.open(`${setting.server.url}/blank`);
    try {
      await page.evaluate(async () => {
        globalThis.sinkstream = await import("/dist/index.js");
        await (await sinkstream.Engine.load({ model: "/models/sinkstream-2m.gguf?offline", device: "cpu", worker: false })).destroy();
      });
      setting.server.state.offline = true;
      const text = await page.evaluate(async (model) => {
        const engine = await sinkstream.Engine.load({ model, device: "cpu", worker: false });
        return (await engine.createSession()).prompt("It was", { temperature: 0, maxTokens: 5 });
      }, model);
      assert.ok(text.length > 5, text);
    } finally {
      setting.server.state.offline = false;
      await page.close();
    }
  });
}
