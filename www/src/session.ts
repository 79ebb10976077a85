// One endless stream of text: what it is given, what it says, where it stands.

import type { Connection } from "./connection.js";
import { abortError } from "./errors.js";
import type { Info, Reply, Sampling, State } from "./protocol.js";

export interface PromptOptions extends Sampling {
  /** Ends the stream; the call rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
}

export class Session {
  readonly #connection: Connection;
  readonly #number: number;
  readonly #onDispatches: (dispatches: number) => void;
  /** Aborts what runs when the session is destroyed. */
  readonly #destroyed = new AbortController();
  #position = 0;

  /** Most tokens that the model sees: the sinks, the window and the newest. */
  readonly contextWindow: number;

  /** @internal Sessions come from `Engine.createSession`. */
  constructor(connection: Connection, number: number, info: Info, onDispatches: (dispatches: number) => void) {
    this.#connection = connection;
    this.#number = number;
    this.#onDispatches = onDispatches;
    this.contextWindow = info.sinks + info.window + 1;
  }

  /** Tokens of the stream so far: given and delivered, none that was only computed ahead. */
  get position(): number {
    return this.#position;
  }

  /** Tokens that the model still sees. */
  get contextUsage(): number {
    return Math.min(this.#position, this.contextWindow);
  }

  /** Tokens that left the cache. What they said is forgotten. */
  get evicted(): number {
    return this.#position - this.contextUsage;
  }

  /** Adds text to the stream without a reply. */
  async append(text: string): Promise<void> {
    this.#destroyed.signal.throwIfAborted();
    await this.#connection.send({ op: "append", session: this.#number, text }, { onState: this.#onState }).done;
  }

  /**
   * Adds `text` to the stream and goes on from there, piece by piece, as fast as the pieces are taken. Without
   * `maxTokens` it has no end: stop it with `signal` or by leaving the loop. An empty text just goes on.
   */
  promptStreaming(text: string, options: PromptOptions = {}): AsyncGenerator<string, void, void> {
    return this.#generate(text, options, false);
  }

  /** Adds `text` to the stream and resolves to the reply: up to an end token, a stop text, or `maxTokens`. */
  async prompt(text: string, options: PromptOptions = {}): Promise<string> {
    let reply = "";
    for await (const piece of this.#generate(text, options, true)) reply += piece;
    return reply;
  }

  /** Ends the stream and frees what the worker holds of it. */
  destroy(): void {
    if (this.#destroyed.signal.aborted) return;
    this.#destroyed.abort(new DOMException("The session was destroyed.", "InvalidStateError"));
    this.#connection.send({ op: "destroySession", session: this.#number }).done.catch(() => {});
  }

  readonly #onState = (state: State): void => {
    this.#position = state.position;
  };

  async *#generate(text: string, { signal, ...sampling }: PromptOptions, untilEnd: boolean): AsyncGenerator<string, void, void> {
    const signals = AbortSignal.any(signal ? [signal, this.#destroyed.signal] : [this.#destroyed.signal]);
    signals.throwIfAborted();
    // Messages arrive whenever they do; the loop below takes them one by one.
    const arrived: (Reply & { type: "pieces" })[] = [];
    let wake = (): void => {};
    let ended = false;
    let final: State | undefined;
    const { id, done } = this.#connection.send(
      { op: "generate", session: this.#number, text, sampling, untilEnd },
      {
        onReply: (reply) => {
          if (reply.type !== "pieces") return;
          this.#onDispatches(reply.dispatches);
          arrived.push(reply);
          wake();
        },
        onState: (state) => (final = state),
      },
    );
    const settled = done.finally(() => {
      ended = true;
      wake();
    });
    settled.catch(() => {}); // awaited below
    const onAbort = (): void => wake();
    signals.addEventListener("abort", onAbort);
    let taken = 0;
    try {
      for (;;) {
        while (arrived.length === 0 && !ended && !signals.aborted) await new Promise<void>((resolve) => (wake = resolve));
        if (signals.aborted) throw abortError(signals);
        const message = arrived.shift();
        if (!message) break;
        for (const [n, piece] of message.pieces.entries()) {
          taken += 1;
          this.#position = message.position - (message.pieces.length - 1 - n);
          if (piece !== "") yield piece;
          if (signals.aborted) throw abortError(signals);
        }
        this.#connection.control({ id, op: "taken", tokens: taken });
      }
      await settled;
    } finally {
      signals.removeEventListener("abort", onAbort);
      if (!ended) this.#connection.control({ id, op: "stop", tokens: taken });
      await settled.catch(() => {});
      if (final) this.#onState(final);
    }
  }
}
