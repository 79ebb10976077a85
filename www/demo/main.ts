// The demo page: a model writes without end, and the page shows what it still sees, and that memory stays where it is.
//
// settings.ts reads the address, writer.ts has the engine and its session, text.ts the text, meters.ts ring.ts history.ts
// the numbers and pictures, controls.ts and models.ts what can be chosen, plain.ts the words.

import bundledModel from "../../models/sinkstream-2m.gguf?url";
import type { Progress, Session } from "sinkstream";
import { offerModes, showMode, showPinned } from "./controls.ts";
import { Meters } from "./meters.ts";
import { offerModels } from "./models.ts";
import { explain, number, size } from "./plain.ts";
import { addressOf, readChoices, type Choices } from "./settings.ts";
import { TextView } from "./text.ts";
import { unpack } from "./snapshot.ts";
import { Writer, type Beginning, type Source, type State } from "./writer.ts";

/** Tokens in memory when the page opens: few enough to see them turn and be forgotten within seconds. */
const ROOM = 128;
/** How the text begins when the page opens. */
const OPENING = "It was a cold evening in November, and";

const $ = <E extends HTMLElement>(id: string): E => document.querySelector<E>(`#${id}`)!;
const main = document.querySelector("main")!;
const [run, send, words] = [$<HTMLButtonElement>("run"), $<HTMLButtonElement>("send"), $<HTMLInputElement>("words")];

let choices: Choices;
let source: Source = bundledModel;
let drawing = false;
/** Whose pinned tokens are shown. */
let pinnedOf: Session | undefined;

const view = new TextView($("text"), () => source === bundledModel);
const writer = new Writer(view, { onState, onProgress, onLoaded, onLeftOut, onChange, onError });
const meters = new Meters(writer);

function notice(text: string): void {
  $("notice").textContent = text;
}

function onState(state: State): void {
  main.dataset.state = state;
  const isAble = state === "ready" || state === "writing" || state === "full";
  run.textContent = state === "writing" ? "Pause" : "Write on";
  run.disabled = !isAble || state === "full";
  for (const id of ["fresh", "save", "restore", "chat"]) $<HTMLButtonElement>(id).disabled = !isAble;
  send.disabled = run.disabled;
  meters.run(state === "writing");
  if (state === "full") {
    notice(`The memory is full: it held all ${number(writer.position)} tokens, and there is no room for the next. Streaming goes on from here without end.`);
  } else if (state === "writing") {
    notice(hint());
  } else if (state === "ready") {
    meters.announce(`Paused after ${number(writer.position)} tokens.`);
  }
}

/** Why it is slower than it could be. */
function hint(): string {
  if (writer.engine?.info.executor !== "cpu" || choices.device !== "auto") return "";
  const reason = "gpu" in navigator ? "No real GPU was found behind WebGPU" : "This browser has no WebGPU";
  return `${reason}: the model runs on the CPU. It writes the same kind of text, only slower.`;
}

function onProgress({ phase, loaded, total }: Progress): void {
  const bar = $<HTMLProgressElement>("progress");
  if (total === undefined) return void bar.removeAttribute("value");
  bar.max = total;
  bar.value = loaded;
  if (phase === "model") $("loading-words").textContent = `Loading the model: ${size(loaded)} of ${size(total)}`;
}

function onLoaded(): void {
  const { info } = writer.engine!;
  main.dataset.executor = info.executor;
  main.dataset.attention = info.attention;
  showMode(info, source === bundledModel);
  showKind(info.chat_template);
  showPinned([]);
  meters.reset(info);
  notice(hint());
}

function onLeftOut(exchanges: number): void {
  const what = exchanges === 0 ? "all of the last answer" : exchanges === 1 ? "its first question and answer" : `its first ${number(exchanges)} questions and answers`;
  notice(`The conversation does not fit into this memory: the model no longer knows ${what}.`);
}

/** The pinned tokens of a session, once they are all there. */
async function lookAtPinned(): Promise<void> {
  const { session, engine } = writer;
  const sinks = engine?.info.attention === "streaming" ? engine.info.sinks : 0;
  if (!session || session === pinnedOf || session.pinned < sinks) return;
  pinnedOf = session;
  const texts = sinks > 1 ? await session.pinnedTokens().catch(() => []) : []; // it may be gone again
  if (session === pinnedOf) showPinned(texts);
}

