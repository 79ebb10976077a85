// sinkstream in a browser: small language models that write without end.
//
//     const engine = await Engine.load({ model: "model.gguf" });
//     const session = await engine.createSession();
//     for await (const piece of session.promptStreaming("Once upon a time")) console.log(piece);

import { deleteCached, listCached, storage, type CachedModel, type Storage } from "./cache.js";
import { Chat } from "./chat.js";
import { Connection } from "./connection.js";
import { abortError, destroyed } from "./errors.js";
import type { Estimate, Info, Memory, Message, ModelBytes, Progress, Settings, Source } from "./protocol.js";
import { Session, type CallOptions } from "./session.js";

export { DeviceLostError, DownloadError, ModelFormatError, WebGpuUnavailableError } from "./errors.js";
export { ContextOverflowEvent, Session } from "./session.js";
export type * from "./chat.js";
export type { CachedModel, Storage } from "./cache.js";
export type { CallOptions, PromptOptions, SessionEventMap } from "./session.js";
export type { Attention, CacheType, Device, Estimate, Info, Memory, MemoryPlan, Message, Progress, Sampling, Settings } from "./protocol.js";

/** A model file: which, and how it gets here. */
export interface ModelOptions {
  /** A GGUF file: its address, its bytes, or a stream of them. A stream is read once and belongs to the engine then. */
  model: string | URL | Blob | ArrayBuffer | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>;
  /**
   * Where a download stays: in the browser's private file system (the default), so that it loads without a network the
   * next time and goes on where it broke off, or nowhere.
   */
  cache?: "opfs" | "none" | undefined;
  /** SHA-256 of the file, in hexadecimal: another file is refused with a `DownloadError`, and not kept. */
  sha256?: string | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
  /** Breaks loading off; the call rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface LoadOptions extends ModelOptions, Settings {
  /** Runs in a worker (the default), or in the page itself, which then stands still while it computes. */
  worker?: boolean | undefined;
  /**
   * One engine for all pages of this site that load the same address with the same settings: one download, one copy on
   * the GPU. Where the browser cannot, the page gets its own, and `info.shared` is false.
   */
  shared?: boolean | undefined;
}

export interface SessionOptions extends CallOptions {
  /**
   * Makes the session a conversation in the model's own chat template, which begins with these messages; they are in the
   * cache when the session is there, and never leave it. An empty list is a conversation without any.
   */
  initialPrompts?: Message[] | undefined;
  /** What was said after them; it is read at once too, but leaves the cache like everything else. Only with `initialPrompts`. */
  history?: Message[] | undefined;
}

/** A loaded model. */
export class Engine {
  readonly #connection: Connection;
  #sessions = 0;

  /** Model, executor, adapter, attention and memory, as loaded. */
  readonly info: Info;
  /** OpenAI's shape: `engine.chat.completions.create({ messages })`. */
  readonly chat: Chat;

  private constructor(connection: Connection, info: Info) {
    this.#connection = connection;
    this.info = info;
    this.chat = new Chat(this);
  }

  /**
   * Loads a model.
   *
   * Rejects with `WebGpuUnavailableError` (only with `device: "gpu"`), `DownloadError`, `ModelFormatError`,
   * `RangeError` for settings that cannot be or do not fit the device, or the signal's reason.
   */
  static async load({ model, cache, sha256, onProgress, signal, worker = true, shared = false, ...settings }: LoadOptions): Promise<Engine> {
    signal?.throwIfAborted();
    const connection = await connect(worker, shared && isAddress(model) ? settings.device !== "cpu" : undefined);
    const source = sourceOf({ model, cache, sha256 });
    const { info } = await once(connection, signal, { op: "load", source, settings }, onProgress);
    if (!info) throw new Error("the worker sent no info");
    return new Engine(connection, info);
  }

