// Every composed shader through Tint, the compiler of Chromium: Dawn runs in Node, on a device that computes nothing.
// The shaders are those that `cargo test --test shaders` writes to SINKSTREAM_WGSL_DIR.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { create, globals } from "webgpu";
import { target } from "./server.mjs";

Object.assign(globalThis, globals);
const folder = process.env.SINKSTREAM_WGSL_DIR ?? join(target, "wgsl");
const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".wgsl")) : [];

/** Values of the override constants that plans use. */
const values = {
  LAYOUT: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
  LANES: [1, 16],
  TILE: [0, 2],
  COLUMNS: [1, 8],
  CACHE_F32: [0, 1],
  LAYER_NORM: [0, 1],
  BIAS: [0, 1],
  ACTIVATION: [0, 1, 2, 3],
  HEADS: [1, 8],
  WORDS: [1, 10, 32],
  SPLITS: [1, 16],
  FOURS: [2, 8],
  STAGE: [3, 8],
  WORKGROUP: [64],
  SUBGROUP: [4, 32],
};

/** Every combination of the constants that a shader declares. */
function combinations(source) {
  const names = Object.keys(values).filter((name) => source.includes(`override ${name}:`));
  const extend = (all, name) => all.flatMap((constants) => values[name].map((value) => ({ ...constants, [name]: value })));
  return names.reduce(extend, [{}]);
}

describe("Tint", () => {
  let gpu, device;
  before(async () => {
    gpu = create(["backend=null"]);
    device = await (await gpu.requestAdapter()).requestDevice({ requiredFeatures: ["subgroups"] });
  });
  after(() => device.destroy());

  async function errors(code) {
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    await device.popErrorScope();
    return { module, errors: messages.filter(({ type }) => type === "error").map(({ lineNum, message }) => `line ${lineNum}: ${message}`) };
  }

  test("it refuses what is wrong", async () => {
    assert.equal((await errors("fn main() { let x: u32 = 1.5; }")).errors.length, 1);
  });

  test("there are shaders to compile", () => {
    assert.ok(files.length >= 10, `${files.length} shaders in ${folder}: run cargo test --test shaders with SINKSTREAM_WGSL_DIR set to it`);
  });

  for (const file of files) {
    const name = file.replace(/\.wgsl$/, "");
    test(`it takes ${name} with all constants`, async () => {
      const code = readFileSync(join(folder, file), "utf8");
      const { module, errors: found } = await errors(code);
      assert.deepEqual(found, []);
      for (const constants of combinations(code)) {
        await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint: name.split(".")[0], // before the dot, behind it the variant
          constants } });
      }
    });
  }
});
