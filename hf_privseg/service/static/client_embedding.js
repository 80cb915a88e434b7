// Client embeddings in the browser: the owner's secret file, as hf_privseg/setr/client_embedding.py writes it, which
// holds the client's part A (L, r) of the patch embedding, and with a transform code T (r, r) what few bits need.

import { tensorsOf } from "./containers.js";
import { FORMAT_VERSION, NAMESPACE, pseudorandomKey, streamBytes } from "./keys.js";
import { productsWith } from "./products.js";

const FAMILY = "embedding";
const ENTRY = "privseg_client_embedding";
const CODE = ["code_transform", "code_steps", "code_bits"];

export class ClientEmbedding {
  #file;
  #matrix; // A
  #code; // the arrays of CODE, or null

  /** @param {Uint8Array} file @param {any} parts of it, checked */
  constructor(file, { header, matrix, code, length, width }) {
    [this.#file, this.#matrix, this.#code] = [file, matrix, code];
    [this.family, this.version, this.length, this.width] = [FAMILY, FORMAT_VERSION, length, width];
    [this.fingerprint, this.patchSize, this.numChannels] = [header.fingerprint, header.patch_size, header.num_channels];
  }

  /**
   * The content of a file -> the client embedding; an error never repeats any of it.
   * @param {Uint8Array} file
   */
  static async fromFile(file) {
    let parts;
    try {
      parts = partsOf(file);
    } catch {
      throw new RangeError("this is no client embedding, or a part of one; copy the file again from where it was made");
    }
    if ((await fingerprintOf(parts)) !== parts.header.fingerprint) {
      throw new RangeError("the numbers of this client embedding are not those that were written; copy the file again");
    }
    return new ClientEmbedding(file, parts);
  }

  /** The secret itself. */
  toFile() {
    return this.#file;
  }

  /** The public facts, as of a SecretKey. */
  async facts() {
    return { family: this.family, version: this.version, fingerprint: this.fingerprint };
  }

  /** The least and the most bits that a block may be given, [least, most]; null without a transform code. */
  get bitsPerBlock() {
    const bits = this.#code?.[2];
    return bits ? [bits.at(-1), bits[0]] : null;
  }

  /** (r, L) Float64Array: the transpose of A, or of A T, by which a block becomes what is sent. */
  get matrix() {
    const { length, width } = this;
    const sent = this.#code ? productsWith(transposed(this.#code[0], width, width), width)(this.#matrix) : this.#matrix;
    return transposed(sent, length, width);
  }

  /** Bits that a block may take -> the step to whose multiples numbers are rounded. @param {number} bitsPerBlock */
  stepFor(bitsPerBlock) {
    if (this.#code === null) throw new RangeError("this client embedding has no transform code, which few bits need");
    const [, steps, bits] = this.#code;
    const [least, most] = this.bitsPerBlock;
    if (!(bitsPerBlock >= least && bitsPerBlock <= most)) {
      throw new RangeError(`expected ${Math.ceil(least)} to ${Math.floor(most)} bits a block, got ${bitsPerBlock}`);
    }
    const i = Math.min(bits.findLastIndex((each) => each >= bitsPerBlock), bits.length - 2);
    const share = (bits[i] - bitsPerBlock) / (bits[i] - bits[i + 1]);
    return Math.exp(Math.log(steps[i]) + share * (Math.log(steps[i + 1]) - Math.log(steps[i])));
  }
}

// The content of a file -> its header and numbers; throws whatever comes where it is another file.
function partsOf(file) {
  const { metadata, tensors } = tensorsOf(file);
  const header = JSON.parse(metadata[ENTRY]);
  const [length, width] = tensors.matrix.shape;
  const { fingerprint_key: { bytes: secret }, matrix } = tensors;
  const isOurs = header.format === 1 && header.family === FAMILY && header.version === FORMAT_VERSION;
  const fits = length === header.num_channels * header.patch_size ** 2 && width <= length && secret.length === 32;
  const code = CODE[0] in tensors ? CODE.map((name) => float64(tensors[name])) : null;
  if (!isOurs || !fits || (code && code[0].length !== width ** 2)) throw new RangeError();
  return { header, length, width, secret, matrix: float64(matrix), code };
}

function float64({ dtype, bytes }) {
  if (dtype !== "F64") throw new TypeError();
  return new Float64Array(bytes.slice().buffer); // a copy, which begins on a multiple of 8
}

async function fingerprintOf({ header, width, secret, matrix, code }) {
  const begin = new TextEncoder().encode(`${header.patch_size},${header.num_channels},${width},`);
  const numbers = new Blob([begin, matrix, ...(code ?? [])]);
  const digest = hexadecimal(await crypto.subtle.digest("SHA-256", await numbers.arrayBuffer()));
  const prk = await pseudorandomKey(secret);
  return hexadecimal(await streamBytes(prk, `${NAMESPACE}/${FAMILY}/fingerprint/${digest}`, 8));
}

function hexadecimal(bytes) {
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// (rows, columns) -> (columns, rows)
function transposed(matrix, rows, columns) {
  const result = new Float64Array(matrix.length);
  for (let i = 0, from = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j * rows + i] = matrix[from++];
  return result;
}
