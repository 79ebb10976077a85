// The demo page as its user finds it: how it looks and whether everybody can use it. Pictures go to target/screenshots, to
// be looked at; what a program can see of them (cut, overlapping, wider than the screen) is checked here.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { past, state } from "./page.mjs";
import { target } from "./server.mjs";
import { until } from "./browsers.mjs";

const axe = readFileSync(fileURLToPath(import.meta.resolve("axe-core/axe.min.js")), "utf8");
const pictures = join(target, "screenshots");
const sizes = { desk: [1280, 800], phone: [390, 844] };
/** A choice that shows all there is: past its memory, with every mode and number. */
const QUERY = "?device=cpu&window=126&seed=5";

const resize = (page, [width, height]) => (page.setViewportSize ? page.setViewportSize({ width, height }) : page.setViewport({ width, height }));

/** What axe finds serious or worse, in a line each. */
const findings = (page) =>
  page.evaluate(async (axe) => {
    if (!window.axe) (0, eval)(axe);
    const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
    return violations
      .filter(({ impact }) => impact === "serious" || impact === "critical")
      .flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html.slice(0, 120)} ${failureSummary.split("\n")[1]}`));
  }, axe);

/** What is cut off, lies on something else, or makes the page wider than the screen. */
const faults = (page) =>
  page.evaluate(() => {
    const found = [];
    const wide = document.documentElement.scrollWidth - innerWidth;
    if (wide > 0) found.push(`the page is ${wide} px wider than the screen`);
    const shown = [...document.querySelectorAll("main *, dialog[open] *")].filter((element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest(".visually-hidden, #text, svg"));
    const name = (element) => `${element.localName}${element.id ? `#${element.id}` : ""} “${element.textContent.trim().slice(0, 30)}”`;
    for (const element of shown) {
      if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0 && getComputedStyle(element).display !== "inline") {
        found.push(`${name(element)} is cut off at the side: ${element.scrollWidth} of ${element.clientWidth} px`);
      }
    }
    // Boxes of the text itself, of fields and of pictures.
    const boxes = shown.flatMap((element) => {
      const texts = [...element.childNodes].filter((node) => node instanceof Text && node.data.trim());
      const rects = texts.flatMap((text) => {
        const range = document.createRange();
        range.selectNodeContents(text);
        return [...range.getClientRects()];
      });
      if (element.matches("canvas, input:not([type=radio], [type=file]), progress")) rects.push(element.getBoundingClientRect());
      return rects.filter(({ width, height }) => width > 2 && height > 2).map((rect) => ({ element, rect }));
    });
    for (const [n, a] of boxes.entries()) {
      for (const b of boxes.slice(n + 1)) {
        if (a.element === b.element || a.element.closest("dialog") !== b.element.closest("dialog")) continue;
        const width = Math.min(a.rect.right, b.rect.right) - Math.max(a.rect.left, b.rect.left);
        const height = Math.min(a.rect.bottom, b.rect.bottom) - Math.max(a.rect.top, b.rect.top);
        if (width > 2 && height > 4) found.push(`${name(a.element)} lies on ${name(b.element)}`);
      }
    }
    return found;
  });

export function pageLooksTests(setting) {
  const open = async () => {
    const { page } = await setting.browser.open(`${setting.server.url}/site/${QUERY}`);
    await past(page, 300);
    return page;
  };

  test("nothing is cut, overlapping or wider than the screen; axe finds nothing serious", async () => {
    const page = await open();
    mkdirSync(pictures, { recursive: true });
    for (const scheme of page.emulateMedia ? ["light", "dark"] : ["light"]) {
      await page.emulateMedia?.({ colorScheme: scheme });
      for (const [size, pixels] of Object.entries(sizes)) {
        await resize(page, pixels);
        const picture = (name) => (page.emulateMedia ? page.screenshot({ path: join(pictures, `${name}-${size}-${scheme}.png`), fullPage: name === "page" }) : undefined);
        await new Promise((later) => setTimeout(later, 300));
        await picture("page");
        assert.deepEqual(await faults(page), [], `${size}, ${scheme}`);
        assert.deepEqual(await findings(page), [], `${size}, ${scheme}`);
        await page.evaluate(() => document.querySelector("#choose").click());
        await new Promise((later) => setTimeout(later, 200));
        await picture("models");
        assert.deepEqual(await faults(page), [], `models, ${size}, ${scheme}`);
        assert.deepEqual(await findings(page), [], `models, ${size}, ${scheme}`);
        await page.keyboard.press("Escape");
        await until(page, "the dialogue closes", () => !document.querySelector("dialog[open]"));
      }
    }
    assert.equal(await page.evaluate(() => document.querySelector("main").dataset.state), "writing", "Esc closed the dialogue only");
    await page.close();
  });

  test("everything can be reached and used with the keyboard alone", async () => {
    const page = await open();
    const reached = [];
    for (let n = 0; n < 14; n++) {
      await page.keyboard.press("Tab");
      reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.value || document.activeElement.localName));
    }
    for (const id of ["streaming", "text", "words", "send", "run", "fresh", "share", "choose", "sinks", "window"]) {
      assert.ok(reached.includes(id), `${id} is reached with Tab: ${reached}`);
    }
    await page.evaluate(() => document.querySelector("[value=streaming]").focus());
    await page.keyboard.press("ArrowRight");
    await until(page, "window mode", () => document.querySelector("main").dataset.attention === "window");
    await state(page, "writing");
    await page.keyboard.press("Escape");
    await state(page, "ready");
    await page.close();
  });

  test("a screen reader is told what goes on", async () => {
    const page = await open();
    await until(page, "a report", () => /\d tokens, .* a second, .* forgotten/.test(document.querySelector("#announcer").textContent), undefined, 30_000);
    const label = await page.evaluate(() => document.querySelector("#ring").getAttribute("aria-label"));
    assert.match(label, /^128 of 128 tokens are in memory; the first is pinned; [\d,]+ are forgotten\.$/);
    await page.evaluate(() => document.querySelector("#run").click());
    await until(page, "the pause", () => /^Paused after [\d,]+ tokens/.test(document.querySelector("#announcer").textContent));
    await page.close();
  });
}
