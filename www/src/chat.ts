// `engine.chat.completions.create` in OpenAI's shape (platform.openai.com/docs/api-reference/chat). It is stateless for the
// caller; inside, the session of the last call goes on when the new messages only add a question to it.

import type { Engine } from "./index.js";
import type { Message } from "./protocol.js";
import type { Ending, PromptOptions, Session, Token } from "./session.js";

/** One message; content in parts must be text. */
export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant";
  content: string | { type: "text"; text: string }[];
}

export interface ChatCompletionRequest {
  /** The last one is the user's. System messages at the start never leave the cache. */
  messages: ChatMessage[];
  /** Ignored: the engine has one model. */
  model?: string | undefined;
  stream?: boolean | null | undefined;
  stream_options?: { include_usage?: boolean } | null | undefined;
  temperature?: number | null | undefined;
  top_p?: number | null | undefined;
  /** Not OpenAI's: keep so many of the most likely tokens. */
  top_k?: number | null | undefined;
  /** Not OpenAI's: keep tokens at least so likely, relative to the likeliest. */
  min_p?: number | null | undefined;
  seed?: number | null | undefined;
  max_tokens?: number | null | undefined;
  max_completion_tokens?: number | null | undefined;
  stop?: string | string[] | null | undefined;
  /** The log-probability of each token of the reply: of the softmax at temperature 1. Those of others (`top_logprobs`) are not there. */
  logprobs?: boolean | null | undefined;
  /** Only 1. */
  n?: number | null | undefined;
  [other: string]: unknown;
}

export interface Usage {
  /** Tokens of the conversation before the reply. */
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** Of the prompt, what was in the cache already. */
  prompt_tokens_details: { cached_tokens: number };
}

/** Token by token. The text of a token may be empty: a character may take several. */
export interface Logprobs {
  content: { token: string; logprob: number; bytes: number[]; top_logprobs: never[] }[];
}

export type FinishReason = "stop" | "length";

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  /** Seconds since 1970. */
  created: number;
  model: string;
  choices: [{ index: 0; message: { role: "assistant"; content: string }; finish_reason: FinishReason; logprobs: Logprobs | null }];
  usage: Usage;
}

export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  /** Empty in the last chunk if usage was asked for. */
  choices: { index: 0; delta: { role?: "assistant"; content?: string }; finish_reason: FinishReason | null; logprobs: Logprobs | null }[];
  usage?: Usage | null;
}

/** What would change the reply and does not exist here, and the values that mean "no". */
const missing: [name: string, isOff: (value: unknown) => boolean][] = [
  ["n", (value) => value === 1],
  ["top_logprobs", (value) => value === 0],
  ["tools", (value) => Array.isArray(value) && value.length === 0],
  ["functions", (value) => Array.isArray(value) && value.length === 0],
  ["response_format", (value) => (value as { type?: unknown }).type === "text"],
  ["frequency_penalty", (value) => value === 0],
  ["presence_penalty", (value) => value === 0],
  ["logit_bias", (value) => Object.keys(value as object).length === 0],
];

/** A conversation that may go on. */
interface Kept {
  session: Session;
  messages: Message[];
}

/** @see Engine.chat */
export class Chat {
  readonly completions: Completions;

  /** @internal */
  constructor(engine: Engine) {
    this.completions = new Completions(engine);
  }
}

export class Completions {
  readonly #engine: Engine;
  /** The last conversation, while nobody uses it. */
  #kept: Kept | undefined;

  /** @internal */
  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /**
   * A reply to a conversation, whole or as it comes. Rejects with `RangeError` for what is not supported here, naming it.
   *
   * The numbers of tokens are of the whole conversation, also where most of it was in the cache from the last call.
   */
  create(request: ChatCompletionRequest & { stream: true }, options?: { signal?: AbortSignal | undefined }): Promise<AsyncGenerator<ChatCompletionChunk, void, void>>;
  create(request: ChatCompletionRequest & { stream?: false | null | undefined }, options?: { signal?: AbortSignal | undefined }): Promise<ChatCompletion>;
  create(request: ChatCompletionRequest, options?: { signal?: AbortSignal | undefined }): Promise<ChatCompletion | AsyncGenerator<ChatCompletionChunk, void, void>>;
  async create(request: ChatCompletionRequest, { signal }: { signal?: AbortSignal | undefined } = {}): Promise<ChatCompletion | AsyncGenerator<ChatCompletionChunk, void, void>> {
    const messages = check(request);
    const options = promptOptions(request, signal);
    const { session, cached } = await this.#sessionFor(messages, signal);
    const run = this.#run(session, messages, options, request.logprobs === true, cached);
    const frame = { id: `chatcmpl-${crypto.randomUUID?.() ?? Date.now().toString(36)}`, created: Math.floor(Date.now() / 1000), model: this.#engine.info.model };
    if (request.stream) return streamed(run, frame, request.stream_options?.include_usage === true);
    let content = "";
    const tokens: Token[] = [];
    for (;;) {
      const { done, value } = await run.next();
      if (!done) {
        content += value.text;
        tokens.push(value);
        continue;
      }
      const message = { role: "assistant" as const, content };
      const logprobs = request.logprobs ? shown(tokens) : null;
      return { ...frame, object: "chat.completion", choices: [{ index: 0, message, finish_reason: value.reason, logprobs }], usage: value.usage };
    }
  }

  /** The session of the last call if it holds all but the question, else a new one. */
  async #sessionFor(messages: Message[], signal: AbortSignal | undefined): Promise<{ session: Session; cached: number }> {
    const past = messages.slice(0, -1);
    const kept = this.#kept;
    this.#kept = undefined;
    if (kept && JSON.stringify(kept.messages) === JSON.stringify(past)) return { session: kept.session, cached: kept.session.position };
    kept?.session.destroy();
    const first = past.findIndex(({ role }) => role !== "system");
    const head = first === -1 ? past.length : first;
    const session = await this.#engine.createSession({ initialPrompts: past.slice(0, head), history: past.slice(head), signal });
    return { session, cached: 0 };
  }

