// Where the bytes of a model come from, for the WebAssembly (`src/platform/web_source.rs`), which asks for what it needs.

import { Download, type DownloadOptions } from "./download.js";
import { DownloadError } from "./errors.js";
import { Parts, StreamParts } from "./parts.js";
import type { ModelBytes } from "./protocol.js";
import { FinalError } from "./retry.js";

/** Bytes that can be read. */
export interface Reader {
  /** For error messages. */
  readonly name: string;
  /** Bytes in all; undefined if nobody knows: then they are read forwards only. */
  readonly size: number | undefined;
  /** `length` bytes from `offset` on, the caller's own; fewer only where the bytes end. */
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** A reader that has ends to tie up. */
export interface OpenReader extends Reader {
  /** Whether it can be opened again: a stream cannot. */
  readonly isRepeatable: boolean;
  /** Called when all is read: checks the hash, completes what is kept in the cache. */
  finish(): Promise<void>;
  /** Throws away what is kept in the cache: it is no model. */
  discard(): Promise<void>;
  /** Stops whatever still runs. Always called. */
  close(): void;
}

/** Opens what a caller gave as a model. */
export async function open(model: ModelBytes, options: DownloadOptions): Promise<OpenReader> {
  if (typeof model === "string") return Download.open(model, options);
  if (model instanceof ReadableStream) return new Streamed(model, options);
  return new Whole(model instanceof Blob ? model : new Blob([model]), options);
}

/** A file or a buffer. */
class Whole implements OpenReader {
  readonly name = "the file";
  readonly isRepeatable = true;
  readonly size: number;
  readonly #blob: Blob;
  readonly #options: DownloadOptions;

  constructor(blob: Blob, options: DownloadOptions) {
    this.#blob = blob;
    this.size = blob.size;
    this.#options = options;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    try {
      return new Uint8Array(await this.#blob.slice(offset, offset + length).arrayBuffer());
    } catch (error) {
      throw new DownloadError(`the file cannot be read: ${error instanceof Error ? error.message : error}`); // it changed, for example
    }
  }

  async finish(): Promise<void> {
    const { sha256, signal = new AbortController().signal } = this.#options;
    if (sha256 === undefined) return;
    await new Parts(new StreamParts(this.name, async () => this.#blob.stream(), this.size, signal), { sha256 }).finish();
  }

  async discard(): Promise<void> {}

  close(): void {}
}

/** A stream: read once, forwards. */
class Streamed implements OpenReader {
  readonly name = "the stream";
  readonly isRepeatable = false;
  readonly size = undefined;
  readonly #parts: Parts;
  readonly #closed = new AbortController();

  constructor(stream: ReadableStream<Uint8Array>, { sha256 }: DownloadOptions) {
    let isTaken = false;
    const once = async (): Promise<ReadableStream<Uint8Array>> => {
      if (isTaken) throw new FinalError("the stream broke, and can be read only once");
      isTaken = true;
      return stream;
    };
    this.#parts = new Parts(new StreamParts(this.name, once, undefined, this.#closed.signal), { sha256 });
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#parts.read(offset, length);
  }

  finish(): Promise<void> {
    return this.#parts.finish();
  }

  async discard(): Promise<void> {}

  close(): void {
    this.#closed.abort(new DownloadError("the stream: closed"));
  }
}
