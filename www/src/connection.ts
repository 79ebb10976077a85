// The page's end of the wire to a host: requests out, replies back to whoever asked.

import { revive } from "./errors.js";
import { NO_COUNTS, type Control, type Counts, type ModelBytes, type Reply, type Request, type Result, type State } from "./protocol.js";

/** What a request's replies do on the page. */
export interface Listener {
  /** Progress and pieces. */
  onReply?: (reply: Reply) => void;
  /** Where the session stands after the request, also after a failed one. */
  onState?: (state: State) => void;
}

interface Pending extends Listener {
  resolve: (result: Result) => void;
  reject: (error: unknown) => void;
}

/** A request without its number. */
type Unnumbered<R> = R extends { id: number } ? Omit<R, "id"> : never;

/** The first message to a shared worker: a lock that the page holds as long as it lives. */
export interface Hello {
  lock: string;
}

/** The other end. */
interface Wire {
  postMessage(message: unknown, transfer: Transferable[]): void;
  /** Ends what the wire leads to, if it is this page's own. */
  end: () => void;
}

export class Connection {
  readonly #wire: Wire;
  readonly #pending = new Map<number, Pending>();
  #closed: unknown;
  #lastId = 0;
  /** What the device was given, as of the newest message. */
  counts: Counts = NO_COUNTS;

  private constructor(open: (connection: Connection) => Wire) {
    this.#wire = open(this);
  }

  /** To a worker of this page's own. */
  static toWorker(): Connection {
    return new Connection((connection) => {
      const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "sinkstream" });
      worker.onmessage = ({ data }: MessageEvent<Reply>) => connection.#receive(data);
      worker.onerror = (event) => connection.close(new Error(`the worker failed: ${event.message ?? "it could not be started"}`));
      return { postMessage: (message, transfer) => worker.postMessage(message, transfer), end: () => worker.terminate() };
    });
  }

  /** To the shared worker; nothing where the browser has none, or only without the GPU that is wanted. */
  static async toSharedWorker(needsWebGpu: boolean): Promise<Connection | undefined> {
    if (!("SharedWorker" in globalThis) || !navigator.locks) return undefined;
    const { port, onerror } = await new Promise<{ port: MessagePort; onerror: boolean }>((resolve) => {
      const worker = new SharedWorker(new URL("./shared-worker.js", import.meta.url), { type: "module", name: "sinkstream" });
      worker.onerror = () => resolve({ port: worker.port, onerror: true });
      worker.port.onmessage = ({ data }: MessageEvent<{ hasWebGpu: boolean }>) => resolve({ port: worker.port, onerror: needsWebGpu && !data.hasWebGpu });
      const lock = `sinkstream-page-${Math.random().toString(36).slice(2)}${Date.now()}`;
      void navigator.locks.request(lock, () => {
        worker.port.postMessage({ lock } satisfies Hello); // not before the page holds it: the worker takes it for gone
        return new Promise<never>(() => {}); // until the page is gone
      });
    });
    if (onerror) return undefined;
    return Connection.#toPort(port, () => port.postMessage({ id: 0, op: "close" } satisfies Request));
  }

  /** To a host in this very page. */
  static async toPage(): Promise<Connection> {
    const [{ Host }, { port1, port2 }] = [await import("./host.js"), new MessageChannel()];
    const client = new Host().connect(port2);
    return Connection.#toPort(port1, () => client.close());
  }

  static #toPort(port: MessagePort, end: () => void): Connection {
    return new Connection((connection) => {
      port.onmessage = ({ data }: MessageEvent<Reply>) => connection.#receive(data);
      return { postMessage: (message, transfer) => port.postMessage(message, transfer), end };
    });
  }

  /** Sends a request; `done` settles when the host has finished with it. */
  send(request: Unnumbered<Request>, listener: Listener = {}): { id: number; done: Promise<Result> } {
    const id = ++this.#lastId;
    const done = new Promise<Result>((resolve, reject) => {
      if (this.#closed) return reject(this.#closed);
      this.#pending.set(id, { ...listener, resolve, reject });
      this.#wire.postMessage({ ...request, id }, "source" in request ? transferable(request.source.model) : []);
    });
    return { id, done };
  }

  /** Sends a request that `signal` ends early: then it rejects with the signal's reason, once the host has stopped. */
  async ask(request: Unnumbered<Request>, signal?: AbortSignal, listener?: Listener): Promise<Result> {
    signal?.throwIfAborted();
    const { id, done } = this.send(request, listener);
    const onAbort = (): void => this.control({ id, op: "stop", tokens: 0 });
    signal?.addEventListener("abort", onAbort);
    try {
      return await done;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      signal?.throwIfAborted();
    }
  }

  /** Speaks to a running request. */
  control(message: Control): void {
    if (!this.#closed) this.#wire.postMessage(message, []);
  }

  /** Ends the page's part of the host; whatever still waits is rejected with `reason`. */
  close(reason: unknown): void {
    if (this.#closed) return;
    this.#closed = reason;
    this.#wire.end();
    for (const { reject } of this.#pending.values()) reject(reason);
    this.#pending.clear();
  }

  #receive(reply: Reply): void {
    if ("counts" in reply) this.counts = reply.counts;
    const pending = this.#pending.get(reply.id);
    if (!pending) return;
    if (reply.type !== "done" && reply.type !== "error") return pending.onReply?.(reply);
    this.#pending.delete(reply.id);
    if (reply.state) pending.onState?.(reply.state);
    if (reply.type === "done") pending.resolve(reply.result);
    else pending.reject(revive(reply.error));
  }
}

/** What moves to the host instead of being copied. */
function transferable(model: ModelBytes): Transferable[] {
  return model instanceof ReadableStream ? [model] : [];
}
