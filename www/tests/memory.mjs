// What loading takes: a model of hundreds of megabytes goes to the GPU through little memory, and one that is too large for
// the device is refused in plain words, and takes nothing with it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inPage } from "./pages.mjs";

const SMALL = "/models/sinkstream-2m.gguf";
/** 285 MB. */
const LARGE = "/made/model.gguf?layers=16&dim=1024&ffn=4096";
const LARGE_BYTES = 280e6;
/** Most bytes of WebAssembly and JavaScript, whatever the model. */
const MOST_BYTES = 64e6;

export function memoryTests(setting) {
  test("a model of hundreds of megabytes needs less than 64 MB beside the GPU", { timeout: 600_000 }, async (context) => {
    const { page } = await setting.browser.open(`${setting.server.url}/blank`);
    const devtools = setting.name === "chromium" && (await page.context().newCDPSession(page));
    try {
      await page.evaluate(async (model) => {
        globalThis.sinkstream = await import("/dist/index.js");
        await (await sinkstream.Engine.load({ model, device: "gpu", worker: false })).destroy(); // compiled once
      }, SMALL);
      for (const cache of setting.name === "chromium" ? ["none", "opfs"] : ["none"]) {
        /** JavaScript's objects and buffers. The browser tells of a page's only, so the engine runs in the page. */
        const held = async () => {
          const { usedSize, backingStorageSize } = await devtools.send("Runtime.getHeapUsage");
          return usedSize + backingStorageSize;
        };
        await devtools?.send?.("HeapProfiler.collectGarbage");
        const before = devtools ? await held() : 0;
        let [most, isLoading] = [before, true];
        const loading = page
          .evaluate(
            async ({ model, cache }) => {
              const engine = await sinkstream.Engine.load({ model, cache, device: "gpu", window: 60, worker: false });
              const session = await engine.createSession();
              await session.prompt("a", { maxTokens: 1 });
              const { memory, info } = engine;
              await engine.destroy();
              await sinkstream.Engine.deleteCached(new URL(model, location.href));
              return { ...memory, executor: info.executor };
            },
            { model: LARGE, cache },
          )
          .finally(() => (isLoading = false));
        while (devtools && isLoading) {
          most = Math.max(most, await held());
          await new Promise((later) => setTimeout(later, 10));
        }
        const { wasm_bytes, executor_bytes, executor } = await loading;
        context.diagnostic(`${cache}: WebAssembly ${wasm_bytes}, JavaScript ${before} to ${most}, GPU ${executor_bytes}`);
        assert.equal(executor, "gpu");
        assert.ok(executor_bytes > LARGE_BYTES, `${executor_bytes} bytes on the GPU`);
        assert.ok(wasm_bytes + most - before < MOST_BYTES, `WebAssembly ${wasm_bytes}, JavaScript ${before} to ${most}`);
      }
    } finally {
      await page.close();
    }
  });

  test("a model too large for the device is one clear error, told by its header, and what runs goes on", async () => {
    const since = setting.server.requests.length;
    // A matrix of 6 GB.
    const model = "/made/model.gguf?layers=1&dim=32768&ffn=196608";
    const seen = await inPage(
      setting,
      async ({ Engine }, { small, model }, { failure }) => {
        const engine = await Engine.load({ model: small, device: "gpu", sinks: 2, window: 29 });
        const greedy = { temperature: 0, maxTokens: 12 };
        const whole = await (await engine.createSession()).prompt("It was", { temperature: 0, maxTokens: 24 });
        const session = await engine.createSession();
        const first = await session.prompt("It was", greedy);
        const error = await failure(Engine.load({ model, device: "gpu", window: 60 }));
        const rest = await session.prompt("", greedy);
        const { recoveries } = engine;
        await engine.destroy();
        return { whole, text: first + rest, error, recoveries };
      },
      { small: SMALL, model },
    );
    assert.match(seen.error, /^RangeError: does not fit the device: blk\.0\..* has \d+ bytes, the device takes \d+ in one (buffer|binding)/);
    assert.deepEqual([seen.text, seen.recoveries], [seen.whole, 0]);
    const bytes = setting.server.requests.slice(since).filter(({ url }) => url === model).map(({ range }) => range);
    assert.ok(bytes.length <= 5, `no more than what was read ahead of the header: ${bytes}`);
  });
}
