// The messages between the page and the worker that owns the engine.
//
// Requests carry a number and are worked off one at a time, in order; each ends with exactly one `done` or `error`.
// A generation sends `pieces` on its way. The page answers with `taken` (how many tokens it has handed on: the worker
// computes only a little ahead of that) and, to end it early, with `stop` (the tokens beyond are taken back).

import type { ErrorMessage } from "./errors.js";

export type Device = "auto" | "gpu" | "cpu";
export type Attention = "streaming" | "window" | "dense" | "recompute" | "infini";
export type CacheType = "f16" | "f32";

/** Settings of `Engine.load`; what is left out follows the model. */
export interface Settings {
  device?: Device | undefined;
  attention?: Attention | undefined;
  sinks?: number | undefined;
  window?: number | undefined;
  chunk?: number | undefined;
  cache?: CacheType | undefined;
}

/** How to choose tokens, and when to stop. Defaults are llama.cpp's; the seed is random. */
export interface Sampling {
  temperature?: number | undefined;
  topK?: number | undefined;
  topP?: number | undefined;
  minP?: number | undefined;
  seed?: number | undefined;
  /** Ends after so many tokens, or at an end token. Without it a stream has no end: an end token is a line break. */
  maxTokens?: number | undefined;
  /** Texts that end the stream; they are not delivered. */
  stop?: string | string[] | undefined;
}

/** What an engine says of itself. Sizes in bytes. */
export interface Info {
  model: string;
  executor: "gpu" | "cpu";
  /** The GPU's name, or what the CPU executor runs on. */
  adapter: string;
  attention: Attention;
  sinks: number;
  window: number;
  vocab_size: number;
  weights_bytes: number;
  kv_bytes: number;
  /** Of the compressive memory, in the mode `infini`. */
  memory_bytes: number;
  work_bytes: number;
}

/** How far loading has come. */
export interface Progress {
  /** `engine`: the program itself is fetched and compiled; `model`: the model is read. */
  phase: "engine" | "model";
  /** Bytes so far. */
  loaded: number;
  /** Bytes in all; undefined if not known. */
  total: number | undefined;
}

/** Where a model comes from, as it travels to the worker. */
export type ModelBytes = string | Blob | ArrayBuffer | ReadableStream<Uint8Array>;

export type Request =
  | { id: number; op: "load"; model: ModelBytes; settings: Settings }
  | { id: number; op: "createSession"; session: number }
  | { id: number; op: "append"; session: number; text: string }
  | { id: number; op: "generate"; session: number; text: string; sampling: Sampling; untilEnd: boolean }
  | { id: number; op: "destroySession"; session: number };

/** To the generation with this number, while it runs. */
export type Control = { id: number; op: "taken"; tokens: number } | { id: number; op: "stop"; tokens: number };

/** Where a session stands. */
export interface State {
  /** Tokens of the stream so far. */
  position: number;
  /** Tokens that left the cache. */
  evicted: number;
  /** Tokens that the model still sees. */
  cached: number;
}

export type Reply =
  | { id: number; type: "progress"; progress: Progress }
  /** The text of one token each, possibly empty: a character may take several tokens. `position`: after the last one. */
  | { id: number; type: "pieces"; pieces: string[]; position: number; dispatches: number }
  | { id: number; type: "done"; info?: Info; state?: State }
  | { id: number; type: "error"; error: ErrorMessage; state?: State };