/** A text or a conversation; the latter only with models that have learned to. */
function showKind(hasTemplate: boolean): void {
  $("chat").hidden = !hasTemplate;
  $("chat").setAttribute("aria-pressed", String(choices.chat));
  $("words-label").textContent = choices.chat ? "Say something" : "Write into the text";
  words.placeholder = choices.chat ? "Tell me a story" : "A knock at the door";
  send.textContent = choices.chat ? "Send" : "Insert";
}

function onError(error: unknown): void {
  notice(explain(error));
}

/** Draws at the next frame, once. */
function onChange(): void {
  main.dataset.position = String(writer.position);
  main.dataset.evicted = String(writer.position - writer.cached);
  main.dataset.dispatches = String(writer.engine?.dispatches ?? 0);
  void lookAtPinned();
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    view.draw(writer.position, writer.cached, writer.room);
    meters.draw();
  });
}

function change(chosen: Partial<Choices>, beginning: Beginning): void {
  choices = { ...choices, ...chosen };
  const opening = choices.prompt === OPENING ? undefined : choices.prompt;
  history.replaceState(null, "", addressOf({ ...choices, prompt: opening }));
  writer.load(source, choices, beginning);
}

function openWith(chosen: Source | undefined, address?: string): void {
  source = chosen ?? bundledModel;
  const own = source === bundledModel;
  const prompt = own ? OPENING : undefined;
  change({ model: address, sinks: undefined, window: own ? ROOM - 2 : undefined, attention: "streaming", prompt, paused: false, chat: false }, "anew");
}

run.addEventListener("click", () => (writer.state === "writing" ? writer.pause() : writer.write("")));
function setSlow(isSlow: boolean): void {
  writer.isSlow = isSlow;
  $("slow").setAttribute("aria-pressed", String(isSlow));
}

$("slow").addEventListener("click", () => setSlow(!writer.isSlow));
$("fresh").addEventListener("click", () => writer.restart());
$("insert").addEventListener("submit", (event) => {
  event.preventDefault();
  if (send.disabled || words.value.trim() === "") return;
  writer.write(words.value);
  words.value = "";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && writer.state === "writing" && !document.querySelector("dialog[open]")) writer.pause();
});
$("chat").addEventListener("click", () => change({ chat: !choices.chat, paused: false }, "anew"));
$("save").addEventListener("click", async () => {
  const address = URL.createObjectURL(await writer.save());
  const link = Object.assign(document.createElement("a"), { href: address, download: `sinkstream-${writer.position}.text` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
});
$("restore").addEventListener("click", () => $("restore-file").click());
$("restore-file").addEventListener("change", async ({ target }) => {
  const input = target as HTMLInputElement;
  const file = input.files?.[0];
  input.value = "";
  if (!file) return;
  try {
    const { saved, session } = await unpack(file);
    const { attention, sinks, window } = saved;
    if (saved.address !== choices.model) source = saved.address ?? bundledModel;
    change({ model: saved.address, attention, sinks: attention === "streaming" ? sinks : undefined, window, chat: false, paused: true }, { saved, session });
  } catch (error) {
    onError(error);
  }
});
$("share").addEventListener("click", async ({ currentTarget }) => {
  const button = currentTarget as HTMLButtonElement;
  const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  button.textContent = copied ? "Copied" : "It is in the address bar";
  setTimeout(() => (button.textContent = "Copy link"), 2_000);
});

try {
  onState("loading");
  setSlow(matchMedia("(prefers-reduced-motion: reduce)").matches);
  choices = readChoices(location.search);
  source = choices.model ?? bundledModel;
  const isPlain = source === bundledModel && choices.sinks === undefined && choices.window === undefined;
  if (isPlain && choices.attention === "streaming") choices = { ...choices, window: ROOM - 2 };
  if (isPlain && choices.attention === "window") choices = { ...choices, window: ROOM - 1 };
  offerModes((chosen) => change(chosen, "goOn"));
  offerModels(openWith);
  if (source === bundledModel) choices.prompt ??= OPENING;
  writer.load(source, choices, "anew");
} catch (error) {
  onState("error");
  onError(error);
}
