// The text on the page. What the model still sees is marked, the stronger the newer; what it has forgotten is plain and
// quiet. Only the end of a text without end is kept, here and in the document.

export type Voice = "model" | "reader";

/** Characters that stay on the page: those forgotten, and most of those still seen. */
const FORGOTTEN_SHOWN = 3_000;
const SEEN_SHOWN = 20_000;
/** How far beyond that it grows before the oldest are dropped. */
const SLACK = 500;
/** The end of the stream itself is kept, to go on with in another mode: so many parts of so many pieces. */
const PARTS = 24;
const PART_PIECES = 256;
/** Steps of age that are told apart. */
const AGES = 4;

/** A few tokens of one voice. */
interface Segment {
  node: HTMLSpanElement;
  /** Position in the stream behind the last of them. */
  end: number;
}

export class TextView {
  readonly #box: HTMLElement;
  /** Whether single line breaks are taken as those of a printed page, not of the text. */
  readonly #flows: () => boolean;
  /** The newest pieces, and before them parts made of such: a text that is added to piece by piece is a tree of all pieces. */
  #pieces: string[] = [];
  #parts: string[] = [];
  #waiting: { text: string; end: number; voice: Voice }[] = [];
  #seen: Segment[] = [];
  /** `#edges[n]`: the oldest of `#seen` that is younger than n quarters of the memory; the last edge ends what is seen. */
  #edges = new Array<number>(AGES + 1).fill(0);
  /** Characters in the document, and of them those seen. */
  #shown = 0;
  #shownSeen = 0;
  #breaks = 0;
  #lastLetter = "";
  /** Whether the newest text is kept in sight: until the reader scrolls up. */
  #following = true;

  constructor(box: HTMLElement, flows: () => boolean) {
    this.#box = box;
    this.#flows = flows;
    box.addEventListener("scroll", () => {
      this.#following = box.scrollHeight - box.scrollTop - box.clientHeight < 48;
    });
  }

