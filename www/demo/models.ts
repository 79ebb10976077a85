// Another model: a file that is dropped or chosen, or an address. Nothing is fetched before the visitor says so.

import { Engine } from "sinkstream";
import { explain, number, size } from "./plain.ts";
import type { Source } from "./writer.ts";

/** Well-known small models of the families that run here: name, quantization, about the size of the file. */
const KNOWN: readonly [name: string, quantization: string, megabytes: number][] = [
  ["SmolLM2 135M Instruct", "Q8_0", 145],
  ["Gemma 3 270M IT", "Q8_0", 292],
  ["SmolLM2 360M Instruct", "Q8_0", 386],
  ["Qwen2.5 0.5B Instruct", "Q4_K_M", 398],
  ["Pythia 410M", "Q8_0", 430],
  ["Qwen3 0.6B", "Q8_0", 639],
  ["TinyLlama 1.1B Chat", "Q4_K_M", 669],
  ["Gemma 3 1B IT", "Q4_K_M", 806],
  ["Llama 3.2 1B Instruct", "Q4_K_M", 808],
  ["SmolLM2 1.7B Instruct", "Q4_K_M", 1_060],
];

const $ = <E extends HTMLElement>(id: string): E => document.querySelector<E>(`#${id}`)!;

/** Makes the dialogue and the page take models; `load` is told of each that was chosen, nothing meaning the page's own. */
export function offerModels(load: (source: Source | undefined, address?: string) => void): void {
  const dialog = $<HTMLDialogElement>("models");
  const dropping = $("dropping");
  for (const [name, quantization, megabytes] of KNOWN) {
    const row = $<HTMLTableElement>("known").appendChild(document.createElement("tr"));
    for (const text of [name, quantization, size(1e6 * megabytes)]) row.appendChild(document.createElement("td")).textContent = text;
  }
  const take = (source: Source | undefined, address?: string): void => {
    dialog.close();
    load(source, address);
  };

  $("choose").addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  $("bundled").addEventListener("click", () => take(undefined));
  $<HTMLInputElement>("file").addEventListener("change", ({ target }) => {
    const input = target as HTMLInputElement;
    const file = input.files?.[0];
    input.value = "";
    if (file) take(file);
  });
  offerAddress(take);

  const hasFile = ({ dataTransfer }: DragEvent): boolean => dataTransfer?.types.includes("Files") ?? false;
  addEventListener("dragover", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    dropping.hidden = false;
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && (dropping.hidden = true));
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    dropping.hidden = true;
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}

/** An address is looked at first: what the model would need is in its header. Only then it is loaded. */
function offerAddress(take: (source: Source, address: string) => void): void {
  const [input, plan, send] = [$<HTMLInputElement>("address"), $("plan"), $("address-send")];
  let looked = "";
  const forget = (): void => {
    [looked, plan.textContent, send.textContent] = ["", "", "Look"];
  };
  input.addEventListener("input", forget);
  $("address-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const address = input.value;
    if (looked === address) {
      take(address, address);
      return forget();
    }
    plan.textContent = "Reading its header…";
    try {
      const { model, file_bytes, weights_bytes, kv_bytes, work_bytes, sinks, window } = await Engine.estimate(address);
      if (input.value !== address) return;
      const download = file_bytes === undefined ? "a download of unknown size" : `a download of ${size(file_bytes)}`;
      plan.textContent = `${model}: ${download}, then ${size(weights_bytes + kv_bytes + work_bytes)} of memory, of which ${size(kv_bytes)} are keys and values of ${number(sinks + window + 1)} tokens.`;
      [looked, send.textContent] = [address, "Load"];
    } catch (error) {
      if (input.value === address) plan.textContent = explain(error);
    }
  });
}
