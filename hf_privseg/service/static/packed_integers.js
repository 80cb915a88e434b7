// Small integers as a few bytes, as hf_privseg/setr/packed_integers.py reads them: zigzag, the low bytes before the high
// ones, raw deflate. Python's deflate looks for runs alone, so that the same numbers may have other bytes there.

/**
 * @param {Int16Array} values
 * @returns {Promise<Uint8Array>}
 */
export async function packed(values) {
  const packing = new Blob([planesOf(values)]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(packing).arrayBuffer());
}

/** @param {Int16Array} values */
export function planesOf(values) {
  const planes = new Uint8Array(2 * values.length);
  for (let i = 0; i < values.length; i++) {
    const zigzag = (values[i] << 1) ^ (values[i] >> 15);
    planes[i] = zigzag;
    planes[values.length + i] = zigzag >> 8;
  }
  return planes;
}
