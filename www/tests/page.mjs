// The demo page as its user finds it: what it does.

import assert from "node:assert/strict";
import { test } from "node:test";
import { launch, until } from "./browsers.mjs";

/** A memory so small that software shaders get past it soon. */
const SINKS = 4;
const WINDOW = 28;

/** Waits until what came is drawn: the text comes with the next frame, which a busy machine may leave out for a second and more. */
const drawn = (page) => page.evaluate(() => new Promise(requestAnimationFrame));
/** What the page says of itself, and the text that belongs to it unless a token came while the frame was awaited: then it lacks that one. */
const shown = (page) =>
  page.evaluate(async () => {
    await new Promise(requestAnimationFrame);
    return { ...document.querySelector("main").dataset, text: document.querySelector("#text").textContent };
  });
const words = (page, id) => page.evaluate((id) => document.querySelector(id).textContent, id);
export const state = async (page, wanted, ms = 240_000) => {
  const reached = await until(page, `the page is ${wanted}`, (wanted) => [wanted, "error"].find((state) => document.querySelector("main").dataset.state === state), wanted, ms);
  if (reached !== wanted) assert.fail(`the page is not ${wanted}: ${await words(page, "#notice")}`);
};
export const past = (page, position) =>
  until(page, `position ${position}`, (position) => Number(document.querySelector("main").dataset.position) > position, position, 240_000);
/** Not by its place: the text that grows beside it may move it while a pointer is on its way. */
export const click = (page, selector) => page.evaluate((selector) => document.querySelector(selector).click(), selector);
const run = (page) => click(page, "#run");
const pause = async (page) => {
  await run(page);
  await state(page, "ready");
};

/** Dispatches counted at the calls into WebGPU, from outside the program. */
const counted = (page) =>
  page.evaluate(
    () =>
      new Promise((resolve) => {
        const channel = new BroadcastChannel("counted");
        channel.onmessage = ({ data }) => data.dispatches !== undefined && (channel.close(), resolve(data.dispatches));
        channel.postMessage("how much?");
        setTimeout(() => (channel.close(), resolve(undefined)), 20_000);
      }),
  );

