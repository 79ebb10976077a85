// Who writes: an engine with one session, what it is told to do, one thing after the other, and the text that comes of it.

import { Engine, type Attention, type Message, type Progress, type Session } from "sinkstream";
import { BREAK, Conversation, type Exchange } from "./conversation.ts";
import type { Choices } from "./settings.ts";
import { pack, type Saved } from "./snapshot.ts";
import type { TextView } from "./text.ts";

/** Where a model comes from: an address, or a file of the visitor's. */
export type Source = string | Blob;
/** How the text begins with a model just loaded: anew, with the end of the one that is there, or with a saved one. */
export type Beginning = "anew" | "goOn" | { saved: Saved; session: Blob };

/** `full`: a dense memory has no room left. */
export type State = "loading" | "ready" | "writing" | "full" | "error";

/** Milliseconds between two tokens for somebody who wants to read them. */
const SLOW_MS = 90;
/** The perplexity shown is that of so many tokens. */
const SURPRISES = 64;
/** What a template may put around a question and its answer, in tokens. */
const TEMPLATE_TOKENS = 16;
/** Characters of a token, until it is known better. */
const USUAL_LETTERS = 3.5;

export interface Events {
  onState: (state: State) => void;
  onProgress: (progress: Progress) => void;
  /** A model is loaded. */
  onLoaded: (engine: Engine) => void;
  /** Of a conversation that goes on, so many questions and answers do not fit into the new memory. */
  onLeftOut: (exchanges: number) => void;
  /** Something may have to be drawn. */
  onChange: () => void;
  onError: (error: unknown) => void;
}

/** A token of a reply, as the session gives it. */
interface Token {
  text: string;
  logprob: number | undefined;
}

export class Writer {
  readonly #view: TextView;
  readonly #events: Events;
  #engine: Engine | undefined;
  #session: Session | undefined;
  #choices: Choices | undefined;
  /** Tokens of the text from before the present session. */
  #before = 0;
  #state: State = "loading";
  /** Requests are worked off in order; of several loads only the last counts. */
  #queue: Promise<unknown> = Promise.resolve();
  #loads = 0;
  #loading: AbortController | undefined;
  /** Whether it writes as soon as a model is there. */
  #goesOn = false;
  #writing: AbortController | undefined;
  #written: Promise<void> = Promise.resolve();
  #surprises: number[] = [];
  /** Slow enough to read along. */
  isSlow = false;
  /** Characters of the present session's text. */
  #characters = 0;
  readonly #conversation = new Conversation();

  constructor(view: TextView, events: Events) {
    this.#view = view;
    this.#events = events;
  }

  get state(): State {
    return this.#state;
  }

  get engine(): Engine | undefined {
    return this.#engine;
  }

  get session(): Session | undefined {
    return this.#session;
  }

  /** Tokens of the text so far. */
  get position(): number {
    return this.#before + this.sessionPosition;
  }

  /** Tokens of the session that writes now: the text may have begun in another. */
  get sessionPosition(): number {
    return this.#session?.position ?? 0;
  }

  /** Tokens that the model sees. */
  get cached(): number {
    return this.#session?.contextUsage ?? 0;
  }

  /** Tokens that the model could see. */
  get room(): number {
    return this.#session?.contextWindow ?? 1;
  }

  get attention(): Attention {
    return this.#engine?.info.attention ?? "streaming";
  }

