// A file in parts: fetched a few at a time and ahead of the reader, kept while somebody may want them, hashed in order.

import init, { Sha256 } from "../pkg/sinkstream.js";
import { DownloadError } from "./errors.js";
import { FinalError, retry } from "./retry.js";

/** Parts that are fetched at the same time, the one that is waited for included. */
export const CONNECTIONS = 4;
/** What lies so far back may still be asked for: the header is read ahead, and the tensors begin before that ends. */
const KEPT_BYTES = 4 << 20;
/** Smallest and largest part in bytes: four of the largest in flight are 16 MiB. */
const PART_BYTES = [512 << 10, 4 << 20] as const;

/** Bytes of a part of a file of this size: about 64 of them make a file. */
export function partBytes(size: number | undefined): number {
  const [least, most] = PART_BYTES;
  return size === undefined ? least : Math.min(most, Math.max(least, 2 ** Math.ceil(Math.log2(size / 64))));
}

/**
 * Gives memory back now, and not at some collection: loading makes much garbage in little time. Nobody may use the bytes any
 * more. Where the browser has no such call, the collection does it.
 */
export function release(bytes: Uint8Array | undefined): void {
  (bytes?.buffer as { transfer?(length: number): ArrayBuffer } | undefined)?.transfer?.(0);
}

/** Where parts come from. Each is whoever's who asked for it. */
export interface PartSource {
  readonly name: string;
  /** Bytes in all; undefined while nobody knows. */
  readonly size: number | undefined;
  readonly partBytes: number;
  /** A part; shorter only at the end of the file, empty behind it. */
  part(index: number): Promise<Uint8Array>;
}

/** The file is not the one that was asked for. */
export class HashError extends DownloadError {}

export interface PartOptions {
  /** What the whole file must hash to. */
  sha256?: string | undefined;
  /** Fetches what will be wanted next. */
  readAhead?: boolean;
}

export class Parts {
  readonly #source: PartSource;
  readonly #sha256: string | undefined;
  readonly #readAhead: boolean;
  /** In flight or here, by index. */
  readonly #held = new Map<number, Promise<Uint8Array>>();
  /** Parts that were fetched at least once. */
  readonly #seen = new Set<number>();
  #hash: Sha256 | undefined;
  /** Parts that are in the hash. */
  #hashed = 0;
  #hashing: Promise<void> = Promise.resolve();

  constructor(source: PartSource, { sha256, readAhead = true }: PartOptions = {}) {
    this.#source = source;
    this.#sha256 = sha256?.toLowerCase();
    this.#readAhead = readAhead;
  }

