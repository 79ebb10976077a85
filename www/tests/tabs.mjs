// Tabs: one that is frozen and thawed goes on as if nothing had happened, and none is held up. Only Chromium can be asked to freeze
// one, and tells of long tasks.

import assert from "node:assert/strict";
import { test } from "node:test";
import { launchFreezable } from "./browsers.mjs";

const MODEL = "/models/sinkstream-2m.gguf";
/** Longest task on the main thread, in milliseconds. */
const LONG_MS = 50;
/** A busy machine stalls every program now and then; what a page takes too long for comes again and again. */
const TRIES = 4;

const pause = (ms) => new Promise((later) => setTimeout(later, ms));

export function tabsTests(setting) {
  const blank = async () => (await setting.browser.open(`${setting.server.url}/blank`)).page;

  for (const device of ["cpu", "gpu"]) {
    test(`a tab that is frozen in mid-stream goes on as if nothing had happened, on the ${device}`, async () => {
      const browser = await launchFreezable();
      try {
        const page = await browser.newPage();
        await page.goto(`${setting.server.url}/blank`, { timeout: 120_000 });
        const devtools = await page.createCDPSession();
        const whole = await page.evaluate(
          async ({ model, device }) => {
            const { Engine } = await import("/dist/index.js");
            globalThis.engine = await Engine.load({ model, device, sinks: 2, window: 29 });
            globalThis.write = async (enough) => {
              globalThis.pieces = []; // before anything that takes time: it is looked at from outside
              const session = await engine.createSession();
              for await (const piece of session.promptStreaming("One morning the", { temperature: 0, maxTokens: enough })) {
                pieces.push(piece);
                if (globalThis.isSlow) await new Promise((later) => setTimeout(later, 500)); // a reader
              }
              session.destroy();
              return pieces.join("");
            };
            return await write(120);
          },
          { model: MODEL, device },
        );
        const count = () => page.evaluate(() => pieces.length);
        await page.evaluate(() => void ([globalThis.isSlow, globalThis.written] = [true, write(120)]));
        while ((await count()) < 3) await pause(20);
        // A minute of reading is left.
        await devtools.send("Page.setWebLifecycleState", { state: "frozen" });
        let frozen;
        do {
          frozen = await count();
          await pause(2_500);
        } while (frozen !== (await count()) && frozen < 100);
        assert.ok(frozen < 100, `${frozen} pieces: nothing is read in a frozen tab`);
        await devtools.send("Page.setWebLifecycleState", { state: "active" });
        assert.equal(await page.evaluate(() => ((globalThis.isSlow = false), written)), whole);
        assert.equal(await page.evaluate(() => engine.recoveries), 0);
      } finally {
        await browser.close();
      }
    });
  }

  test("two tabs share one model on the GPU, and one goes on when the other is closed", { timeout: 300_000 }, async () => {
    const model = `${MODEL}?tabs`;
    const pages = [await blank(), await blank()];
    try {
      const since = setting.server.requests.length;
      /** Loads the model in a tab, begins a text, and says what all workers together have on the GPU. */
      const load = (page) =>
        page.evaluate(async (model) => {
          const { Engine } = await import("/tallied/index.js");
          globalThis.engine = await Engine.load({ model, device: "gpu", sinks: 2, window: 29, chunk: 1, streams: 2, cache: "none", shared: true });
          globalThis.session = await engine.createSession();
          await session.append("It was");
          const channel = new BroadcastChannel("counted");
          const { gpu } = await new Promise((resolve) => {
            channel.onmessage = ({ data }) => data.gpu !== undefined && resolve(data); // the tabs hear each other ask
            channel.postMessage("how much?");
          });
          return { gpu, shared: engine.info.shared, executor: engine.info.executor, weights: engine.info.weights_bytes };
        }, model);
      const write = (page) => page.evaluate(() => session.prompt("", { temperature: 0, maxTokens: 20 }));
      const [first, second] = [await load(pages[0]), await load(pages[1])];
      for (const { shared, executor } of [first, second]) assert.deepEqual([shared, executor], [true, "gpu"]);
      assert.ok(first.gpu > first.weights, `${first.gpu} bytes on the GPU`);
      assert.equal(second.gpu, first.gpu, "one copy on the GPU");
      const ranges = setting.server.requests.slice(since).filter(({ url }) => url === model).map(({ range }) => range);
      assert.equal(new Set(ranges).size, ranges.length, `one download: ${ranges}`);
      const [a, b] = await Promise.all(pages.map(write));
      assert.ok(a.length > 30 && a === b, `${a} / ${b}`);
      const running = write(pages[0]).catch(() => "closed");
      const goesOn = write(pages[1]);
      await pages[0].close();
      assert.equal(await running, "closed");
      const more = (await goesOn) + (await write(pages[1]));
      const alone = await pages[1].evaluate(async () => {
        const session = await engine.createSession();
        return session.prompt("It was", { temperature: 0, maxTokens: 60 });
      });
      assert.equal(b + more, alone, "the texts are those of a tab alone");
    } finally {
      for (const page of pages) await page.close();
    }
  });

  test(`loading and writing in a worker never hold the page up for more than ${LONG_MS} ms`, async (context) => {
    const page = await blank();
    try {
      await page.evaluate(() => {
        globalThis.long = [];
        new PerformanceObserver((list) => long.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "longtask" });
        const until = performance.now() + 120;
        return new Promise((later) => setTimeout(later)).then(() => {
          while (performance.now() < until);
        });
      });
      await pause(200);
      assert.equal(await page.evaluate(() => long.length), 1, "a long task is seen");
      const stalls = [];
      for (let n = 0; n < TRIES; n++) {
        const { long, text } = await page.evaluate(
          async ({ model, LONG_MS }) => {
            const { Engine } = await import("/dist/index.js");
            long.length = 0;
            const engine = await Engine.load({ model, device: "cpu", window: 200, cache: "none" });
            const session = await engine.createSession();
            await session.append("It was a dark and stormy night. ".repeat(40));
            const text = await session.prompt("", { maxTokens: 200 });
            await session.save();
            await engine.destroy();
            await new Promise((later) => setTimeout(later, 100));
            return { text, long: long.filter((ms) => ms > LONG_MS) };
          },
          { model: MODEL, LONG_MS },
        );
        assert.ok(text.length > 200);
        if (long.length === 0) break;
        stalls.push(long);
      }
      context.diagnostic(`long tasks in ${stalls.length} of ${TRIES} tries: ${JSON.stringify(stalls)}`);
      assert.ok(stalls.length < TRIES, `long tasks every time: ${JSON.stringify(stalls)} ms`);
    } finally {
      await page.close();
    }
  });
}
