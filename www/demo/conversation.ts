// What was said in a conversation, to go on with it in another mode. The words themselves are in the text of the page: here is
// where they lie in it.

/** Between questions and answers, in the text. */
export const BREAK = "\n\n";
/** Exchanges that are remembered. */
const MOST = 64;

/** A question and its answer, empty as long as there is none. */
export interface Exchange {
  question: string;
  answer: string;
}

export class Conversation {
  /** Characters of each question and its answer. */
  #lengths: { asked: number; answered: number }[] = [];

  get isEmpty(): boolean {
    return this.#lengths.length === 0;
  }

  clear(): void {
    this.#lengths = [];
  }

  ask(question: string): void {
    this.#lengths.push({ asked: question.length, answered: 0 });
    if (this.#lengths.length > MOST) this.#lengths.shift();
  }

  /** The answer to the last question goes on. */
  hear(text: string): void {
    const last = this.#lengths.at(-1);
    if (last) last.answered += text.length;
  }

  /** Takes a text that ends with the conversation apart, as far back as it is all there. */
  find(text: string): { before: string; exchanges: Exchange[] } {
    const exchanges: Exchange[] = [];
    let end = text.length;
    for (const { asked, answered } of [...this.#lengths].reverse()) {
      const begin = end - asked - BREAK.length - answered;
      if (begin < 0) break;
      exchanges.unshift({ question: text.slice(begin, begin + asked), answer: text.slice(end - answered, end) });
      end = begin - BREAK.length;
    }
    return { before: text.slice(0, Math.max(0, end)), exchanges };
  }
}
