// The files that a client sends: encrypted images, as hf_privseg/setr/image_container.py writes them (PNG for the
// permutation families, safetensors with 16-bit values and a scale for the others), and encrypted patch embeddings.

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
  const { values, scale } = quantised(pixels);
  const [valueBytes, scaleBytes] = [bytesOf(values), bytesOf(scale)];
  const header = await withDigest(facts, [
    encode(`int16[3, ${height}, ${width}]`), valueBytes, encode("float32[1]"), scaleBytes,
  ]);
  const tensors = [
    ["scale", "F32", [1], scaleBytes],
    ["values", "I16", [3, height, width], valueBytes],
  ];
  return safetensors(tensors, { [ENTRY]: header });
}

// Float32Array weight, its shape and the facts of its key -> Uint8Array, the file that register_embedding takes.
export function embeddingToFile(weight, shape, facts) {
  const metadata = Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, String(value)]));
  return safetensors([["weight", "F32", shape, bytesOf(weight)]], metadata);
}

// Content of a safetensors file with one float32 tensor "weight" -> {weight: Float32Array, shape}.
export function embeddingFromFile(file) {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const { weight } = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  if (weight?.dtype !== "F32") throw new TypeError("expected a safetensors file with a float32 tensor 'weight'");
  const [begin, end] = weight.data_offsets.map((offset) => 8 + length + offset);
  return { weight: new Float32Array(file.slice(begin, end).buffer), shape: weight.shape };
}

// (3, height, width) encrypted pixels -> RGBA that shows people what can be seen in them, as to_picture in Python.
export function pictureOf(pixels, height, width) {
  const count = height * width;
  const rgba = new Uint8ClampedArray(4 * count).fill(255);
  let [factor, offset] = [1, 0];
  if (!(pixels instanceof Uint8Array)) {
    const mean = pixels.reduce((sum, value) => sum + value, 0) / pixels.length;
    const square = pixels.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (pixels.length - 1);
    [factor, offset] = [127.5 / (1.5 * Math.sqrt(square) || 1), 127.5];
  }
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < count; i++) rgba[4 * i + channel] = pixels[channel * count + i] * factor + offset;
  }
  return rgba;
}

function quantised(pixels) {
  let largest = 0;
  for (const value of pixels) largest = Math.max(largest, Math.abs(value));
  const scale = Float32Array.of(largest / INT16_MAX);
  scale[0] ||= 1;
  return { values: Int16Array.from(pixels, (value) => toEven(value / scale[0])), scale };
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

async function pngBytes(planes, height, width, header) {
  const size = new Uint8Array(13);
  const view = new DataView(size.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  size.set([8, 2, 0, 0, 0], 8); // 8 bits, RGB
  // each row after a filter byte of 0: pixels that look random gain nothing from another filter
  const rows = new Uint8Array(height * (3 * width + 1));
  for (let y = 0, to = 0; y < height; y++) {
    to++;
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) rows[to++] = planes[(channel * height + y) * width + x];
    }
  }
  const packed = new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate")));
  return joined([
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    pngChunk("IHDR", size),
    pngChunk("tEXt", encode(`${ENTRY}\0${header}`)),
    pngChunk("IDAT", new Uint8Array(await packed.arrayBuffer())),
    pngChunk("IEND", new Uint8Array(0)),
  ]);
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
