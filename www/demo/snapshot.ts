// A text and the memory of its model in one file: what `Session.save` gives, behind a line of JSON that says what it is.

import type { Attention } from "sinkstream";

/** What is saved besides the session itself. */
export interface Saved {
  format: "sinkstream page 1";
  /** The model's name: its memory means nothing to another one. */
  model: string;
  /** Where it came from, if it was an address. */
  address?: string | undefined;
  attention: Attention;
  sinks: number;
  window: number;
  /** Tokens of the text from before the session. */
  before: number;
  /** The end of the text, and how much of it the model sees. */
  text: string;
  seen: string;
}

/** Longest first line of a file that is tried as one of ours. */
const MOST_BYTES = 1 << 20;

export function pack(saved: Saved, session: Blob): Blob {
  return new Blob([JSON.stringify(saved), "\n", session], { type: "application/octet-stream" });
}

/** Throws a `RangeError` for a file that is something else. */
export async function unpack(file: Blob): Promise<{ saved: Saved; session: Blob }> {
  const bytes = new Uint8Array(await file.slice(0, MOST_BYTES).arrayBuffer());
  const end = bytes.indexOf(10);
  try {
    const saved = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, end))) as Saved;
    if (saved.format === "sinkstream page 1") return { saved, session: file.slice(end + 1) };
  } catch {
    // Not JSON: said below.
  }
  throw new RangeError("This file was not saved by this page");
}
