// Trying again what a network may do better the next time.

import { DownloadError } from "./errors.js";

/** So many attempts in a row that bring no byte make a download fail … */
const ATTEMPTS = 5;
/** … with pauses between them of this, doubled each time. */
const PAUSE_MS = 250;

/** What no further attempt can change. */
export class FinalError extends DownloadError {}

/** Runs `attempt` until it succeeds; `brought` says that bytes have come, and the count of failures begins anew. */
export async function retry<T>(signal: AbortSignal | undefined, attempt: (brought: () => void) => Promise<T>): Promise<T> {
  for (let failures = 0; ; ) {
    try {
      return await attempt(() => (failures = 0));
    } catch (error) {
      signal?.throwIfAborted();
      failures += 1;
      if (error instanceof FinalError || failures === ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS << (failures - 1)));
    }
  }
}
