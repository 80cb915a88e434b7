// The key families on blocks of pixels and on the patch embedding's weight, as hf_privseg/setr/ciphers.py defines them:
// block vectors of L = 3 * patchSize ** 2 pixels, flattened (channel, row, column), in [-1, 1].
//
//     actOnRows(rows)     (n, L) -> (n, L)    b E_enc^-1 of pixels
//     actOnWeight(rows)   (D, L) -> (D, L)    W E_enc^T of a weight
//
// Both take and return Float64Array, row by row. actsOnBytes says whether the family has an 8-bit form, which is
// actOnRows of a Uint8Array.

const CONDITION = 10; // of the matrix family
const TILE = 4;

// Key and length of a block -> the cipher of the key's family.
export async function cipherFor(key, length) {
  return CIPHERS[key.family](key, length);
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
    const act = (rows) => timesTransposed(rows, q, length);
    return { actsOnBytes: false, actOnRows: act, actOnWeight: act };
  },

  // E_enc = Q1 diag(s) Q2
  async matrix(key, length) {
    const [q1, q2] = [await key.haar(length, "q1"), await key.haar(length, "q2")];
    const spread = (i) => CONDITION ** (0.5 - i / (length - 1));
    const act = (rows, factor) => {
      const turned = timesTransposed(rows, q2, length);
      for (let i = 0; i < turned.length; i++) turned[i] *= factor(i % length);
      return timesTransposed(turned, q1, length);
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

// (n, L) times the transpose of (L, L), in tiles of 4 x 4 sums: each number that is read serves four of them. A sum is
// formed in the order of its terms, as one by one. Where a length leaves a rest, the last tile overlaps the one before.
function timesTransposed(rows, matrix, length) {
  const result = new Float64Array(rows.length);
  const count = rows.length / length;
  if (count < TILE || length < TILE) return timesTransposedOneByOne(rows, matrix, length, result);
  for (let i = 0; i < count; i += TILE) {
    const r = Math.min(i, count - TILE) * length;
    for (let j = 0; j < length; j += TILE) multiplyTile(rows, matrix, length, r, Math.min(j, length - TILE), result);
  }
  return result;
}

function multiplyTile(rows, matrix, length, r, column, result) {
  const m = column * length;
  const [r1, r2, r3] = [r + length, r + 2 * length, r + 3 * length];
  const [m1, m2, m3] = [m + length, m + 2 * length, m + 3 * length];
  let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
  let c0 = 0, c1 = 0, c2 = 0, c3 = 0, d0 = 0, d1 = 0, d2 = 0, d3 = 0;
  for (let k = 0; k < length; k++) {
    const u0 = rows[r + k], u1 = rows[r1 + k], u2 = rows[r2 + k], u3 = rows[r3 + k];
    let v = matrix[m + k];
    a0 += u0 * v; b0 += u1 * v; c0 += u2 * v; d0 += u3 * v;
    v = matrix[m1 + k];
    a1 += u0 * v; b1 += u1 * v; c1 += u2 * v; d1 += u3 * v;
    v = matrix[m2 + k];
    a2 += u0 * v; b2 += u1 * v; c2 += u2 * v; d2 += u3 * v;
    v = matrix[m3 + k];
    a3 += u0 * v; b3 += u1 * v; c3 += u2 * v; d3 += u3 * v;
  }
  result.set([a0, a1, a2, a3], r + column);
  result.set([b0, b1, b2, b3], r1 + column);
  result.set([c0, c1, c2, c3], r2 + column);
  result.set([d0, d1, d2, d3], r3 + column);
}

function timesTransposedOneByOne(rows, matrix, length, result) {
  for (let r = 0; r < rows.length; r += length) {
    for (let j = 0; j < length; j++) {
      let sum = 0;
      for (let k = 0; k < length; k++) sum += rows[r + k] * matrix[j * length + k];
      result[r + j] = sum;
    }
  }
  return result;
}
