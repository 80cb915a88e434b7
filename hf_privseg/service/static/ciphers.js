// The key families on blocks of pixels and on the patch embedding's weight, as hf_privseg/setr/ciphers.py defines them:
// block vectors of L = 3 * patchSize ** 2 pixels, flattened (channel, row, column), in [-1, 1].
//
//     actOnRows(rows)     (n, L) -> (n, width)   b E_enc^-1 of pixels
//     actOnWeight(rows)   (D, L) -> (D, L)       W E_enc^T of a weight
//
// Both take and return Float64Array, row by row. actsOnBytes says whether the family has an 8-bit form, which is
// actOnRows of a Uint8Array. width is L but for the family embedding, where only the owner encrypts the weight.

import { productsWith } from "./products.js";

const CONDITION = 10; // of the matrix family

// Key and length of a block -> the cipher of the key's family.
export async function cipherFor(key, length) {
  return { width: length, ...(await CIPHERS[key.family](key, length)) };
}

const CIPHERS = {
  async permutation(key, length) {
    const order = await key.permutation(length);
    const act = (rows) => reordered(rows, order);
    return { actsOnBytes: true, actOnRows: act, actOnWeight: act };
  },

  async signed_permutation(key, length) {
    const order = await key.permutation(length);
    const signs = await key.signs(length);
    const act = (rows) => negated(reordered(rows, order), signs);
    return { actsOnBytes: true, actOnRows: act, actOnWeight: act };
  },

  async orthogonal(key, length) {
    const q = await key.haar(length);
    const act = productsWith(q, length);
    return { actsOnBytes: false, actOnRows: act, actOnWeight: act };
  },

  // b A, or b A T
  async embedding(key, length) {
    if (key.length !== length) {
      throw new RangeError(`this client embedding is for blocks of ${key.length} numbers, and the model has ${length}`);
    }
    return { actsOnBytes: false, width: key.width, actOnRows: productsWith(key.matrix, length) };
  },

  // E_enc = Q1 diag(s) Q2
  async matrix(key, length) {
    const [q1, q2] = [await key.haar(length, "q1"), await key.haar(length, "q2")];
    const [byQ1, byQ2] = [productsWith(q1, length), productsWith(q2, length)];
    const spread = (i) => CONDITION ** (0.5 - i / (length - 1));
    const act = (rows, factor) => {
      const turned = byQ2(rows);
      for (let i = 0; i < turned.length; i++) turned[i] *= factor(i % length);
      return byQ1(turned);
    };
    const stretch = Float64Array.from({ length }, (_, i) => spread(i));
    return {
      actsOnBytes: false,
      actOnRows: (rows) => act(rows, (i) => 1 / stretch[i]),
      actOnWeight: (rows) => act(rows, (i) => stretch[i]),
    };
  },
};

// (3, height, width) planes <-> rows of one block each; both ways keep the array's type.
export function blocksFromPlanes(planes, height, width, patchSize) {
  return moved(planes, height, width, patchSize, (rows, source, to, from) => (rows[to] = source[from]));
}

export function planesFromBlocks(rows, height, width, patchSize) {
  return moved(rows, height, width, patchSize, (planes, source, to, from) => (planes[from] = source[to]));
}

function moved(source, height, width, patchSize, move) {
  if (height % patchSize || width % patchSize || source.length !== 3 * height * width) {
    throw new RangeError(`expected 3 planes of whole blocks of ${patchSize}, got ${height} x ${width}`);
  }
  const result = new source.constructor(source.length);
  let row = 0;
  for (let top = 0; top < height; top += patchSize) {
    for (let left = 0; left < width; left += patchSize) {
      for (let channel = 0; channel < 3; channel++) {
        for (let y = top; y < top + patchSize; y++) {
          const start = (channel * height + y) * width;
          for (let x = left; x < left + patchSize; x++) move(result, source, row++, start + x);
        }
      }
    }
  }
  return result;
}

function reordered(rows, order) {
  const length = order.length;
  const result = new rows.constructor(rows.length);
  for (let start = 0; start < rows.length; start += length) {
    for (let i = 0; i < length; i++) result[start + i] = rows[start + order[i]];
  }
  return result;
}

// A sign of -1 is -u on centred pixels and 255 - v on 8-bit ones.
function negated(rows, signs) {
  const isBytes = rows instanceof Uint8Array;
  for (let i = 0; i < rows.length; i++) {
    if (signs[i % signs.length] < 0) rows[i] = isBytes ? 255 - rows[i] : -rows[i];
  }
  return rows;
}
