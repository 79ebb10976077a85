// One endless stream of text: what it is given, what it says, where it stands.

import type { Connection } from "./connection.js";
import { abortError, destroyed } from "./errors.js";
import type { EndReason, Info, Reply, Result, Sampling, State } from "./protocol.js";

export interface PromptOptions extends Sampling {
  /** Ends the stream; the call rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** For calls that can be broken off. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
}

/** Fired when tokens have left the cache: what they said is forgotten. The stream just goes on. */
export class ContextOverflowEvent extends Event {
  /** Tokens that have left the cache since the stream began. */
  readonly evicted: number;
  /** Of these, since the last event. */
  readonly newlyEvicted: number;
  /** Position of the oldest token that is still seen, behind the pinned ones. */
  readonly oldestPosition: number;
  /** Tokens of the stream so far. */
  readonly position: number;

  /** @internal */
  constructor({ evicted, sinks, position }: State, before: number) {
    super("contextoverflow");
    this.evicted = evicted;
    this.newlyEvicted = evicted - before;
    this.oldestPosition = sinks + evicted;
    this.position = position;
  }
}

/** How a reply ended. */
export interface Ending {
  /** `length`: as many tokens as asked for; `eos`: the model ended it; `stop`: a stop text appeared; undefined: it was stopped. */
  ended: EndReason | undefined;
  promptTokens: number;
  tokens: number;
}

/** One token of a reply: the characters that became whole with it, and its log-probability if that was asked for. @internal */
export interface Token {
  text: string;
  logprob: number | undefined;
}

/** What a reader wants of tokens: texts that are not empty. */
async function* texts(tokens: AsyncGenerator<Token, unknown, void>): AsyncGenerator<string, void, void> {
  for await (const { text } of tokens) if (text !== "") yield text;
}

export interface SessionEventMap {
  contextoverflow: ContextOverflowEvent;
}

/** What a session needs of its engine. @internal */
export interface Owner {
  readonly connection: Connection;
  readonly info: Info;
  /** A number for a new session. */
  number(): number;
}

export class Session extends EventTarget {
  readonly #owner: Owner;
  readonly #number: number;
  /** Aborts what runs when the session is destroyed. */
  readonly #destroyed = new AbortController();
  #state: State = { position: 0, evicted: 0, sinks: 0 };
  /** Evicted tokens that an event has told of. */
  #told = 0;
  #oncontextoverflow: ((event: ContextOverflowEvent) => void) | null = null;

  /** Most tokens that the model sees: the sinks, the window and the newest. */
  readonly contextWindow: number;

  /** @internal Sessions come from `Engine.createSession`, `Engine.restore` and `clone`. */
  constructor(owner: Owner, number: number) {
    super();
    this.#owner = owner;
    this.#number = number;
    this.contextWindow = owner.info.sinks + owner.info.window + 1;
  }

