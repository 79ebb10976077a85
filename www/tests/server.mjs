// The files that the browser tests need, on 127.0.0.1.

import { execFileSync } from "node:child_process";
import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { madeModel, withTemplate } from "./made.mjs";

export const www = dirname(dirname(fileURLToPath(import.meta.url)));
const root = dirname(www);
export const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
/** Other people's models and vectors; not part of the project. */
export const sharedData = resolve(root, "../shared/data");

/** Folders by the first part of the address. */
export const folders = {
  site: join(www, "site"),
  counted: join(www, "site"),
  dist: join(www, "dist"),
  pkg: join(www, "pkg"),
  checks: join(target, "checks"),
  installed: join(target, "installed"),
  examples: join(www, "examples"),
  tallied: join(www, "dist"),
  golden: join(root, "tests/golden"),
  models: join(root, "models"),
  shared: sharedData,
};

const types = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
  ".json": "application/json",
};

/** Goes before the workers' scripts under `/counted/` and `/tallied/`: counts the real calls and bytes, and tells whoever asks. */
const counter = `
let [dispatches, memory] = [0, undefined];
const held = new Map(); // buffers that nobody has given back, with their devices
const encoder = globalThis.GPUComputePassEncoder?.prototype;
if (encoder) {
  const dispatch = encoder.dispatchWorkgroups;
  encoder.dispatchWorkgroups = function (...size) {
    dispatches += 1;
    return dispatch.apply(this, size);
  };
  const create = GPUDevice.prototype.createBuffer;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = create.call(this, descriptor);
    held.set(buffer, this);
    return buffer;
  };
  const [destroy, destroyDevice] = [GPUBuffer.prototype.destroy, GPUDevice.prototype.destroy];
  GPUBuffer.prototype.destroy = function () {
    held.delete(this);
    return destroy.call(this);
  };
  GPUDevice.prototype.destroy = function () {
    for (const [buffer, device] of held) if (device === this) held.delete(buffer);
    return destroyDevice.call(this);
  };
}
for (const name of ["instantiate", "instantiateStreaming"]) {
  const instantiate = WebAssembly[name];
  WebAssembly[name] = async (...given) => {
    const made = await instantiate.apply(WebAssembly, given);
    memory = (made.instance ?? made).exports.memory;
    return made;
  };
}
const channel = new BroadcastChannel("counted");
channel.onmessage = ({ data }) => {
  if (data !== "how much?") return;
  let gpu = 0;
  for (const buffer of held.keys()) gpu += buffer.size;
  channel.postMessage({ dispatches, gpu, wasm: memory?.buffer.byteLength });
};
`;

/**
 * Serves until closed; what is there only as `.xz` is unpacked. In the address of a file:
 *
 * `?noranges` answers no ranges, `?nolength` nor how long it is; `?break=N` breaks every answer off after N bytes, `?stall=N`
 * lets the first two of them hang there; `?hold=N` keeps what is behind byte N back as long as `state.holds`; `?slow` waits
 * a second before each 64 KiB; `?longer=N` announces N bytes more than there are; `?corrupt=N` turns bit 0 of byte N over;
 * `?changes` gives every answer another version; `?status=N` answers with that status. `/made/model.gguf?layers=N&dim=N&ffn=N`
 * is a model of that shape, `/made/chat.gguf` the bundled one with a chat template (made.mjs). Under `/safe/` everything comes
 * with a strict content security policy. While `offline` is set, nobody is answered at all.
 */
