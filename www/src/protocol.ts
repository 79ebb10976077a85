// The messages between a page and the host that owns the engine: in a worker, a shared worker, or the page itself.
//
// Each request carries a number and ends with exactly one `done` or `error`. Requests of one session are worked off in
// order, sessions run side by side. A generation sends `pieces` on its way; the page answers with `taken` (how many
// tokens it has handed on: the host computes only a little ahead of that). `stop` ends any request early; of a
// generation, the tokens beyond those taken are taken back.

import type { ErrorMessage } from "./errors.js";

export type Device = "auto" | "gpu" | "cpu";
export type Attention = "streaming" | "window" | "dense" | "recompute" | "infini";
export type CacheType = "f16" | "f32";

/** How a model is run; what is left out follows the model. */
export interface Settings {
  /** `auto`: a real GPU if there is one, else the CPU; `gpu`: any WebGPU adapter, never the CPU; `cpu`: never WebGPU. */
  device?: Device | undefined;
  attention?: Attention | undefined;
  /** Tokens at the start of the stream that stay for ever. */
  sinks?: number | undefined;
  /** The most recent earlier tokens that stay. */
  window?: number | undefined;
  /** Most tokens of one step of prefill. */
  chunk?: number | undefined;
  /** Sessions that the device holds at once (1); more wait in memory, which takes time when they go on. */
  streams?: number | undefined;
  /** Number type of the cache of keys and values; `cache` of `Engine.load` is where downloads stay. */
  cacheType?: CacheType | undefined;
}

/** How to choose tokens, and when to stop. Defaults are llama.cpp's; the seed is random. */
export interface Sampling {
  /** 0 is greedy. */
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

/** One message of a conversation. */
export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

/** How a conversation begins. */
export interface Conversation {
  /** These never leave the cache. */
  initialPrompts: Message[];
  /** What was said after them. It is in the cache from the beginning too. */
  history: Message[];
}

/** What a model needs, from its header alone. Sizes in bytes. */
export interface MemoryPlan {
  model: string;
  attention: Attention;
  sinks: number;
  window: number;
  /** Sessions that the device holds at once. */
  streams: number;
  vocab_size: number;
  /** Tokens that the model was trained to see at once. */
  context_length: number;
  /** Whether the file has a template for conversations. */
  chat_template: boolean;
  /** Weights as they lie on the device. */
  weights_bytes: number;
  /** The cache of keys and values, for ever. */
  kv_bytes: number;
  /** Of the compressive memory, in the mode `infini`. */
  memory_bytes: number;
  work_bytes: number;
}

/** What `Engine.estimate` says of a file. */
export interface Estimate extends MemoryPlan {
  /** Bytes of the file, which is what a download takes; undefined if the server does not say. */
  file_bytes: number | undefined;
}

/** What an engine says of itself. */
export interface Info extends MemoryPlan {
  executor: "gpu" | "cpu";
  /** The GPU's name, or what the CPU executor runs on. */
  adapter: string;
  /** Other pages of this site use the same engine, or may. */
  shared: boolean;
}

/** How far loading has come. Where a model is downloaded, `download` and `model` go side by side. */
export interface Progress {
  /**
   * `waiting`: another page downloads the same file, and is waited for; `engine`: the program itself is fetched and
   * compiled; `download`: bytes of the file that are here; `model`: bytes of tensors that are on the device.
   */
  phase: "waiting" | "engine" | "download" | "model";
  /** Bytes so far. */
  loaded: number;
  /** Bytes in all; undefined if not known. */
  total: number | undefined;
}

/** Where a model comes from, as it travels to the host. */
export type ModelBytes = string | Blob | ArrayBuffer | ReadableStream<Uint8Array>;

/** How a model gets here. */
export interface Source {
  model: ModelBytes;
  cache: "opfs" | "none";
  sha256?: string | undefined;
}

export type Request =
  | { id: number; op: "load"; source: Source; settings: Settings }
  | { id: number; op: "estimate"; source: Source; settings: Settings }
  | { id: number; op: "createSession"; session: number; conversation: Conversation | undefined }
  | { id: number; op: "append"; session: number; text: string }
  | { id: number; op: "generate"; session: number; text: string | undefined; sampling: Sampling; untilEnd: boolean; logprobs: boolean }
  | { id: number; op: "countTokens"; session: number; text: string }
  | { id: number; op: "pinned"; session: number }
  | { id: number; op: "clone"; session: number; copy: number }
  | { id: number; op: "save"; session: number }
  | { id: number; op: "restore"; session: number; bytes: Blob }
  | { id: number; op: "destroySession"; session: number }
  | { id: number; op: "loseDevice" }
  | { id: number; op: "close" };

/** To the request with this number, while it runs; `stop` says how many tokens of a generation stay. */
export type Control = { id: number; op: "taken"; tokens: number } | { id: number; op: "stop"; tokens: number };

/** Where a session stands. */
export interface State {
  /** Tokens of the stream so far. */
  position: number;
  /** Tokens that left the cache. */
  evicted: number;
  /** Tokens at the start that stay for ever. */
  sinks: number;
}

/** What the engine holds. */
export interface Memory {
  /** The WebAssembly's memory; with the CPU executor the model is in it. */
  wasm_bytes: number;
  /** Buffers of the executor: on the GPU, or within the WebAssembly's memory. */
  executor_bytes: number;
}

/** What the device was given since the model was loaded, and what is held now. */
export interface Counts extends Memory {
  /** Dispatches; 0 on the CPU. */
  dispatches: number;
  /** How often a lost device was replaced. */
  recoveries: number;
}

export const NO_COUNTS: Counts = { dispatches: 0, recoveries: 0, wasm_bytes: 0, executor_bytes: 0 };

/** Why a generation ended. */
export type EndReason = "length" | "eos" | "stop";

/** What a request gives, by its kind. */
export interface Result {
  info?: Info;
  estimate?: Estimate;
  count?: number;
  texts?: string[];
  bytes?: Blob;
  ended?: EndReason;
  /** Tokens that the text of a generation made. */
  prompt_tokens?: number;
}

export type Reply =
  | { id: number; type: "progress"; progress: Progress }
  /**
   * The text of one token each, possibly empty: a character may take several tokens; their log-probabilities, if asked
   * for. `state`: after the last one.
   */
  | { id: number; type: "pieces"; pieces: string[]; logprobs: number[]; state: State; counts: Counts }
  | { id: number; type: "done"; result: Result; state?: State; counts: Counts }
  | { id: number; type: "error"; error: ErrorMessage; state?: State };
