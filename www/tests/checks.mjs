// The Rust checks, compiled to WebAssembly (`tests/browser/lib.rs`): kernels against their twins, whole models against
// their references, tokenizers against others' vectors.

import assert from "node:assert/strict";
import { test } from "node:test";

const kernels = ["embed", "qkv", "head_norm", "attention", "memory_read", "memory_fold", "project", "gate_up", "linear", "nll", "sample", "probe"];
const models = ["tensors", "dense_logits", "golden_nlls", "families", "stories_nlls", "stories_greedy", "far_positions", "chunk_sizes", "taking_back", "together_as_alone", "moved_streams"];
const onGpu = ["same_text_as_cpu", "close_to_cpu"];
const tokenizers = [
  "llama.cpp: gpt-2", "llama.cpp: falcon", "llama.cpp: mpt", "llama.cpp: phi-3",
  "transformers.js: gpt-2", "transformers.js: falcon", "transformers.js: llama-spm",
  "Hugging Face: smollm2", "Hugging Face: gpt-neox-20b", "Hugging Face: phi-3",
  "llama2.c: stories260K", "sentencepiece: babyllama105",
];

/**
 * Calls one of the module's functions; skips the test if it could check nothing. All in one page, which has one device, so that what
 * was compiled for one check is there for the next; behind a check that fails, in another.
 */
async function call(setting, context, name, ...args) {
  const { page, complaints } = (setting.checks ??= await setting.browser.open(`${setting.server.url}/blank`));
  let isWell = false;
  try {
    const { value, notChecked, error } = await page.evaluate(
      async ({ name, args }) => {
        const module = await import("/checks/checks.js");
        globalThis.started ??= module.default();
        await started;
        // A panic settles no promise, but it is an error of the page.
        const broken = new Promise((resolve) => {
          onerror = (message) => resolve({ error: message });
          onunhandledrejection = ({ reason }) => resolve({ error: String(reason) });
        });
        const done = Promise.resolve().then(() => module[name](...args));
        return Promise.race([broken, done.then((value) => ({ value, notChecked: module.notChecked() }), (error) => ({ error: String(error) }))]);
      },
      { name, args },
    );
    if (error !== undefined) assert.fail(`${complaints.join("\n") || error}`);
    assert.deepEqual(complaints, []);
    isWell = true;
    if (notChecked) context.skip(`NOT CHECKED: ${notChecked}`);
    return value;
  } finally {
    if (!isWell) {
      setting.checks = undefined;
      await page.close();
    }
  }
}

export function checkTests(setting) {
  test("no check is left out", async (context) => {
    assert.deepEqual(await call(setting, context, "kernels"), kernels);
    assert.deepEqual(await call(setting, context, "tokenizers"), tokenizers);
  });
  for (const name of kernels) {
    test(`kernel ${name} gives what its twin gives`, async (context) => {
      context.diagnostic(await call(setting, context, "kernel", name));
    });
  }
  for (const device of ["gpu", "cpu"]) {
    for (const name of device === "gpu" ? [...models, ...onGpu] : models) {
      test(`model on the ${device}: ${name}`, (context) => call(setting, context, "model", name, device));
    }
  }
  for (const name of tokenizers) {
    test(`tokenizer, ${name}`, (context) => call(setting, context, "tokenizer", name));
  }
  test("the page of the checks is closed", () => setting.checks?.page.close());
}