  /** The end of the stream's text, as it is. */
  tail(characters: number): string {
    return (this.#parts.join("") + this.#pieces.join("")).slice(-characters);
  }

  /** The stream's text goes on; `end` is its position then. It is shown at the next `draw`. */
  append(text: string, end: number, voice: Voice): void {
    if (this.#pieces.push(text) >= PART_PIECES) {
      this.#parts.push(this.#pieces.join(""));
      this.#pieces = [];
      if (this.#parts.length > PARTS) this.#parts.shift();
    }
    const last = this.#waiting.at(-1);
    if (last?.voice === voice) {
      last.text += text;
      last.end = end;
    } else {
      this.#waiting.push({ text, end, voice });
    }
  }

  /** The same for words whose tokens are not known one by one: they are spread evenly over the positions. */
  appendWords(text: string, begin: number, end: number, voice: Voice): void {
    this.#show(); // what waits is in front of them
    let length = 0;
    for (const word of text.match(/\s*\S+\s*$|\s*\S+|\s+/g) ?? []) {
      length += word.length;
      this.append(word, begin + Math.round(((end - begin) * length) / text.length), voice);
      this.#show();
    }
  }

  /** Begins anew with the end of what was there: the model was given its last characters again, as `begin` to `end`. */
  restart(given: string, begin: number, end: number): void {
    this.begin(this.tail(given.length + FORGOTTEN_SHOWN).slice(0, -given.length || undefined), given, begin, end);
  }

  /** Begins with a text that is forgotten and one that the model sees, `begin` to `end`. */
  begin(forgotten: string, seen: string, begin: number, end: number): void {
    this.clear();
    if (forgotten) this.appendWords(forgotten.slice(-FORGOTTEN_SHOWN), begin, begin, "model");
    if (seen) this.appendWords(seen, begin, end, "model");
  }

  /** The end of the text, in what the model has forgotten and what it sees. */
  parts(): { text: string; seen: string } {
    this.#show();
    const all = this.tail(FORGOTTEN_SHOWN + this.#shownSeen);
    const seen = this.#shownSeen === 0 ? "" : all.slice(-this.#shownSeen);
    return { text: all.slice(0, all.length - seen.length), seen };
  }

  clear(): void {
    this.#pieces = [];
    this.#parts = [];
    this.#waiting = [];
    this.#seen = [];
    this.#edges.fill(0);
    this.#shown = this.#shownSeen = this.#breaks = 0;
    this.#lastLetter = "";
    this.#following = true;
    this.#box.replaceChildren();
  }

  /** Shows what has come, and marks what the model still sees: the last `cached` tokens of `position`, of `room` at most. */
  draw(position: number, cached: number, room: number): void {
    this.#show();
    let edge = 0;
    for (let age = AGES; age > 0; age--) {
      const end = age === AGES ? position - cached : position - (age * room) / AGES;
      edge = Math.max(edge, this.#edges[age]!);
      for (; edge < this.#seen.length && this.#seen[edge]!.end <= end; edge++) {
        if (age === AGES) this.#forget(this.#seen[edge]!.node);
        else this.#seen[edge]!.node.dataset.age = String(age);
      }
      this.#edges[age] = edge;
    }
    const forgotten = this.#edges[AGES]!;
    if (forgotten > 256) {
      this.#seen.splice(0, forgotten);
      this.#edges = this.#edges.map((edge) => edge - forgotten);
    }
    this.#trim();
    if (this.#following) this.#box.scrollTop = this.#box.scrollHeight;
  }

  #show(): void {
    for (const { text, end, voice } of this.#waiting) {
      for (const part of text.split(/(\n)/)) {
        if (part === "\n") this.#breaks += 1;
        else if (part !== "") this.#showLine(part, end, voice);
      }
    }
    this.#waiting = [];
  }

  /** Text without line breaks, behind those that wait. */
  #showLine(line: string, end: number, voice: Voice): void {
    const isJoined = this.#flows() && this.#breaks === 1 && !/[.!?:”"’*\]-]/.test(this.#lastLetter);
    let paragraph = this.#box.lastElementChild;
    if (!paragraph || (this.#breaks > 0 && !isJoined)) {
      paragraph = this.#box.appendChild(document.createElement("p"));
      if (this.#breaks > 1) paragraph.className = "apart";
    }
    const node = document.createElement("span");
    node.textContent = this.#breaks > 0 && isJoined ? ` ${line}` : line;
    node.dataset.age = "0";
    if (voice === "reader") node.className = "mine";
    paragraph.append(node);
    this.#breaks = 0;
    this.#lastLetter = line.trimEnd().at(-1) ?? this.#lastLetter;
    this.#seen.push({ node, end });
    this.#shown += node.textContent.length;
    this.#shownSeen += node.textContent.length;
  }

  /** From seen to forgotten. Neighbours become one text: the document stays small. */
  #forget(node: HTMLSpanElement): void {
    if (!node.isConnected) return;
    const text = node.textContent ?? "";
    this.#shownSeen -= text.length;
    if (node.className === "mine") return void delete node.dataset.age;
    const before = node.previousSibling;
    if (before instanceof Text) {
      before.appendData(text);
      node.remove();
    } else {
      node.replaceWith(text);
    }
  }

  /** Drops what has become too old to be shown. */
  #trim(): void {
    const most = FORGOTTEN_SHOWN + Math.min(this.#shownSeen, SEEN_SHOWN);
    if (this.#shown <= most + SLACK) return;
    while (this.#shown > most) {
      const paragraph = this.#box.firstElementChild;
      const oldest = paragraph?.firstChild;
      if (!paragraph) return;
      if (!oldest) {
        paragraph.remove();
        continue;
      }
      const length = oldest.textContent?.length ?? 0;
      const excess = this.#shown - most;
      if (oldest instanceof Text && length > excess) {
        oldest.deleteData(0, excess);
        this.#shown -= excess;
        return;
      }
      if (oldest instanceof HTMLElement && oldest.dataset.age !== undefined) this.#shownSeen -= length;
      this.#shown -= length;
      oldest.remove();
    }
  }
}
