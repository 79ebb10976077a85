// Downloads that stay: a folder of parts for each address, in the browser's private file system (OPFS).
//
// `sinkstream/HASH-OF-ADDRESS/manifest.json` says what the file is; each part is a file of its own, `INDEX.SHA-256`. One
// counts when it has the length that its part must have: a page that closes while it writes leaves an empty file behind, or a
// shorter one. What does not hash to its name is thrown away. So whatever breaks a download off, the rest of it can be used.

import type { Version } from "./http.js";

const FOLDER = "sinkstream";
const MANIFEST = "manifest.json";

/** What is known of a file in the cache. */
interface Manifest {
  url: string;
  /** Bytes in all; null while nobody knows. */
  size: number | null;
  partBytes: number;
  version: Version;
  /** Of the whole file, once it was checked. */
  sha256: string | null;
}

/** A file in the cache. */
export interface CachedModel {
  url: string;
  /** Bytes in all; undefined if the server does not say and the download is not finished. */
  size: number | undefined;
  /** Bytes that are here. */
  stored: number;
  /** All of it is here: it loads without a network. */
  complete: boolean;
  /** SHA-256 in hexadecimal, if the file was checked against one. */
  sha256: string | undefined;
}

/** What the browser grants this site, in bytes. */
export interface Storage {
  usage: number;
  quota: number;
  /** Whether the browser promises not to delete it by itself: `navigator.storage.persist()` asks for that. */
  persisted: boolean;
}

async function hash(bytes: Uint8Array): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function folderOf(url: string): Promise<string> {
  return (await hash(new TextEncoder().encode(url))).slice(0, 32);
}

/** The folder of all downloads; undefined where there is no such file system (a page without TLS, a private window). */
async function root(): Promise<FileSystemDirectoryHandle | undefined> {
  try {
    return await (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create: true });
  } catch {
    return undefined;
  }
}

/** Holds a Web Lock until it is let go. */
function lock(name: string, mode: LockMode, signal?: AbortSignal, onWait?: () => void): Promise<() => void> {
  return new Promise((resolve, reject) => {
    const hold = (): Promise<void> => new Promise((release) => resolve(release));
    const wait = (): Promise<unknown> => navigator.locks.request(name, { mode, ...(signal ? { signal } : {}) }, hold);
    navigator.locks
      .request(name, { mode, ifAvailable: true }, (lock) => (lock ? hold() : (onWait?.(), wait().catch(reject), undefined)))
      .catch(reject);
  });
}

async function write(folder: FileSystemDirectoryHandle, name: string, bytes: Uint8Array | string): Promise<void> {
  const handle = await folder.getFileHandle(name, { create: true });
  const data = (typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes) as Uint8Array<ArrayBuffer>;
  if ("createWritable" in handle) {
    const file = await handle.createWritable();
    await file.write(data);
    return await file.close(); // only now it is there
  }
  // Older Safari: in a worker only.
  const file = await (handle as FileSystemFileHandle & { createSyncAccessHandle(): Promise<FileSystemSyncAccessHandle> }).createSyncAccessHandle();
  try {
    file.truncate(0);
    file.write(data);
    file.flush();
  } finally {
    file.close();
  }
}

/** The only things used of a type that TypeScript keeps for workers. */
interface FileSystemSyncAccessHandle {
  truncate(size: number): void;
  write(bytes: Uint8Array): number;
  flush(): void;
  close(): void;
}

async function readManifest(folder: FileSystemDirectoryHandle): Promise<Manifest | undefined> {
  try {
    return JSON.parse(await (await (await folder.getFileHandle(MANIFEST)).getFile()).text()) as Manifest;
  } catch {
    return undefined;
  }
}

/** Bytes of a part: of the last one, which may be shorter, only once the size of the file is known. */
function partLength({ size, partBytes }: Manifest, index: number): number {
  return Math.min(partBytes, (size ?? Infinity) - index * partBytes);
}

/** Names of the parts that are wholly there. */
async function partsIn(folder: FileSystemDirectoryHandle, manifest: Manifest | undefined): Promise<Map<number, string>> {
  const parts = new Map<number, string>();
  for await (const [name, file] of folder.entries()) {
    if (!manifest || file.kind !== "file" || !/^\d+\.[0-9a-f]{64}$/.test(name)) continue;
    const index = Number.parseInt(name);
    const length = await file.getFile().then(({ size }) => size, () => -1); // it may be gone by now
    if (length === partLength(manifest, index)) parts.set(index, name);
  }
  return parts;
}

function isComplete({ size, partBytes }: Manifest, parts: Map<number, string>): boolean {
  return size !== null && parts.size >= Math.ceil(size / partBytes);
}

/** One file's place in the cache. Nobody else writes to it until `close`. */
export class CacheEntry {
  readonly #folder: FileSystemDirectoryHandle;
  readonly #remove: () => Promise<void>;
  readonly #release: () => void;
  #manifest: Manifest | undefined;
  #parts: Map<number, string>;

