// What can go wrong, as classes. They cross the border between host and page by name.

/** `device: "gpu"` was asked for and there is no WebGPU adapter. */
export class WebGpuUnavailableError extends Error {
  override readonly name = "WebGpuUnavailableError";
}

/** The GPU device went away and the model could not be brought back: it came as a stream, which can be read only once. */
export class DeviceLostError extends Error {
  override readonly name = "DeviceLostError";
}

/** The bytes are not a model that runs here; the message names the field or what is not supported. */
export class ModelFormatError extends Error {
  override readonly name = "ModelFormatError";
}

/** The model could not be fetched or read, or is not the file that was asked for. */
export class DownloadError extends Error {
  override readonly name = "DownloadError";
}

const classes = { WebGpuUnavailableError, DeviceLostError, ModelFormatError, DownloadError, RangeError, TypeError, Error };
const domNames = ["AbortError", "InvalidStateError", "TimeoutError"];

/** An error as it travels in a message. */
export interface ErrorMessage {
  name: string;
  message: string;
}

/** What is sent of an error. */
export function describe(error: unknown): ErrorMessage {
  const isError = error instanceof Error || error instanceof DOMException;
  return isError ? { name: error.name, message: error.message } : { name: "Error", message: String(error) };
}

/** The error that was sent; of a class that this module does not know, a plain `Error`. */
export function revive({ name, message }: ErrorMessage): Error {
  if (domNames.includes(name)) return new DOMException(message, name);
  const known = Object.entries(classes).find(([key]) => key === name);
  return known ? new known[1](message) : new Error(message);
}

/** What an aborted call rejects with: the signal's reason, by default a DOMException named AbortError. */
export function abortError(signal?: AbortSignal): unknown {
  return signal?.reason ?? new DOMException("The operation was aborted.", "AbortError");
}

/** For calls on something that is gone. */
export function destroyed(what: "engine" | "session"): DOMException {
  return new DOMException(`The ${what} was destroyed.`, "InvalidStateError");
}
