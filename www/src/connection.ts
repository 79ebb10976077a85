// The page's end of the wire to one worker: requests out, replies back to whoever asked.

import { revive } from "./errors.js";
import type { Control, Info, ModelBytes, Reply, Request, State } from "./protocol.js";

/** What a request's replies do on the page. */
export interface Listener {
  /** Progress and pieces. */
  onReply?: (reply: Reply) => void;
  /** Where the session stands after the request, also after a failed one. */
  onState?: (state: State) => void;
}

interface Pending extends Listener {
  resolve: (info: Info | undefined) => void;
  reject: (error: unknown) => void;
}

/** A request without its number. */
type Unnumbered<R> = R extends { id: number } ? Omit<R, "id"> : never;

export class Connection {
  readonly #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "sinkstream" });
  readonly #pending = new Map<number, Pending>();
  #closed: unknown;
  #lastId = 0;

  constructor() {
    this.#worker.onmessage = ({ data }: MessageEvent<Reply>) => this.#receive(data);
    this.#worker.onerror = (event) => this.close(new Error(`the worker failed: ${event.message ?? "it could not be started"}`));
  }

  /** Sends a request; `done` settles when the worker has finished with it. */
  send(request: Unnumbered<Request>, listener: Listener = {}): { id: number; done: Promise<Info | undefined> } {
    const id = ++this.#lastId;
    const done = new Promise<Info | undefined>((resolve, reject) => {
      if (this.#closed) return reject(this.#closed);
      this.#pending.set(id, { ...listener, resolve, reject });
      this.#worker.postMessage({ ...request, id }, request.op === "load" ? transferable(request.model) : []);
    });
    return { id, done };
  }

  /** Speaks to a running generation. */
  control(message: Control): void {
    if (!this.#closed) this.#worker.postMessage(message);
  }

  /** Ends the worker, and with it everything that it holds; whatever still waits is rejected with `reason`. */
  close(reason: unknown): void {
    if (this.#closed) return;
    this.#closed = reason;
    this.#worker.terminate();
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
  }

  #receive(reply: Reply): void {
    const pending = this.#pending.get(reply.id);
    if (!pending) return;
    if (reply.type !== "done" && reply.type !== "error") return pending.onReply?.(reply);
    this.#pending.delete(reply.id);
    if (reply.state) pending.onState?.(reply.state);
    if (reply.type === "done") pending.resolve(reply.info);
    else pending.reject(revive(reply.error));
  }
}

/** What moves to the worker instead of being copied. */
function transferable(model: ModelBytes): Transferable[] {
  return model instanceof ReadableStream ? [model] : [];
}
