// The demo page: loads the bundled model, writes without end, and shows that memory stays where it is.
//
// In the address: ?device=gpu|cpu ?sinks=N ?window=N ?model=URL

import { Engine, WebGpuUnavailableError, type Device, type Session } from "sinkstream";
import bundledModel from "../../models/sinkstream-2m.gguf?url";
import { describeRing, drawRing } from "./ring.ts";

/** Characters of text that stay on the page, and how far beyond that it grows before the oldest are dropped. */
const SHOWN = 6_000;
const SLACK = 2_000;
/** The speed shown is that of the last so many milliseconds. */
const RATE_MS = 2_000;
/** A screen reader hears of the progress this often. */
const ANNOUNCE_MS = 15_000;

const $ = <E extends HTMLElement>(id: string): E => document.querySelector<E>(`#${id}`)!;
const main = document.querySelector("main")!;
const prompt = $<HTMLTextAreaElement>("prompt");
const [start, stop, reset] = [$<HTMLButtonElement>("start"), $<HTMLButtonElement>("stop"), $<HTMLButtonElement>("reset")];
const box = $("text");
const text = box.appendChild(document.createTextNode(""));
const number = (value: number): string => Math.round(value).toLocaleString("en");

type State = "loading" | "ready" | "writing" | "stopping" | "error";

let engine: Engine;
let session: Session;
/** Ends what is being written. */
let writing: AbortController | undefined;
/** Moments and positions of the last seconds, for the speed. */
let marks: { at: number; position: number }[] = [];
let announcedAt = 0;
let drawing = false;
/** Whether the newest text is kept in sight: until the reader scrolls up. */
let following = true;

function setState(state: State): void {
  main.dataset.state = state;
  start.disabled = state !== "ready";
  reset.disabled = state !== "ready";
  stop.disabled = state !== "writing";
}

function notice(words: string): void {
  $("notice").textContent = words;
}

function announce(words: string): void {
  announcedAt = performance.now();
  $("announcer").textContent = words;
}

/** A whole number from the address, for example `?window=64`. */
function parameter(name: string): number | undefined {
  const value = new URLSearchParams(location.search).get(name);
  if (value === null) return undefined;
  if (!/^\d+$/.test(value)) throw new RangeError(`?${name}=${value} in the address: it must be a whole number`);
  return Number(value);
}

function device(): Device {
  const value = new URLSearchParams(location.search).get("device") ?? "auto";
  if (value === "auto" || value === "gpu" || value === "cpu") return value;
  throw new RangeError(`?device=${value} in the address: it must be auto, gpu or cpu`);
}

async function load(): Promise<void> {
  const bar = $<HTMLProgressElement>("progress");
  engine = await Engine.load({
    model: new URLSearchParams(location.search).get("model") ?? bundledModel,
    device: device(),
    sinks: parameter("sinks"),
    window: parameter("window"),
    onProgress: ({ loaded, total }) => {
      if (total === undefined) return;
      bar.max = total;
      bar.value = loaded;
    },
  });
  const { info } = engine;
  const size = (bytes: number): string => (bytes < 1e6 ? `${number(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
  $("weights").textContent = size(info.weights_bytes);
  $("kv").textContent = size(info.kv_bytes);
  $("work").textContent = size(info.work_bytes);
  $("executor").textContent = info.executor === "gpu" ? "GPU, through WebGPU" : "CPU, in WebAssembly";
  $("adapter").textContent = info.adapter;
  $("model").textContent = info.model;
  main.dataset.executor = info.executor;
  if (info.executor === "cpu" && device() === "auto") {
    const reason = "gpu" in navigator ? "No real GPU was found behind WebGPU" : "This browser has no WebGPU";
    notice(`${reason}: the model runs on the CPU. It writes the same kind of text, only slower.`);
  }
  await newStream();
}

async function newStream(): Promise<void> {
  session = await engine.createSession();
  text.data = "";
  showPosition();
  draw();
}

function showPosition(): void {
  main.dataset.position = String(session.position);
  main.dataset.evicted = String(session.evicted);
  main.dataset.dispatches = String(engine.dispatches);
}

/** Goes on writing until stopped, beginning with the words in the box. */
async function write(): Promise<void> {
  const words = prompt.value;
  const abort = (writing = new AbortController());
  setState("writing");
  notice("");
  announce("Writing.");
  marks = [];
  prompt.value = "";
  show(words);
  try {
    for await (const piece of session.promptStreaming(words, { signal: abort.signal })) {
      show(piece);
      showPosition();
    }
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    writing = undefined;
    showPosition();
    draw();
  }
  setState("ready");
  announce(`Stopped after ${number(session.position)} tokens.`);
}

/** Adds to the text, and drops what has become too old. */
function show(piece: string): void {
  text.appendData(piece);
  if (text.length > SHOWN + SLACK) text.deleteData(0, text.length - SHOWN);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function draw(): void {
  const now = performance.now();
  const { position, evicted } = session;
  const { sinks, window } = engine.info;
  marks.push({ at: now, position });
  while (marks.length > 2 && marks[0]!.at < now - RATE_MS) marks.shift();
  const [first, last] = [marks[0]!, marks.at(-1)!];
  const rate = (1000 * (last.position - first.position)) / (last.at - first.at);
  $("rate").textContent = Number.isFinite(rate) ? rate.toFixed(rate < 10 ? 1 : 0) : "–";
  $("position").textContent = number(position);
  $("evicted").textContent = number(evicted);
  drawRing(position, sinks, window);
  if (following) box.scrollTop = box.scrollHeight;
  if (writing && now - announcedAt > ANNOUNCE_MS) {
    $("ring").setAttribute("aria-label", describeRing(position, sinks, window));
    announce(`${number(position)} tokens, ${number(rate)} a second, ${number(evicted)} forgotten.`);
  }
}

function fail(error: unknown): void {
  setState("error");
  const message = error instanceof Error ? error.message : String(error);
  const help = error instanceof WebGpuUnavailableError ? "Open this page without ?device=gpu to run on the CPU." : "Reload the page to try again.";
  notice(`${message}. ${help}`);
}

document.querySelector("form")!.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!start.disabled) write().catch(fail);
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) start.click();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop.click();
});
box.addEventListener("scroll", () => {
  following = box.scrollHeight - box.scrollTop - box.clientHeight < 48;
});
stop.addEventListener("click", () => {
  setState("stopping");
  writing?.abort();
});
reset.addEventListener("click", () => newStream().catch(fail));

setState("loading");
load().then(() => setState("ready"), fail);
