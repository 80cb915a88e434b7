// What owner and client compute: keys by name, encrypted patch embeddings and encrypted images. It runs in a worker,
// and keys do not leave it unless keyText is called.

import { blocksFromPlanes, cipherFor, planesFromBlocks } from "./ciphers.js";
import { blocksToFile, embeddingFromFile, embeddingToFile, imageToFile, pictureOf } from "./containers.js";
import { eightBitBlocks, restoredBlocks } from "./eight_bit_blocks.js";
import { SecretKey } from "./keys.js";

// Levels 0..255 -> -1..1. Loops like this one are several times as fast as Float64Array.from with a function.
function centred(levels) {
  const result = new Float64Array(levels.length);
  for (let i = 0; i < levels.length; i++) result[i] = (levels[i] - 127.5) / 127.5;
  return result;
}

const BAND = 128; // blocks that are encrypted at a time

export class OwnerClient {
  #keys = new Map();
  #ciphers = new Map();

  // Makes a new key of a family under a name -> its public facts.
  newKey(name, family) {
    return this.#setKey(name, SecretKey.generate(family));
  }

  // Takes a key in its text form under a name -> its public facts.
  loadKey(name, text) {
    return this.#setKey(name, SecretKey.fromText(text));
  }

  // The secret itself, for a file that the visitor asked for.
  keyText(name) {
    return this.#keys.get(name).toText();
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
  // bits: 8 or 16 of a number; the families with 8-bit pixels have 8.
  // onBand: is told the share of the blocks that are done, 0 to 1, now and then; what it throws ends the work.
  async encryptImage(name, rgba, height, width, patchSize, originalSize, bits = 16, onBand = async () => {}) {
    const cipher = await this.#cipher(name, 3 * patchSize ** 2);
    const levels = new Uint8Array(3 * height * width);
    for (let i = 0; i < height * width; i++) {
      for (let channel = 0; channel < 3; channel++) levels[channel * height * width + i] = rgba[4 * i + channel];
    }
    const blocks = blocksFromPlanes(levels, height, width, patchSize);
    const rows = cipher.actsOnBytes ? blocks : centred(blocks);
    const encrypted = new rows.constructor(rows.length);
    const band = BAND * 3 * patchSize ** 2;
    for (let start = 0; start < rows.length; start += band) {
      await onBand(start / rows.length);
      encrypted.set(cipher.actOnRows(rows.subarray(start, start + band)), start);
    }
    const facts = {
      ...(await this.#keys.get(name).facts()),
      patch_size: patchSize, original_size: originalSize, valid_region: [height, width],
    };
    const blocksOf8Bits = bits === 8 && !cipher.actsOnBytes ? eightBitBlocks(encrypted, 3 * patchSize ** 2) : null;
    const planes = planesFromBlocks(blocksOf8Bits ? restoredBlocks(blocksOf8Bits) : encrypted, height, width, patchSize);
    const pixels = cipher.actsOnBytes ? planes : Float32Array.from(planes);
    const file = await (blocksOf8Bits ? blocksToFile(blocksOf8Bits, facts) : imageToFile(pixels, facts));
    return { file, picture: pictureOf(pixels, height, width) };
  }

  #setKey(name, key) {
    this.#keys.set(name, key);
    for (const id of this.#ciphers.keys()) if (id.startsWith(`${name}/`)) this.#ciphers.delete(id);
    return key.facts();
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
