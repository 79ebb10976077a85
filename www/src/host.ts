// The host: owns the models and their sessions, and answers the pages that are connected to it. It runs in a worker of one
// page, in a shared worker for many, or in the page itself.

import { describe, destroyed } from "./errors.js";
import { estimate, Model, type LoadListener } from "./model.js";
import { NO_COUNTS, type Control, type Info, type Progress, type Reply, type Request, type Result } from "./protocol.js";
import { Running, Stream } from "./stream.js";

/** One end of a wire: a worker's global scope, or a port. */
export interface Port {
  postMessage(message: Reply): void;
  onmessage: ((event: MessageEvent<Request | Control>) => void) | null;
}

/** A model that pages share, or one page has for itself. */
class Tenancy {
  readonly #abort = new AbortController();
  readonly #tenants = new Map<object, (progress: Progress) => void>();
  readonly #onEmpty: () => void;
  readonly model: Promise<Model>;
  #newest: Progress | undefined;

  constructor(load: (listener: LoadListener) => Promise<Model>, onEmpty: () => void) {
    this.#onEmpty = onEmpty;
    const onProgress = (progress: Progress): void => {
      this.#newest = progress;
      for (const listener of this.#tenants.values()) listener(progress);
    };
    this.model = load({ onProgress, signal: this.#abort.signal });
    this.model.catch(() => this.#onEmpty()); // the next one tries anew
  }

  enter(tenant: object, onProgress: (progress: Progress) => void): Promise<Model> {
    this.#tenants.set(tenant, onProgress);
    if (this.#newest) onProgress(this.#newest);
    return this.model;
  }

  /** With the last one the model goes, loaded or not. */
  leave(tenant: object): void {
    if (!this.#tenants.delete(tenant) || this.#tenants.size > 0) return;
    this.#onEmpty();
    this.#abort.abort(destroyed("engine"));
    this.model.then((model) => model.free(), () => {});
  }
}

export class Host {
  /** By what was loaded and how. */
  readonly #tenancies = new Map<string, Tenancy>();
  readonly #isShared: boolean;
  #unshared = 0;

  constructor({ shared = false } = {}) {
    this.#isShared = shared;
  }

  connect(port: Port): Client {
    return new Client(this, port);
  }

  tenancy({ source, settings }: Request & { op: "load" }): Tenancy {
    const canShare = this.#isShared && typeof source.model === "string";
    const key = canShare ? JSON.stringify([source.model, source.sha256, settings]) : `${++this.#unshared}`;
    let tenancy = this.#tenancies.get(key);
    if (!tenancy) {
      tenancy = new Tenancy((listener) => Model.load(source, settings, this.#isShared, listener), () => this.#tenancies.delete(key));
      this.#tenancies.set(key, tenancy);
    }
    return tenancy;
  }
}

/** One page's end. */
export class Client {
  readonly #host: Host;
  readonly #port: Port;
  readonly #streams = new Map<number, Stream>();
  readonly #running = new Map<number, Running>();
  #tenancy: Tenancy | undefined;
  #model: Model | undefined;
  #isClosed = false;

  constructor(host: Host, port: Port) {
    this.#host = host;
    this.#port = port;
    port.onmessage = ({ data }) => (data.op === "taken" || data.op === "stop" ? this.#control(data) : this.#receive(data));
  }

  /** The page is gone or has no more use for it. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const running of this.#running.values()) running.change({ keep: 0 });
    const freed = [...this.#streams.values()].map((stream) => stream.queue.then(() => stream.free()).catch(() => {}));
    this.#streams.clear();
    void Promise.all(freed).then(() => this.#tenancy?.leave(this));
  }

  #control(message: Control): void {
    this.#running.get(message.id)?.change(message.op === "taken" ? { taken: message.tokens } : { keep: message.tokens });
  }

  /** Requests of a session wait for each other, but not for a look at it; all others for nothing. */
  #receive(request: Request): void {
    this.#running.set(request.id, new Running());
    const stream = "session" in request ? this.#streams.get(request.session) : undefined;
    if (stream && request.op !== "pinned") stream.queue = stream.queue.then(() => this.#answer(request, stream));
    else void this.#answer(request, stream);
  }

  async #answer(request: Request, stream: Stream | undefined): Promise<void> {
    const { id } = request;
    const running = this.#running.get(id)!;
    try {
      const result = await this.#perform(request, stream, running);
      const counts = this.#model?.counts ?? NO_COUNTS;
      this.#post({ id, type: "done", result, counts, ...this.#state(request) });
    } catch (error) {
      this.#post({ id, type: "error", error: describe(error), ...this.#state(request) });
    } finally {
      this.#running.delete(id);
    }
  }

  #post(reply: Reply): void {
    if (!this.#isClosed) this.#port.postMessage(reply);
  }

  #state(request: Request): Pick<Reply & { type: "done" }, "state"> {
    const number = request.op === "clone" ? request.copy : "session" in request ? request.session : undefined;
    const stream = number === undefined ? undefined : this.#streams.get(number);
    return stream ? { state: stream.state } : {};
  }

  async #perform(request: Request, stream: Stream | undefined, running: Running): Promise<Result> {
    const { id } = request;
    const onProgress = (progress: Progress): void => this.#post({ id, type: "progress", progress });
    const of = (): Stream => {
      if (!stream) throw destroyed("session");
      return stream;
    };
    switch (request.op) {
      case "load":
        this.#tenancy = this.#host.tenancy(request);
        this.#model = await this.#tenancy.enter(this, onProgress);
        return { info: this.#model.info satisfies Info };
      case "estimate": {
        const abort = new AbortController();
        running.until(Infinity).then(() => abort.abort());
        return { estimate: await estimate(request.source, request.settings, { onProgress, signal: abort.signal }) };
      }
      case "createSession":
        return this.#add(request.session, await Stream.create(this.#loaded(), request.conversation));
      case "restore":
        return this.#add(request.session, await Stream.restore(this.#loaded(), new Uint8Array(await request.bytes.arrayBuffer())));
      case "clone":
        return this.#add(request.copy, await of().clone());
      case "append":
        await of().append(request.text, running);
        return {};
      case "generate": {
        const onPieces = (pieces: string[], logprobs: number[]): void => this.#post({ id, type: "pieces", pieces, logprobs, state: of().state, counts: this.#loaded().counts });
        return await of().generate(request, running, onPieces);
      }
      case "countTokens":
        return { count: await of().count(request.text) };
      case "pinned":
        return { texts: await of().pinned() };
      case "save":
        return { bytes: new Blob([(await of().save()) as Uint8Array<ArrayBuffer>]) };
      case "destroySession":
        this.#streams.delete(request.session);
        await of().free();
        return {};
      case "loseDevice":
        await this.#loaded().use((engine) => engine.destroyDevice());
        return {};
      case "close":
        this.close();
        return {};
    }
  }

  #add(number: number, stream: Stream): Result {
    this.#streams.set(number, stream);
    return {};
  }

  #loaded(): Model {
    if (!this.#model) throw new Error("no model is loaded");
    return this.#model;
  }
}
