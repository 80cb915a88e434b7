// The 8-bit form of encrypted blocks, as hf_privseg/setr/eight_bit_blocks.py defines it: of each block
//
//     scale * values + along * axis
//
// with values of 8 bits, and the axis near the direction in which the blocks vary most. It needs the ciphertext alone.

const INT8_MAX = 127;
const LEAST = 2 ** -100; // of scales and lengths
const SAMPLE = 1024; // blocks from which the axis is estimated
const ITERATIONS = 8;

/** @typedef {{values: Int8Array, scale: Float32Array, axis: Float32Array, along: Float32Array}} EightBitBlocks */

/**
 * Encrypted blocks, row by row -> the nearest ones of 8-bit numbers.
 * @param {Float64Array} rows
 * @param {number} length of a block
 * @returns {EightBitBlocks}
 */
export function eightBitBlocks(rows, length) {
  const count = rows.length / length;
  const axis = mainAxis(rows, length);
  const [values, scale, along] = [new Int8Array(rows.length), new Float32Array(count), new Float32Array(count)];
  for (let block = 0; block < count; block++) {
    const row = rows.subarray(block * length, (block + 1) * length);
    along[block] = dot(row, axis);
    let largest = 0;
    for (let i = 0; i < length; i++) largest = Math.max(largest, Math.abs(row[i] - along[block] * axis[i]));
    scale[block] = Math.max(largest / INT8_MAX, LEAST);
    for (let i = 0; i < length; i++) {
      const value = Math.round((row[i] - along[block] * axis[i]) / scale[block]);
      values[block * length + i] = Math.min(Math.max(value, -INT8_MAX), INT8_MAX);
    }
  }
  return { values, scale, axis, along };
}

/**
 * What a server restores, bit for bit: products and sum in float64, then rounded once.
 * @param {EightBitBlocks} blocks
 */
export function restoredBlocks({ values, scale, axis, along }) {
  const rows = new Float32Array(values.length);
  for (let i = 0, block = 0; block < scale.length; block++) {
    for (let j = 0; j < axis.length; j++, i++) rows[i] = values[i] * scale[block] + along[block] * axis[j];
  }
  return rows;
}

// The power method, from the longest block on.
function mainAxis(rows, length) {
  const step = Math.ceil(rows.length / length / SAMPLE) * length;
  let [axis, longest] = [rows.subarray(0, length), -1];
  for (let start = 0; start < rows.length; start += step) {
    const row = rows.subarray(start, start + length);
    const square = dot(row, row);
    if (square > longest) [axis, longest] = [row, square];
  }
  for (let iteration = 0; iteration < ITERATIONS; iteration++) {
    const unit = normalised(axis);
    const next = new Float64Array(length);
    for (let start = 0; start < rows.length; start += step) {
      const row = rows.subarray(start, start + length);
      const factor = dot(row, unit);
      for (let i = 0; i < length; i++) next[i] += factor * row[i];
    }
    axis = next;
  }
  return Float32Array.from(normalised(axis));
}

function normalised(vector) {
  const norm = Math.max(Math.sqrt(dot(vector, vector)), LEAST);
  return vector.map((value) => value / norm);
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
