// Mode and sizes of the memory: what is switched, and what it means in words.

import type { Attention, Info } from "sinkstream";
import { number } from "./plain.ts";
import type { Choices } from "./settings.ts";

/** Tokens in memory that the slider goes through, as far as the model was trained for them. */
const SIZES = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

const $ = <E extends HTMLElement>(id: string): E => document.querySelector<E>(`#${id}`)!;
const radios = [...document.querySelectorAll<HTMLInputElement>("input[name=attention]")];
const [sinks, room] = [$<HTMLInputElement>("sinks"), $<HTMLInputElement>("window")];

let sizes = SIZES;
/** What the sliders stand for in the modes that have no use for them. */
let streaming = { sinks: 1, room: 128 };

/** Most tokens that are in memory at once: those pinned, those before the newest, and the newest itself. */
export function capacityOf({ attention, sinks, window }: Info): number {
  return attention === "dense" ? window : sinks + window + 1;
}

/** Tells `change` what was chosen anew. */
export function offerModes(change: (chosen: Pick<Choices, "attention" | "sinks" | "window">) => void): void {
  const choose = (): void => {
    const attention = radios.find(({ checked }) => checked)!.value as Attention;
    if (!sinks.disabled) streaming.sinks = Number(sinks.value);
    if (!room.disabled) streaming.room = sizes[Number(room.value)]!;
    const pinned = attention === "streaming" ? Math.min(streaming.sinks, streaming.room - 2) : 0;
    change({
      attention,
      sinks: attention === "streaming" ? pinned : undefined,
      window: attention === "dense" ? undefined : streaming.room - 1 - pinned,
    });
  };
  for (const input of [...radios, sinks, room]) input.addEventListener("change", choose);
  for (const slider of [sinks, room]) slider.addEventListener("input", showValues);
}

function showValues(): void {
  $("sinks-value").textContent = sinks.disabled ? "–" : sinks.value;
  $("window-value").textContent = room.disabled ? "–" : number(sizes[Number(room.value)]!);
}

/** Sets the controls to what runs, and says what that means. */
export function showMode(info: Info, isBundled: boolean): void {
  const { attention } = info;
  const capacity = capacityOf(info);
  if (attention === "streaming") streaming = { sinks: info.sinks, room: capacity };
  for (const radio of radios) radio.checked = radio.value === attention;
  sizes = [...new Set([...SIZES.filter((size) => size <= info.context_length), streaming.room])].sort((a, b) => a - b);
  sinks.disabled = attention !== "streaming";
  room.disabled = attention === "dense";
  sinks.value = String(streaming.sinks);
  room.max = String(sizes.length - 1);
  room.value = String(sizes.indexOf(streaming.room));
  room.setAttribute("aria-valuetext", `${number(streaming.room)} tokens`);
  showValues();
  sayWhatIsSeen(info, capacity);
  $("pinned").dataset.attention = attention === "streaming" && info.sinks === 0 ? "window" : attention;
  $("pinned-text").textContent = pinnedWords(info);
  $("mode-words").textContent = wordsFor(info, isBundled);
}

/** The line above the text. */
function pinnedWords({ attention, sinks, window }: Info): string {
  if (attention === "dense") return `Kept: everything, in a memory for ${number(window)} tokens`;
  if (attention === "window" || sinks === 0) return "Dropped: the first tokens, like all others that have become too old";
  return sinks === 1 ? "Pinned: the first token, which only says that a text begins" : `Pinned: the first ${number(sinks)} tokens`;
}

/** Shows the pinned tokens themselves, if they say more than that a text begins. */
export function showPinned(texts: string[]): void {
  const cells = texts.map((text) => {
    const cell = document.createElement("code");
    cell.textContent = text.replaceAll("\n", "↵").trim() || "␣";
    return cell;
  });
  $("pinned-tokens").replaceChildren(...cells.flatMap((cell) => [" ", cell]));
}

/** The sentence at the top of the page. */
function sayWhatIsSeen(info: Info, capacity: number): void {
  const { attention, sinks } = info;
  const pins = attention === "streaming" && sinks > 0;
  $("lead-sinks").hidden = $("lead-and").hidden = !pins;
  $("lead-sinks").textContent = sinks === 1 ? "its first token, pinned," : `its first ${number(sinks)} tokens, pinned,`;
  $("lead-window").textContent =
    attention === "dense" ? "everything so far" : `${pins ? "the newest" : "only the newest"} ${number(capacity - sinks)}`;
  const rest = $("lead-rest");
  if (attention === "dense") {
    rest.textContent = `, in a memory for ${number(info.window)} tokens. When that is full, it has to stop.`;
    return;
  }
  const forgotten = document.createElement("span");
  forgotten.className = "key gone-key";
  forgotten.textContent = pins ? "Everything between is forgotten" : "Everything before is forgotten";
  rest.replaceChildren(". ", forgotten, pins ? ", so it can go on for ever." : ", its very first token too.");
}

function wordsFor({ attention, sinks, context_length }: Info, isBundled: boolean): string {
  if (attention === "dense") {
    return `What most programs do: keep everything. Beyond the ${number(context_length)} tokens that this model was trained on its text decays, and then the memory is full.`;
  }
  if (attention === "streaming" && sinks > 0) {
    return "The first tokens are where attention rests when it has nothing to look for. Pinned, they keep the text together for as long as you like. Switch to Window to see it fall apart without them.";
  }
  const measured = isBundled ? " On books that this model never saw, perplexity is 269 without its first token and 68 with it (in a memory of 1,024)." : "";
  return `The first tokens have been dropped with the rest. Models that rest on them lose their footing: watch the perplexity and the text.${measured}`;
}
