// What the visitor has chosen, in the address of the page and back: a link shows others the same.
//
//     ?device=gpu|cpu ?attention=streaming|window|dense ?sinks=N ?window=N ?temperature=T ?seed=N ?model=URL ?prompt=TEXT ?paused ?chat

import type { Attention, Device } from "sinkstream";

export interface Choices {
  device: Device;
  attention: Attention;
  /** Left out: the model's own. */
  sinks?: number | undefined;
  window?: number | undefined;
  temperature?: number | undefined;
  seed?: number | undefined;
  /** Address of a model; left out: the one that came with the page. */
  model?: string | undefined;
  /** The beginning of the text. */
  prompt?: string | undefined;
  /** Does not begin to write by itself. */
  paused: boolean;
  /** A conversation in the model's template instead of a text that goes on. */
  chat: boolean;
}

const devices: readonly Device[] = ["auto", "gpu", "cpu"];
const modes: readonly Attention[] = ["streaming", "window", "dense", "recompute"];

/** Reads the part of an address behind `?`. Throws a `RangeError` that says what is wrong with it. */
export function readChoices(search: string): Choices {
  const query = new URLSearchParams(search);
  const wrong = (name: string, rule: string) => new RangeError(`?${name}=${query.get(name)} in the address: it must be ${rule}`);
  const whole = (name: string): number | undefined => {
    const value = query.get(name);
    if (value !== null && !/^\d{1,9}$/.test(value)) throw wrong(name, "a whole number");
    return value === null ? undefined : Number(value);
  };
  const oneOf = <T extends string>(name: string, known: readonly T[]): T => {
    const found = known.find((value) => value === (query.get(name) ?? known[0]));
    if (found === undefined) throw wrong(name, `${known.slice(0, -1).join(", ")} or ${known.at(-1)}`);
    return found;
  };
  const temperature = query.get("temperature");
  if (temperature !== null && !(Number(temperature) >= 0 && temperature !== "")) throw wrong("temperature", "a number from 0 on");
  return {
    device: oneOf("device", devices),
    attention: oneOf("attention", modes),
    sinks: whole("sinks"),
    window: whole("window"),
    temperature: temperature === null ? undefined : Number(temperature),
    seed: whole("seed"),
    model: query.get("model") ?? undefined,
    prompt: query.get("prompt") ?? undefined,
    paused: query.has("paused"),
    chat: query.has("chat"),
  };
}

/** The same as an address; what is as it would be anyway is left out. */
export function addressOf(choices: Choices): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(choices)) {
    if (value === undefined || value === false || value === "auto" || value === "streaming") continue;
    query.set(name, value === true ? "" : String(value));
  }
  const address = new URL(location.href);
  address.search = query.toString();
  address.hash = "";
  return address.href;
}
