// The npm package as a program uses it: every source of a model, streams that stop exactly, errors by class.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inPage } from "./pages.mjs";

const MODEL = "/models/sinkstream-2m.gguf";

export function packageTests(setting) {
  test("every source of a model gives the same text", async () => {
    const texts = await inPage(
      setting,
      async ({ Engine }, model) => {
        const bytes = await (await fetch(model)).arrayBuffer();
        const sources = {
          ranges: model,
          url: new URL(model, location.href),
          noRanges: `${model}?noranges`,
          broken: `${model}?break=900000`,
          buffer: bytes,
          array: new Uint8Array(bytes),
          blob: new Blob([bytes]),
          stream: new Blob([bytes]).stream(),
        };
        const texts = {};
        for (const [name, source] of Object.entries(sources)) {
          const progress = [];
          const engine = await Engine.load({ model: source, device: "cpu", window: 60, cache: "none", onProgress: (p) => progress.push(p) });
          const loaded = progress.filter(({ phase }) => phase === "model").map(({ loaded }) => loaded);
          const isGrowing = loaded.length > 3 && loaded.every((bytes, n) => n === 0 || bytes >= loaded[n - 1]);
          const isWhole = progress.at(-1).loaded === progress.at(-1).total;
          const session = await engine.createSession();
          texts[name] = `${isGrowing} ${isWhole} ${await session.prompt("It was", { temperature: 0, maxTokens: 20 })}`;
          await engine.destroy();
        }
        return texts;
      },
      MODEL,
    );
    const [first, ...others] = Object.values(texts);
    assert.match(first, /^true true .{10}/s);
    for (const text of others) assert.equal(text, first);
  });

  for (const device of ["gpu", "cpu"]) {
    test(`position is what was delivered, and a stopped stream goes on as if nothing had happened, on the ${device}`, async () => {
      const seen = await inPage(
        setting,
        async ({ Engine }, { model, device }, { take }) => {
          const engine = await Engine.load({ model, device, sinks: 2, window: 21, chunk: 1 });
          const sampling = { seed: 7, temperature: 0.9 };
          const whole = await engine.createSession();
          const reference = await take(whole.promptStreaming("One morning the", { ...sampling, maxTokens: 90 }));
          const stopped = await engine.createSession();
          const positions = [];
          let text = "";
          for (const [n, count] of [1, 2, 9, 1, 17, 5].entries()) {
            text += (await take(stopped.promptStreaming(n === 0 ? "One morning the" : "", sampling), count)).join("");
            const delivered = stopped.position;
            await stopped.append(""); // the worker tells where it stands
            positions.push([delivered, stopped.position]);
          }
          const { evicted, contextUsage, contextWindow } = stopped;
          await engine.destroy();
          return { reference: reference.join(""), text, positions, evicted, contextUsage, contextWindow, info: engine.info, dispatches: engine.dispatches };
        },
        { model: MODEL, device },
      );
      assert.equal(seen.info.executor, device);
      assert.equal(seen.dispatches > 0, device === "gpu");
      for (const [page, worker] of seen.positions) assert.equal(page, worker, "the page's position and the worker's");
      assert.ok(seen.text.length > 30 && seen.reference.startsWith(seen.text), `${seen.text} / ${seen.reference}`);
      const last = seen.positions.at(-1)[0];
      assert.equal(seen.contextWindow, 2 + 21 + 1);
      assert.deepEqual([seen.contextUsage, seen.evicted], [24, last - 24]);
    });
  }

  test("a slow reader is waited for", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, model, { pause }) => {
        const engine = await Engine.load({ model, device: "gpu", window: 30, chunk: 1 });
        const session = await engine.createSession();
        const counts = [];
        for await (const _ of session.promptStreaming("")) {
          await pause(1500);
          counts.push(engine.dispatches);
          if (counts.length === 3) break;
        }
        const { position } = session;
        await engine.destroy();
        return { counts, position };
      },
      MODEL,
    );
    // A token is 28 dispatches on five layers, or so; at most two bursts of 16 may be ahead.
    assert.ok(seen.counts[2] < 40 * 40, `${seen.counts} dispatches for ${seen.position} tokens`);
    assert.ok(seen.counts[2] - seen.counts[1] < 20 * 40, `${seen.counts}`);
  });

  test("a token takes a quarter of a submit at most, on a slow GPU too", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, model) => {
        const submit = GPUQueue.prototype.submit;
        let submits = 0;
        GPUQueue.prototype.submit = function (commands) {
          if (commands.length > 0) submits += 1;
          return submit.call(this, commands);
        };
        const engine = await Engine.load({ model, device: "gpu", worker: false, window: 255 });
        const session = await engine.createSession();
        const counts = [];
        for await (const _ of session.promptStreaming("")) {
          counts.push([session.position, submits]);
          if (session.position > 200) break;
        }
        GPUQueue.prototype.submit = submit;
        await engine.destroy();
        const [[position, before]] = counts.filter(([position]) => position > 60);
        return { tokens: counts.at(-1)[0] - position, submits: counts.at(-1)[1] - before };
      },
      MODEL,
    );
    assert.ok(seen.tokens > 100 && seen.submits <= seen.tokens / 4 + 2, JSON.stringify(seen));
  });

  test("a token makes no GPU object but the encoder of its submit", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, model) => {
        const makers = Object.getOwnPropertyNames(GPUDevice.prototype).filter((name) => name.startsWith("create"));
        const real = Object.fromEntries(makers.map((name) => [name, GPUDevice.prototype[name]]));
        const made = Object.fromEntries(makers.map((name) => [name, 0]));
        for (const name of makers) {
          GPUDevice.prototype[name] = function (...args) {
            made[name] += 1;
            return real[name].apply(this, args);
          };
        }
        const engine = await Engine.load({ model, device: "gpu", worker: false, window: 255, chunk: 1 });
        const session = await engine.createSession();
        let before;
        for await (const _ of session.promptStreaming("")) {
          if (session.position > 60) before ??= { ...made, position: session.position };
          if (session.position > 160) break;
        }
        const tokens = session.position - before.position;
        Object.assign(GPUDevice.prototype, real);
        await engine.destroy();
        const later = Object.entries(made).map(([name, count]) => [name, count - before[name]]);
        return { tokens, first: before, later: Object.fromEntries(later.filter(([, count]) => count > 0)) };
      },
      MODEL,
    );
    assert.ok(seen.first.createBuffer > 10 && seen.first.createBindGroup > 10, `the makers are not ours: ${JSON.stringify(seen)}`);
    assert.deepEqual(Object.keys(seen.later), ["createCommandEncoder"], JSON.stringify(seen));
    assert.ok(seen.tokens > 90 && seen.later.createCommandEncoder <= seen.tokens / 4 + 2, JSON.stringify(seen));
  });

  test("a stream ends when it is told to", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, model, { take, failure, pause }) => {
        const engine = await Engine.load({ model, device: "cpu", window: 60 });
        const session = await engine.createSession();
        const greedy = { temperature: 0 };
        const limited = await take(session.promptStreaming("The sea was", { ...greedy, maxTokens: 12 }));
        const position = session.position;
        const again = await engine.createSession();
        await session.append("x");
        const word = limited.join("").trim().split(" ")[2];
        const stopped = await again.prompt("The sea was", { ...greedy, stop: [word], maxTokens: 50 });

        const abort = new AbortController();
        let pieces = 0;
        const aborted = await failure(
          (async () => {
            for await (const _ of again.promptStreaming("", { signal: abort.signal })) if (++pieces === 5) abort.abort();
          })(),
        );
        const early = await failure(take(again.promptStreaming("", { signal: AbortSignal.abort() })));
        const afterAbort = again.position;
        await pause(200);
        await again.append("");

        const third = await engine.createSession();
        const running = third.promptStreaming("");
        await running.next();
        third.destroy();
        const destroyed = await failure(take(running));
        const used = await failure(third.append("x"));
        await engine.destroy();
        const gone = await failure(engine.createSession());
        return { limited: limited.join(""), position, word, stopped, aborted, pieces, early, moved: again.position - afterAbort, destroyed, used, gone };
      },
      MODEL,
    );
    assert.ok(seen.position > 12 && seen.position < 20, `${seen.position}`);
    assert.equal(seen.stopped, seen.limited.slice(0, seen.limited.indexOf(seen.word)), "text before the stop text");
    assert.match(seen.aborted, /^AbortError/);
    assert.match(seen.early, /^AbortError/);
    assert.deepEqual([seen.pieces, seen.moved], [5, 0]);
    assert.match(seen.destroyed, /^InvalidStateError/);
    assert.match(seen.used, /^InvalidStateError/);
    assert.match(seen.gone, /^InvalidStateError/);
  });

  test("errors are of the classes that are promised", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine, DownloadError, ModelFormatError }, model, { failure }) => {
        const load = (options) => failure(Engine.load({ device: "cpu", ...options }));
        const kind = (promise) => promise.then(() => "nothing", (error) => (error instanceof DownloadError ? "DownloadError" : error instanceof ModelFormatError ? "ModelFormatError" : `${error}`));
        const abort = new AbortController();
        const loading = Engine.load({ model: `${model}?slow`, device: "cpu", signal: abort.signal });
        setTimeout(() => abort.abort(), 300);
        const began = performance.now();
        return {
          missing: await load({ model: "/models/none.gguf" }),
          missingClass: await kind(Engine.load({ model: "/models/none.gguf", device: "cpu" })),
          refused: await load({ model: `${model}?status=500` }),
          garbage: await load({ model: "/golden/q8.json" }),
          garbageClass: await kind(Engine.load({ model: new Blob(["nothing of the kind"]), device: "cpu" })),
          cut: await load({ model: (await (await fetch(model)).blob()).slice(0, 1_000_000) }),
          window: await load({ model, window: -1 }),
          device: await load({ model, device: "toaster" }),
          aborted: await failure(loading),
          abortedEarly: await load({ model, signal: AbortSignal.abort() }),
          abortMs: performance.now() - began,
        };
      },
      MODEL,
    );
    assert.match(seen.missing, /^DownloadError: .*none\.gguf.*404/);
    assert.equal(seen.missingClass, "DownloadError");
    assert.match(seen.refused, /^DownloadError: .*500/);
    assert.match(seen.garbage, /^ModelFormatError: /);
    assert.equal(seen.garbageClass, "ModelFormatError");
    assert.match(seen.cut, /^(ModelFormatError|DownloadError): /);
    assert.match(seen.window, /^RangeError: window: -1 is not a whole number/);
    assert.match(seen.device, /^RangeError: device: "toaster" is not one of auto, gpu, cpu/);
    assert.match(seen.aborted, /^AbortError/);
    assert.match(seen.abortedEarly, /^AbortError/);
  });
}
