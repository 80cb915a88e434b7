// What owner and client compute: keys by name, encrypted patch embeddings and encrypted images. It runs in a worker,
// and keys do not leave it unless keyFile is called.

import { blocksFromPlanes, cipherFor, planesFromBlocks } from "./ciphers.js";
import { ClientEmbedding } from "./client_embedding.js";
import { blocksToFile, embeddingFromFile, embeddingToFile, imageToFile, multiplesOf, multiplesToFile, pictureOf } from "./containers.js";
import { eightBitBlocks, restoredBlocks } from "./eight_bit_blocks.js";
import { SecretKey } from "./keys.js";

// Levels 0..255 -> -1..1. Loops like this one are several times as fast as Float64Array.from with a function.
function centred(levels) {
  const result = new Float64Array(levels.length);
  for (let i = 0; i < levels.length; i++) result[i] = (levels[i] - 127.5) / 127.5;
  return result;
}

// RGBA -> the levels of the three channels, one after the other.
function levelsOf(rgba) {
  const count = rgba.length / 4;
  const levels = new Uint8Array(3 * count);
  for (let i = 0; i < count; i++) {
    for (let channel = 0; channel < 3; channel++) levels[channel * count + i] = rgba[4 * i + channel];
  }
  return levels;
}

// (n, width) -> (n, length), zeros at the end of each row.
function padded(rows, width, length) {
  if (width === length) return rows;
  const count = rows.length / width;
  const result = new rows.constructor(count * length);
  for (let i = 0; i < count; i++) result.set(rows.subarray(i * width, (i + 1) * width), i * length);
  return result;
}

const BAND = 128; // blocks that are encrypted at a time

// Rows of plain blocks -> those of encrypted ones.
async function encryptedRows(cipher, rows, length, onBand) {
  const encrypted = new rows.constructor((rows.length / length) * cipher.width);
  for (let start = 0; start < rows.length; start += BAND * length) {
    await onBand(start / rows.length);
    encrypted.set(cipher.actOnRows(rows.subarray(start, start + BAND * length)), (start / length) * cipher.width);
  }
  return encrypted;
}

// {bits, bitsPerBlock} -> {bits, step}: the step to whose multiples numbers are rounded, if any.
function roundingOf(key, { bits = 16, bitsPerBlock = null }) {
  if (bitsPerBlock === null) return { bits };
  if (key.stepFor === undefined) throw new RangeError("few bits a block need a client embedding with a transform code");
  return { bits: 16, step: key.stepFor(bitsPerBlock) };
}

// Encrypted rows and the facts about them -> {file, seen}: the file, and the rows that the service has of it.
async function written(rows, cipher, facts, planesOf, { bits, step }) {
  if (cipher.actsOnBytes) return { file: await imageToFile(planesOf(rows), facts), seen: rows };
  if (bits === 8) {
    const blocks = eightBitBlocks(rows, cipher.width);
    return { file: await blocksToFile(blocks, facts), seen: restoredBlocks(blocks) };
  }
  if (facts.family !== "embedding") return { file: await imageToFile(Float32Array.from(planesOf(rows)), facts), seen: rows };
  const multiples = multiplesOf(Float32Array.from(rows), step);
  const shape = [...facts.valid_region.map((side) => side / facts.patch_size), cipher.width];
  const seen = Float32Array.from(multiples.values, (value) => value * multiples.scale[0]);
  return { file: await multiplesToFile(multiples, shape, facts, step !== undefined), seen };
}

export class OwnerClient {
  #keys = new Map();
  #ciphers = new Map();

  // Makes a new key of a family under a name -> its public facts.
  newKey(name, family) {
    return this.#setKey(name, SecretKey.generate(family));
  }

  // Takes the content of a key file or of a client embedding's under a name -> its public facts.
  async loadKey(name, content) {
    const isTensors = content[8] === "{".charCodeAt(0);
    const key = isTensors ? await ClientEmbedding.fromFile(content) : SecretKey.fromText(new TextDecoder().decode(content));
    return this.#setKey(name, key);
  }

  // The secret itself, for a file that the visitor asked for.
  keyFile(name) {
    return this.#keys.get(name).toFile();
  }

  // Content of the public embedding's file -> {file, fingerprint}: the encrypted one, and that of the key it names.
  // names: the keys to encrypt it with, one after the other. claimed: the name of the key that the file names.
  async encryptEmbedding(file, names, claimed) {
    const { weight, shape } = embeddingFromFile(file);
    let rows = Float64Array.from(weight);
    for (const name of names) rows = (await this.#cipher(name, weight.length / shape[0])).actOnWeight(rows);
    const facts = await this.#keys.get(claimed).facts();
    return { file: embeddingToFile(Float32Array.from(rows), shape, facts), fingerprint: facts.fingerprint };
  }

  // RGBA pixels of whole blocks, and the size [height, width] that the segmentation map shall have
  // -> {file, picture}: the container, and RGBA of what can be seen in it.
  // rounding: {bits: 8} or {bitsPerBlock} as in Python; the families with 8-bit pixels have 8 bits.
  // onBand: is told the share of the blocks that are done, 0 to 1, now and then; what it throws ends the work.
  async encryptImage(name, rgba, height, width, patchSize, originalSize, rounding = {}, onBand = async () => {}) {
    const length = 3 * patchSize ** 2;
    const key = this.#keys.get(name);
    const cipher = await this.#cipher(name, length);
    const blocks = blocksFromPlanes(levelsOf(rgba), height, width, patchSize);
    const rows = await encryptedRows(cipher, cipher.actsOnBytes ? blocks : centred(blocks), length, onBand);
    const facts = {
      ...(await key.facts()), patch_size: patchSize, original_size: originalSize, valid_region: [height, width],
    };
    const planesOf = (each) => planesFromBlocks(padded(each, cipher.width, length), height, width, patchSize);
    const { file, seen } = await written(rows, cipher, facts, planesOf, roundingOf(key, rounding));
    return { file, picture: pictureOf(planesOf(seen), height, width) };
  }

  // A client embedding also says how many numbers it sends for a block, and how few bits they may take.
  async #setKey(name, key) {
    this.#keys.set(name, key);
    for (const id of this.#ciphers.keys()) if (id.startsWith(`${name}/`)) this.#ciphers.delete(id);
    return { ...(await key.facts()), width: key.width, bitsPerBlock: key.bitsPerBlock };
  }

  // Derives what a key needs for blocks of that size, ahead of its first use.
  async prepare(name, patchSize) {
    await this.#cipher(name, 3 * patchSize ** 2);
  }

  async #cipher(name, length) {
    const id = `${name}/${length}`;
    if (!this.#ciphers.has(id)) this.#ciphers.set(id, await cipherFor(this.#keys.get(name), length));
    return this.#ciphers.get(id);
  }
}
