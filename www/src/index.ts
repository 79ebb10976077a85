// sinkstream in a browser: small language models that write without end.
//
//     const engine = await Engine.load({ model: "model.gguf" });
//     const session = await engine.createSession();
//     for await (const piece of session.promptStreaming("Once upon a time")) console.log(piece);

import { Connection } from "./connection.js";
import { abortError } from "./errors.js";
import type { Info, ModelBytes, Progress, Settings } from "./protocol.js";
import { Session } from "./session.js";

export { DeviceLostError, DownloadError, ModelFormatError, WebGpuUnavailableError } from "./errors.js";
export { Session };
export type { PromptOptions } from "./session.js";
export type { Attention, CacheType, Device, Info, Progress, Sampling } from "./protocol.js";

export interface LoadOptions extends Settings {
  /** A GGUF file: its address, its bytes, or a stream of them. A stream is read once and belongs to the engine then. */
  model: string | URL | Blob | ArrayBuffer | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>;
  onProgress?: ((progress: Progress) => void) | undefined;
  /** Breaks loading off; the call rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** A loaded model in a worker of its own. It runs one session at a time: a new one takes the place of the last. */
export class Engine {
  readonly #connection: Connection;
  #sessions = 0;
  #dispatches = 0;

  /** Model, executor, adapter, attention and memory, as loaded. */
  readonly info: Info;

  private constructor(connection: Connection, info: Info) {
    this.#connection = connection;
    this.info = info;
  }

  /**
   * Loads a model.
   *
   * Rejects with `WebGpuUnavailableError` (only with `device: "gpu"`), `DownloadError`, `ModelFormatError`,
   * `RangeError` for settings that cannot be or do not fit the device, or the signal's reason.
   */
  static async load({ model, onProgress, signal, ...settings }: LoadOptions): Promise<Engine> {
    signal?.throwIfAborted();
    const connection = new Connection();
    const onAbort = (): void => connection.close(abortError(signal));
    signal?.addEventListener("abort", onAbort);
    try {
      const { done } = connection.send(
        { op: "load", model: portable(model), settings },
        { onReply: (reply) => reply.type === "progress" && onProgress?.(reply.progress) },
      );
      const info = await done;
      if (!info) throw new Error("the worker sent no info");
      return new Engine(connection, info);
    } catch (error) {
      connection.close(error);
      throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Dispatches given to the GPU, as of the newest piece; 0 on the CPU. */
  get dispatches(): number {
    return this.#dispatches;
  }

  /** A new, empty stream. */
  async createSession(): Promise<Session> {
    const session = ++this.#sessions;
    await this.#connection.send({ op: "createSession", session }).done;
    return new Session(this.#connection, session, this.info, (dispatches) => (this.#dispatches = dispatches));
  }

  /** Frees model, device and worker. What still runs is rejected. */
  async destroy(): Promise<void> {
    this.#connection.close(new DOMException("The engine was destroyed.", "InvalidStateError"));
  }
}

/** The model in a form that can be sent to the worker, which has another base address than the page. */
function portable(model: LoadOptions["model"]): ModelBytes {
  if (typeof model === "string" || model instanceof URL) return new URL(model, document.baseURI).href;
  if (model instanceof Uint8Array) return new Blob([model]);
  return model;
}
