// The Prompt API of Chrome (github.com/webmachinelearning/prompt-api) with a model of your own, in any browser:
// `sinkstream/prompt-api`. A session never fills up: beyond its window it forgets the oldest tokens, one at a time.
//
//     polyfill({ model: "model.gguf" });                     // sets globalThis.LanguageModel where there is none
//     const session = await LanguageModel.create();
//     for await (const piece of session.promptStreaming("Hello")) …

import { Engine, type ContextOverflowEvent, type LoadOptions, type Message, type Session } from "./index.js";

export type Availability = "unavailable" | "downloadable" | "downloading" | "available";

/** Content of a message: text, or parts that must be text. */
export type Content = string | { type: "text"; value: string }[];

export interface PromptMessage {
  role: "system" | "user" | "assistant";
  content: Content;
}

/** What a session can be given: a text, or messages of the user. */
export type PromptInput = string | PromptMessage[];

export interface ExpectedContent {
  type: string;
  languages?: string[];
}

export interface AvailabilityOptions {
  expectedInputs?: ExpectedContent[];
  expectedOutputs?: ExpectedContent[];
  tools?: unknown[];
}

export interface CreateOptions extends AvailabilityOptions {
  /** These never leave the cache. */
  initialPrompts?: PromptMessage[];
  /** Gets an event target with `downloadprogress` events, whose `loaded` goes from 0 to 1. */
  monitor?: (monitor: EventTarget) => void;
  signal?: AbortSignal;
  temperature?: number;
  topK?: number;
}

export interface InputOptions {
  signal?: AbortSignal;
  /** Not supported yet. */
  responseConstraint?: unknown;
}

/** A session with the names of the Prompt API. */
export interface LanguageModelSession extends EventTarget {
  /** Tokens that the model still sees. */
  readonly contextUsage: number;
  /** Most tokens that it sees. */
  readonly contextWindow: number;
  oncontextoverflow: ((event: Event) => void) | null;
  /** The engine's session: `evicted`, `feed`, `save` and all else that the Prompt API does not have. */
  readonly session: Session;
  prompt(input: PromptInput, options?: InputOptions): Promise<string>;
  promptStreaming(input: PromptInput, options?: InputOptions): ReadableStream<string>;
  append(input: PromptInput, options?: InputOptions): Promise<void>;
  measureContextUsage(input: PromptInput, options?: InputOptions): Promise<number>;
  clone(options?: { signal?: AbortSignal }): Promise<LanguageModelSession>;
  destroy(): void;
}

/** `LanguageModel` itself. */
export interface LanguageModelStatic {
  availability(options?: AvailabilityOptions): Promise<Availability>;
  create(options?: CreateOptions): Promise<LanguageModelSession>;
}

/** Sets `globalThis.LanguageModel`, unless the browser has its own; with `force` even then. Returns what is there now. */
export function polyfill(options: LoadOptions, { force = false } = {}): LanguageModelStatic {
  const scope = globalThis as { LanguageModel?: LanguageModelStatic };
  if (force || !scope.LanguageModel) scope.LanguageModel = languageModel(options);
  return scope.LanguageModel;
}

/** A `LanguageModel` for this model, which is loaded once, when the first session is created. */
export function languageModel(options: LoadOptions): LanguageModelStatic {
  let engine: Promise<Engine> | undefined;
  let isLoaded = false;
  const monitors = new Set<EventTarget>();
  let last = -1;
  const report = (loaded: number): void => {
    if (loaded <= last) return;
    last = loaded;
    for (const monitor of monitors) monitor.dispatchEvent(new ProgressEvent("downloadprogress", { loaded, total: 1, lengthComputable: true }));
  };
  const load = (): Promise<Engine> => {
    const onProgress: LoadOptions["onProgress"] = (progress) => {
      options.onProgress?.(progress);
      if (progress.phase === "model" && progress.total) report(Math.min(progress.loaded / progress.total, 1));
    };
    engine ??= Engine.load({ ...options, onProgress });
    engine.then(
      () => (isLoaded = true),
      () => (engine = undefined),
    );
    return engine;
  };

  return {
    async availability(wanted = {}) {
      if (unsupported(wanted)) return "unavailable";
      if (engine) return isLoaded ? "available" : "downloading";
      if (typeof options.model !== "string" && !(options.model instanceof URL)) return "available";
      const url = new URL(options.model, globalThis.document?.baseURI ?? location.href).href;
      return (await Engine.listCached()).some((cached) => cached.url === url && cached.complete) ? "available" : "downloadable";
    },

    async create(wanted = {}) {
      const { initialPrompts = [], monitor, signal, temperature, topK } = wanted;
      signal?.throwIfAborted();
      const missing = unsupported(wanted);
      if (missing) throw notSupported(missing);
      const target = new EventTarget();
      monitor?.(target);
      monitors.add(target);
      try {
        const messages = initialPrompts.map(({ role, content }): Message => ({ role, content: textOf(content) }));
        const loaded = await abortable(load(), signal);
        target.dispatchEvent(new ProgressEvent("downloadprogress", { loaded: 1, total: 1, lengthComputable: true }));
        return new Conversation(await loaded.createSession({ initialPrompts: messages, signal }), { temperature, topK });
      } finally {
        monitors.delete(target);
      }
    },
  };
}

