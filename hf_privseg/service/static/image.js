// Images on the patch grid, and segmentation maps over images, by the browser's own canvas.

const MAX_SHOWN = 1280; // longer side of the image that is shown, and of the segmentation map

/** @typedef {{labels: Uint8Array, height: number, width: number}} SegmentationMap class ids, row by row */

/**
 * An image in the page: its name, where it is from, its pixels, and a canvas of at most MAX_SHOWN pixels a side.
 * @typedef {{name: string, kind: "own" | "sample", bitmap: ImageBitmap, shown: HTMLCanvasElement}} ChosenImage
 */

/**
 * Reads a picture file; nothing is sent.
 * @param {File} file
 * @param {"own" | "sample"} kind
 * @returns {Promise<ChosenImage>}
 */
export async function readImage(file, kind) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name || "The file"} cannot be read as an image. Choose a JPEG, PNG or WebP file.`);
  }
  const scale = Math.min(1, MAX_SHOWN / Math.max(bitmap.width, bitmap.height));
  const [height, width] = [bitmap.height, bitmap.width].map((side) => Math.max(1, Math.round(side * scale)));
  return { name: file.name, kind, bitmap, shown: drawn(bitmap, height, width) };
}

/**
 * The image as the model takes it, in whole blocks.
 * @param {ChosenImage} image
 * @param {object} info what the service says of its model
 */
export function onGrid({ bitmap, shown }, info) {
  if (info.num_channels !== 3) {
    throw new Error(
      `This page encrypts RGB images, and the model takes images of ${info.num_channels} channel${info.num_channels === 1 ? "" : "s"}. Encrypt them with ` +
        "the Python package, then upload the files.",
    );
  }
  return drawn(bitmap, ...gridSize(shown.height, shown.width, info));
}

// Size of an image -> [height, width] in whole blocks, as the processor resizes it (patch_grid.py), within max_pixels.
export function gridSize(height, width, info) {
  const { do_resize: resizes, size, resize_factor: factor } = info.preprocessor;
  const unit = info.patch_size;
  let [rows, columns] = [height, width];
  if (resizes && size?.height) {
    [rows, columns] = [size.height, size.width];
  } else if (resizes) {
    let scale = size ? size.shortest_edge / Math.min(height, width) : factor;
    if (size?.longest_edge) scale = Math.min(scale, size.longest_edge / Math.max(height, width));
    [rows, columns] = [height * scale, width * scale];
  }
  const shrink = Math.min(1, Math.sqrt(info.max_pixels / (rows * columns)));
  const round = shrink < 1 ? Math.floor : (side) => Math.floor(side + 0.5);
  return [rows, columns].map((side) => Math.max(1, round((side * shrink) / unit)) * unit);
}

export function rgbaOf(canvas) {
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
}

export function paint(canvas, rgba, height, width) {
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(rgba), width, height), 0, 0);
}

export function copyTo(canvas, source) {
  [canvas.width, canvas.height] = [source.width, source.height];
  canvas.getContext("2d").drawImage(source, 0, 0);
}

/**
 * Paints a segmentation map. With a set of classes to single out, every other one becomes transparent.
 * @param {HTMLCanvasElement} canvas
 * @param {SegmentationMap} map
 * @param {number[][]} palette
 * @param {Set<number> | null} only
 */
export function paintLabels(canvas, { labels, height, width }, palette, only = null) {
  const rgba = new Uint8ClampedArray(4 * labels.length);
  for (let i = 0; i < labels.length; i++) {
    const [red, green, blue] = palette[labels[i]] ?? [0, 0, 0];
    rgba[4 * i] = red;
    rgba[4 * i + 1] = green;
    rgba[4 * i + 2] = blue;
    rgba[4 * i + 3] = only === null || only.has(labels[i]) ? 255 : 0;
  }
  paint(canvas, rgba, height, width);
}

// Segmentation maps of one size -> the share of pixels that agree.
export function agreement(a, b) {
  let equal = 0;
  for (let i = 0; i < a.labels.length; i++) equal += a.labels[i] === b.labels[i];
  return equal / a.labels.length;
}

function drawn(bitmap, height, width) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // behind transparent parts
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}
