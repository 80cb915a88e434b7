// Rows times the transpose of a matrix, (n, L) by (r, L) -> (n, r), in Float64Array, row by row: by WebAssembly where it
// has 128-bit vectors, otherwise in JavaScript, with the same bits.
//
// Both work in tiles of 4 x 4 sums: each number that is read serves four of them. A sum is formed in the order of its
// terms, as one by one. Where a size leaves a rest, the last tile overlaps the one before.

const TILE = 4;
const PAGE = 65536; // bytes, in which the memory of WebAssembly grows

// products.wat, as its first lines say
const CODE = Uint8Array.from(
  atob(
      "AGFzbQEAAAABCQFgBX9/f39/AAMCAQAFAwEAAAcaAgZtZW1vcnkCAA1tdWx0aXBseVBhbmVsAAAKqAQBpQQCCX8LeyACQQN0IQUgAUEEayEHA0" +
      "AgACAGIAVsaiEJIAkgBWohCiAKIAVqIQsgCyAFaiEMIAohCCADIQ39DAAAAAAAAAAAAAAAAAAAAAAhEf0MAAAAAAAAAAAAAAAAAAAAACES/QwA" +
      "AAAAAAAAAAAAAAAAAAAAIRP9DAAAAAAAAAAAAAAAAAAAAAAhFP0MAAAAAAAAAAAAAAAAAAAAACEV/QwAAAAAAAAAAAAAAAAAAAAAIRb9DAAAAA" +
      "AAAAAAAAAAAAAAAAAhF/0MAAAAAAAAAAAAAAAAAAAAACEYA0AgDf0ABAAhDyAN/QAEECEQIAn9CgMAIQ4gESAOIA/98gH98AEhESASIA4gEP3y" +
      "Af3wASESIAr9CgMAIQ4gEyAOIA/98gH98AEhEyAUIA4gEP3yAf3wASEUIAv9CgMAIQ4gFSAOIA/98gH98AEhFSAWIA4gEP3yAf3wASEWIAz9Cg" +
      "MAIQ4gFyAOIA/98gH98AEhFyAYIA4gEP3yAf3wASEYIA1BIGohDSAKQQhqIQogC0EIaiELIAxBCGohDCAJQQhqIgkgCEkNAAsgBCAGIAVsaiEJ" +
      "IAkgEf0LBAAgCSAS/QsEECAJIAVqIQkgCSAT/QsEACAJIBT9CwQQIAkgBWohCSAJIBX9CwQAIAkgFv0LBBAgCSAFaiEJIAkgF/0LBAAgCSAY/Q" +
      "sEECAGIAdJBEAgBkEEaiEGIAYgB0sEQCAHIQYLDAELCws=",
  ),
  (character) => character.charCodeAt(0),
);

/** Whether products are computed by WebAssembly. */
export const hasVectors = compiled() !== null;

/**
 * A matrix, (r, L) -> the function that multiplies rows with its transpose.
 * @param {Float64Array} matrix
 * @param {number} length
 * @param {boolean} withVectors
 * @returns {(rows: Float64Array) => Float64Array}
 */
export function productsWith(matrix, length, withVectors = hasVectors) {
  const width = matrix.length / length;
  const isSmall = Math.min(length, width) < TILE;
  const product = withVectors && !isSmall ? byVectors(matrix, length, width) : inTiles(matrix, length, width);
  const fewRows = (rows) => oneByOne(rows, matrix, length, width);
  return (rows) => (isSmall || rows.length < TILE * length ? fewRows(rows) : product(rows));
}

// The code for this machine; null where there is no WebAssembly, or none with vectors, or a policy forbids it.
function compiled() {
  try {
    return new WebAssembly.Module(CODE);
  } catch {
    return null;
  }
}

// The matrix lies in the function's own memory, four of its rows side by side: in the order in which it is read.
function byVectors(matrix, length, width) {
  const { memory, multiplyPanel } = new WebAssembly.Instance(compiled()).exports;
  const columns = [];
  for (let j = 0; j < width; j += TILE) columns.push(Math.min(j, width - TILE));
  const panelSize = TILE * length;
  const start = columns.length * panelSize; // of the rows, behind the panels; then comes the result
  const reserve = (numbers) => {
    const missing = 8 * numbers - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / PAGE));
    return new Float64Array(memory.buffer);
  };
  const panels = reserve(start);
  columns.forEach((column, panel) => {
    for (let k = 0; k < length; k++) {
      for (let c = 0; c < TILE; c++) panels[panel * panelSize + TILE * k + c] = matrix[(column + c) * length + k];
    }
  });
  return (rows) => {
    const numbers = reserve(start + 2 * rows.length);
    numbers.set(rows, start);
    const end = start + rows.length;
    columns.forEach((column, panel) => {
      multiplyPanel(8 * start, rows.length / length, length, 8 * panel * panelSize, 8 * (end + column));
    });
    return firstOfRows(numbers.subarray(end, end + rows.length), length, width);
  };
}

// The code above writes rows of `length` numbers, of which the first `width` are the result.
function firstOfRows(rows, length, width) {
  const count = rows.length / length;
  const result = new Float64Array(count * width);
  for (let i = 0; i < count; i++) result.set(rows.subarray(i * length, i * length + width), i * width);
  return result;
}

function inTiles(matrix, length, width) {
  return (rows) => {
    const count = rows.length / length;
    const result = new Float64Array(count * width);
    for (let i = 0; i < count; i += TILE) {
      const row = Math.min(i, count - TILE);
      for (let j = 0; j < width; j += TILE) multiplyTile(rows, matrix, length, row, Math.min(j, width - TILE), width, result);
    }
    return result;
  };
}

function multiplyTile(rows, matrix, length, row, column, width, result) {
  const [r, m, to] = [row * length, column * length, row * width + column];
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
  result.set([a0, a1, a2, a3], to);
  result.set([b0, b1, b2, b3], to + width);
  result.set([c0, c1, c2, c3], to + 2 * width);
  result.set([d0, d1, d2, d3], to + 3 * width);
}

function oneByOne(rows, matrix, length, width) {
  const result = new Float64Array((rows.length / length) * width);
  for (let r = 0, to = 0; r < rows.length; r += length) {
    for (let j = 0; j < width; j++, to++) {
      for (let k = 0; k < length; k++) result[to] += rows[r + k] * matrix[j * length + k];
    }
  }
  return result;
}
