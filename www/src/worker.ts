// The worker: owns the WebAssembly and through it the model, the GPU device and the sessions.

import init, { Engine, Session } from "../pkg/sinkstream.js";
import { describe } from "./errors.js";
import type { Control, Info, Reply, Request, State } from "./protocol.js";

/** A burst should take about so long: short enough to stop quickly, long enough to hide the cost of reading back. */
const BURST_MS = 30;
/** Most tokens of a burst. Two of them may have to be taken back: less than the slack of the ring. */
const MAX_BURST = 16;

/** The part of a worker's global scope that is used here. */
interface Scope {
  postMessage(message: Reply): void;
  onmessage: ((event: MessageEvent<Request | Control>) => void) | null;
}
const scope = globalThis as unknown as Scope;

let engine: Engine | undefined;
const sessions = new Map<number, Session>();

/** The generation that runs, as the page sees it. */
interface Running {
  id: number;
  /** Tokens that the page has handed on. */
  taken: number;
  /** Tokens to keep; the others are taken back. Set when the page stops it. */
  keep: number | undefined;
  /** Wakes the loop when something above has changed. */
  wake: () => void;
}
let running: Running | undefined;
/** Generations that the page has stopped before they began. */
const stoppedEarly = new Set<number>();

/** Requests run one after the other. */
let queue: Promise<void> = Promise.resolve();

scope.onmessage = ({ data }) => {
  if (data.op === "taken" || data.op === "stop") control(data);
  else queue = queue.then(() => answer(data));
};

function control(message: Control): void {
  if (running?.id !== message.id) {
    if (message.op === "stop") stoppedEarly.add(message.id);
    return;
  }
  if (message.op === "taken") running.taken = message.tokens;
  else running.keep = message.tokens;
  running.wake();
}

async function answer(request: Request): Promise<void> {
  const { id } = request;
  const session = "session" in request ? sessions.get(request.session) : undefined;
  try {
    const info = await perform(request);
    scope.postMessage({ id, type: "done", ...info, ...state(session) });
  } catch (error) {
    scope.postMessage({ id, type: "error", error: describe(error), ...state(session) });
  } finally {
    running = undefined;
    stoppedEarly.delete(id);
  }
}

function state(session: Session | undefined): { state?: State } {
  if (!session || ![...sessions.values()].includes(session)) return {};
  return { state: { position: session.position, evicted: session.evicted, cached: session.cached } };
}

async function perform(request: Request): Promise<{ info?: Info } | undefined> {
  switch (request.op) {
    case "load":
      return { info: await load(request) };
    case "createSession":
      sessions.set(request.session, loaded().session());
      return undefined;
    case "append":
      return await sessionOf(request).append(loaded(), request.text).then(() => undefined);
    case "generate":
      return await generate(request).then(() => undefined);
    case "destroySession":
      sessionOf(request).free();
      sessions.delete(request.session);
      return undefined;
  }
}

function loaded(): Engine {
  if (!engine) throw new Error("no model is loaded");
  return engine;
}

function sessionOf({ session }: { session: number }): Session {
  const found = sessions.get(session);
  if (!found) throw new Error("the session was destroyed");
  return found;
}

async function load({ id, model, settings }: Request & { op: "load" }): Promise<Info> {
  const report = (phase: "engine" | "model") => (loaded: number, total: number | undefined) =>
    scope.postMessage({ id, type: "progress", progress: { phase, loaded, total } });
  report("engine")(0, undefined);
  await init();
  engine = await Engine.load(model, JSON.stringify(settings), report("model"));
  return JSON.parse(engine.info()) as Info;
}

/** Computes tokens in bursts, never more than a burst ahead of what the page has handed on. */
async function generate({ id, session: number, text, sampling, untilEnd }: Request & { op: "generate" }): Promise<void> {
  const session = sessionOf({ session: number });
  if (stoppedEarly.has(id)) return;
  const own: Running = { id, taken: 0, keep: undefined, wake: () => {} };
  running = own;
  if (text !== "" || session.position === 0) await session.append(loaded(), text);
  session.begin(JSON.stringify({ ...sampling, untilEnd }));
  let computed = 0;
  for (let burst = 1; own.keep === undefined; ) {
    const begin = performance.now();
    const pieces = await session.next(loaded(), burst);
    if (!pieces) break;
    const elapsed = performance.now() - begin;
    computed += pieces.length;
    scope.postMessage({ id, type: "pieces", pieces, position: session.position, dispatches: loaded().dispatches });
    await until(own, computed - burst);
    await breathe();
    burst = Math.min(MAX_BURST, Math.max(1, Math.round((pieces.length * BURST_MS) / Math.max(elapsed, 0.1))), 2 * burst);
  }
  await until(own, computed);
  if (own.keep !== undefined && own.keep < computed) session.takeBack(computed - own.keep);
}

/** Waits until the page has handed on so many tokens, or stops. */
async function until(own: Running, tokens: number): Promise<void> {
  while (own.keep === undefined && own.taken < tokens) await new Promise<void>((wake) => (own.wake = wake));
}

/** Lets messages in. A timer would wait 4 ms. */
const { port1, port2 } = new MessageChannel();
function breathe(): Promise<void> {
  return new Promise((resolve) => {
    port1.onmessage = () => resolve();
    port2.postMessage(undefined);
  });
}
