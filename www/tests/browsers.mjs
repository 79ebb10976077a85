// Debian's Chromium and Firefox under one small interface: what Playwright's and Puppeteer's pages have in common.

import { existsSync } from "node:fs";
import { chromium } from "playwright-core";
import puppeteer from "puppeteer-core";

/** The first of these programs that is there. */
function program(name, ...paths) {
  const found = [process.env[name], ...paths].find((path) => path && existsSync(path));
  if (!found) throw new Error(`no browser: none of ${paths.join(", ")} exists, and ${name} is not set`);
  return found;
}

/**
 * Chromium sets workgroup memory to zero before a kernel begins, and takes twice as long to compile kernels with much of it on its software
 * adapter for that. Ours read nothing that they have not written (natively nothing is set to zero), so that nothing is lost without.
 */
const UNZEROED = "--enable-dawn-features=disable_workgroup_init";

/** Without --enable-unsafe-webgpu Chromium keeps its software adapter to itself. */
const chromiumOptions = (webgpu, ...more) => ({
  executablePath: program("CHROMIUM", "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"),
  args: [
    "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", ...(webgpu ? ["--enable-unsafe-webgpu"] : []), ...more,
  ],
});

/** Playwright's Chromium, as users have it. */
export const launchChromium = () => chromium.launch(chromiumOptions(true));

/** Puppeteer's: pages of Playwright always count as visible, and cannot be frozen. */
export const launchFreezable = () => puppeteer.launch({ browser: "chrome", headless: true, ...chromiumOptions(true) });

const launchers = {
  chromium: (webgpu) => chromium.launch(chromiumOptions(webgpu, UNZEROED)),
  firefox: (webgpu) =>
    puppeteer.launch({
      browser: "firefox",
      executablePath: program("FIREFOX", "/usr/bin/firefox-esr", "/usr/bin/firefox"),
      headless: true,
      protocolTimeout: 900_000,
      extraPrefsFirefox: {
        "dom.webgpu.enabled": webgpu,
        "dom.webgpu.workers.enabled": webgpu,
        "gfx.webgpu.ignore-blocklist": webgpu,
      },
    }),
};

/** Starts a browser; `webgpu: false` for one without. Close it with `close()`. */
export async function launch(name, { webgpu = true } = {}) {
  const browser = await launchers[name](webgpu);
  // Pages of one browser share its storage, like tabs.
  const context = name === "chromium" ? await browser.newContext() : browser;
  return {
    version: await browser.version(),
    close: () => browser.close(),
    /** A new page, and what it complained about. */
    async open(url) {
      const page = await context.newPage();
      const complaints = [];
      page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
      page.on("pageerror", (error) => complaints.push(String(error)));
      await page.goto(url, { timeout: 120_000 });
      return { page, complaints };
    },
  };
}

/** Waits until `look`, run in the page with `argument`, gives something true; `ms` at most. */
export async function until(page, what, look, argument, ms = 60_000) {
  const deadline = Date.now() + ms;
  for (;;) {
    const seen = await page.evaluate(look, argument);
    if (seen) return seen;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${ms} ms; the page shows: ${await page.evaluate(() => document.body.innerText.slice(0, 400))}`);
    await new Promise((later) => setTimeout(later, 50));
  }
}