  /** `length` bytes from `offset` on, the caller's own; fewer only at the end. One call at a time. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const { partBytes } = this.#source;
    const bytes = new Uint8Array(length);
    let filled = 0;
    while (filled < length) {
      const index = Math.floor((offset + filled) / partBytes);
      const part = await this.#part(index);
      const from = offset + filled - index * partBytes;
      const taken = part.subarray(from, from + length - filled);
      bytes.set(taken, filled);
      filled += taken.length;
      if (this.#sha256 !== undefined) await this.#hashThrough(index);
      if (part.length < partBytes) break;
    }
    return bytes.subarray(0, filled);
  }

  /** Fetches what nobody has asked for, and checks the hash of it all. */
  async finish(): Promise<void> {
    const { partBytes } = this.#source;
    const isPart = (index: number): boolean => index * partBytes < (this.#source.size ?? Infinity);
    for (let index = 0; isPart(index); index++) {
      if (this.#sha256 !== undefined) await this.#hashThrough(index);
      else if (!this.#seen.has(index)) await this.#part(index);
    }
    if (this.#sha256 === undefined) return;
    const found = this.#hash?.finish();
    this.#hash = undefined;
    if (found !== this.#sha256) throw new HashError(`${this.#source.name}: its SHA-256 is ${found}, not ${this.#sha256}`);
  }

  /** A part, and those behind it on their way. */
  async #part(index: number): Promise<Uint8Array> {
    const part = this.#fetch(index);
    const { partBytes, size } = this.#source;
    const end = size === undefined ? Infinity : Math.ceil(size / partBytes);
    for (let next = index + 1; this.#readAhead && next < Math.min(end, index + CONNECTIONS); next++) this.#fetch(next).catch(() => {});
    const oldest = index - Math.max(1, Math.ceil(KEPT_BYTES / partBytes));
    for (const [number, held] of this.#held) {
      if (number >= oldest && number < index + CONNECTIONS) continue;
      this.#held.delete(number);
      held.then(release, () => {});
    }
    return part;
  }

  #fetch(index: number): Promise<Uint8Array> {
    let part = this.#held.get(index);
    if (!part) {
      part = this.#source.part(index);
      this.#held.set(index, part);
      // One that failed is tried again when it is asked for again.
      part.then(() => this.#seen.add(index), () => this.#held.delete(index));
    }
    return part;
  }

  /** Hashes all parts up to this one, in order. */
  #hashThrough(index: number): Promise<void> {
    this.#hashing = this.#hashing.then(async () => {
      await init();
      this.#hash ??= new Sha256();
      while (this.#hashed <= index) {
        this.#hash.update(await this.#part(this.#hashed));
        this.#hashed += 1;
      }
    });
    return this.#hashing;
  }
}

/** Parts cut from streams that always begin at the beginning. One that breaks is begun anew. */
export class StreamParts implements PartSource {
  readonly name: string;
  readonly partBytes: number;
  readonly #open: () => Promise<ReadableStream<Uint8Array>>;
  readonly #signal: AbortSignal;
  readonly #onBytes: (bytes: number) => void;
  #size: number | undefined;
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  /** Offset of `#rest` in the file; behind it comes what the reader gives. */
  #position = 0;
  #rest: Uint8Array = new Uint8Array(0);
  #last: Promise<unknown> = Promise.resolve();

  constructor(name: string, open: () => Promise<ReadableStream<Uint8Array>>, size: number | undefined, signal: AbortSignal, onBytes: (bytes: number) => void = () => {}) {
    this.name = name;
    this.partBytes = partBytes(size);
    this.#open = open;
    this.#size = size;
    this.#signal = signal;
    this.#onBytes = onBytes;
    signal.addEventListener("abort", () => this.#reader?.cancel(signal.reason).catch(() => {}));
  }

  get size(): number | undefined {
    return this.#size;
  }

  /** One after the other: there is only one stream. */
  part(index: number): Promise<Uint8Array> {
    const part = this.#last.then(() => this.#take(index * this.partBytes));
    this.#last = part.catch(() => {});
    return part;
  }

  async #take(begin: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(Math.max(0, Math.min(this.partBytes, (this.#size ?? Infinity) - begin)));
    let filled = 0;
    await retry(this.#signal, async (brought) => {
      while (filled < bytes.length) {
        const chunk = await this.#next(begin + filled);
        if (!chunk) return;
        const taken = chunk.subarray(0, bytes.length - filled);
        bytes.set(taken, filled);
        filled += taken.length;
        brought();
        this.#onBytes(taken.length);
      }
    });
    return bytes.subarray(0, filled);
  }

  /** Bytes at `offset`, as many as there happen to be; nothing at the end. */
  async #next(offset: number): Promise<Uint8Array | undefined> {
    this.#signal.throwIfAborted();
    if (!this.#reader || offset < this.#position) {
      this.#reader?.cancel().catch(() => {});
      this.#reader = undefined;
      this.#reader = (await this.#open()).getReader();
      [this.#position, this.#rest] = [0, new Uint8Array(0)];
    }
    while (this.#position + this.#rest.length <= offset) {
      this.#position += this.#rest.length;
      this.#rest = new Uint8Array(0);
      const chunk = await this.#more(this.#reader);
      if (!chunk) return undefined;
      this.#rest = chunk;
    }
    const chunk = this.#rest.subarray(offset - this.#position);
    return chunk;
  }

  async #more(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<Uint8Array | undefined> {
    try {
      const { done, value } = await reader.read();
      if (!done && !(value instanceof Uint8Array)) throw new FinalError(`${this.name}: it does not consist of bytes`);
      if (!done) return value;
      if (this.#size !== undefined && this.#position < this.#size) throw new DownloadError(`${this.name}: it ends at byte ${this.#position}, ${this.#size} were announced`);
      this.#size = this.#position;
      return undefined;
    } catch (error) {
      this.#reader = undefined;
      throw error instanceof DownloadError ? error : new DownloadError(`${this.name}: ${error instanceof Error ? error.message : error}`);
    }
  }
}
