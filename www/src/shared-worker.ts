// The worker of all pages that ask for the same: one download, one copy of the model on the GPU.

import type { Hello } from "./connection.js";
import { Host, type Port } from "./host.js";

/** The part of a shared worker's global scope that is used here. */
const scope = globalThis as unknown as { onconnect: ((event: MessageEvent) => void) | null };
const host = new Host({ shared: true });

scope.onconnect = ({ ports: [port] }) => {
  const client = host.connect(port as unknown as Port);
  // Nobody says when a page goes; but a lock that it holds comes free.
  const receive = port!.onmessage!;
  port!.onmessage = (event: MessageEvent<Hello>) => {
    port!.onmessage = receive;
    void navigator.locks.request(event.data.lock, () => client.close());
    port!.postMessage({ hasWebGpu: "gpu" in navigator });
  };
};
