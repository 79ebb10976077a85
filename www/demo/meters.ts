// The numbers beside the text, and what they have been: drawn at most once a frame, measured twice a second.

import type { Info } from "sinkstream";
import { capacityOf } from "./controls.ts";
import { RecentHistory, WholeHistory, drawRecent, drawWhole } from "./history.ts";
import { few, number, size } from "./plain.ts";
import { Ring, type Memory } from "./ring.ts";
import type { Writer } from "./writer.ts";

const MEASURE_MS = 500;
/** The speed shown is that of the last so many measurements. */
const RATES = 4;
/** A screen reader hears of the progress this often. */
const ANNOUNCE_MS = 15_000;

const $ = <E extends Element>(id: string): E => document.querySelector<E>(`#${id}`)!;

export class Meters {
  readonly #writer: Writer;
  readonly #ring = new Ring($<HTMLCanvasElement>("ring"));
  readonly #rates = new WholeHistory();
  readonly #memory = new WholeHistory();
  readonly #perplexities = new RecentHistory();
  #marks: { at: number; position: number }[] = [];
  #announcedAt = 0;
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(writer: Writer) {
    this.#writer = writer;
  }

  /** The model is another, or in another mode: what was measured of the last says nothing of this one. */
  reset(info: Info): void {
    this.#rates.clear();
    this.#memory.clear();
    $("executor").textContent = info.executor === "gpu" ? "GPU, through WebGPU" : "CPU, in WebAssembly";
    $("adapter").textContent = info.adapter;
    $("model").textContent = `${info.model}, ${size(info.weights_bytes)} of weights`;
    this.#measure();
  }

  /** Measures while something is written. */
  run(isWriting: boolean): void {
    clearInterval(this.#timer);
    this.#marks = [];
    if (!isWriting) return;
    this.#measure();
    this.#timer = setInterval(() => this.#measure(), MEASURE_MS);
  }

  /** What changes with every token. */
  draw(): void {
    const { position, cached, engine } = this.#writer;
    $("position").textContent = number(position);
    $("cached").textContent = number(cached);
    $("evicted").textContent = number(position - cached);
    if (engine) this.#ring.draw(this.#seen(engine.info));
  }

  #seen(info: Info): Memory {
    // The session's own position: the text may have begun in another one.
    return { position: this.#writer.sessionPosition, sinks: info.sinks, capacity: capacityOf(info) };
  }

  #measure(): void {
    const { engine, position, perplexity, attention } = this.#writer;
    if (!engine) return;
    const { info } = engine;
    const { wasm_bytes, executor_bytes } = engine.memory;
    const bytes = wasm_bytes + (info.executor === "gpu" ? executor_bytes : 0); // the CPU executor is within the WebAssembly
    if (bytes > 0) {
      this.#memory.push(bytes);
      $("memory").textContent = size(bytes);
      drawWhole($("memory-line"), this.#memory, `Memory since the beginning: it is ${size(bytes)}.`);
    }
    const token = info.kv_bytes / capacityOf(info);
    $("growing").textContent =
      attention === "dense"
        ? `All of it is set aside for ${number(info.window)} tokens. Then it is full.`
        : `Of that ${size(info.kv_bytes)} are keys and values. Kept for all ${number(position)} tokens, they would take ${size(token * position)}.`;

    const rate = this.#rate(position);
    if (rate !== undefined) {
      this.#rates.push(rate);
      $("rate").textContent = few(rate);
      drawWhole($("rate-line"), this.#rates, `Tokens a second since the beginning: now ${few(rate)}.`);
    }
    if (perplexity !== undefined) {
      $<HTMLElement>("perplexity-row").hidden = false;
      this.#perplexities.push(perplexity, attention);
      $("perplexity").textContent = few(perplexity);
      drawRecent($("perplexity-line"), this.#perplexities, `Perplexity over time: now ${few(perplexity)}.`);
    }
    if (performance.now() - this.#announcedAt > ANNOUNCE_MS) {
      this.#ring.describe(this.#seen(info));
      if (rate !== undefined) this.announce(`${number(position)} tokens, ${few(rate)} a second, ${number(position - this.#writer.cached)} forgotten.`);
    }
  }

  #rate(position: number): number | undefined {
    this.#marks.push({ at: performance.now(), position });
    if (this.#marks.length > RATES + 1) this.#marks.shift();
    const [first, last] = [this.#marks[0]!, this.#marks.at(-1)!];
    return last.at - first.at < MEASURE_MS / 2 ? undefined : (1000 * (last.position - first.position)) / (last.at - first.at);
  }

  announce(words: string): void {
    this.#announcedAt = performance.now();
    $("announcer").textContent = words;
  }
}
