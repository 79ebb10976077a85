// Models that exist nowhere: of any size, a header with weights that are made as they are sent; or a file with a chat template added.

/** Bytes of a block of Q8_0: a scale in f16, 32 quants. */
const BLOCK = 34;
const ALIGNMENT = 32;
/** So many blocks, over and over; small scales, quants that differ. */
const pattern = Buffer.alloc(BLOCK * 4099);
for (let n = 0; n < pattern.length; n++) pattern[n] = n % BLOCK === 0 ? 0 : n % BLOCK === 1 ? 0x1c : (n * 7919 + (n >> 8)) % 251;
const ones = Buffer.from(new Float32Array(16_384).fill(1).buffer);

class Writer {
  bytes = [];
  #number(size, write, value) {
    const bytes = Buffer.alloc(size);
    bytes[write](value);
    this.bytes.push(bytes);
    return this;
  }
  u32 = (value) => this.#number(4, "writeUInt32LE", value);
  f32 = (value) => this.#number(4, "writeFloatLE", value);
  u64 = (value) => this.#number(8, "writeBigUInt64LE", BigInt(value));
  text = (value) => (this.u64(Buffer.byteLength(value)), this.bytes.push(Buffer.from(value)), this);
  /** A key with its type (4 u32, 5 i32, 6 f32, 8 text) and value. */
  key = (name, type, value) => this.text(name).u32(type)[{ 4: "u32", 5: "u32", 6: "f32", 8: "text" }[type]](value);
  keys = (name, type, values) => {
    this.text(name).u32(9).u32(type).u64(values.length);
    for (const value of values) this[{ 5: "u32", 6: "f32", 8: "text" }[type]](value);
    return this;
  };
}

/** A llama in Q8_0 with `layers` layers, `dim` wide, `ffn` inside: `{ size, read(start, end) }`. */
export function madeModel({ layers, dim, ffn }) {
  const head = 64;
  const tokens = ["<unk>", "<s>", "</s>", ...Array.from({ length: 256 }, (_, n) => `<0x${n.toString(16).toUpperCase().padStart(2, "0")}>`)];
  while (tokens.length < 320) tokens.push(`▁w${tokens.length}`);
  const matrices = [["token_embd", tokens.length, dim]];
  const norms = ["output_norm"];
  for (let n = 0; n < layers; n++) {
    for (const name of ["attn_q", "attn_k", "attn_v", "attn_output"]) matrices.push([`blk.${n}.${name}`, dim, dim]);
    matrices.push([`blk.${n}.ffn_gate`, ffn, dim], [`blk.${n}.ffn_up`, ffn, dim], [`blk.${n}.ffn_down`, dim, ffn]);
    norms.push(`blk.${n}.attn_norm`, `blk.${n}.ffn_norm`);
  }
  const writer = new Writer().u32(0x46554747).u32(3).u64(matrices.length + norms.length).u64(16);
  writer.key("general.architecture", 8, "llama").key("general.name", 8, "made").key("general.alignment", 4, ALIGNMENT);
  for (const [name, value] of [["block_count", layers], ["context_length", 2048], ["embedding_length", dim], ["feed_forward_length", ffn], ["attention.head_count", dim / head], ["attention.head_count_kv", dim / head]]) writer.key(`llama.${name}`, 4, value);
  writer.key("llama.attention.layer_norm_rms_epsilon", 6, 1e-5).key("llama.rope.freq_base", 6, 10_000);
  writer.key("tokenizer.ggml.model", 8, "llama").keys("tokenizer.ggml.tokens", 8, tokens).keys("tokenizer.ggml.scores", 6, tokens.map((_, n) => -n));
  writer.keys("tokenizer.ggml.token_type", 5, tokens.map((_, n) => (n === 0 ? 2 : n < 3 ? 3 : n < 259 ? 6 : 1)));
  writer.key("tokenizer.ggml.bos_token_id", 4, 1);
  // All matrices, then all norms: one pattern from the first block to the last.
  let offset = 0;
  for (const [name, rows, cols] of matrices) {
    writer.text(`${name}.weight`).u32(2).u64(cols).u64(rows).u32(8).u64(offset);
    offset += (rows * cols * BLOCK) / 32;
  }
  const normsAt = offset;
  for (const name of norms) {
    writer.text(`${name}.weight`).u32(1).u64(dim).u32(0).u64(offset);
    offset += 4 * dim;
  }
  let header = Buffer.concat(writer.bytes);
  header = Buffer.concat([header, Buffer.alloc((ALIGNMENT - (header.length % ALIGNMENT)) % ALIGNMENT)]);
  /** Where in the file a source of bytes begins and ends. */
  const areas = [[header, 0, header.length], [pattern, header.length, header.length + normsAt], [ones, header.length + normsAt, header.length + offset]];
  function* read(start, end) {
    for (const [source, first, last] of areas) {
      for (let at = Math.max(start, first); at < Math.min(end, last); ) {
        const from = (at - first) % source.length;
        const chunk = source.subarray(from, from + Math.min(end, last) - at);
        yield chunk;
        at += chunk.length;
      }
    }
  }
  return { size: header.length + offset, read };
}

/** A GGUF file with a plain chat template, in front and of a length that keeps the tensors where they are aligned. */
export function withTemplate(file) {
  const template = "{% for message in messages %}{{ message.role }} says: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}answer:{% endif %}";
  const length = 8 + "tokenizer.chat_template".length + 4 + 8 + template.length;
  const writer = new Writer().key("tokenizer.chat_template", 8, template.padEnd(template.length + ((32 - (length % 32)) % 32)));
  const head = Buffer.from(file.subarray(0, 24));
  head.writeBigUInt64LE(head.readBigUInt64LE(16) + 1n, 16);
  const whole = Buffer.concat([head, ...writer.bytes, file.subarray(24)]);
  return { size: whole.length, read: (start, end) => [whole.subarray(start, end)] };
}
