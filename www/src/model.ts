// A loaded model and who may use it: one at a time, in the order of asking, because the WebAssembly computes one thing at
// a time.

import init, { Engine, Together, type Session } from "../pkg/sinkstream.js";
import { NO_COUNTS, type Counts, type Estimate, type Info, type MemoryPlan, type Progress, type Settings, type Source } from "./protocol.js";
import { release } from "./parts.js";
import { open, type OpenReader } from "./reader.js";

export interface LoadListener {
  onProgress: (progress: Progress) => void;
  signal: AbortSignal;
}

async function openSource(source: Source, { onProgress, signal }: LoadListener, readAhead: boolean): Promise<OpenReader> {
  return open(source.model, {
    cache: source.cache,
    sha256: source.sha256,
    signal,
    readAhead,
    onProgress: (loaded, total) => onProgress({ phase: "download", loaded, total }),
    onWait: () => onProgress({ phase: "waiting", loaded: 0, total: undefined }),
  });
}

/** What the WebAssembly reads from. It is opened again when a lost device needs the weights once more. */
class Weights {
  readonly name: string;
  readonly size: number | undefined;
  readonly #open: () => Promise<OpenReader>;
  #reader: OpenReader | undefined;
  /** Bytes of the last read. The WebAssembly has copied them when it reads again. */
  #given: Uint8Array | undefined;
  /** What went wrong: the WebAssembly keeps the message only. */
  failure: unknown;

  constructor(reader: OpenReader, open: () => Promise<OpenReader>) {
    this.name = reader.name;
    this.size = reader.size;
    this.#reader = reader;
    this.#open = open;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    try {
      this.#reader ??= await this.#open();
      release(this.#given);
      this.#given = undefined;
      return (this.#given = await this.#reader.read(offset, length));
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }

  /** All is read, for now. */
  rest(): void {
    this.#reader?.close();
    this.#reader = undefined;
    release(this.#given);
    this.#given = undefined;
  }
}

/** Calls `use`; its errors are those of the reader if it was that which failed. */
async function reading<T>(reader: OpenReader, weights: Weights, signal: AbortSignal, use: () => Promise<T>): Promise<T> {
  try {
    return await use();
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof Error && error.name === "ModelFormatError") await reader.discard();
    throw weights.failure ?? error;
  }
}

/** The memory plan of a file: reads no more of it than the header. */
export async function estimate(source: Source, settings: Settings, listener: LoadListener): Promise<Estimate> {
  await init();
  const reader = await openSource(source, listener, false);
  const weights = new Weights(reader, async () => reader);
  try {
    const plan = await reading(reader, weights, listener.signal, () => Engine.estimate(weights, JSON.stringify(settings)));
    return { ...(JSON.parse(plan) as MemoryPlan), file_bytes: reader.size };
  } finally {
    weights.rest();
  }
}

/** Lets messages in. A timer would wait 4 ms. */
const { port1, port2 } = new MessageChannel();
const breathing: (() => void)[] = [];
port1.onmessage = () => breathing.shift()?.();
export function breathe(): Promise<void> {
  return new Promise((resolve) => {
    breathing.push(resolve);
    port2.postMessage(undefined);
  });
}

/** What a step gave a session: nothing once its generation has ended. */
interface Step {
  pieces: string[] | undefined;
  logprobs: number[];
  ms: number;
}

/** A session that waits for a step. */
interface Waiting {
  session: Session;
  count: number;
  resolve: (step: Step) => void;
  reject: (reason: unknown) => void;
}

export class Model {
  readonly #engine: Engine;
  readonly #weights: Weights;
  /** Of the WebAssembly. */
  readonly #memory: WebAssembly.Memory;
  readonly info: Info;
  #last: Promise<unknown> = Promise.resolve();
  #counts: Counts = NO_COUNTS;
  #isFreed = false;
  readonly #waiting: Waiting[] = [];

  private constructor(engine: Engine, memory: WebAssembly.Memory, weights: Weights, info: Info) {
    this.#engine = engine;
    this.#memory = memory;
    this.#weights = weights;
    this.info = info;
  }

  static async load(source: Source, settings: Settings, shared: boolean, listener: LoadListener): Promise<Model> {
    listener.onProgress({ phase: "engine", loaded: 0, total: undefined });
    const { memory } = await init();
    const { signal } = listener;
    const reader = await openSource(source, listener, true);
    // Whoever loaded it first may be gone when it is needed again.
    const again = { onProgress: () => {}, signal: new AbortController().signal };
    const weights = new Weights(reader, () => openSource(source, again, true));
    let engine;
    try {
      const report = (loaded: number, total: number): void => listener.onProgress({ phase: "model", loaded, total });
      engine = await reading(reader, weights, signal, () => Engine.load(weights, JSON.stringify(settings), report));
      await reader.finish();
      signal.throwIfAborted();
    } catch (error) {
      engine?.free();
      throw error;
    } finally {
      weights.rest();
    }
    return new Model(engine, memory, weights, { ...(JSON.parse(engine.info()) as Omit<Info, "shared">), shared });
  }

  /** What the device was given so far. */
  get counts(): Counts {
    return this.#counts;
  }

  /** Uses the engine, once it is free. A device that is lost meanwhile is replaced by the engine itself. */
  use<T>(work: (engine: Engine) => Promise<T> | T): Promise<T> {
    const result = this.#last.then(async () => {
      if (this.#isFreed) throw new DOMException("The engine was destroyed.", "InvalidStateError");
      try {
        return await work(this.#engine);
      } finally {
        const { dispatches, recoveries, bytes } = this.#engine;
        this.#weights.rest(); // it may have read them once more
        this.#counts = { dispatches, recoveries, wasm_bytes: this.#memory.buffer.byteLength, executor_bytes: bytes };
      }
    });
    this.#last = result.catch(() => {});
    return result;
  }

  /**
   * The next tokens of a session, at most `count`. Those that wait at the same time go on together, as many as the engine
   * has `streams`: the weights are read once for all of them.
   */
  next(session: Session, count: number): Promise<Step> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ session, count, resolve, reject });
      this.use((engine) => this.#step(engine)).catch(reject);
    });
  }

  async #step(engine: Engine): Promise<void> {
    if (this.#waiting.length === 0) return; // another step took them along
    // Those that the step before has served may want to go along: they ask after a breath.
    await breathe();
    await breathe();
    const steps = this.#waiting.splice(0, this.info.streams);
    const together = new Together();
    try {
      const start = performance.now();
      for (const { session } of steps) together.add(session);
      const texts: (string[] | undefined)[] = [];
      await together.next(engine, Math.min(...steps.map(({ count }) => count)), (n: number, text: string[] | undefined) => (texts[n] = text));
      const ms = performance.now() - start;
      for (const [n, { session, resolve }] of steps.entries()) resolve({ pieces: texts[n], logprobs: [...session.logprobs()], ms });
    } catch (error) {
      for (const { reject } of steps) reject(error);
    } finally {
      together.free();
    }
  }

  /** Frees the model once nobody uses it any more. */
  free(): Promise<void> {
    return this.use((engine) => {
      this.#isFreed = true;
      // After this turn: its end still asks the engine for a number.
      setTimeout(() => engine.free());
    }).catch(() => {});
  }
}
