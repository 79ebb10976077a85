// A conversation on the demo page outlives a change of mode or memory.

import assert from "node:assert/strict";
import { test } from "node:test";
import { until } from "./browsers.mjs";
import { click, state } from "./page.mjs";

const MODEL = "/made/chat.gguf";
const ROOM = 256;

export function pageTalksTests(setting) {
  const open = (query) => setting.browser.open(`${setting.server.url}/site/?device=cpu&model=${MODEL}&chat&temperature=0${query}`);
  const frame = (page) => page.evaluate(() => new Promise((later) => requestAnimationFrame(() => requestAnimationFrame(later))));
  const looks = async (page) => {
    await frame(page);
    return page.evaluate(() => {
      const { position, evicted, attention } = document.querySelector("main").dataset;
      const texts = (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent);
      const [mine, seen] = [texts("#text .mine"), texts("#text [data-age]").join("")];
      return { attention, position: Number(position), cached: position - evicted, mine: mine.join(""), seen, words: texts("#text p"), notice: document.querySelector("#notice").textContent };
    });
  };
  const pause = async (page) => {
    await page.evaluate(() => document.querySelector("main").dataset.state === "writing" && document.querySelector("#run").click());
    await state(page, "ready");
  };
  const send = (page, text) =>
    page.evaluate((text) => {
      document.querySelector("#words").value = text;
      document.querySelector("#send").click();
    }, text);
  /** Says something, and lets so many letters be answered. */
  const say = async (page, text, letters = 60) => {
    await send(page, text);
    const isAnswered = ({ text, letters }) => document.querySelector("#text").textContent.split(text)[1]?.length >= letters;
    await until(page, "an answer", isAnswered, { text, letters }, 240_000);
    await pause(page);
  };
  const switchTo = async (page, mode) => {
    await click(page, `input[value=${mode}]`);
    await until(page, `the mode ${mode}`, (mode) => document.querySelector("main").dataset.attention === mode, mode);
  };

  /** From now on, what sessions of the page begin with. */
  const listen = (page) =>
    page.evaluate(() => {
      const { postMessage } = Worker.prototype;
      Worker.prototype.postMessage = function (message, ...rest) {
        if (message.conversation) window.conversation = message.conversation;
        return postMessage.call(this, message, ...rest);
      };
    });
  const squash = (text) => text.replace(/\s+/g, "");

  test("a conversation goes on in another mode: the model is given what was said", async () => {
    const { page, complaints } = await open(`&sinks=1&window=${ROOM - 2}`);
    await state(page, "ready");
    await click(page, "#slow"); // so that a pause comes in time
    await say(page, "Good morning to you");
    const before = await looks(page);
    await listen(page);
    await switchTo(page, "window");
    await state(page, "ready");
    const after = await looks(page);
    assert.deepEqual([after.words, after.mine], [before.words, before.mine], "the text is as it was");
    // What the template puts behind an answer and in front of the next question may be in it already.
    const more = (name) => after[name] - before[name];
    for (const name of ["cached", "position"]) assert.ok(more(name) > -5 && more(name) < 20, `${name}: ${before[name]} before, ${after[name]} in the new memory`);
    assert.match(after.seen, /Good morning to you/, "what was said is marked as seen");
    assert.doesNotMatch(after.notice, /does not fit/);
    const { initialPrompts, history } = await page.evaluate(() => window.conversation);
    assert.deepEqual([initialPrompts, history.map(({ role }) => role), history[0].content], [[], ["user", "assistant"], "Good morning to you"]);
    assert.equal(squash(before.words.join("")), squash(history.map(({ content }) => content).join("")));

    await say(page, "And to whom");
    const end = await looks(page);
    /** What a session that knows the conversation answers. */
    const known = await page.evaluate(
      async ({ model, history, window }) => {
        const { Engine } = await import("/dist/index.js");
        const engine = await Engine.load({ model, device: "cpu", attention: "window", window });
        const session = await engine.createSession({ initialPrompts: [], history });
        const text = await session.prompt("And to whom", { temperature: 0, maxTokens: 12 });
        await engine.destroy();
        return text;
      },
      { model: MODEL, history, window: ROOM - 1 },
    );
    const [text, all] = [squash(`And to whom${known}`), squash(end.words.join(""))];
    assert.ok(known.length > 10 && all.startsWith(squash(before.words.join("")) + text), `${all} / ${text}`);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("a conversation that does not fit into the new memory is told of, and goes on without its beginning", async () => {
    const { page, complaints } = await open(`&sinks=1&window=${2 * ROOM - 2}`);
    await state(page, "ready");
    await click(page, "#slow");
    // Three questions of some 60 tokens into a memory of 128.
    const questions = ["Who is there", "What is it", "And what now"].map((question) => `${question}, I asked, ${"and then I asked once more, ".repeat(6)}and so on.`);
    for (const question of questions) await say(page, question, 20);
    const before = await looks(page);
    await listen(page);
    await page.evaluate(() => {
      const room = document.querySelector("#window");
      room.value = 3; // of 16, 32, 64, 128
      room.dispatchEvent(new Event("change"));
    });
    await until(page, "the smaller memory", () => location.search.includes("window=126"));
    await state(page, "ready");
    const after = await looks(page);
    assert.match(after.notice, /does not fit into this memory: the model no longer knows its first 2 questions and answers/);
    assert.deepEqual([after.words, after.mine], [before.words, before.mine], "the text is as it was");
    const { history } = await page.evaluate(() => window.conversation);
    assert.deepEqual([history.length, history[0].content], [2, questions[2]]);
    assert.ok(after.cached > 60 && after.cached <= 128, `${after.cached} tokens`);
    assert.match(after.seen, /And what now/);
    assert.doesNotMatch(after.seen, /What is it/);
    await say(page, "Farewell", 20);
    assert.match((await looks(page)).words.join("\n"), /Who is there[^]*What is it[^]*And what now[^]*Farewell/);
    await switchTo(page, "dense");
    await state(page, "ready");
    const dense = await looks(page);
    assert.ok(dense.cached > 180 && /Who is there/.test(dense.seen), `${dense.cached} tokens, all of it: ${dense.seen}`);
    assert.doesNotMatch(dense.notice, /does not fit/);
    assert.deepEqual(complaints, []);
    await page.close();
  });

  test("a question that had no answer yet is asked again in the new mode", async () => {
    const { page, complaints } = await open(`&sinks=1&window=${ROOM - 2}`);
    await state(page, "ready");
    await page.evaluate(() => {
      document.querySelector("#words").value = "Who goes there";
      document.querySelector("#send").click();
      document.querySelector("input[value=window]").click();
    });
    await until(page, "the mode window", () => document.querySelector("main").dataset.attention === "window");
    await until(page, "an answer", () => document.querySelector("#text").textContent.split("Who goes there")[1]?.length > 40, undefined, 240_000);
    await pause(page);
    const { words } = await looks(page);
    assert.equal(words[0], "Who goes there");
    assert.ok(words.length > 1 && words.slice(1).join("").length > 30 && !words.slice(1).includes("Who goes there"), `${words}`);
    assert.deepEqual(complaints, []);
    await page.close();
  });
}
