// A model at an address: from the cache as far as it is there, from the network for the rest.

import { CacheEntry } from "./cache.js";
import { DownloadError } from "./errors.js";
import { probe, RangeParts, stream, type Probed } from "./http.js";
import { HashError, Parts, StreamParts, type PartSource } from "./parts.js";
import type { OpenReader } from "./reader.js";

export interface DownloadOptions {
  /** Where downloads stay. */
  cache?: "opfs" | "none" | undefined;
  /** What the file must hash to. */
  sha256?: string | undefined;
  signal?: AbortSignal | undefined;
  /** Bytes that are here, and bytes in all. */
  onProgress?: (loaded: number, total: number | undefined) => void;
  /** Another page is downloading the same file, and is waited for. */
  onWait?: () => void;
  /** Fetches what will be wanted next; not where only the header is read. */
  readAhead?: boolean;
}

export class Download implements OpenReader {
  readonly isRepeatable = true;
  readonly name: string;
  readonly #source: CachingParts;
  readonly #parts: Parts;
  readonly #entry: CacheEntry | undefined;
  readonly #sha256: string | undefined;
  readonly #closed: AbortController;

  private constructor(url: string, source: CachingParts, entry: CacheEntry | undefined, sha256: string | undefined, closed: AbortController, readAhead: boolean) {
    this.name = url;
    this.#source = source;
    this.#entry = entry;
    this.#sha256 = sha256;
    this.#closed = closed;
    // A file that was checked before is checked part by part.
    this.#parts = new Parts(source, { sha256: entry?.sha256 === undefined ? sha256 : undefined, readAhead });
  }

  static async open(url: string, options: DownloadOptions): Promise<Download> {
    const { cache = "opfs", sha256, signal, onProgress = () => {}, onWait = () => {}, readAhead = true } = options;
    const closed = new AbortController();
    const onAbort = (): void => closed.abort(signal?.reason);
    signal?.addEventListener("abort", onAbort);
    closed.signal.addEventListener("abort", () => signal?.removeEventListener("abort", onAbort));
    let entry = cache === "opfs" ? await CacheEntry.open(url, signal, onWait) : undefined;
    try {
      if (entry?.isComplete && sha256 !== undefined && entry.sha256 !== undefined && entry.sha256 !== sha256.toLowerCase()) {
        await entry.remove(); // another file was there
        entry.close();
        entry = await CacheEntry.open(url, signal, onWait);
      }
      const source = new CachingParts(url, entry, closed.signal, onProgress);
      await source.begin();
      return new Download(url, source, entry, sha256, closed, readAhead);
    } catch (error) {
      closed.abort(error);
      entry?.close();
      throw error;
    }
  }

  get size(): number | undefined {
    return this.#source.size;
  }

  read(offset: number, length: number): Promise<Uint8Array> {
    return this.#parts.read(offset, length);
  }

  async finish(): Promise<void> {
    try {
      await this.#parts.finish();
    } catch (error) {
      if (error instanceof HashError) await this.discard();
      throw error;
    }
    await this.#source.complete(this.#sha256);
  }

  async discard(): Promise<void> {
    await this.#entry?.remove();
  }

  close(): void {
    this.#closed.abort(new DownloadError(`${this.name}: closed`));
    this.#entry?.close();
  }
}

/** Parts that come from the cache if they are there, and go into it if not. */
class CachingParts implements PartSource {
  readonly name: string;
  readonly #signal: AbortSignal;
  readonly #onProgress: (loaded: number, total: number | undefined) => void;
  #entry: CacheEntry | undefined;
  #network: PartSource | undefined;
  /** Bytes that are here. */
  #loaded = 0;
  /** Parts that were here at the beginning, and are counted. */
  readonly #counted = new Set<number>();

  constructor(url: string, entry: CacheEntry | undefined, signal: AbortSignal, onProgress: (loaded: number, total: number | undefined) => void) {
    this.name = url;
    this.#entry = entry;
    this.#signal = signal;
    this.#onProgress = onProgress;
  }

  /** Learns what the file is; asks nobody if all of it is here. */
  async begin(): Promise<void> {
    if (!this.#entry?.isComplete) await this.#connect();
    const { size, partBytes } = this;
    for (let index = 0; index * partBytes < (size ?? 0); index++) {
      if (!this.#entry?.has(index)) continue;
      this.#counted.add(index);
      this.#loaded += Math.min(partBytes, size! - index * partBytes);
    }
    this.#onProgress(this.#loaded, size);
  }

  get size(): number | undefined {
    return this.#network ? this.#network.size : this.#entry?.size;
  }

  get partBytes(): number {
    return this.#network?.partBytes ?? this.#entry?.partBytes ?? 1;
  }

  async part(index: number): Promise<Uint8Array> {
    const stored = await this.#entry?.read(index);
    if (stored) return stored;
    if (this.#counted.delete(index)) this.#loaded -= Math.min(this.partBytes, (this.size ?? 0) - index * this.partBytes); // it was damaged
    if (!this.#network) await this.#connect();
    const part = await this.#network!.part(index);
    if (part.length > 0) await this.#keep(index, part);
    return part;
  }

  /** All parts are here. */
  async complete(sha256: string | undefined): Promise<void> {
    if (this.size !== undefined) await this.#entry?.complete(this.size, sha256);
  }

  /** Where there is no room, the download goes on without being kept. */
  async #keep(index: number, part: Uint8Array): Promise<void> {
    try {
      await this.#entry?.write(index, part);
    } catch {
      const entry = this.#entry;
      this.#entry = undefined;
      await entry?.remove();
    }
  }

  async #connect(): Promise<void> {
    const first = await probe(this.name, this.#signal);
    this.#network = this.#partsOf(first);
    const { size, partBytes } = this.#network;
    await this.#entry?.begin({ url: this.name, size: size ?? null, partBytes, version: first.version });
  }

  #partsOf({ size, version, head, body }: Probed): PartSource {
    const onBytes = (bytes: number): void => {
      this.#loaded = Math.min(this.#loaded + bytes, this.size ?? Infinity); // a part may come twice
      this.#onProgress(this.#loaded, this.size);
    };
    if (head && size !== undefined) return new RangeParts(this.name, size, version, head, this.#signal, onBytes);
    let first = body;
    const open = (): Promise<ReadableStream<Uint8Array>> => {
      const taken = first;
      first = undefined;
      return taken ? Promise.resolve(taken) : stream(this.name, this.#signal);
    };
    return new StreamParts(this.name, open, size, this.#signal, onBytes);
  }
}
