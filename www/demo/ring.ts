// The picture of the cache: pinned sinks, the ring of newest tokens, and where the next one goes.

/** Sinks take at least so much of the circle, in percent: one token of two thousand could not be seen. */
const LEAST_SINKS = 2;

function element<E extends Element>(id: string): E {
  return document.querySelector<E>(`#${id}`)!;
}

/** Draws the cache of a stream that has had `position` tokens. */
export function drawRing(position: number, sinks: number, window: number): void {
  const capacity = sinks + window + 1;
  const cached = Math.min(position, capacity);
  const sinksShare = sinks === 0 ? 0 : Math.max(LEAST_SINKS, (100 * sinks) / capacity);
  const ringShare = 100 - sinksShare;
  const inRing = Math.max(0, position - sinks);
  const filled = Math.min(1, inRing / (window + 1));
  const newest = sinksShare + ringShare * ((inRing % (window + 1)) / (window + 1));
  const pinned = sinks === 0 ? 0 : sinksShare * Math.min(1, position / sinks);
  const arc = (id: string, from: number, length: number): void => {
    const { style } = element<SVGElement>(id);
    style.strokeDasharray = `${length} ${100 - length}`;
    style.strokeDashoffset = String(-from);
  };
  arc("sinks", 0, pinned);
  arc("filled", sinksShare, ringShare * filled);
  element("newest").setAttribute("transform", `rotate(${3.6 * newest})`);
  element("fill").textContent = cached.toLocaleString("en");
  element("capacity").textContent = `of ${capacity.toLocaleString("en")} tokens`;
}

/** The same in words. */
export function describeRing(position: number, sinks: number, window: number): string {
  const capacity = sinks + window + 1;
  const cached = Math.min(position, capacity);
  return `${cached} of ${capacity} tokens are cached; the first ${sinks} are pinned; ${position - cached} are forgotten.`;
}