  /** @internal Sends what makes the session on the other side. */
  static async open(owner: Owner, create: (number: number) => Parameters<Connection["ask"]>[0], signal?: AbortSignal): Promise<Session> {
    const number = owner.number();
    const session = new Session(owner, number);
    try {
      await owner.connection.ask(create(number), signal, {
        onState: (state) => {
          [session.#state, session.#told] = [state, state.evicted];
        },
      });
    } catch (error) {
      owner.connection.send({ op: "destroySession", session: number }).done.catch(() => {}); // it may be there all the same
      throw error;
    }
    return session;
  }

  /** Tokens of the stream so far: given and delivered, none that was only computed ahead. */
  get position(): number {
    return this.#state.position;
  }

  /** Tokens that the model still sees. */
  get contextUsage(): number {
    return this.#state.position - this.#state.evicted;
  }

  /** Tokens that left the cache. What they said is forgotten. */
  get evicted(): number {
    return this.#state.evicted;
  }

  /** Tokens at the start of the stream that never leave the cache: the sinks, or all of the initial prompts. */
  get pinned(): number {
    return Math.min(this.#state.sinks, this.#state.position);
  }

  /** As `addEventListener("contextoverflow", …)`. */
  get oncontextoverflow(): ((event: ContextOverflowEvent) => void) | null {
    return this.#oncontextoverflow;
  }

  set oncontextoverflow(handler: ((event: ContextOverflowEvent) => void) | null) {
    if (this.#oncontextoverflow) this.removeEventListener("contextoverflow", this.#oncontextoverflow);
    this.#oncontextoverflow = handler;
    if (handler) this.addEventListener("contextoverflow", handler);
  }

  override addEventListener<K extends keyof SessionEventMap>(type: K, listener: ((event: SessionEventMap[K]) => void) | EventListenerObject | null, options?: boolean | AddEventListenerOptions): void {
    super.addEventListener(type, listener as EventListener | null, options);
  }

  override removeEventListener<K extends keyof SessionEventMap>(type: K, listener: ((event: SessionEventMap[K]) => void) | EventListenerObject | null, options?: boolean | EventListenerOptions): void {
    super.removeEventListener(type, listener as EventListener | null, options);
  }

  /** Adds text to the stream without a reply; in a conversation, as a turn of the user. Waits for what runs on this session. */
  async append(text: string, { signal }: CallOptions = {}): Promise<void> {
    await this.#ask({ op: "append", session: this.#number, text }, signal);
  }

  /**
   * Adds texts as they come, without end if they have none: the next one is asked for when the last is in the cache.
   * Prompts of this session come in between. Words that are cut between two texts are other tokens than in one text.
   */
  async feed(texts: AsyncIterable<string> | Iterable<string>, { signal }: CallOptions = {}): Promise<void> {
    const signals = this.#signals(signal);
    signals.throwIfAborted();
    const aborted = new Promise<never>((_, reject) => signals.addEventListener("abort", () => reject(abortError(signals)), { once: true }));
    aborted.catch(() => {});
    const iterator = Symbol.asyncIterator in texts ? texts[Symbol.asyncIterator]() : texts[Symbol.iterator]();
    let isDone = false;
    try {
      for (;;) {
        const { done, value } = await Promise.race([iterator.next(), aborted]);
        if (done) {
          isDone = true;
          return;
        }
        await this.append(value, { signal });
      }
    } finally {
      // Not awaited: a generator that waits for its next text ends only then.
      if (!isDone) void Promise.resolve(iterator.return?.()).catch(() => {});
    }
  }

  /**
   * Adds `text` to the stream and goes on from there, piece by piece, as fast as the pieces are taken. Without
   * `maxTokens` it has no end: stop it with `signal` or by leaving the loop. An empty text just goes on. In a
   * conversation the text is a turn of the user, and the reply ends where the model ends it.
   */
  promptStreaming(text: string, options: PromptOptions = {}): AsyncGenerator<string, void, void> {
    return texts(this.generate(text, options, false));
  }

  /** Adds `text` to the stream and resolves to the reply: up to an end token, a stop text, or `maxTokens`. */
  async prompt(text: string, options: PromptOptions = {}): Promise<string> {
    let reply = "";
    for await (const piece of texts(this.generate(text, options, true))) reply += piece;
    return reply;
  }

  /** Tokens that a text would take here. */
  async countTokens(text: string, { signal }: CallOptions = {}): Promise<number> {
    return (await this.#ask({ op: "countTokens", session: this.#number, text }, signal)).count ?? 0;
  }

  /** Texts of the pinned tokens, special ones too, as far as they are in the cache. Does not wait for what runs. */
  async pinnedTokens({ signal }: CallOptions = {}): Promise<string[]> {
    // Where the host stands is ahead of what was delivered.
    return (await this.#owner.connection.ask({ op: "pinned", session: this.#number }, this.#signals(signal))).texts ?? [];
  }

  /** A second session that stands where this one does. Both go on independently. */
  async clone({ signal }: CallOptions = {}): Promise<Session> {
    this.#destroyed.signal.throwIfAborted();
    return Session.open(this.#owner, (copy) => ({ op: "clone", session: this.#number, copy }), signal);
  }

  /** Everything that it takes to go on later, in another page or on another device: see `Engine.restore`. */
  async save({ signal }: CallOptions = {}): Promise<Blob> {
    return (await this.#ask({ op: "save", session: this.#number }, signal)).bytes!;
  }

  /** Ends the stream and frees what the engine holds of it. */
  destroy(): void {
    if (this.#destroyed.signal.aborted) return;
    this.#destroyed.abort(destroyed("session"));
    this.#owner.connection.send({ op: "destroySession", session: this.#number }).done.catch(() => {});
  }

  #signals(signal: AbortSignal | undefined): AbortSignal {
    return AbortSignal.any(signal ? [signal, this.#destroyed.signal] : [this.#destroyed.signal]);
  }

  #ask(request: Parameters<Connection["ask"]>[0], signal: AbortSignal | undefined): Promise<Result> {
    return this.#owner.connection.ask(request, this.#signals(signal), { onState: this.#move });
  }

  readonly #move = (state: State): void => {
    this.#state = state;
    if (state.evicted <= this.#told) return;
    const before = this.#told;
    this.#told = state.evicted;
    this.dispatchEvent(new ContextOverflowEvent(state, before));
  };

  /** @internal Token by token, and how it ended. */
  async *generate(text: string, { signal, ...sampling }: PromptOptions, untilEnd: boolean, logprobs = false): AsyncGenerator<Token, Ending, void> {
    const signals = this.#signals(signal);
    signals.throwIfAborted();
    // Messages arrive whenever they do; the loop below takes them one by one.
    const arrived: (Reply & { type: "pieces" })[] = [];
    let wake = (): void => {};
    let isEnded = false;
    let final: State | undefined;
    const { id, done } = this.#owner.connection.send(
      { op: "generate", session: this.#number, text, sampling, untilEnd, logprobs },
      {
        onReply: (reply) => {
          if (reply.type !== "pieces") return;
          arrived.push(reply);
          wake();
        },
        onState: (state) => (final = state),
      },
    );
    const settled = done.finally(() => {
      isEnded = true;
      wake();
    });
    settled.catch(() => {}); // awaited below
    const onAbort = (): void => wake();
    signals.addEventListener("abort", onAbort);
    let taken = 0;
    try {
      for (;;) {
        while (arrived.length === 0 && !isEnded && !signals.aborted) await new Promise<void>((resolve) => (wake = resolve));
        if (signals.aborted) throw abortError(signals);
        const message = arrived.shift();
        if (!message) break;
        for (const [n, piece] of message.pieces.entries()) {
          taken += 1;
          const ahead = message.pieces.length - 1 - n;
          const { position, evicted, sinks } = message.state;
          this.#move({ position: position - ahead, evicted: Math.max(this.#state.evicted, evicted - ahead), sinks });
          yield { text: piece, logprob: message.logprobs[n] };
          if (signals.aborted) throw abortError(signals);
        }
        this.#owner.connection.control({ id, op: "taken", tokens: taken });
      }
      const { ended, prompt_tokens = 0 } = await settled;
      return { ended, promptTokens: prompt_tokens, tokens: taken };
    } finally {
      signals.removeEventListener("abort", onAbort);
      if (!isEnded) this.#owner.connection.control({ id, op: "stop", tokens: taken });
      await settled.catch(() => {});
      if (final) this.#move(final);
    }
  }
}
