// Files that are handed to the browser's downloads.

/**
 * @param {string} name
 * @param {BlobPart} content
 * @param {string} type
 */
export function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // some browsers read it after the click
}

/** @param {string} name @param {HTMLCanvasElement} canvas */
export async function savePicture(name, canvas) {
  save(name, await new Promise((resolve) => canvas.toBlob(resolve, "image/png")), "image/png");
}
