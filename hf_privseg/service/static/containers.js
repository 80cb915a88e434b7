// The files that a client sends: encrypted images, as hf_privseg/setr/image_container.py writes them (PNG for the
// permutation families, safetensors with 16-bit values and a scale for the others), and encrypted patch embeddings.

import { packed } from "./packed_integers.js";

const INT16_MAX = 32767;
const ENTRY = "privseg";
const encode = (text) => new TextEncoder().encode(text);

// (3, height, width) Uint8Array or Float32Array of encrypted pixels and the facts about them -> Uint8Array, the file.
// facts: {family, version, fingerprint, patch_size, original_size, valid_region}, the last two as [height, width].
export async function imageToFile(pixels, facts) {
  const [height, width] = facts.valid_region; // whole blocks: a page resizes, and never pads
  if (pixels instanceof Uint8Array) {
    const header = await withDigest(facts, [encode(`uint8[3, ${height}, ${width}]`), pixels]);
    return pngBytes(pixels, height, width, header);
  }
  return multiplesToFile(multiplesOf(pixels), [3, height, width], facts);
}

// Multiples of a scale, their shape, and the facts about them -> Uint8Array, the file; in the compact form if `packs`.
export async function multiplesToFile({ values, scale }, shape, facts, packs = false) {
  const [valueBytes, scaleBytes] = [bytesOf(values), bytesOf(scale)];
  const parts = [encode(`int16[${shape.join(", ")}]`), valueBytes, encode("float32[1]"), scaleBytes];
  const header = await withDigest(packs ? { ...facts, packed: shape } : facts, parts);
  const content = packs ? await packed(values) : valueBytes;
  const tensor = packs ? ["packed", "U8", [content.length], content] : ["values", "I16", shape, content];
  return safetensors([["scale", "F32", [1], scaleBytes], tensor].sort(), { [ENTRY]: header });
}

// Encrypted blocks in the 8-bit form and the facts about them -> Uint8Array, the file.
export async function blocksToFile({ values, scale, axis, along }, facts) {
  const grid = facts.valid_region.map((side) => side / facts.patch_size);
  const shapes = { values: [...grid, axis.length], scale: grid, axis: [axis.length], along: grid };
  const arrays = { values, scale, axis, along };
  const parts = Object.entries(arrays).flatMap(([name, array]) => [
    encode(`${name === "values" ? "int8" : "float32"}[${shapes[name].join(", ")}]`), bytesOf(array),
  ]);
  const floats = ["along", "axis", "scale"].map((name) => [name, "F32", shapes[name], bytesOf(arrays[name])]);
  const tensors = [...floats, ["values", "I8", shapes.values, bytesOf(values)]];
  return safetensors(tensors, { [ENTRY]: await withDigest(facts, parts) });
}

// Float32Array weight, its shape and the facts of its key -> Uint8Array, the file that register_embedding takes.
export function embeddingToFile(weight, shape, facts) {
  const metadata = Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, String(value)]));
  return safetensors([["weight", "F32", shape, bytesOf(weight)]], metadata);
}

// Content of a safetensors file with one float32 tensor "weight" -> {weight: Float32Array, shape}.
export function embeddingFromFile(file) {
  const { weight } = tensorsOf(file).tensors;
  if (weight?.dtype !== "F32") throw new TypeError("expected a safetensors file with a float32 tensor 'weight'");
  return { weight: new Float32Array(weight.bytes.slice().buffer), shape: weight.shape };
}

// Content of a safetensors file -> {metadata, tensors: {name: {dtype, shape, bytes}}}
export function tensorsOf(file) {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const { __metadata__: metadata, ...entries } = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  const tensors = Object.entries(entries).map(([name, { dtype, shape, data_offsets: offsets }]) => {
    const [begin, end] = offsets.map((offset) => 8 + length + offset);
    return [name, { dtype, shape, bytes: file.subarray(begin, end) }];
  });
  return { metadata, tensors: Object.fromEntries(tensors) };
}

/**
 * What the file of an encrypted image says of itself; null for any other file. Nothing but the header is read.
 * @param {Uint8Array} file
 * @returns {{family: string, fingerprint: string} | null}
 */
export function imageFacts(file) {
  try {
    const text = isPng(file) ? pngText(file) : tensorsOf(file).metadata[ENTRY];
    const { family, fingerprint } = JSON.parse(text);
    return typeof family === "string" && /^[0-9a-f]{16}$/.test(fingerprint) ? { family, fingerprint } : null;
  } catch {
    return null;
  }
}

/**
 * A segmentation map as a PNG file with a palette, whose pixels are the numbers of the classes.
 * @param {import("./image.js").SegmentationMap} map
 * @param {number[][]} palette
 */
