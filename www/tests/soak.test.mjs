// The page, left open: nothing may grow, and nothing may hold up the page. SOAK_MINUTES says for how long (2 if not said),
// SOAK_DEVICE where it runs (cpu if not said: SwiftShader is slow).
//
// Everything is measured from outside: JavaScript heap and document through Chromium's DevTools, after a collection;
// WebAssembly memory and GPU buffers by a wrapper around the browser's own calls (server.mjs); long tasks by the browser.

import assert from "node:assert/strict";
import { test } from "node:test";
import { launchChromium, until } from "./browsers.mjs";
import { serve } from "./server.mjs";

const MINUTES = Number(process.env.SOAK_MINUTES ?? 2);
const DEVICE = process.env.SOAK_DEVICE ?? "cpu";
/** Before that the window fills, lines grow to their full length, and code is compiled. Part of the whole time. */
const WARM_UP = 0.45;
const TIMES = Math.max(8, Math.round(2 * MINUTES));
/** The mean of the last half of the measurements over that of the first. In a few minutes the heap is still settling: by 1.75 % in two, 0.03 % in thirty. */
const MOST_GROWTH = { heap: MINUTES < 10 ? 1.04 : 1.02, wasm: 1.02, gpu: 1.02 };
/** The document breathes with the length of paragraphs and words, within this. */
const MOST_NODES = 2_500;
const MOST_LISTENERS = 40;
/** Longest task on the main thread, in milliseconds. */
const LONG_MS = 50;
/** A busy machine stalls every program now and then; what the page itself takes too long for comes again and again. */
const MOST_STALLED = 0.25;

async function measure(page, devtools) {
  for (let n = 0; n < 2; n++) await devtools.send("HeapProfiler.collectGarbage");
  const heap = await devtools.send("Runtime.getHeapUsage");
  const counters = await devtools.send("Memory.getDOMCounters");
  const inside = await page.evaluate(() => window.counted());
  const { position, evicted } = await page.evaluate(() => ({ ...document.querySelector("main").dataset }));
  return { position: Number(position), evicted: Number(evicted), heap: heap.usedSize, nodes: counters.nodes, listeners: counters.jsEventListeners, ...inside };
}

test(`the page stays flat for ${MINUTES} minutes on the ${DEVICE}`, { timeout: 1.5 * MINUTES * 60_000 + 300_000 }, async (context) => {
  const server = await serve();
  const browser = await launchChromium();
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    await page.addInitScript(() => {
      window.longTasks = [];
      new PerformanceObserver((list) => {
        for (const { startTime, duration } of list.getEntries()) window.longTasks.push({ startTime, duration });
      }).observe({ type: "longtask", buffered: true });
      const channel = new BroadcastChannel("counted");
      window.counted = () =>
        new Promise((resolve) => {
          channel.onmessage = ({ data }) => resolve(data);
          channel.postMessage("how much?");
        });
    });
    await page.goto(`${server.url}/counted/?device=${DEVICE}&window=126&seed=1`);
    const devtools = await page.context().newCDPSession(page);
    await until(page, "the page writes", () => document.querySelector("main").dataset.state === "writing");
    const [whole, warm] = [MINUTES * 60_000, MINUTES * 60_000 * WARM_UP];
    await page.waitForTimeout(warm);
    const [seen, stalls] = [[], []];
    for (let n = 0; n < TIMES; n++) {
      seen.push(await measure(page, devtools));
      context.diagnostic(JSON.stringify(seen.at(-1)));
      // A collection holds the page up, which is no fault of the page: tasks count from after it to before the next.
      const begin = await page.evaluate(() => ((window.longTasks.length = 0), performance.now()));
      await page.waitForTimeout((whole - warm) / TIMES);
      const long = await page.evaluate(() => window.longTasks);
      const times = long.filter(({ startTime, duration }) => startTime > begin && duration > LONG_MS).map(({ duration }) => Math.round(duration));
      if (times.length > 0) stalls.push(times);
    }
    context.diagnostic(`tasks of more than ${LONG_MS} ms, in ${stalls.length} of ${TIMES} spans: ${JSON.stringify(stalls)}`);
    seen.push(await measure(page, devtools));

    assert.deepEqual(complaints, []);
    assert.ok(seen.at(-1).position > seen[0].position + 100 && seen[0].evicted > 0, "it went on, and past its memory");
    assert.ok(stalls.length <= MOST_STALLED * TIMES, `long tasks on the main thread: ${JSON.stringify(stalls)} ms`);
    for (const { nodes, listeners } of seen) assert.ok(nodes <= MOST_NODES && listeners <= MOST_LISTENERS, `${nodes} nodes, ${listeners} listeners`);
    const mean = (some) => some.reduce((sum, value) => sum + value, 0) / some.length;
    for (const [what, most] of Object.entries(MOST_GROWTH)) {
      const values = seen.map((one) => one[what]);
      const half = Math.floor(values.length / 2);
      const growth = mean(values.slice(-half)) / Math.max(mean(values.slice(0, half)), 1);
      context.diagnostic(`${what}: × ${growth.toFixed(4)}, ${values[0]} → ${values.at(-1)}`);
      assert.ok(growth <= most, `${what} grows: ${values}`);
    }
  } finally {
    await browser.close();
    await server.close();
  }
});