  /** e to the mean surprise, in nats, of the last tokens; undefined if nothing is known of it. */
  get perplexity(): number | undefined {
    if (this.#surprises.length === 0) return undefined;
    return Math.exp(this.#surprises.reduce((sum, surprise) => sum + surprise, 0) / this.#surprises.length);
  }

  /** Loads a model. */
  load(source: Source, choices: Choices, beginning: Beginning): void {
    this.#loading?.abort();
    const load = ++this.#loads;
    this.#goesOn = beginning === "goOn" ? this.#goesOn || this.#state === "writing" || this.#state === "full" : !choices.paused;
    this.#do(async () => {
      await this.#rest();
      if (load !== this.#loads) return;
      this.#set("loading");
      const abort = (this.#loading = new AbortController());
      const [position, letters] = [this.position, this.#letters()];
      await this.#engine?.destroy();
      [this.#engine, this.#session, this.#choices] = [undefined, undefined, choices];
      try {
        const { device, attention, sinks, window } = choices;
        this.#engine = await Engine.load({ model: source, device, attention, sinks, window, signal: abort.signal, onProgress: this.#events.onProgress });
      } catch (error) {
        if (abort.signal.aborted) return;
        throw error;
      }
      this.#events.onLoaded(this.#engine);
      let question = "";
      if (typeof beginning === "object") await this.#restore(beginning);
      else if (beginning === "goOn" && choices.chat && !this.#conversation.isEmpty) question = await this.#talkOn(position);
      else if (beginning === "goOn" && position > 0 && !choices.chat) await this.#goOn(position, letters);
      else await this.#begin();
      this.#set("ready");
      if (question || (this.#goesOn && !choices.chat)) this.#write(question);
      this.#goesOn = false;
    });
  }

  /** The text and the memory of its model, as a file. */
  async save(): Promise<Blob> {
    return new Promise((resolve) => {
      this.#do(async () => {
        const wasWriting = this.#state === "writing";
        await this.#rest();
        const { model, attention, sinks, window } = this.#engine!.info;
        const saved: Saved = { format: "sinkstream page 1", model, attention, sinks, window, before: this.#before, ...this.#view.parts(), address: this.#choices?.model };
        resolve(pack(saved, await this.#session!.save()));
        if (wasWriting) this.#write("");
      });
    });
  }

  /** A new text. */
  restart(): void {
    this.#do(async () => {
      await this.#rest();
      await this.#begin();
      this.#set("ready");
      if (!this.#choices?.chat) this.#write("");
    });
  }

  /** Puts the reader's words into the text and goes on from there; no words: just goes on. */
  write(words: string): void {
    this.#do(async () => {
      await this.#rest();
      this.#write(words);
    });
  }

  pause(): void {
    this.#do(() => this.#rest());
  }

  #do(work: () => Promise<void>): void {
    this.#queue = this.#queue.then(work).catch((error: unknown) => this.#fail(error));
  }

  #set(state: State): void {
    this.#state = state;
    this.#events.onState(state);
    this.#events.onChange();
  }

  #fail(error: unknown): void {
    if (isFull(error)) return this.#set("full");
    this.#set("error");
    this.#events.onError(error);
  }

  async #rest(): Promise<void> {
    this.#writing?.abort();
    await this.#written;
  }

  async #begin(): Promise<void> {
    if (!this.#engine) return;
    this.#session?.destroy();
    this.#session = await this.#engine.createSession(this.#choices?.chat ? { initialPrompts: [] } : {});
    this.#before = 0;
    this.#surprises = [];
    this.#characters = 0;
    this.#conversation.clear();
    this.#view.clear();
    const prompt = this.#choices?.prompt;
    if (prompt) {
      await this.#session.append(prompt);
      this.#characters = prompt.length;
      this.#view.appendWords(prompt, 0, this.position, "reader");
    }
  }

  /** Letters of a token of the present text. */
  #letters(): number {
    const position = this.sessionPosition;
    return position < 50 ? USUAL_LETTERS : this.#characters / position;
  }