interface Choice {
  temperature: number | undefined;
  topK: number | undefined;
}

class Conversation extends EventTarget implements LanguageModelSession {
  readonly session: Session;
  readonly #choice: Choice;
  #handler: ((event: Event) => void) | null = null;

  constructor(session: Session, choice: Choice) {
    super();
    this.session = session;
    this.#choice = choice;
    session.addEventListener("contextoverflow", (event: ContextOverflowEvent) => {
      const { evicted, newlyEvicted, oldestPosition, position } = event;
      this.dispatchEvent(Object.assign(new Event("contextoverflow"), { evicted, newlyEvicted, oldestPosition, position }));
    });
  }

  get contextUsage(): number {
    return this.session.contextUsage;
  }

  get contextWindow(): number {
    return this.session.contextWindow;
  }

  get oncontextoverflow(): ((event: Event) => void) | null {
    return this.#handler;
  }

  set oncontextoverflow(handler: ((event: Event) => void) | null) {
    if (this.#handler) this.removeEventListener("contextoverflow", this.#handler);
    this.#handler = handler;
    if (handler) this.addEventListener("contextoverflow", handler);
  }

  async prompt(input: PromptInput, { signal, responseConstraint }: InputOptions = {}): Promise<string> {
    const last = await this.#allButTheLast(input, signal, responseConstraint);
    return (await this.session.prompt(last, { ...this.#choice, signal })).trimStart();
  }

  promptStreaming(input: PromptInput, { signal, responseConstraint }: InputOptions = {}): ReadableStream<string> {
    let pieces: AsyncGenerator<string, void, void> | undefined;
    let isFirst = true;
    return new ReadableStream<string>(
      {
        pull: async (controller) => {
          pieces ??= this.session.promptStreaming(await this.#allButTheLast(input, signal, responseConstraint), { ...this.#choice, signal });
          for (;;) {
            const { done, value } = await pieces.next();
            if (done) return controller.close();
            const piece = isFirst ? value.trimStart() : value;
            if (piece === "") continue;
            isFirst = false;
            return controller.enqueue(piece);
          }
        },
        cancel: async () => {
          await pieces?.return();
        },
      },
      { highWaterMark: 0 },
    );
  }

  async append(input: PromptInput, { signal, responseConstraint }: InputOptions = {}): Promise<void> {
    const last = await this.#allButTheLast(input, signal, responseConstraint);
    await this.session.append(last, { signal });
  }

  async measureContextUsage(input: PromptInput, { signal }: InputOptions = {}): Promise<number> {
    const counts = textsOf(input).map((text) => this.session.countTokens(text, { signal }));
    return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
  }

  async clone({ signal }: { signal?: AbortSignal } = {}): Promise<LanguageModelSession> {
    return new Conversation(await this.session.clone({ signal }), this.#choice);
  }

  destroy(): void {
    this.session.destroy();
  }

  async #allButTheLast(input: PromptInput, signal: AbortSignal | undefined, constraint: unknown): Promise<string> {
    if (constraint !== undefined) throw notSupported("responseConstraint");
    const texts = textsOf(input);
    for (const text of texts.slice(0, -1)) await this.session.append(text, { signal });
    return texts.at(-1) ?? "";
  }
}

/** What is asked for and does not exist here. */
function unsupported({ expectedInputs = [], expectedOutputs = [], tools = [] }: AvailabilityOptions): string | undefined {
  if (tools.length > 0) return "tools";
  return [...expectedInputs, ...expectedOutputs].map(({ type }) => type).find((type) => type !== "text");
}

function notSupported(what: string): DOMException {
  return new DOMException(`${what}: not supported`, "NotSupportedError");
}

function textOf(content: Content): string {
  const parts = typeof content === "string" ? [{ type: "text", value: content }] : content;
  const other = parts.find(({ type }) => type !== "text");
  if (other) throw notSupported(other.type);
  return parts.map(({ value }) => value).join("");
}

/** Texts of the user; what others said belongs to the initial prompts. */
function textsOf(input: PromptInput): string[] {
  if (typeof input === "string") return [input];
  return input.map(({ role, content }) => {
    if (role !== "user") throw notSupported(`a message of the ${role} outside the initial prompts`);
    return textOf(content);
  });
}

/** Loading goes on for others; who has lost interest need not wait. */
function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    promise.then(resolve, reject);
  });
}