export function pageTests(setting) {
  const open = (query) => setting.browser.open(`${setting.server.url}/site/${query}`);

  for (const device of ["gpu", "cpu"]) {
    test(`the page writes by itself, past three memories on the ${device}; it pauses, goes on, reloads`, async () => {
      const { page, complaints } = await setting.browser.open(`${setting.server.url}/counted/?device=${device}&sinks=${SINKS}&window=${WINDOW}`);
      await state(page, "writing");
      assert.equal((await shown(page)).executor, device);
      await past(page, 3 * (SINKS + WINDOW));
      const early = await shown(page);
      await past(page, Number(early.position) + 10);
      await pause(page);

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
      assert.deepEqual(await shown(page), stopped, "nothing moves while it is paused");

      await click(page, "#slow"); // so that what was there is still there when it is looked at
      await run(page);
      await past(page, Number(stopped.position) + 5);
      await pause(page);
      assert.ok((await shown(page)).text.includes(stopped.text.slice(-200)), "it goes on where it stopped");
      await page.reload();
      await state(page, "writing");
      await past(page, 20);
      await pause(page);
      assert.deepEqual(complaints, []);
      await page.close();
    });
  }

  test("what the model sees is marked in the text, and what it has forgotten is not", async () => {
    const { page, complaints } = await open(`?device=cpu&sinks=1&window=40&seed=3`);
    await past(page, 200);
    await page.evaluate(() => document.querySelector("#slow").click()); // so that tokens come one by one
    await past(page, Number((await shown(page)).position) + 45);
    await page.keyboard.press("Escape");
    await state(page, "ready");
    await drawn(page);
    const seen = await page.evaluate(() => {
      const text = document.querySelector("#text");
      const marked = [...text.querySelectorAll("[data-age]")];
      const letters = marked.map((node) => node.textContent).join("").length;
      return { letters, all: text.textContent.length, ages: marked.map((node) => Number(node.dataset.age)), ends: text.textContent.endsWith(marked.at(-1).textContent) };
    });
    const position = Number((await shown(page)).position);
    // 41 of so many tokens are marked, so about that share of the letters.
    const share = (seen.letters / seen.all) * (position / 41);
    assert.ok(share > 0.5 && share < 2, `${seen.letters} of ${seen.all} letters are marked, 41 of ${position} tokens seen`);
    assert.deepEqual(seen.ages, seen.ages.toSorted((a, b) => b - a), "the newest come last");
    assert.deepEqual([...new Set(seen.ages)], [3, 2, 1, 0], "in four steps");
    assert.ok(seen.ends);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("a page that is hidden writes nothing, and goes on with the same text when it is shown", async () => {
    const { page, complaints } = await open(`?device=cpu&window=40&seed=6`);
    await past(page, 60);
    const setHidden = (isHidden) =>
      page.evaluate((isHidden) => {
        Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, isHidden);
    await setHidden(true);
    let [before, after] = [undefined, await shown(page)];
    for (let n = 0; n < 10 && (before?.position !== after.position || before.text !== after.text); n++) {
      await new Promise((later) => setTimeout(later, 1_500)); // what was on its way may still come
      [before, after] = [after, await shown(page)];
    }
    assert.deepEqual([after.position, after.text], [before.position, before.text], "nothing is written");
    await page.evaluate(() => document.querySelector("#slow").click()); // so that what was there is still there
    await setHidden(false);
    await past(page, Number(after.position) + 5);
    await pause(page);
    assert.ok((await shown(page)).text.includes(after.text.slice(-200)), "it goes on where it stopped");
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("words can be put into the text at any time", async () => {
    const { page, complaints } = await open(`?device=cpu&window=60`);
    await past(page, 30);
    await click(page, "#slow"); // so that nothing leaves the page before it is looked at
    await page.type("#words", "Suddenly a dragon flew in.");
    await page.keyboard.press("Enter");
    await until(page, `the words in the text, and more behind them`, () => {
      const { textContent } = document.querySelector("#text");
      const at = textContent.indexOf("Suddenly a dragon flew in.");
      return at > 0 && textContent.length > at + 66;
    });
    await pause(page);
    const mine = await page.evaluate(() => [...document.querySelectorAll("#text .mine")].map((node) => node.textContent).join(""));
    assert.match(mine, /Suddenly a dragon flew in\.$/);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("the text on the page stays bounded", async () => {
    const { page, complaints } = await open(`?device=cpu&window=8`);
    await state(page, "writing");
    await page.evaluate(() => (document.querySelector("#words").value = "word ".repeat(5_000)));
    await click(page, "#send");
    await past(page, 5_000);
    await pause(page);
    await drawn(page);
    const { text } = await shown(page);
    const nodes = await page.evaluate(() => document.querySelectorAll("#text *").length);
    assert.ok(text.length <= 4_000, `${text.length} characters`);
    assert.ok(nodes <= 800, `${nodes} elements`);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("another mode goes on with the same text; dense gets full and says so; the address shows the choice", async () => {
    const { page, complaints } = await open(`?device=cpu&window=40`);
    await past(page, 80);
    await click(page, "[value=window] + span");
    await until(page, "window mode", () => document.querySelector("main").dataset.attention === "window" && document.querySelector("main").dataset.state === "writing");
    assert.ok((await page.evaluate(() => location.search)).includes("attention=window"));
    const { position, evicted } = await shown(page);
    assert.ok(Number(position) > 80, "the text goes on");
    assert.ok(Number(evicted) > 0, "its memory is full at once");
    assert.match(await words(page, "#mode-words"), /dropped/);
    await past(page, Number(position) + 20);

    await click(page, "[value=streaming] + span");
    await until(page, "streaming mode", () => document.querySelector("main").dataset.attention === "streaming" && document.querySelector("main").dataset.state === "writing");
    await page.evaluate(() => {
      const sinks = document.querySelector("#sinks");
      sinks.value = "2";
      sinks.dispatchEvent(new Event("change"));
    });
    await until(page, "two sinks", () => location.search.includes("sinks=2") && document.querySelector("#pinned-text").textContent.includes("first 2 tokens"));
    await state(page, "writing");
    await page.goto(`${setting.server.url}/site/?device=cpu&attention=dense&window=40`);
    await state(page, "full");
    assert.match(await words(page, "#notice"), /memory is full: it held all 40 tokens/);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("without the first token perplexity rises, under the text", async () => {
    const { page, complaints } = await open(`?device=cpu&window=126&seed=4`);
    /** The mean of what is shown in the next seven seconds and 900 tokens: a new number every half a second. */
    const perplexity = async () => {
      const seen = [];
      const begin = Number((await shown(page)).position);
      while (Number((await shown(page)).position) < begin + 900 || seen.length < 14) {
        await new Promise((later) => setTimeout(later, 500));
        seen.push(Number(await words(page, "#perplexity")));
      }
      return seen.reduce((sum, value) => sum + value, 0) / seen.length;
    };
    await past(page, 300);
    const pinned = await perplexity();
    await click(page, "[value=window] + span");
    await until(page, "window mode", () => document.querySelector("main").dataset.attention === "window" && document.querySelector("main").dataset.state === "writing");
    await past(page, Number((await shown(page)).position) + 300);
    const dropped = await perplexity();
    assert.ok(pinned > 2 && pinned < 30, `${pinned} with the first token`);
    assert.ok(dropped > 1.2 * pinned, `${dropped} without, ${pinned} with it`);
    assert.match(await page.evaluate(() => document.querySelector("#perplexity-line").getAttribute("aria-label")), /^Perplexity over time: now [\d.,]+\.$/);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("a model with a chat template can be talked to", async () => {
    const { page, complaints } = await open(`?device=cpu&paused&seed=3`);
    await state(page, "ready");
    const hidden = await page.evaluate(() => document.querySelector("#chat").hidden);
    assert.ok(hidden, "the page's own model has no template");
    await page.evaluate(async () => {
      const files = new DataTransfer();
      files.items.add(new File([await (await fetch("/made/chat.gguf")).blob()], "chat.gguf"));
      const input = document.querySelector("#file");
      input.files = files.files;
      input.dispatchEvent(new Event("change"));
    });
    await until(page, "the model with a template", () => !document.querySelector("#chat").hidden && document.querySelector("main").dataset.state === "writing");
    await click(page, "#chat");
    await until(page, "the conversation", () => document.querySelector("#chat").ariaPressed === "true" && document.querySelector("main").dataset.state === "ready");
    assert.equal(await words(page, "#words-label"), "Say something");
    await page.type("#words", "Good morning to you");
    const before = Number((await shown(page)).position);
    await page.keyboard.press("Enter");
    await past(page, before + 20);
    await pause(page).catch(() => {}); // the answer may have ended
    await drawn(page);
    const turns = await page.evaluate(() => [...document.querySelectorAll("#text p")].map((turn) => [turn.querySelector(".mine") !== null, turn.textContent]));
    assert.deepEqual(turns[0], [true, "Good morning to you"]);
    assert.ok(turns.length > 1 && turns[1][1].trim().length > 0, "there is an answer, apart from the question");
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("a model of the visitor's own: chosen, from an address, or a clear error", async () => {
    const { page, complaints } = await open(`?device=cpu&window=40`);
    await past(page, 20);
    await click(page, "#choose");
    await page.evaluate(async () => {
      const model = await (await fetch("/models/streameval.gguf")).blob();
      const files = new DataTransfer();
      files.items.add(new File([model], "streameval.gguf"));
      const input = document.querySelector("#file");
      input.files = files.files;
      input.dispatchEvent(new Event("change"));
    });
    await until(page, "the other model", () => /streameval/i.test(document.querySelector("#model").textContent) && document.querySelector("main").dataset.state === "writing");
    await click(page, "#choose");
    await page.type("#address", `${setting.server.url}/models/missing.gguf`);
    await click(page, "#address-send");
    await until(page, "an error", () => /could not be fetched: .*missing\.gguf.*404/s.test(document.querySelector("#plan").textContent));
    await page.evaluate((address) => {
      const input = document.querySelector("#address");
      input.value = address;
      input.dispatchEvent(new Event("input"));
    }, `${setting.server.url}/models/sinkstream-2m.gguf`);
    await click(page, "#address-send");
    await until(page, "what it needs", () => /sinkstream-2m: a download of 2\.9 MB, then [\d.]+ MB of memory/.test(document.querySelector("#plan").textContent));
    await click(page, "#address-send");
    await until(page, "the model from there", () => location.search.includes("model=http") && document.querySelector("main").dataset.state === "writing");
    await click(page, "#choose");
    await click(page, "#bundled");
    await state(page, "writing");
    assert.match(await words(page, "#model"), /sinkstream/);
    assert.deepEqual(complaints.filter((text) => !/404/.test(text)), []);
    await page.close();
  });

  test("a model that is dropped on the page is loaded; what is no model is a clear error", async () => {
    const { page, complaints } = await open(`?device=cpu&window=40`);
    await past(page, 20);
    const drop = (name, address) =>
      page.evaluate(
        async ({ name, address }) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([await (await fetch(address)).blob()], name));
          for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
        },
        { name, address },
      );
    await drop("index.html", "/site/index.html");
    await until(page, "an error", () => document.querySelector("main").dataset.state === "error");
    assert.match(await words(page, "#notice"), /does not run here: .*Choose another model/s);
    await drop("streameval.gguf", "/models/streameval.gguf");
    await until(page, "the other model", () => /streameval/i.test(document.querySelector("#model").textContent) && document.querySelector("main").dataset.state === "writing");
    assert.equal(await page.evaluate(() => document.querySelector("#dropping").hidden), true);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("a text is saved with the memory of its model, and goes on from the file", async () => {
    const { page, complaints } = await open(`?device=cpu&window=40&seed=2&temperature=0`);
    await past(page, 100);
    await pause(page);
    const before = await shown(page);
    await click(page, "#slow"); // so that what was there is still there when it is looked at
    await page.evaluate(() => {
      const click = HTMLAnchorElement.prototype.click;
      window.saved = new Promise((resolve) => {
        HTMLAnchorElement.prototype.click = function () {
          HTMLAnchorElement.prototype.click = click;
          resolve(fetch(this.href).then((answer) => answer.blob()));
        };
      });
      document.querySelector("#save").click();
    });
    await page.evaluate(async () => void (window.saved = await window.saved));
    await run(page);
    await past(page, Number(before.position) + 30);
    await pause(page);
    const first = await shown(page);
    await page.evaluate(() => {
      const files = new DataTransfer();
      files.items.add(new File([window.saved], "saved.text"));
      const input = document.querySelector("#restore-file");
      input.files = files.files;
      input.dispatchEvent(new Event("change"));
    });
    await until(page, "the saved text", (position) => document.querySelector("main").dataset.position === position && document.querySelector("main").dataset.state === "ready", before.position);
    await drawn(page);
    assert.equal((await shown(page)).text, before.text);
    await run(page);
    await past(page, Number(first.position));
    await pause(page);
    const again = await shown(page);
    assert.ok(again.text.startsWith(first.text) || first.text.startsWith(again.text), `the same words come again: ${first.text.slice(-80)} / ${again.text.slice(-80)}`);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("without WebGPU the page says so and writes on the CPU; ?device=gpu is a clear error", async () => {
    const browser = await launch(setting.name, { webgpu: false });
    try {
      const { page } = await browser.open(`${setting.server.url}/site/?window=${WINDOW}`);
      await state(page, "writing");
      assert.equal((await shown(page)).executor, "cpu");
      assert.match(await words(page, "#notice"), /runs on the CPU/);
      await past(page, 20);
      await page.goto(`${setting.server.url}/site/?device=gpu`);
      await state(page, "error");
      assert.match(await words(page, "#notice"), /no GPU.*without \?device=gpu/s);
    } finally {
      await browser.close();
    }
  });

  test("a wrong address is a clear error", async () => {
    const { page } = await open("?window=none");
    await state(page, "error");
    assert.match(await words(page, "#notice"), /\?window=none.*whole number/);
    await page.goto(`${setting.server.url}/site/?device=cpu&model=missing.gguf`);
    await state(page, "error");
    assert.match(await words(page, "#notice"), /missing\.gguf.*404/);
    await page.close();
  });
}