export async function serve() {
  /** Answered requests, for tests that count them. */
  const requests = [];
  const state = { offline: false, holds: false };
  const stalls = new Map();
  const server = createServer((request, response) => {
    if (state.offline) return void request.socket.destroy();
    const address = new URL(request.url, "http://localhost");
    if (address.pathname.startsWith("/safe/")) response.setHeader("content-security-policy", CSP);
    const [pathname, { searchParams }] = [address.pathname.replace(/^\/safe\//, "/"), address];
    const [folder, ...rest] = normalize(decodeURIComponent(pathname)).split("/").slice(1);
    if (pathname === "/blank") return void response.setHeader("content-type", types[".html"]).end("<!doctype html><title>test</title><link rel=icon href=data:,>");
    if (folder === "made") {
      requests.push({ url: request.url, range: request.headers.range });
      const shape = Object.fromEntries([...searchParams].map(([name, value]) => [name, Number(value)]));
      const model = rest[0] === "chat.gguf" ? withTemplate(readFileSync(join(folders.models, "sinkstream-2m.gguf"))) : madeModel(shape);
      return void answer(model, request, response, searchParams, stalls, state);
    }
    if (pathname === "/favicon.ico") return void response.writeHead(204).end();
    let file = folders[folder] && join(folders[folder], ...rest);
    if (file?.endsWith("/") || (file && existsSync(file) && statSync(file).isDirectory())) file = join(file, "index.html");
    requests.push({ url: request.url, range: request.headers.range });
    if (searchParams.has("status")) return void response.writeHead(Number(searchParams.get("status"))).end();
    if (file && !existsSync(file) && existsSync(`${file}.xz`)) {
      return void response.end(execFileSync("xz", ["-dc", `${file}.xz`], { maxBuffer: 1 << 28 }));
    }
    if (!file || !existsSync(file)) return void response.writeHead(404).end();
    response.setHeader("content-type", types[extname(file)] ?? "application/octet-stream");
    response.setHeader("cache-control", "no-store");
    const isWorker = (folder === "counted" && /worker-.*\.js$/.test(file)) || (folder === "tallied" && /worker\.js$/.test(file));
    if (isWorker) return void response.end(counter + readFileSync(file, "utf8"));
    const read = (start, end) => createReadStream(file, { start, end: end - 1, highWaterMark: 65536 });
    answer({ size: statSync(file).size, read }, request, response, searchParams, stalls, state);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const close = () =>
    new Promise((closed) => {
      server.close(closed);
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${server.address().port}`, requests, state, close };
}

/** What a page may do that wants to be safe: its own scripts, WebAssembly, no eval. */
const CSP = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src data:";

async function answer({ size, read }, request, response, faults, stalls, state) {
  const number = (name) => Number(faults.get(name) ?? 0);
  const announced = size + number("longer");
  response.setHeader("etag", faults.has("changes") ? `"${Math.random()}"` : `"${size}"`);
  let [start, end, promised] = [0, size, announced];
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
  if (range && !faults.has("noranges")) {
    start = Number(range[1]);
    const last = range[2] === "" ? announced - 1 : Math.min(Number(range[2]), announced - 1);
    if (start >= size) return void response.writeHead(416).end();
    [end, promised] = [Math.min(size, last + 1), last + 1];
    response.writeHead(206, { "content-range": `bytes ${start}-${last}/${announced}`, "content-length": last + 1 - start });
  } else {
    response.writeHead(200, faults.has("nolength") ? {} : { "content-length": announced });
  }
  const brokenAt = faults.has("break") ? start + number("break") : Infinity;
  const seen = stalls.get(request.url) ?? 0;
  const stallAt = faults.has("stall") && seen < 2 ? start + number("stall") : Infinity;
  const heldAt = faults.has("hold") && state.holds ? Math.max(start, number("hold")) : Infinity;
  const stop = Math.min(end, brokenAt, stallAt, heldAt);
  if (stop === stallAt) stalls.set(request.url, seen + 1);
  let position = start;
  response.flushHeaders();
  for await (const chunk of stop > start ? read(start, stop) : []) {
    const corrupt = faults.has("corrupt") ? number("corrupt") - position : -1;
    if (corrupt >= 0 && corrupt < chunk.length) chunk[corrupt] ^= 1;
    position += chunk.length;
    if (faults.has("slow")) await pause(1000);
    if (response.destroyed) return;
    await new Promise((written) => response.write(chunk, written));
  }
  if (stop === stallAt || (stop === heldAt && stop < end)) return; // it hangs
  if (stop === promised) return void response.end();
  await pause(50);
  response.destroy();
}

const pause = (ms) => new Promise((later) => setTimeout(later, ms));
