// The files that the browser tests need, on 127.0.0.1.

import { execFileSync } from "node:child_process";
import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const www = dirname(dirname(fileURLToPath(import.meta.url)));
const root = dirname(www);
export const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
/** Other people's models and vectors; not part of the project. */
export const sharedData = resolve(root, "../shared/data");

/** Folders by the first part of the address. */
const folders = {
  site: join(www, "site"),
  counted: join(www, "site"),
  dist: join(www, "dist"),
  pkg: join(www, "pkg"),
  checks: join(target, "checks"),
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

/** Goes before the worker's script under `/counted/`: counts the real calls and bytes, and tells whoever asks. */
const counter = `
let [dispatches, gpu, memory] = [0, 0, undefined];
const encoder = globalThis.GPUComputePassEncoder?.prototype;
if (encoder) {
  const dispatch = encoder.dispatchWorkgroups;
  encoder.dispatchWorkgroups = function (...size) {
    dispatches += 1;
    return dispatch.apply(this, size);
  };
  const create = GPUDevice.prototype.createBuffer;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    gpu += descriptor.size;
    return create.call(this, descriptor);
  };
  const destroy = GPUBuffer.prototype.destroy;
  const destroyed = new WeakSet();
  GPUBuffer.prototype.destroy = function () {
    if (!destroyed.has(this)) gpu -= this.size;
    destroyed.add(this);
    return destroy.call(this);
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
channel.onmessage = ({ data }) => data === "how much?" && channel.postMessage({ dispatches, gpu, wasm: memory?.buffer.byteLength });
`;

/**
 * Serves until closed; what is there only as `.xz` is unpacked. In the address of a file: `?noranges` answers no ranges, `?break=N` breaks every answer off
 * after N bytes, `?slow` waits a second before each 64 KiB, `?status=N` answers with that status.
 */
export async function serve() {
  /** Answered requests, for tests that count them. */
  const requests = [];
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://localhost");
    const [folder, ...rest] = normalize(decodeURIComponent(pathname)).split("/").slice(1);
    if (pathname === "/blank") return void response.setHeader("content-type", types[".html"]).end("<!doctype html><title>test</title><link rel=icon href=data:,>");
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
    if (folder === "counted" && /worker-.*\.js$/.test(file)) return void response.end(counter + readFileSync(file, "utf8"));
    const size = statSync(file).size;
    let start = 0;
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? "");
    if (range && !searchParams.has("noranges")) {
      start = Number(range[1]);
      response.writeHead(206, { "content-range": `bytes ${start}-${size - 1}/${size}`, "content-length": size - start });
    } else {
      response.writeHead(200, { "content-length": size });
    }
    if (searchParams.has("break")) {
      const end = Math.min(size, start + Number(searchParams.get("break"))) - 1;
      const part = createReadStream(file, { start, end });
      part.pipe(response, { end: false });
      part.on("end", () => (end === size - 1 ? response.end() : setTimeout(() => response.destroy(), 50)));
    } else if (searchParams.has("slow")) {
      const stream = createReadStream(file, { start, highWaterMark: 65536 });
      stream.on("data", (chunk) => {
        stream.pause();
        setTimeout(() => response.destroyed || (response.write(chunk), stream.resume()), 1000);
      });
      stream.on("end", () => response.end());
      response.on("close", () => stream.destroy());
    } else {
      createReadStream(file, { start }).pipe(response);
    }
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const close = () =>
    new Promise((closed) => {
      server.close(closed);
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${server.address().port}`, requests, close };
}
