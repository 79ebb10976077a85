// The examples of the repository, as they are: a plain page and live captions.

import assert from "node:assert/strict";
import { test } from "node:test";
import { until } from "./browsers.mjs";

const MODEL = "/models/sinkstream-2m.gguf";

export function examplesTests(setting) {
  /** Opens an example, and checks at the end that it had nothing to complain of. */
  const open = async (address, work) => {
    const { page, complaints } = await setting.browser.open(setting.server.url + address);
    try {
      await work(page);
      assert.deepEqual(complaints, []);
    } finally {
      await page.close();
    }
  };
  const text = (page, selector) => page.evaluate((selector) => document.querySelector(selector).textContent, selector);

  test("the plain page writes, stops, and goes on", () =>
    open(`/examples/plain.html?model=${MODEL}`, async (page) => {
      await until(page, "the model", () => /^ready on the/.test(document.querySelector("#state").textContent));
      for (const least of [40, 80]) {
        await page.click("#go");
        await until(page, "text", (least) => document.querySelector("#text").textContent.length > least, least);
        await page.click("#stop");
        await until(page, "the end", () => /^position \d+/.test(document.querySelector("#state").textContent));
      }
    }));

  test("captions go in without end, and questions are answered in between", () =>
    open(`/examples/captions.html?model=${MODEL}`, async (page) => {
      const heard = async () => Number(/^\d+/.exec(await text(page, "#state"))?.[0] ?? 0);
      const hears = (more) => until(page, "captions", (more) => Number(/^\d+/.exec(document.querySelector("#state").textContent)?.[0]) > more, more);
      await hears(20);
      await page.click("button");
      await until(page, "an answer", () => document.querySelector("#answer").textContent.length > 20);
      await hears((await heard()) + 20);
    }));
}
