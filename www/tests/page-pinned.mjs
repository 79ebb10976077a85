// What the demo page shows of the pinned tokens.

import assert from "node:assert/strict";
import { test } from "node:test";
import { until } from "./browsers.mjs";
import { past } from "./page.mjs";

export function pagePinnedTests(setting) {
  test("the pinned tokens themselves are shown, where they say more than that a text begins", async () => {
    const { page, complaints } = await setting.browser.open(`${setting.server.url}/site/?device=cpu&sinks=4&window=40&prompt=Alice%20was%20tired`);
    const pinned = () => page.evaluate(() => [...document.querySelectorAll("#pinned-tokens code")].map((one) => one.textContent));
    await past(page, 60);
    const before = await pinned();
    assert.equal(before.length, 4);
    assert.match(before.slice(1).join(""), /^Alice/);
    await page.evaluate(() => {
      const sinks = document.querySelector("#sinks");
      sinks.value = "1";
      sinks.dispatchEvent(new Event("change"));
    });
    await until(page, "one sink", () => /first token,/.test(document.querySelector("#pinned-text").textContent));
    assert.deepEqual(await pinned(), []);
    assert.deepEqual(complaints, []);
    await page.close();
  });
}