  /** Gives the model the end of the text again: as much as it can see, and a little more, so that its memory is as it was. */
  async #goOn(position: number, letters: number): Promise<void> {
    this.#session = await this.#engine!.createSession();
    const tokens = this.attention === "dense" ? Math.min(256, this.room / 2) : 1.1 * this.room + 8;
    const end = this.#view.tail(Math.ceil(tokens * letters));
    const given = end.slice(end.search(/\s/) + 1);
    await this.#session.append(given);
    this.#characters = given.length;
    this.#before = Math.max(0, position - this.#session.position);
    this.#view.restart(given, this.#before, this.position);
  }

  /**
   * Gives the model the conversation again: the newest questions with their answers that fit, in a memory that never forgets
   * into half of it. Gives back a last question that had no answer yet.
   */
  async #talkOn(position: number): Promise<string> {
    const engine = this.#engine!;
    const { before, exchanges } = this.#conversation.find(this.#view.tail(Infinity));
    const open = exchanges.at(-1)?.answer === "" ? exchanges.pop() : undefined;
    const isDense = this.attention === "dense";
    const room = isDense ? engine.info.window / 2 : engine.info.sinks + engine.info.window;
    const counts = await this.#countTokens(exchanges);
    let first = exchanges.length;
    for (let sum = 0; first > 0 && (sum += counts[first - 1]!) <= room; ) first -= 1;
    // A memory that forgets can hold the end of an answer.
    if (!isDense) first = Math.min(first, Math.max(0, exchanges.length - 1));
    for (this.#session = undefined; !this.#session; first += 1) {
      const session = await this.#sessionWith(exchanges.slice(first));
      const fits = session && (session.position <= room || (!isDense && first === exchanges.length - 1));
      if (fits) this.#session = session;
      else session?.destroy();
    }
    first -= 1;
    const tokens = this.sessionPosition;
    let at = (this.#before = Math.max(0, position - tokens));
    this.#conversation.clear();
    this.#view.begin(before, "", at, at);
    const letters = exchanges.slice(first).reduce((sum, { question, answer }) => sum + question.length + answer.length, 0) || 1;
    for (const [n, { question, answer }] of exchanges.entries()) {
      const [middle, end] = [question.length, question.length + answer.length].map((length) => at + (n < first ? 0 : (length * tokens) / letters));
      this.#showQuestion(question, at, middle!);
      this.#view.appendWords(answer, middle!, end!, "model");
      this.#conversation.hear(answer);
      at = end!;
    }
    this.#characters = letters;
    if (first > 0 || this.#session.evicted > 0) this.#events.onLeftOut(first);
    return open?.question ?? "";
  }

  /** Tokens of questions with their answers, the template's as guessed. */
  async #countTokens(exchanges: Exchange[]): Promise<number[]> {
    const session = await this.#engine!.createSession();
    const counts = await Promise.all(exchanges.map(({ question, answer }) => session.countTokens(question + BREAK + answer)));
    session.destroy();
    return counts.map((count) => count + TEMPLATE_TOKENS);
  }

  /** A session in which this was said; nothing if there is no room for it. */
  async #sessionWith(exchanges: Exchange[]): Promise<Session | undefined> {
    const said = ({ question, answer }: Exchange): Message[] => [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ];
    const history = exchanges.filter(({ answer }) => answer !== "").flatMap(said);
    try {
      return await this.#engine!.createSession({ initialPrompts: [], history });
    } catch (error) {
      if (isFull(error)) return undefined;
      throw error;
    }
  }

  async #restore({ saved, session }: { saved: Saved; session: Blob }): Promise<void> {
    if (saved.model !== this.#engine!.info.model) {
      throw new RangeError(`This text was written by ${saved.model}, and ${this.#engine!.info.model} is loaded`);
    }
    this.#session = await this.#engine!.restore(session);
    this.#conversation.clear();
    this.#before = saved.before;
    this.#characters = saved.text.length + saved.seen.length;
    this.#view.begin(saved.text, saved.seen, this.position - this.cached, this.position);
  }

  #write(words: string): void {
    const session = this.#session;
    if (!session || this.#state === "loading") return;
    const abort = (this.#writing = new AbortController());
    this.#set("writing");
    this.#written = this.#run(session, words, abort.signal).then(
      () => this.#set("ready"),
      (error: unknown) => (abort.signal.aborted ? this.#set("ready") : this.#fail(error)),
    );
  }

  async #run(session: Session, words: string, signal: AbortSignal): Promise<void> {
    const { chat, temperature, seed } = this.#choices ?? {};
    const answer = (text: string) => this.#show(session.generate(text, { signal, temperature, seed }, false, true), signal);
    if (words === "" && !(chat && this.#conversation.isEmpty)) return answer("");
    const begin = this.position;
    if (chat) {
      this.#showQuestion(words, begin, begin + Math.ceil(words.length / this.#letters()));
      return answer(words);
    }
    const text = begin > 0 && !/\s$/.test(this.#view.tail(1)) && !/^\s/.test(words) ? ` ${words}` : words;
    await session.append(text);
    this.#characters += text.length;
    this.#view.appendWords(text, begin, this.position, "reader");
    await answer("");
  }

  /** A question of a conversation, which lies at these positions. */
  #showQuestion(words: string, begin: number, end: number): void {
    const isFirst = this.#view.tail(1) === "";
    this.#view.appendWords(isFirst ? words : BREAK + words, begin, end, "reader");
    this.#view.append(BREAK, end, "model");
    this.#conversation.ask(words);
  }

  async #show(tokens: AsyncIterable<Token>, signal: AbortSignal): Promise<void> {
    for await (const { text, logprob } of tokens) {
      this.#view.append(text, this.position, "model");
      this.#characters += text.length;
      this.#conversation.hear(text);
      if (logprob !== undefined && this.#surprises.push(-logprob) > SURPRISES) this.#surprises.shift();
      this.#events.onChange();
      if (this.isSlow) await new Promise((later) => setTimeout(later, SLOW_MS));
      if (document.hidden && !signal.aborted) await shown();
    }
  }
}

/** A memory that never forgets has no room left. */
function isFull(error: unknown): boolean {
  return error instanceof RangeError && /cache full/.test(error.message);
}

/** Until somebody looks at the page again: a text that nobody sees is not worth the power. */
function shown(): Promise<void> {
  return new Promise((resolve) => document.addEventListener("visibilitychange", () => resolve(), { once: true }));
}
