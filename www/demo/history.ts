// Measurements over time in a fixed number of places, and the lines that show them.

/** Places of a line. */
const PLACES = 120;

/**
 * Everything since the beginning: when the places are full, neighbours are merged into their mean, and each place
 * stands for twice the time from then on.
 */
export class WholeHistory {
  readonly values: number[] = [];
  #each = 1;
  #sum = 0;
  #count = 0;

  push(value: number): void {
    this.#sum += value;
    if (++this.#count < this.#each) return;
    this.values.push(this.#sum / this.#count);
    [this.#sum, this.#count] = [0, 0];
    if (this.values.length < PLACES) return;
    for (let n = 0; n < PLACES / 2; n++) this.values[n] = (this.values[2 * n]! + this.values[2 * n + 1]!) / 2;
    this.values.length = PLACES / 2;
    this.#each *= 2;
  }

  clear(): void {
    this.values.length = 0;
    [this.#each, this.#sum, this.#count] = [1, 0, 0];
  }
}

/** The last values only, each with the kind of line that it belongs to. */
export class RecentHistory {
  readonly values: { value: number; kind: string }[] = [];

  push(value: number, kind: string): void {
    this.values.push({ value, kind });
    if (this.values.length > PLACES) this.values.shift();
  }

  clear(): void {
    this.values.length = 0;
  }
}

const [WIDTH, HEIGHT, EDGE] = [240, 40, 3];

function path(svg: SVGSVGElement, kind: string): SVGPathElement {
  const found = svg.querySelector<SVGPathElement>(`path.${kind}`);
  if (found) return found;
  const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
  made.setAttribute("class", kind);
  return svg.appendChild(made);
}

/** Draws values from 0 to a little above the largest: what is flat looks flat, what drops to half looks it too. */
export function drawWhole(svg: SVGSVGElement, { values }: WholeHistory, words: string): void {
  const top = 1.25 * Math.max(...values, 1e-9);
  const step = WIDTH / Math.max(values.length - 1, 1);
  const points = values.map((value, n) => `${(n * step).toFixed(1)} ${(HEIGHT - (value / top) * HEIGHT).toFixed(1)}`);
  if (points.length === 1) points.push(`${WIDTH} ${points[0]!.split(" ")[1]}`);
  path(svg, "whole").setAttribute("d", points.length > 0 ? `M${points.join("L")}` : "");
  svg.setAttribute("aria-label", words);
}

/** Draws the last values on a logarithmic scale from 1 to 300, in one colour for each kind. */
export function drawRecent(svg: SVGSVGElement, { values }: RecentHistory, words: string): void {
  const height = (value: number): number => EDGE + (HEIGHT - 2 * EDGE) * (1 - Math.min(Math.max(Math.log10(value) / 2.5, 0), 1));
  const lines = new Map<string, string>([...svg.querySelectorAll("path")].map((old) => [old.getAttribute("class")!, ""]));
  const at = (n: number): string => ((n * WIDTH) / (PLACES - 1)).toFixed(1);
  values.forEach(({ value, kind }, n) => {
    const goesOn = values[n - 1]?.kind === kind;
    const before = values[n - 1];
    const start = goesOn ? "L" : before ? `M${at(n - 1)} ${height(before.value).toFixed(1)}L` : "M";
    lines.set(kind, `${lines.get(kind) ?? ""}${start}${at(n)} ${height(value).toFixed(1)}`);
  });
  for (const [kind, line] of lines) path(svg, kind).setAttribute("d", line);
  svg.setAttribute("aria-label", words);
}