  /** What a model would need, from the header of its file alone: nothing else is downloaded. Rejects as `load`. */
  static async estimate(model: ModelOptions["model"], { cache, onProgress, signal, ...settings }: Omit<ModelOptions, "model" | "sha256"> & Settings = {}): Promise<Estimate> {
    signal?.throwIfAborted();
    const connection = await connect(true, undefined);
    const { estimate } = await once(connection, signal, { op: "estimate", source: sourceOf({ model, cache }), settings }, onProgress);
    connection.close(destroyed("engine"));
    if (!estimate) throw new Error("the worker sent no estimate");
    return estimate;
  }

  /** Downloads in the browser's private file system, finished or not. */
  static listCached(): Promise<CachedModel[]> {
    return listCached();
  }

  /** Deletes a download, once nobody loads it; without an address, all of them. Resolves to how many there were. */
  static deleteCached(url?: string | URL): Promise<number> {
    return deleteCached(url === undefined ? undefined : absolute(url));
  }

  /** Bytes that this site uses and may use, downloads included. */
  static storage(): Promise<Storage> {
    return storage();
  }

  /** Dispatches given to the GPU, as of the newest piece; 0 on the CPU. */
  get dispatches(): number {
    return this.#connection.counts.dispatches;
  }

  /** What the engine holds, as of the newest piece. */
  get memory(): Memory {
    const { wasm_bytes, executor_bytes } = this.#connection.counts;
    return { wasm_bytes, executor_bytes };
  }

  /** How often a lost device was replaced, as of the newest piece. Sessions go on then as if nothing had happened. */
  get recoveries(): number {
    return this.#connection.counts.recoveries;
  }

  /** @internal Takes the device away, as a driver might: for tests. */
  async loseDevice(): Promise<void> {
    await this.#connection.send({ op: "loseDevice" }).done;
  }

  /** A new, empty stream; with `initialPrompts`, a conversation. Sessions run side by side. */
  createSession({ initialPrompts, history = [], signal }: SessionOptions = {}): Promise<Session> {
    const conversation = initialPrompts && { initialPrompts, history };
    return Session.open(this.#owner, (session) => ({ op: "createSession", session, conversation }), signal);
  }

  /** A session from what `Session.save` gave, of the same model with the same attention, cache size and cache type. */
  restore(saved: Blob, { signal }: CallOptions = {}): Promise<Session> {
    return Session.open(this.#owner, (session) => ({ op: "restore", session, bytes: saved }), signal);
  }

  /** Frees model, device and worker. What still runs is rejected. */
  async destroy(): Promise<void> {
    this.#connection.close(destroyed("engine"));
  }

  get #owner() {
    return { connection: this.#connection, info: this.info, number: () => ++this.#sessions };
  }
}

/** `sharing`: undefined for a host of this page's own, else whether the shared one needs WebGPU. */
async function connect(worker: boolean, sharing: boolean | undefined): Promise<Connection> {
  const shared = worker && sharing !== undefined ? await Connection.toSharedWorker(sharing && "gpu" in navigator) : undefined;
  return shared ?? (worker ? Connection.toWorker() : Connection.toPage());
}

/** Sends the first request on a connection, which ends with it if it fails or is broken off. */
async function once(connection: Connection, signal: AbortSignal | undefined, request: Parameters<Connection["send"]>[0], onProgress: ModelOptions["onProgress"]) {
  const onAbort = (): void => connection.close(abortError(signal));
  signal?.addEventListener("abort", onAbort);
  try {
    return await connection.send(request, { onReply: (reply) => reply.type === "progress" && onProgress?.(reply.progress) }).done;
  } catch (error) {
    connection.close(error);
    throw error;
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

function isAddress(model: ModelOptions["model"]): model is string | URL {
  return typeof model === "string" || model instanceof URL;
}

function absolute(url: string | URL): string {
  return new URL(url, globalThis.document?.baseURI ?? location.href).href;
}

/** The model in a form that can be sent to the host, which has another base address than the page. */
function sourceOf({ model, cache = "opfs", sha256 }: ModelOptions): Source {
  const bytes: ModelBytes = isAddress(model) ? absolute(model) : model instanceof Uint8Array ? new Blob([model]) : model;
  return { model: bytes, cache, sha256 };
}