export function mapToFile({ labels, height, width }, palette) {
  return pngFile(labels, height, width, 1, [pngChunk("PLTE", Uint8Array.from(palette.flat()))]);
}

// (3, height, width) encrypted pixels -> RGBA that shows people what can be seen in them, as to_picture in Python.
export function pictureOf(pixels, height, width) {
  const count = height * width;
  const rgba = new Uint8ClampedArray(4 * count).fill(255);
  let [factor, offset] = [1, 0];
  if (!(pixels instanceof Uint8Array)) {
    let [sum, square] = [0, 0];
    for (const value of pixels) sum += value;
    const mean = sum / pixels.length;
    for (const value of pixels) square += (value - mean) ** 2;
    square /= pixels.length - 1;
    [factor, offset] = [127.5 / (1.5 * Math.sqrt(square) || 1), 127.5];
  }
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < count; i++) rgba[4 * i + channel] = pixels[channel * count + i] * factor + offset;
  }
  return rgba;
}

// Float32Array -> {values, scale}: the nearest multiples of a step, which is larger where 16 bits would not do.
export function multiplesOf(pixels, step = 0) {
  let largest = 0;
  for (const value of pixels) largest = Math.max(largest, Math.abs(value));
  const scale = Float32Array.of(Math.max(step, largest / INT16_MAX));
  scale[0] ||= 1;
  const values = new Int16Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) values[i] = toEven(pixels[i] / scale[0]);
  return { values, scale };
}

function toEven(value) {
  const rounded = Math.round(value);
  const even = rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
  return Math.min(Math.max(even, -INT16_MAX), INT16_MAX);
}

async function withDigest(facts, parts) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", joined(parts)));
  const sha256 = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return JSON.stringify({ format: 1, ...facts, sha256 });
}

// [[name, dtype, shape, bytes], ...] and metadata -> a safetensors file; its header ends on a multiple of 8.
function safetensors(tensors, metadata) {
  const header = { __metadata__: metadata };
  let offset = 0;
  for (const [name, dtype, shape, bytes] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, (offset += bytes.length)] };
  }
  let text = JSON.stringify(header);
  text = text.padEnd(Math.ceil(text.length / 8) * 8, " ");
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true);
  return joined([length, encode(text), ...tensors.map((tensor) => tensor[3])]);
}

function pngBytes(planes, height, width, header) {
  const levels = new Uint8Array(3 * height * width);
  for (let channel = 0, from = 0; channel < 3; channel++) {
    for (let to = channel; to < levels.length; to += 3) levels[to] = planes[from++];
  }
  return pngFile(levels, height, width, 3, [pngChunk("tEXt", encode(`${ENTRY}\0${header}`))]);
}

// Levels of 8 bits, pixel by pixel, with 3 channels (RGB) or 1 (palette) -> a PNG file with further chunks.
async function pngFile(levels, height, width, channels, chunks) {
  const size = new Uint8Array(13);
  const view = new DataView(size.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  size.set([8, channels === 3 ? 2 : 3, 0, 0, 0], 8);
  // each row after a filter byte of 0: pixels that look random gain nothing from another filter
  const length = channels * width;
  const rows = new Uint8Array(height * (length + 1));
  for (let y = 0; y < height; y++) rows.set(levels.subarray(y * length, (y + 1) * length), y * (length + 1) + 1);
  const packed = new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate")));
  return joined([
    Uint8Array.from(PNG_SIGNATURE),
    pngChunk("IHDR", size),
    ...chunks,
    pngChunk("IDAT", new Uint8Array(await packed.arrayBuffer())),
    pngChunk("IEND", new Uint8Array(0)),
  ]);
}

const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const isPng = (file) => PNG_SIGNATURE.every((byte, i) => file[i] === byte);
const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);

// The text of a PNG file's chunk of ours; it stands before the pixels.
function pngText(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (let at = PNG_SIGNATURE.length; ; at += 12 + view.getUint32(at)) {
    const type = latin1(file.subarray(at + 4, at + 8));
    if (type === "IDAT" || type === "IEND") return undefined;
    const text = latin1(file.subarray(at + 8, at + 8 + view.getUint32(at)));
    if (type === "tEXt" && text.startsWith(`${ENTRY}\0`)) return text.slice(ENTRY.length + 1);
  }
}

function pngChunk(type, data) {
  const chunk = joined([new Uint8Array(4), encode(type), data, new Uint8Array(4)]);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, data.length);
  view.setUint32(8 + data.length, crc32(chunk.subarray(4, 8 + data.length)));
  return chunk;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function joined(parts) {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    result.set(part, offset);
    offset += part.length;
  }
  return result;
}

// Typed arrays are little-endian on every machine that runs a browser today, as the file formats want it.
function bytesOf(array) {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
