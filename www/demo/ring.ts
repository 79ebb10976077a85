// The picture of the memory: one cell a slot, the pinned first tokens at the top, the newest ones going round below
// them, each the longer and stronger the younger it is.

/** Where a stream stands and what it keeps. */
export interface Memory {
  /** Tokens of the stream so far. */
  position: number;
  /** First tokens that are pinned. */
  sinks: number;
  /** Most tokens that are in memory at once. */
  capacity: number;
}

/** Most cells that can be told apart; with more slots each stands for several. */
const MOST_CELLS = 256;
/** Parts of the circle that are free on both sides of the pinned cells. */
const GAP = 0.012;
/** A pinned cell takes at least so much of the circle: one of a thousand could not be seen. */
const LEAST_PINNED = 0.02;

const TURN = 2 * Math.PI;

export class Ring {
  readonly #canvas: HTMLCanvasElement;
  readonly #context: CanvasRenderingContext2D;
  #size = 0;
  #colours = { sink: "", young: "", empty: "", ink: "", quiet: "" };

  constructor(canvas: HTMLCanvasElement) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d")!;
    new ResizeObserver(() => this.#fit()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#fit());
    this.#fit();
  }

  #fit(): void {
    const style = getComputedStyle(this.#canvas);
    this.#size = this.#canvas.clientWidth;
    this.#canvas.width = this.#canvas.height = Math.round(this.#size * devicePixelRatio);
    // The properties themselves may be written in ways that a canvas does not understand: take colours that are computed.
    const probe = document.createElement("i");
    this.#canvas.after(probe);
    const colour = (name: string): string => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    this.#colours = { sink: colour("orange"), young: colour("blue"), empty: colour("line"), ink: style.color, quiet: colour("quiet") };
    probe.remove();
    if (this.#last) this.draw(this.#last);
  }

  #last: Memory | undefined;

  draw(memory: Memory): void {
    this.#last = memory;
    const { position, sinks, capacity } = memory;
    const context = this.#context;
    const scale = (this.#size * devicePixelRatio) / 200;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, 200, 200);
    context.translate(100, 100);
    context.rotate(-TURN / 4);

    const pinnedShare = sinks === 0 ? 0 : Math.max(LEAST_PINNED * Math.min(sinks, 4), sinks / capacity);
    this.#drawPinned(pinnedShare, sinks, position);
    this.#drawNewest(pinnedShare === 0 ? 0 : pinnedShare / 2 + GAP, position - sinks, capacity - sinks);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    this.#drawWords(Math.min(position, capacity), capacity);
  }

  /** Pinned cells stand out on both sides of the ring. */
  #drawPinned(share: number, sinks: number, position: number): void {
    const cells = Math.min(sinks, MOST_CELLS / 4);
    for (let cell = 0; cell < cells; cell++) {
      const isThere = position > (cell * sinks) / cells;
      this.#cell((share * cell) / cells - share / 2, share / cells, 66, 98, isThere ? this.#colours.sink : this.#colours.empty, 1);
    }
  }

  /** `count` tokens have gone into a ring of `slots`, from `start` of the circle to as far on the other side. */
  #drawNewest(start: number, count: number, slots: number): void {
    const cells = Math.min(slots, MOST_CELLS);
    const share = (1 - 2 * start) / cells;
    const newest = count > 0 ? (count - 1) % slots : -1;
    for (let cell = 0; cell < cells; cell++) {
      const slot = Math.floor(((cell + 1) * slots) / cells) - 1; // the last one that the cell stands for
      const isThere = slot < count;
      const age = (((newest - slot) % slots) + slots) % slots / slots;
      const youth = isThere ? 1 - age : 0;
      const outer = 76 + 18 * youth ** 2;
      this.#cell(start + cell * share, share, 70, isThere ? outer : 74, isThere ? this.#colours.young : this.#colours.empty, isThere ? 0.25 + 0.75 * youth ** 1.5 : 1);
    }
    if (newest < 0) return;
    // The hand points at the newest.
    const context = this.#context;
    context.save();
    context.rotate(TURN * (start + share * (Math.floor((newest * cells) / slots) + 0.5)));
    context.strokeStyle = this.#colours.ink;
    context.lineWidth = 1.6;
    context.beginPath();
    context.moveTo(64, 0);
    context.lineTo(98, 0);
    context.stroke();
    context.restore();
  }

  /** A cell from one share of the circle on, between two radii. */
  #cell(start: number, share: number, inner: number, outer: number, colour: string, alpha: number): void {
    const context = this.#context;
    const gap = Math.min(0.25 * share, 0.0012);
    context.globalAlpha = alpha;
    context.fillStyle = colour;
    context.beginPath();
    context.arc(0, 0, outer, TURN * (start + gap), TURN * (start + share - gap));
    context.arc(0, 0, inner, TURN * (start + share - gap), TURN * (start + gap), true);
    context.fill();
    context.globalAlpha = 1;
  }

  #drawWords(cached: number, capacity: number): void {
    const context = this.#context;
    context.textAlign = "center";
    context.fillStyle = this.#colours.ink;
    context.font = "650 30px system-ui, sans-serif";
    context.fillText(cached.toLocaleString("en"), 100, 103);
    context.fillStyle = this.#colours.quiet;
    context.font = "12.5px system-ui, sans-serif";
    context.fillText(cached < capacity ? `of ${capacity.toLocaleString("en")} tokens` : "tokens in memory", 100, 123);
  }

  /** The same in words. */
  describe({ position, sinks, capacity }: Memory): void {
    const cached = Math.min(position, capacity);
    const pinned = sinks === 0 ? "none is pinned" : `the first ${sinks === 1 ? "is" : `${sinks} are`} pinned`;
    this.#canvas.setAttribute("aria-label", `${cached} of ${capacity} tokens are in memory; ${pinned}; ${position - cached} are forgotten.`);
  }
}
