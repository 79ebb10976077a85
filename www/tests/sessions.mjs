// Sessions: side by side, cloned, saved, fed; conversations; the same from the page itself and from several pages.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { inPage } from "./pages.mjs";
import { folders, target } from "./server.mjs";

const MODEL = "/models/sinkstream-2m.gguf";
const setup = { model: MODEL, device: "cpu", sinks: 2, window: 29 };

export function sessionsTests(setting) {
  test("sessions run side by side, and each goes on as if it were alone", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, setup, { take }) => {
        const engine = await Engine.load(setup);
        const greedy = { temperature: 0, maxTokens: 40 };
        const alone = [];
        for (const text of ["The sea", "My father", "It was"]) {
          const session = await engine.createSession();
          alone.push(await session.prompt(text, greedy));
          session.destroy();
        }
        const together = await Promise.all(["The sea", "My father", "It was"].map(async (text) => (await engine.createSession()).prompt(text, greedy)));
        // An endless stream holds nobody up.
        const endless = await engine.createSession();
        const stream = endless.promptStreaming("One day");
        const other = await engine.createSession();
        await take(stream, 3);
        const meanwhile = await other.prompt("The sea", greedy);

        const first = await engine.createSession();
        let text = await first.prompt("It was", { ...greedy, maxTokens: 15 });
        const copy = await first.clone();
        const saved = await first.save();
        const restored = await engine.restore(saved);
        const rest = [];
        for (const session of [first, copy, restored]) rest.push([session.evicted, text + (await session.prompt("", { ...greedy, maxTokens: 25 })), session.position]);
        const bad = await engine.restore(new Blob(["nothing"])).catch((error) => `${error.message}`);
        await engine.destroy();
        return { alone, together, meanwhile, rest, bad, type: saved.constructor.name };
      },
      setup,
    );
    assert.equal(new Set(seen.alone).size, 3);
    assert.deepEqual(seen.together, seen.alone);
    assert.equal(seen.meanwhile, seen.alone[0]);
    assert.equal(seen.rest[0][1], seen.alone[2]);
    assert.deepEqual(seen.rest[1], seen.rest[0]);
    assert.deepEqual(seen.rest[2], seen.rest[0]);
    assert.match(seen.bad, /saved session cannot be used/);
    assert.equal(seen.type, "Blob");
  });

  test("sessions that share their steps have the texts that each has alone", async () => {
    const runs = await inPage(
      setting,
      async ({ Engine }, setup) => {
        const runs = [];
        for (const streams of [1, 3]) {
          const engine = await Engine.load({ ...setup, streams });
          const texts = await Promise.all(
            ["The sea", "My father", "It was"].map(async (text, seed) => (await engine.createSession()).prompt(text, { seed, maxTokens: 100 })),
          );
          runs.push(texts);
          await engine.destroy();
        }
        return runs;
      },
      setup,
    );
    assert.equal(new Set(runs[0]).size, 3);
    assert.deepEqual(runs[1], runs[0]);
  });

  test("a stream that comes late shares the steps of the others on the GPU", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, setup) => {
        const [first, last] = [20, 120];
        const texts = ["The sea", "My father", "It was", "One day"];
        /** Texts of the streams, and dispatches per token from the first stream's token `first` to its token `last`. */
        const run = async (engine, texts) => {
          const counts = texts.map(() => 0);
          const looks = [];
          let come;
          const late = new Promise((resolve) => (come = resolve));
          const write = async (text, n) => {
            if (n === 3) await late;
            const session = await engine.createSession();
            const pieces = [];
            for await (const piece of session.promptStreaming(text, { seed: text.length, maxTokens: 140 })) {
              pieces.push(piece);
              counts[n] += 1;
              if (n === 0 && counts[0] === 5) come();
              if (n === 0 && [first, last].includes(counts[0])) looks.push([engine.dispatches, counts.reduce((sum, count) => sum + count)]);
            }
            return pieces.join("");
          };
          const written = await Promise.all(texts.map(write));
          return { written, perToken: (looks[1][0] - looks[0][0]) / (looks[1][1] - looks[0][1]) };
        };
        const load = (streams) => Engine.load({ ...setup, device: "gpu", chunk: 1, streams });
        const one = await load(1);
        const [alone, late] = [await run(one, [texts[0]]), await run(one, [texts[3]])];
        await one.destroy();
        const four = await load(4);
        const together = await run(four, texts);
        await four.destroy();
        return { alone, late, together };
      },
      setup,
    );
    const { alone, late, together } = seen;
    console.log(`dispatches a token: ${alone.perToken} alone, ${together.perToken} of four`);
    assert.deepEqual([together.written[0], together.written[3]], [alone.written[0], late.written[0]]);
    assert.equal(new Set(together.written).size, 4);
    // Steps are launched up to 16 at a time, so that each of the counts may be off by a fifth (Firefox: 23.8 to 30.5 for 28 alone).
    assert.ok(together.perToken < (1.7 * alone.perToken) / 4, `${together.perToken} dispatches a token, alone ${alone.perToken}`);
  });

  test("a session is fed without end, waits for the engine, and tells what it forgets", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine, ContextOverflowEvent }, setup, { failure }) => {
        const engine = await Engine.load(setup);
        const session = await engine.createSession();
        const events = [];
        const byAttribute = [];
        session.addEventListener("contextoverflow", (event) => events.push(event));
        session.oncontextoverflow = (event) => byAttribute.push(event.evicted);
        const abort = new AbortController();
        let asked = 0;
        let returned = false;
        const positions = [];
        async function* captions() {
          try {
            for (;;) {
              positions.push([asked, session.position]);
              yield `caption ${asked++} of a stream that has no end. `;
            }
          } finally {
            returned = true;
          }
        }
        const feeding = failure(session.feed(captions(), { signal: abort.signal }));
        while (asked < 12) await new Promise((later) => setTimeout(later, 20));
        const reply = await session.prompt("What is", { temperature: 0, maxTokens: 5 }); // in between
        abort.abort();
        const fed = await feeding;
        await new Promise((later) => setTimeout(later, 50));
        await session.feed(["a list ", "is fed too"]);
        const { position, evicted, contextUsage, contextWindow, pinned } = session;
        const count = await session.countTokens("caption 1 of a stream that has no end. ");
        const early = await failure(session.append("x", { signal: AbortSignal.abort() }));
        const numbers = events.map(({ evicted, newlyEvicted, oldestPosition, position }) => [evicted, newlyEvicted, oldestPosition, position]);
        await engine.destroy();
        return { positions, fed, returned, reply, numbers, byAttribute, last: { position, evicted, contextUsage, contextWindow, pinned }, count, early, isEvent: events[0] instanceof ContextOverflowEvent };
      },
      setup,
    );
    assert.match(seen.fed, /^AbortError/);
    assert.ok(seen.returned, "the source is told");
    assert.ok(seen.reply.length > 3 && seen.isEvent);
    // Asked for the next one only when the last was in the cache.
    for (const [n, [asked, position]] of seen.positions.entries()) assert.ok(n === 0 || position >= seen.positions[n - 1][1] + seen.count - 2, `caption ${asked} at ${position}`);
    let before = 0;
    for (const [evicted, newly, oldest, position] of seen.numbers) {
      assert.deepEqual([evicted, oldest, position], [before + newly, evicted + 2, evicted + 32]);
      before = evicted;
    }
    assert.deepEqual(seen.byAttribute, seen.numbers.map(([evicted]) => evicted));
    assert.deepEqual(seen.last, { position: before + 32, evicted: before, contextUsage: 32, contextWindow: 32, pinned: 2 });
    assert.match(seen.early, /^AbortError/);
  });

  test("a conversation keeps its initial prompts for ever", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, setup) => {
        const engine = await Engine.load({ ...setup, window: 80 });
        const initialPrompts = [{ role: "system", content: "You are a narrator." }, { role: "user", content: "Who?" }, { role: "assistant", content: "Me." }];
        const session = await engine.createSession({ initialPrompts });
        const { contextUsage, pinned: pinnedAtOnce } = session;
        const texts = await session.pinnedTokens();
        const pinned = [];
        const options = { temperature: 0, maxTokens: 12 };
        for (const question of ["What is the sea?", "And the land?"]) {
          await session.append("I have a question.");
          await session.prompt(question, options);
          pinned.push(session.pinned);
        }
        while (session.evicted < 20) await session.prompt("Go on.", options);
        const copy = await session.clone();
        const restored = await engine.restore(await session.save());
        const answers = [];
        for (const each of [session, copy, restored]) answers.push(await each.prompt("And then?", options), each.pinned);
        const tooLong = await engine.createSession({ initialPrompts: [{ role: "system", content: "long ".repeat(200) }] }).then((session) => session.prompt("x")).catch((error) => `${error.name}: ${error.message}`);
        await engine.destroy();
        return { atOnce: [contextUsage, pinnedAtOnce, texts.length], text: texts.join(""), pinned, answers, tooLong, window: session.contextWindow };
      },
      setup,
    );
    assert.ok(seen.pinned[0] > 10 && seen.pinned[1] === seen.pinned[0]);
    assert.deepEqual(seen.atOnce, [seen.pinned[0], seen.pinned[0], seen.pinned[0]], "they are in the cache before the first question");
    assert.match(seen.text, /You\s*are\s*a\s*narrator/);
    assert.equal(new Set(seen.answers).size, 2, `${seen.answers}`);
    assert.match(seen.tooLong, /^RangeError: .*pinned/);
    assert.equal(seen.window, 83);
  });

  test("chat.completions has OpenAI's shape, and goes on where the last call ended", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, setup, { failure }) => {
        const engine = await Engine.load({ ...setup, window: 200 });
        const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: [{ type: "text", text: "Hello" }] }];
        const options = { temperature: 0, max_tokens: 8, model: "any" };
        const whole = await engine.chat.completions.create({ messages, ...options });
        const next = [...messages, whole.choices[0].message, { role: "user", content: "More" }];
        const warm = await engine.chat.completions.create({ messages: next, ...options });
        const cold = await engine.chat.completions.create({ messages: next, ...options });
        const chunks = [];
        for await (const chunk of await engine.chat.completions.create({ messages, ...options, stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
        const word = whole.choices[0].message.content.split(" ")[2];
        const stopped = await engine.chat.completions.create({ messages, ...options, stop: word });
        const abort = new AbortController();
        const aborted = await failure(
          (async () => {
            for await (const chunk of await engine.chat.completions.create({ messages, stream: true, temperature: 0 }, { signal: abort.signal })) if (chunk.choices[0].delta.content) abort.abort();
          })(),
        );
        const likely = await engine.chat.completions.create({ messages, ...options, logprobs: true });
        const likelyChunks = [];
        for await (const chunk of await engine.chat.completions.create({ messages, ...options, logprobs: true, stream: true })) likelyChunks.push(...(chunk.choices[0].logprobs?.content ?? []));
        const seeds = [];
        for (const seed of [3, 3]) seeds.push((await engine.chat.completions.create({ messages, seed, max_tokens: 8, temperature: 1 })).choices[0].message.content);
        const refused = {};
        for (const [name, value] of Object.entries({ n: 2, top_logprobs: 3, tools: [{}], response_format: { type: "json_object" }, logit_bias: { 1: 2 }, messages: [], presence_penalty: 1 })) refused[name] = await failure(engine.chat.completions.create({ messages, [name]: value }));
        const allowed = await failure(engine.chat.completions.create({ messages, max_tokens: 1, n: 1, tools: [], logprobs: false, response_format: { type: "text" }, user: "me" }));
        await engine.destroy();
        return { whole, warm, cold, chunks, word, stopped, aborted, likely, likelyChunks, seeds, refused, allowed };
      },
      setup,
    );
    const { whole, warm, cold, chunks } = seen;
    assert.match(whole.id, /^chatcmpl-/);
    assert.deepEqual([whole.object, whole.model, whole.choices[0].message.role, whole.choices[0].finish_reason], ["chat.completion", "sinkstream-2m", "assistant", "length"]);
    const { prompt_tokens, completion_tokens, total_tokens } = whole.usage;
    assert.ok(prompt_tokens > 5 && completion_tokens === 8 && total_tokens === prompt_tokens + 8);
    assert.equal(warm.usage.prompt_tokens_details.cached_tokens, total_tokens);
    assert.equal(cold.usage.prompt_tokens_details.cached_tokens, 0);
    assert.equal(warm.usage.completion_tokens, 8);
    assert.equal(chunks[0].choices[0].delta.role, "assistant");
    assert.equal(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join(""), whole.choices[0].message.content);
    assert.deepEqual([chunks.at(-2).choices[0].finish_reason, chunks.at(-1).choices, chunks.at(-1).usage.total_tokens], ["length", [], total_tokens]);
    assert.equal(seen.stopped.choices[0].finish_reason, "stop");
    assert.ok(!seen.stopped.choices[0].message.content.includes(seen.word));
    assert.match(seen.aborted, /^AbortError/);
    const { content } = seen.likely.choices[0].logprobs;
    assert.equal(content.map(({ token }) => token).join(""), whole.choices[0].message.content);
    assert.ok(content.length === 8 && content.every(({ logprob }) => logprob < 0 && logprob > -12), JSON.stringify(content));
    assert.deepEqual(seen.likelyChunks, content);
    assert.equal(whole.choices[0].logprobs, null);
    assert.equal(seen.seeds[0], seen.seeds[1]);
    for (const [name, error] of Object.entries(seen.refused)) assert.match(error, new RegExp(`^RangeError: ${name}`));
    assert.equal(seen.allowed, "nothing");
  });

  test("the Prompt API and the AI SDK stand on it", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, setup) => {
        await Engine.deleteCached();
        const { polyfill } = await import("/dist/prompt-api.js");
        const LanguageModel = polyfill({ ...setup, window: 60 }, { force: true });
        const availability = [await globalThis.LanguageModel.availability(), await LanguageModel.availability({ expectedInputs: [{ type: "audio" }] })];
        const loaded = [];
        const session = await LanguageModel.create({
          initialPrompts: [{ role: "system", content: "Tell a story." }],
          monitor: (monitor) => monitor.addEventListener("downloadprogress", (event) => loaded.push(event.loaded)),
          temperature: 1,
          topK: 1,
        });
        availability.push(await LanguageModel.availability());
        let overflow;
        session.addEventListener("contextoverflow", (event) => (overflow = [event.evicted, session.contextUsage]));
        await session.append([{ role: "user", content: "Listen." }, { role: "user", content: [{ type: "text", value: "It begins." }] }]);
        const usage = [session.contextUsage, await session.measureContextUsage("Go on.")];
        const copy = await session.clone();
        const streamed = [];
        const reader = session.promptStreaming("Go on.").getReader();
        while (streamed.length < 40) {
          const { done, value } = await reader.read();
          if (done) break;
          streamed.push(value);
        }
        await reader.cancel();
        const streamOfCopy = copy.promptStreaming("Go on.").getReader();
        const first = (await streamOfCopy.read()).value;
        await streamOfCopy.cancel();
        const constraint = await session.prompt("x", { responseConstraint: {} }).catch((error) => error.name);
        session.destroy();
        const gone = await session.prompt("x").catch((error) => error.name);

        const { sinkstream } = await import("/dist/ai-sdk.js");
        const engine = await Engine.load({ ...setup, window: 60 });
        const model = sinkstream(engine);
        const prompt = [{ role: "system", content: "Be brief." }, { role: "user", content: [{ type: "text", text: "Hello" }] }];
        const generated = await model.doGenerate({ prompt, maxOutputTokens: 6, temperature: 0, presencePenalty: 1 });
        const parts = [];
        for (const reader = (await model.doStream({ prompt, maxOutputTokens: 6, temperature: 0 })).stream.getReader(); ; ) {
          const { done, value } = await reader.read();
          if (done) break;
          parts.push(value);
        }
        await engine.destroy();
        return { availability, loaded, overflow, usage, window: session.contextWindow, streamed, first, constraint, gone, version: model.specificationVersion, generated, parts };
      },
      setup,
    );
    assert.deepEqual(seen.availability, ["downloadable", "unavailable", "available"]);
    assert.ok(seen.loaded.length > 2 && seen.loaded.at(-1) === 1 && seen.loaded.every((n, i) => i === 0 || n >= seen.loaded[i - 1]));
    assert.ok(seen.usage[0] > 10 && seen.usage[1] > 1 && seen.usage[1] < 8, `${seen.usage}`);
    assert.deepEqual([seen.window, seen.overflow[1]], [63, 63]);
    assert.equal(seen.first, seen.streamed[0], "a clone says the same");
    assert.deepEqual([seen.constraint, seen.gone], ["NotSupportedError", "InvalidStateError"]);
    assert.equal(seen.version, "v4");
    assert.deepEqual(seen.generated.warnings, [{ type: "unsupported", feature: "presencePenalty" }]);
    assert.deepEqual(seen.generated.finishReason, { unified: "length", raw: "length" });
    assert.equal(seen.generated.usage.outputTokens.total, 6);
    const types = seen.parts.map(({ type }) => type).filter((type, n, all) => type !== all[n - 1]);
    assert.deepEqual(types, ["stream-start", "response-metadata", "text-start", "text-delta", "text-end", "finish"]);
    assert.equal(seen.parts.map(({ delta = "" }) => delta).join(""), seen.generated.content[0].text);
  });

  test("in the page itself, in a worker and in the native command the text is the same", async (context) => {
    const program = join(target, "release/sinkstream");
    const seen = await inPage(
      setting,
      async ({ Engine }, setup) => {
        const texts = [];
        for (const worker of [true, false]) {
          const engine = await Engine.load({ ...setup, worker });
          const session = await engine.createSession();
          texts.push([await session.prompt("The old man", { temperature: 0, maxTokens: 60 }), session.position]);
          await engine.destroy();
        }
        return texts;
      },
      setup,
    );
    assert.deepEqual(seen[0], seen[1]);
    if (!existsSync(program)) return context.skip("NOT CHECKED: the command is not built");
    const flags = ["generate", "--model", join(folders.models, "sinkstream-2m.gguf"), "--device", "cpu", "--sinks", "2", "--window", "29"];
    const { text, ids, prompt_ids } = JSON.parse(execFileSync(program, [...flags, "--prompt", "The old man", "-n", "60", "--temperature", "0", "--json", "--quiet"]));
    assert.deepEqual(seen[0], [text, ids.length + prompt_ids.length]);
  });

  test("no eval, no header: a page with a strict content security policy", async () => {
    const { page, complaints } = await setting.browser.open(`${setting.server.url}/safe/blank`);
    try {
      const text = await page.evaluate(async (setup) => {
        const { Engine } = await import("/safe/dist/index.js");
        const engine = await Engine.load(setup);
        const text = await (await engine.createSession()).prompt("It was", { temperature: 0, maxTokens: 5 });
        await engine.destroy();
        return text;
      }, setup);
      assert.ok(text.length > 5);
      assert.deepEqual(complaints, []);
    } finally {
      await page.close();
    }
  });

  test("pages share one engine: one download, and each has its own sessions", { timeout: 300_000 }, async (context) => {
    const model = `${MODEL}?shared`;
    const work = async ({ setup, model }) => {
      const { Engine } = await import("/dist/index.js");
      globalThis.engine = await Engine.load({ ...setup, model, cache: "none", shared: true });
      globalThis.session = await engine.createSession();
      return engine.info.shared;
    };
    const since = setting.server.requests.length;
    const pages = [];
    for (let n = 0; n < 2; n++) pages.push((await setting.browser.open(`${setting.server.url}/blank`)).page);
    const shared = await Promise.all(pages.map((page) => page.evaluate(work, { setup, model })));
    if (!shared[0]) context.diagnostic("this browser has no shared workers with WebGPU: each page has an engine of its own");
    const asked = setting.server.requests.slice(since).filter(({ url }) => url === model).map(({ range }) => range);
    assert.equal(new Set(asked).size * (shared[0] ? 1 : 2), asked.length, `${asked}`);
    const prompt = (page, maxTokens) => page.evaluate((maxTokens) => session.prompt("", { temperature: 0, maxTokens }), maxTokens);
    await pages[0].evaluate(() => session.append("It was"));
    await pages[1].evaluate(() => session.append("It was"));
    const [a, b] = await Promise.all([prompt(pages[0], 20), prompt(pages[1], 20)]);
    assert.equal(a, b);
    await pages[0].close();
    const more = await prompt(pages[1], 5);
    assert.ok(more.length > 0, "the other page goes on when one is closed");
    await pages[1].close();
  });
}
