// The demo page as its user sees it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { launch, until } from "./browsers.mjs";

/** A window so small that software shaders get past it soon. */
const SINKS = 4;
const WINDOW = 28;

const shown = (page) => page.evaluate(() => ({ ...document.querySelector("main").dataset, text: document.querySelector("#text").textContent }));
const state = async (page, wanted, ms) => {
  const reached = await until(page, `the page is ${wanted}`, (wanted) => [wanted, "error"].find((state) => document.querySelector("main").dataset.state === state), wanted, ms);
  if (reached !== wanted) assert.fail(`the page is not ${wanted}: ${await page.evaluate(() => document.querySelector("#notice").textContent)}`);
};
const past = (page, position) =>
  until(page, `position ${position}`, (position) => Number(document.querySelector("main").dataset.position) > position, position, 240_000);

/** Dispatches counted at the calls into WebGPU, from outside the program. */
const counted = (page) =>
  page.evaluate(
    () =>
      new Promise((resolve) => {
        const channel = new BroadcastChannel("dispatches");
        channel.onmessage = ({ data }) => typeof data === "number" && (channel.close(), resolve(data));
        channel.postMessage("how many?");
        setTimeout(() => (channel.close(), resolve(undefined)), 20_000);
      }),
  );

export function pageTests(setting) {
  for (const device of ["gpu", "cpu"]) {
    test(`the page writes past three windows on the ${device}, stops, goes on, reloads`, async () => {
      const { page, complaints } = await setting.browser.open(`${setting.server.url}/counted/?device=${device}&sinks=${SINKS}&window=${WINDOW}`);
      await state(page, "ready");
      assert.equal((await shown(page)).executor, device);

      await page.click("#start");
      await past(page, 3 * (SINKS + WINDOW));
      const early = await shown(page);
      await past(page, Number(early.position) + 10);
      await page.click("#stop");
      await state(page, "ready");

      const stopped = await shown(page);
      assert.ok(stopped.text.length > 100, "there is text");
      assert.equal(Number(stopped.evicted), Number(stopped.position) - (SINKS + WINDOW + 1), "what was evicted");
      if (device === "gpu") {
        assert.ok(Number(early.dispatches) > 0 && Number(stopped.dispatches) > Number(early.dispatches), "dispatches grow");
        const real = await counted(page);
        assert.equal(Number(stopped.dispatches), real, "the dispatches reported are those that were made");
      } else {
        assert.equal(Number(stopped.dispatches), 0);
      }
      await new Promise((later) => setTimeout(later, 700));
      assert.deepEqual(await shown(page), stopped, "nothing moves after Stop");

      await page.click("#start");
      await past(page, Number(stopped.position) + 5);
      await page.click("#stop");
      await state(page, "ready");
      assert.ok((await shown(page)).text.startsWith(stopped.text), "it goes on where it stopped");

      await page.reload();
      await state(page, "ready");
      assert.equal((await shown(page)).position, "0");
      await page.click("#start");
      await past(page, 20);
      await page.click("#stop");
      await state(page, "ready");
      assert.deepEqual(complaints, []);
      await page.close();
    });
  }

  test("the text on the page stays bounded", async () => {
    const { page, complaints } = await setting.browser.open(`${setting.server.url}/site/?device=cpu&window=8`);
    await state(page, "ready");
    await page.evaluate(() => (document.querySelector("#prompt").value = "word ".repeat(2_500)));
    await page.click("#start");
    await past(page, 2_600);
    await page.click("#stop");
    await state(page, "ready");
    const { text } = await shown(page);
    assert.ok(text.length <= 8_000, `${text.length} characters`);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("without WebGPU the page says so and writes on the CPU; ?device=gpu is a clear error", async () => {
    const browser = await launch(setting.name, { webgpu: false });
    try {
      const { page } = await browser.open(`${setting.server.url}/site/?window=${WINDOW}`);
      await state(page, "ready");
      assert.equal((await shown(page)).executor, "cpu");
      assert.match(await page.evaluate(() => document.querySelector("#notice").textContent), /runs on the CPU/);
      await page.click("#start");
      await past(page, 20);
      await page.click("#stop");
      await state(page, "ready");

      await page.goto(`${setting.server.url}/site/?device=gpu`);
      await state(page, "error");
      assert.match(await page.evaluate(() => document.querySelector("#notice").textContent), /no GPU.*without \?device=gpu/s);
    } finally {
      await browser.close();
    }
  });

  test("a wrong address is a clear error", async () => {
    const { page } = await setting.browser.open(`${setting.server.url}/site/?window=none`);
    await state(page, "error");
    assert.match(await page.evaluate(() => document.querySelector("#notice").textContent), /\?window=none.*whole number/);
    await page.goto(`${setting.server.url}/site/?device=cpu&model=missing.gguf`);
    await state(page, "error");
    assert.match(await page.evaluate(() => document.querySelector("#notice").textContent), /missing\.gguf.*404/);
    await page.close();
  });
}