  private constructor(folder: FileSystemDirectoryHandle, manifest: Manifest | undefined, parts: Map<number, string>, remove: () => Promise<void>, release: () => void) {
    this.#folder = folder;
    this.#manifest = manifest;
    this.#parts = parts;
    this.#remove = remove;
    this.#release = release;
  }

  /** The place of an address; undefined where nothing can be kept. Waits while another page downloads it. */
  static async open(url: string, signal: AbortSignal | undefined, onWait: () => void): Promise<CacheEntry | undefined> {
    const all = await root();
    if (!all) return undefined;
    const name = await folderOf(url);
    // Many may read what is complete; one may write.
    for (const mode of ["shared", "exclusive"] as const) {
      const release = await lock(`${FOLDER}/${name}`, mode, signal, onWait);
      try {
        const folder = await all.getDirectoryHandle(name, { create: true });
        const manifest = await readManifest(folder);
        const parts = await partsIn(folder, manifest);
        const isWhole = manifest !== undefined && isComplete(manifest, parts);
        if (isWhole || mode === "exclusive") {
          return new CacheEntry(folder, manifest, parts, () => all.removeEntry(name, { recursive: true }), release);
        }
      } catch {
        release();
        return undefined;
      }
      release();
    }
    return undefined;
  }

  get isComplete(): boolean {
    return this.#manifest !== undefined && isComplete(this.#manifest, this.#parts);
  }

  get size(): number | undefined {
    return this.#manifest?.size ?? undefined;
  }

  get partBytes(): number | undefined {
    return this.#manifest?.partBytes;
  }

  get sha256(): string | undefined {
    return this.#manifest?.sha256 ?? undefined;
  }

  has(index: number): boolean {
    return this.#parts.has(index);
  }

  /** Prepares for a download. What is there of another version of the file goes. */
  async begin(manifest: Omit<Manifest, "sha256">): Promise<void> {
    const old = this.#manifest;
    const isSame = old?.size === manifest.size && old.partBytes === manifest.partBytes && JSON.stringify(old.version) === JSON.stringify(manifest.version);
    if (!isSame) {
      for await (const name of this.#folder.keys()) await this.#folder.removeEntry(name);
      this.#parts = new Map();
    }
    await this.#write({ ...manifest, sha256: null });
  }

  /** A part, if it is there and sound. */
  async read(index: number): Promise<Uint8Array | undefined> {
    const name = this.#parts.get(index);
    if (name === undefined) return undefined;
    try {
      const bytes = new Uint8Array(await (await (await this.#folder.getFileHandle(name)).getFile()).arrayBuffer());
      if (name.endsWith(await hash(bytes))) return bytes;
      await this.#folder.removeEntry(name);
    } catch {
      // It is gone: the browser or the user has cleaned up.
    }
    this.#parts.delete(index);
    return undefined;
  }

  async write(index: number, bytes: Uint8Array): Promise<void> {
    const name = `${index}.${await hash(bytes)}`;
    await write(this.#folder, name, bytes);
    this.#parts.set(index, name);
  }

  /** All is there, and this is its hash, if it was asked for. */
  async complete(size: number, sha256: string | undefined): Promise<void> {
    if (this.#manifest) await this.#write({ ...this.#manifest, size, sha256: sha256?.toLowerCase() ?? this.#manifest.sha256 });
  }

  /** Throws all of it away. */
  async remove(): Promise<void> {
    this.#parts.clear();
    await this.#remove().catch(() => {}); // gone already
  }

  close(): void {
    this.#release();
  }

  async #write(manifest: Manifest): Promise<void> {
    if (JSON.stringify(manifest) === JSON.stringify(this.#manifest)) return;
    await write(this.#folder, MANIFEST, JSON.stringify(manifest));
    this.#manifest = manifest;
  }
}

/** All files in the cache, finished or not. */
export async function listCached(): Promise<CachedModel[]> {
  const models: CachedModel[] = [];
  const all = await root();
  if (!all) return models;
  for await (const folder of all.values()) {
    if (folder.kind !== "directory") continue;
    const manifest = await readManifest(folder);
    if (!manifest) continue;
    const { url, size, sha256 } = manifest;
    const parts = await partsIn(folder, manifest);
    const stored = [...parts.keys()].reduce((sum, index) => sum + partLength(manifest, index), 0);
    models.push({ url, size: size ?? undefined, stored, complete: isComplete(manifest, parts), sha256: sha256 ?? undefined });
  }
  return models;
}

/** Deletes a file from the cache, once nobody loads it; without an address, all of them. Says how many there were. */
export async function deleteCached(url?: string): Promise<number> {
  const all = await root();
  const models = (await listCached()).filter((model) => url === undefined || model.url === url);
  for (const model of models) {
    const name = await folderOf(model.url);
    const release = await lock(`${FOLDER}/${name}`, "exclusive");
    await all?.removeEntry(name, { recursive: true }).catch(() => {});
    release();
  }
  return models.length;
}

/** What this site uses, and what the browser grants it. */
export async function storage(): Promise<Storage> {
  const { usage = 0, quota = 0 } = await navigator.storage.estimate();
  return { usage, quota, persisted: await navigator.storage.persisted() };
}