  async *#run(session: Session, messages: Message[], options: PromptOptions, logprobs: boolean, cached: number): AsyncGenerator<Token, { reason: FinishReason; usage: Usage }, void> {
    const before = session.position;
    let content = "";
    let ending: Ending | undefined;
    try {
      const pieces = session.generate(messages.at(-1)!.content, options, true, logprobs);
      for (;;) {
        const { done, value } = await pieces.next();
        if (done) {
          ending = value;
          break;
        }
        const text = content === "" ? value.text.trimStart() : value.text; // the space behind the header is not the answer's
        content += text;
        if (text !== "" || logprobs) yield { ...value, text };
      }
    } finally {
      // A stop text is in the stream, but not in the reply: that conversation cannot go on.
      const isWhole = ending?.ended === "eos" || ending?.ended === "length";
      if (isWhole && !this.#kept) this.#kept = { session, messages: [...messages, { role: "assistant", content }] };
      else session.destroy();
    }
    const prompt_tokens = before + ending.promptTokens;
    const usage = { prompt_tokens, completion_tokens: ending.tokens, total_tokens: prompt_tokens + ending.tokens, prompt_tokens_details: { cached_tokens: cached } };
    return { reason: ending.ended === "length" ? "length" : "stop", usage };
  }
}

async function* streamed(
  run: AsyncGenerator<Token, { reason: FinishReason; usage: Usage }, void>,
  frame: { id: string; created: number; model: string },
  withUsage: boolean,
): AsyncGenerator<ChatCompletionChunk, void, void> {
  const chunk = (delta: { role?: "assistant"; content?: string }, finish_reason: FinishReason | null, tokens: Token[] = []): ChatCompletionChunk => ({
    ...frame,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, finish_reason, logprobs: tokens.some(({ logprob }) => logprob !== undefined) ? shown(tokens) : null }],
    ...(withUsage && { usage: null }),
  });
  try {
    yield chunk({ role: "assistant", content: "" }, null);
    for (;;) {
      const { done, value } = await run.next();
      if (!done) {
        yield chunk({ content: value.text }, null, [value]);
        continue;
      }
      yield chunk({}, value.reason);
      if (withUsage) yield { ...frame, object: "chat.completion.chunk", choices: [], usage: value.usage };
      return;
    }
  } finally {
    await run.return(undefined as never);
  }
}

function shown(tokens: Token[]): Logprobs {
  const encoder = new TextEncoder();
  return { content: tokens.map(({ text, logprob = 0 }) => ({ token: text, logprob, bytes: [...encoder.encode(text)], top_logprobs: [] })) };
}

function check(request: ChatCompletionRequest): Message[] {
  for (const [name, isOff] of missing) {
    const value = request[name];
    if (value !== undefined && value !== null && !isOff(value)) throw new RangeError(`${name}: not available in this engine`);
  }
  const { messages } = request;
  if (!Array.isArray(messages) || messages.length === 0) throw new RangeError("messages: a list with at least one message is needed");
  const read = messages.map(({ role, content }, n): Message => {
    const text = typeof content === "string" ? content : content.map((part) => (part.type === "text" ? part.text : undefined));
    const parts = [text].flat();
    if (!["system", "developer", "user", "assistant"].includes(role)) throw new RangeError(`messages[${n}].role: ${role} is not system, developer, user or assistant`);
    if (!parts.every((part) => typeof part === "string")) throw new RangeError(`messages[${n}].content: only text is understood`);
    return { role: role === "developer" ? "system" : role, content: parts.join("") };
  });
  if (read.at(-1)!.role !== "user") throw new RangeError("messages: the last one must be the user's");
  return read;
}

function promptOptions(request: ChatCompletionRequest, signal: AbortSignal | undefined): PromptOptions {
  return {
    temperature: request.temperature ?? undefined,
    topP: request.top_p ?? undefined,
    topK: request.top_k ?? undefined,
    minP: request.min_p ?? undefined,
    seed: request.seed ?? undefined,
    maxTokens: request.max_completion_tokens ?? request.max_tokens ?? undefined,
    stop: request.stop ?? undefined,
    signal,
  };
}
