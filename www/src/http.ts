// Asking servers for bytes: ranges where they answer them, streams where not, and what to do when a connection breaks.

import { DownloadError } from "./errors.js";
import { partBytes, release, type PartSource } from "./parts.js";
import { FinalError, retry } from "./retry.js";

/** A connection that brings nothing for so long counts as broken. */
const STALL_MS = 10_000;
/** Bytes asked for first; the answer says how many there are. */
const PROBE_BYTES = 512 << 10;
/** Answers that another attempt may change. */
const PASSING = [408, 425, 429, 502, 503, 504];

/** What tells two versions of a file apart, as far as the server says. */
export interface Version {
  etag: string | null;
  modified: string | null;
}

/** An answer being read. */
interface Answer {
  response: Response;
  body: ReadableStream<Uint8Array>;
}

async function ask(url: string, range: string | undefined, signal: AbortSignal | undefined): Promise<Answer> {
  let response;
  try {
    response = await fetch(url, { headers: range === undefined ? {} : { range }, cache: "no-store", signal: signal ?? null });
  } catch (error) {
    signal?.throwIfAborted();
    throw new DownloadError(`${url}: ${error instanceof Error ? error.message : error}`);
  }
  if (response.ok && response.body) return { response, body: steady(url, response.body) };
  response.body?.cancel().catch(() => {});
  const Kind = PASSING.includes(response.status) ? DownloadError : FinalError;
  throw new Kind(`${url}: ${response.ok ? "the answer is empty" : `HTTP ${response.status} ${response.statusText}`.trim()}`);
}

/** The same stream, which fails when nothing comes for too long, and whose errors say of what. */
function steady(url: string, body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        let timer;
        const stalled = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new DownloadError(`${url}: nothing came for ${STALL_MS / 1000} s`)), STALL_MS)));
        try {
          const { done, value } = await Promise.race([reader.read(), stalled]);
          if (done) controller.close();
          else controller.enqueue(value);
        } catch (error) {
          reader.cancel().catch(() => {});
          throw error instanceof DownloadError ? error : new DownloadError(`${url}: ${error instanceof Error ? error.message : error}`);
        } finally {
          clearTimeout(timer);
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
}

/** `Content-Length`, where it is that of the bytes that we get: not if they were compressed on the way, and a server elsewhere may hide that. */
function announced({ type, headers }: Response): number | undefined {
  const length = Number(headers.get("content-length") ?? Number.NaN);
  return type === "basic" && !headers.has("content-encoding") && Number.isSafeInteger(length) ? length : undefined;
}

function version({ headers }: Response): Version {
  return { etag: headers.get("etag"), modified: headers.get("last-modified") };
}

/** What is known of a file after the first answer. */
export interface Probed {
  /** Bytes in all; undefined if the server does not say. */
  size: number | undefined;
  version: Version;
  /** Its first bytes, as many as came, if the server answers ranges. */
  head: Uint8Array | undefined;
  /** The whole file from its beginning, if it does not. */
  body: ReadableStream<Uint8Array> | undefined;
}

/** Asks for the beginning of a file, and learns how long it is and whether the server answers ranges. */
export function probe(url: string, signal: AbortSignal | undefined): Promise<Probed> {
  return retry(signal, async () => {
    const { response, body } = await ask(url, `bytes=0-${PROBE_BYTES - 1}`, signal);
    const size = /^bytes 0-\d+\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1];
    if (response.status === 206 && size !== undefined) {
      const head = await whatComes(body);
      return { size: Number(size), version: version(response), head, body: undefined };
    }
    if (response.status !== 206) return { size: announced(response), version: version(response), head: undefined, body };
    // A range of unknown size: a server elsewhere that does not let us see it. Then the whole file, as a stream.
    body.cancel().catch(() => {});
    const whole = await ask(url, undefined, signal);
    return { size: announced(whole.response), version: version(whole.response), head: undefined, body: whole.body };
  });
}

/** The whole file as a stream. */
export async function stream(url: string, signal: AbortSignal | undefined): Promise<ReadableStream<Uint8Array>> {
  return (await ask(url, undefined, signal)).body;
}

/** Parts of a file whose server answers ranges. */
export class RangeParts implements PartSource {
  readonly name: string;
  readonly size: number;
  readonly partBytes: number;
  readonly #head: Uint8Array;
  readonly #version: Version;
  readonly #signal: AbortSignal;
  readonly #onBytes: (bytes: number) => void;

  constructor(url: string, size: number, version: Version, head: Uint8Array, signal: AbortSignal, onBytes: (bytes: number) => void) {
    this.name = url;
    this.size = size;
    this.partBytes = partBytes(size);
    this.#version = version;
    this.#head = head;
    this.#signal = signal;
    this.#onBytes = onBytes;
  }

  async part(index: number): Promise<Uint8Array> {
    const begin = index * this.partBytes;
    const bytes = new Uint8Array(Math.max(0, Math.min(this.partBytes, this.size - begin)));
    let filled = 0;
    const take = (chunk: Uint8Array): void => {
      bytes.set(chunk, filled);
      filled += chunk.length;
      this.#onBytes(chunk.length);
    };
    if (index === 0) take(this.#head.subarray(0, bytes.length));
    await retry(this.#signal, async (brought) => {
      if (filled === bytes.length) return;
      const { response, body } = await ask(this.name, `bytes=${begin + filled}-${begin + bytes.length - 1}`, this.#signal);
      this.#check(response);
      for await (const chunk of chunks(body)) {
        if (chunk.length > 0) brought();
        take(chunk.subarray(0, bytes.length - filled));
        release(chunk);
        if (filled === bytes.length) return;
      }
      throw new DownloadError(`${this.name}: the answer ends at byte ${begin + filled}, ${this.size} were announced`);
    });
    return bytes;
  }

  #check(response: Response): void {
    const { etag, modified } = version(response);
    if (response.status !== 206) throw new FinalError(`${this.name}: the server answers ranges no more`);
    if (etag !== this.#version.etag || modified !== this.#version.modified) throw new FinalError(`${this.name}: the file changed while it was read`);
  }
}

/** The bytes of a stream, up to where it ends or breaks. */
async function whatComes(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  try {
    for await (const chunk of chunks(stream)) parts.push(chunk);
  } catch {
    // The rest is asked for again.
  }
  return new Uint8Array(await new Blob(parts as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}

/** Not every browser can loop over a stream. Leaving the loop cancels it. */
async function* chunks(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array, void, void> {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
