// A device that goes away in the middle of a stream: the text goes on as if nothing had happened.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inPage } from "./pages.mjs";

const MODEL = "/models/sinkstream-2m.gguf";

export function lostTests(setting) {
  test("a lost device is replaced, before and after the first eviction, and greedy text goes on as if nothing had happened", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine }, model) => {
        const engine = await Engine.load({ model, device: "gpu", sinks: 2, window: 21, chunk: 1 });
        // Long enough that the worker, which computes ahead, is not through when the second loss reaches it.
        const text = async (losses) => {
          const session = await engine.createSession();
          let text = "";
          let pieces = 0;
          const promise = session.append("One morning the");
          await promise;
          const evicted = [];
          for await (const piece of session.promptStreaming("", { temperature: 0, maxTokens: 160 })) {
            text += piece;
            if (losses.includes(++pieces)) {
              evicted.push(session.evicted);
              engine.loseDevice().catch(() => {});
            }
          }
          const { position } = session;
          session.destroy();
          return { text, evicted, position };
        };
        const whole = await text([]);
        const before = engine.recoveries;
        const torn = await text([4, 44]);
        const result = { whole, torn, recoveries: engine.recoveries - before };
        await engine.destroy();
        return result;
      },
      MODEL,
    );
    assert.ok(seen.whole.text.length > 60);
    assert.equal(seen.torn.text, seen.whole.text);
    assert.equal(seen.torn.position, seen.whole.position);
    assert.equal(seen.recoveries, 2);
    assert.ok(seen.torn.evicted[0] === 0 && seen.torn.evicted[1] > 0, `${seen.torn.evicted}`);
  });

  test("only a model that came as a stream cannot be brought back", async () => {
    const seen = await inPage(
      setting,
      async ({ Engine, DeviceLostError }, model, { failure }) => {
        const engine = await Engine.load({ model: (await fetch(model)).body, device: "gpu", sinks: 2, window: 21, chunk: 1 });
        const session = await engine.createSession();
        await session.append("It was");
        await engine.loseDevice();
        const error = await session.prompt("", { maxTokens: 5 }).catch((error) => error);
        const after = await failure(engine.destroy());
        return { isClass: error instanceof DeviceLostError, message: error.message, after };
      },
      MODEL,
    );
    assert.equal(seen.isClass, true, seen.message);
    assert.equal(seen.after, "nothing");
  });
}
