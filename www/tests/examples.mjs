// The examples of the repository, as they are: a plain page, live captions, and a React app that Vite builds.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { until } from "./browsers.mjs";
import { folders, www } from "./server.mjs";

const MODEL = "/models/sinkstream-2m.gguf";

export function examplesTests(setting, browser) {
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

  if (browser !== "chromium") return; // the package is installed there only (install.mjs)
  test("the React app, built by Vite, writes", async () => {
    const folder = join(folders.installed, "react");
    rmSync(folder, { recursive: true, force: true });
    cpSync(join(www, "examples/react"), folder, { recursive: true });
    mkdirSync(join(folder, "public"));
    cpSync(join(folders.models, "sinkstream-2m.gguf"), join(folder, "public/model.gguf"));
    // What `npm install` would put there: the packages that are here, and sinkstream as npm packs it.
    mkdirSync(join(folder, "node_modules"));
    for (const name of ["react", "react-dom"]) symlinkSync(join(www, "node_modules", name), join(folder, "node_modules", name));
    symlinkSync(join(folders.installed, "node_modules/sinkstream"), join(folder, "node_modules/sinkstream"));
    execFileSync(process.execPath, [join(www, "node_modules/vite/bin/vite.js"), "build", "--base", "./", "--logLevel", "warn", "--target", "es2022"], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
    await open("/installed/react/dist/", async (page) => {
      // Not the beginning itself: the app keeps the last 4,000 characters, which a fast machine writes between two looks.
      await until(page, "text", () => document.querySelector("#root p:not([role=alert])")?.textContent.length > "Once upon a time".length + 40);
    });
  });
}
