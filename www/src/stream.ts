// A session on the side of the engine: its tokens, its conversation, and how it generates in bursts.

import type { Chat, Engine, Session } from "../pkg/sinkstream.js";
import { breathe, type Model } from "./model.js";
import type { Conversation, EndReason, Request, State } from "./protocol.js";

/** A burst should take about so long: short enough to stop quickly, long enough to hide the cost of reading back. */
const BURST_MS = 30;
/** Most tokens of a burst. Two of them may have to be taken back: less than the slack of the ring. */
const MAX_BURST = 16;
/** Tokens given to the engine before it looks whether anybody wants something else. */
const PIECE_TOKENS = 256;

/** A request that runs, as the page sees it. */
export class Running {
  /** Tokens that the page has handed on. */
  taken = 0;
  /** Tokens to keep; the others are taken back. Set when the page stops it. */
  keep: number | undefined;
  #wake = (): void => {};

  change(change: { taken?: number; keep?: number }): void {
    if (change.taken !== undefined) this.taken = change.taken;
    if (change.keep !== undefined) this.keep ??= change.keep;
    this.#wake();
  }

  /** Waits until the page has handed on so many tokens, or stops. */
  async until(tokens: number): Promise<void> {
    while (this.keep === undefined && this.taken < tokens) await new Promise<void>((wake) => (this.#wake = wake));
  }
}

/** What is saved of a session besides its stream. */
interface Note {
  conversation?: Conversation | undefined;
  chat?: string | undefined;
}

/** What is asked of a generation. */
export type Generation = Pick<Request & { op: "generate" }, "text" | "sampling" | "untilEnd" | "logprobs">;

/** What the page hears of a burst: texts of tokens, and their log-probabilities if they were asked for. */
export type OnPieces = (pieces: string[], logprobs: number[]) => void;

export class Stream {
  readonly #model: Model;
  readonly #session: Session;
  readonly #conversation: Conversation | undefined;
  readonly #chat: Chat | undefined;
  #state: State = { position: 0, evicted: 0, sinks: 0 };
  /** Requests of one stream run one after the other. */
  queue: Promise<void> = Promise.resolve();

  private constructor(model: Model, engine: Engine, session: Session, { conversation, chat }: Note) {
    this.#model = model;
    this.#session = session;
    this.#conversation = conversation;
    this.#chat = conversation && engine.chat(JSON.stringify(conversation));
    if (chat !== undefined) this.#chat?.resume(chat);
    this.#look();
  }

  /** An empty one; of a conversation, with its initial prompts. */
  static create(model: Model, conversation: Conversation | undefined): Promise<Stream> {
    return model.use(async (engine) => {
      const stream = new Stream(model, engine, engine.session(), { conversation });
      try {
        await stream.#chat?.open(engine, stream.#session);
      } catch (error) {
        stream.#free();
        throw error;
      }
      stream.#look();
      return stream;
    });
  }

  /** From bytes of `save`. */
  static restore(model: Model, bytes: Uint8Array): Promise<Stream> {
    return model.use(async (engine) => {
      const session = await engine.restore(bytes);
      return new Stream(model, engine, session, JSON.parse(session.note) as Note);
    });
  }

  get state(): State {
    return this.#state;
  }

  #look(): void {
    const { position, evicted, sinks } = this.#session;
    this.#state = { position, evicted, sinks };
  }

  /** Runs `work` with the engine, and sees where the stream stands then. */
  #use<T>(work: (engine: Engine, session: Session) => Promise<T> | T): Promise<T> {
    return this.#model.use(async (engine) => {
      try {
        return await work(engine, this.#session);
      } finally {
        this.#look();
      }
    });
  }

  free(): Promise<void> {
    return this.#model.use(() => this.#free());
  }

  #free(): void {
    this.#session.free();
    this.#chat?.free();
  }

  /** Adds a text; in a conversation, a turn. Stops between pieces when told so. */
  async append(text: string, running: Running, wantsAnswer = false): Promise<void> {
    const chat = this.#chat;
    if (chat) return this.#use((engine, session) => chat.turn(engine, session, text, wantsAnswer));
    const ids = await this.#use((engine, session) => engine.encode(text, session.position === 0));
    for (let begin = 0; begin < ids.length && running.keep === undefined; begin += PIECE_TOKENS) {
      await this.#use(async (engine, session) => {
        await session.push(engine, ids.slice(begin, begin + PIECE_TOKENS));
        await engine.wait();
      });
      await breathe();
    }
  }

  /** Tokens that a text would take; in a conversation, without what the template puts around it. */
  count(text: string): Promise<number> {
    return this.#model.use((engine) => engine.encode(text, false).length);
  }

  /** Texts of the pinned tokens that are there so far. */
  pinned(): Promise<string[]> {
    return this.#model.use((engine) => this.#session.pinned(engine));
  }

  save(): Promise<Uint8Array> {
    return this.#use((engine, session) => session.save(engine, JSON.stringify(this.#note())));
  }

  clone(): Promise<Stream> {
    return this.#use(async (engine, session) => new Stream(this.#model, engine, await session.clone(engine), this.#note()));
  }

  #note(): Note {
    return { conversation: this.#conversation, chat: this.#chat?.state() };
  }

  /** Computes tokens in bursts, never more than a burst ahead of what the page has handed on. */
  async generate({ text, sampling, untilEnd, logprobs }: Generation, running: Running, onPieces: OnPieces): Promise<{ ended?: EndReason; prompt_tokens: number }> {
    const before = this.#state.position;
    const begins = before === 0 || this.#chat?.turns === 0;
    if (text !== undefined && (text !== "" || begins)) await this.append(text, running, true);
    const prompt_tokens = this.#state.position - before;
    if (running.keep !== undefined) return { prompt_tokens };
    const stop = [sampling.stop ?? [], this.#chat?.stop() ?? []].flat();
    const isAnswer = untilEnd || this.#chat !== undefined;
    await this.#use((_, session) => session.begin(JSON.stringify({ ...sampling, stop, untilEnd: isAnswer, logprobs })));
    let computed = 0;
    for (let burst = 1; running.keep === undefined; ) {
      const { pieces, logprobs: values, ms } = await this.#model.next(this.#session, burst);
      this.#look();
      if (!pieces) break;
      computed += pieces.length;
      onPieces(pieces, values);
      await running.until(computed - burst);
      await breathe();
      burst = Math.min(MAX_BURST, Math.max(1, Math.round((pieces.length * BURST_MS) / Math.max(ms, 0.1))), 2 * burst);
    }
    await running.until(computed);
    const excess = computed - (running.keep ?? computed);
    if (excess > 0) await this.#use((_, session) => session.takeBack(excess));
    const ended = await this.#use((_, session) => session.ended as EndReason | undefined);
    return { prompt_tokens, ...(ended && excess === 0 && { ended }) };
  }
}
