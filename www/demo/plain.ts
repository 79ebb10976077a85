// Numbers and errors as a visitor reads them.

import { DeviceLostError, DownloadError, ModelFormatError, WebGpuUnavailableError } from "sinkstream";

export const number = (value: number): string => Math.round(value).toLocaleString("en");

export function size(bytes: number): string {
  if (bytes < 1e6) return `${number(bytes / 1e3)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

export const few = (value: number): string => (value < 10 ? value.toFixed(1) : number(value));

/** What went wrong, and what can be done about it. */
export function explain(error: unknown): string {
  const message = (error instanceof Error ? error.message : String(error)).replace(/[.\s]*$/, "");
  if (error instanceof WebGpuUnavailableError) return `${message}. Open this page without ?device=gpu to run on the CPU.`;
  if (error instanceof DownloadError) {
    return `The model could not be fetched: ${message}. Is the address right, and does its server let other pages read it (CORS)? A file from your disk always works.`;
  }
  if (error instanceof ModelFormatError) return `This file does not run here: ${message}. Choose another model.`;
  if (error instanceof DeviceLostError) return `The graphics device went away: ${message}. Reload the page to go on.`;
  if (error instanceof RangeError) return `${message}. Change the settings, or reload the page without them.`;
  return `${message}. Reload the page to try again.`;
}
