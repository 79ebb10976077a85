// What loading takes: a model of hundreds of megabytes goes to the GPU through little memory, and one that is too large for
// the device is refused in plain words, and takes nothing with it. What happens when a device runs out of memory.

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
        await (await sinkstream.Engine.load({ model, device: "gpu", chunk: 1, worker: false })).destroy(); // compiled once
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
              const engine = await sinkstream.Engine.load({ model, cache, device: "gpu", window: 60, chunk: 1, worker: false });
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
        const engine = await Engine.load({ model: small, device: "gpu", sinks: 2, window: 29, chunk: 1 });
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

  /**
   * Runs `work` in a page as `inPage`, with the device's memory in hand: `held()` bytes of buffers that nobody has given back,
   * `fill(label)` leaves no memory for a buffer with that label, `exhaust()` asks the newest device for too much.
   * The refusals are the browser's own: SwiftShader has not what it says that a buffer may have.
   */
  const onDevice = (work, argument) =>
    inPage(
      setting,
      async (sinkstream, { work, argument }, helpers) => {
        const [devices, bytesOf] = [[], new Map()];
        let full;
        const { createBuffer, destroy } = GPUDevice.prototype;
        const { requestDevice } = GPUAdapter.prototype;
        GPUAdapter.prototype.requestDevice = async function (descriptor) {
          const device = await requestDevice.call(this, descriptor);
          devices.push(device);
          return device;
        };
        GPUDevice.prototype.createBuffer = function (descriptor) {
          const isFull = full !== undefined && descriptor.label === full;
          const { label, usage, mappedAtCreation } = descriptor;
          const buffer = createBuffer.call(this, { label, usage, mappedAtCreation, size: isFull ? this.limits.maxBufferSize : descriptor.size });
          if (!isFull) bytesOf.set(buffer, { device: this, size: descriptor.size });
          return buffer;
        };
        GPUDevice.prototype.destroy = function () {
          for (const [buffer, { device }] of bytesOf) if (device === this) bytesOf.delete(buffer);
          return destroy.call(this);
        };
        const device = {
          held: () => [...bytesOf.values()].reduce((sum, { size }) => sum + size, 0),
          fill: (label) => (full = label),
          exhaust: () => createBuffer.call(devices.at(-1), { size: devices.at(-1).limits.maxBufferSize, usage: GPUBufferUsage.STORAGE }),
        };
        return await (0, eval)(`(${work})`)(sinkstream, argument, helpers, device);
      },
      { work: work.toString(), argument },
    );

  test("a device whose memory runs out while it loads: one clear error, its buffers are given back, what runs goes on, and a smaller model loads", async () => {
    const seen = await onDevice(
      async ({ Engine }, { small, large }, { failure, pause }, device) => {
        const setup = { device: "gpu", sinks: 2, window: 29, chunk: 1, worker: false };
        const greedy = { temperature: 0, maxTokens: 12 };
        const engine = await Engine.load({ ...setup, model: small });
        const whole = await (await engine.createSession()).prompt("It was", { temperature: 0, maxTokens: 24 });
        const session = await engine.createSession();
        const first = await session.prompt("It was", greedy);
        const before = device.held();
        device.fill("blk.9.ffn_down");
        let most = 0;
        const looking = setInterval(() => (most = Math.max(most, device.held())), 1);
        const error = await failure(Engine.load({ ...setup, model: large, cache: "none" }));
        clearInterval(looking);
        const left = device.held() - before;
        const rest = await session.prompt("", greedy);
        const { recoveries } = engine;
        const again = await Engine.load({ ...setup, model: small });
        const anew = await (await again.createSession()).prompt("It was", { temperature: 0, maxTokens: 24 });
        for (const each of [again, engine]) await each.destroy();
        for (let n = 0; n < 100 && device.held() > 0; n++) await pause(50);
        return { whole, text: first + rest, anew, error, recoveries, most, left, end: device.held() };
      },
      { small: SMALL, large: LARGE },
    );
    assert.match(seen.error, /^RangeError: does not fit the device: \d+ bytes of buffers: Out of Memory/);
    assert.deepEqual([seen.text, seen.anew, seen.recoveries], [seen.whole, seen.whole, 0]);
    assert.ok(seen.most > LARGE_BYTES, `${seen.most} bytes`);
    assert.deepEqual([seen.left, seen.end], [0, 0], "bytes that are still there of the model that did not fit, and when all is destroyed");
  });

  test("a device whose memory runs out in mid-stream is replaced; as long as there is no room for that, it is a DeviceLostError", async () => {
    const seen = await onDevice(
      async ({ Engine, DeviceLostError }, model, _, device) => {
        const engine = await Engine.load({ model, device: "gpu", sinks: 2, window: 21, chunk: 1, worker: false });
        const held = device.held();
        const write = async (session, maxTokens, exhausted) => {
          let [text, pieces] = ["", 0];
          for await (const piece of session.promptStreaming("", { temperature: 0, maxTokens })) {
            text += piece;
            if (++pieces === exhausted) device.exhaust();
          }
          return text;
        };
        const begin = async () => {
          const session = await engine.createSession();
          await session.append("One morning the");
          return session;
        };
        const whole = await write(await begin(), 120);
        const session = await begin();
        let torn = await write(session, 60, 30);
        const { recoveries } = engine;
        device.fill("blk.1.ffn_down");
        device.exhaust();
        const error = await write(session, 60).catch((error) => error);
        const { position } = session;
        device.fill(undefined);
        torn += await write(session, 60);
        const end = { position: session.position, recoveries: engine.recoveries, held: device.held() };
        await engine.destroy();
        return { whole, torn, recoveries, isClass: error instanceof DeviceLostError, message: String(error.message ?? error), position, end, held };
      },
      SMALL,
    );
    assert.ok(seen.whole.length > 60);
    assert.equal(seen.recoveries, 1);
    assert.ok(seen.isClass, seen.message);
    assert.match(seen.message, /Out of Memory.*could not be replaced: does not fit the device: \d+ bytes of buffers/);
    assert.equal(seen.torn, seen.whole);
    assert.equal(seen.end.position - seen.position, 60, "what failed has added nothing");
    assert.deepEqual([seen.end.recoveries, seen.end.held], [2, seen.held], "the device that was given up holds nothing");
  });
}
