// A segmentation map in a container with the classes privseg-map: over an image where there is one, with a legend.
//
// No class is told by its colour alone: the legend has names and shares, a press on an entry shows that class by
// itself, the class under the pointer is named, and the picture's alternative text lists the shares.

import { copyTo, paintLabels } from "./image.js";

const SMALLEST_SHARE = 0.005; // of an entry of its own in the legend
const PARTS = `
  <div class="stack"><canvas hidden aria-hidden="true"></canvas><canvas class="labels" role="img"></canvas></div>
  <div class="beside">
    <label class="opacity">
      <span>Image</span><input type="range" min="0" max="100" value="60" aria-label="From image to map"><span>Map</span>
    </label>
    <p class="readout" aria-live="off"></p>
    <div class="legend" role="group" aria-label="Classes. Press one to see it by itself."></div>
  </div>`;

/** @typedef {{name: string, labels: number[], share: number, colour: string}} LegendEntry */

/**
 * Shows a map; the parts are put at the container's end the first time.
 * @param {HTMLElement} container
 * @param {import("./image.js").SegmentationMap} map
 * @param {object} info what the service says of its model
 * @param {HTMLCanvasElement | null} image
 */
export function showMap(container, map, info, image = null) {
  if (!container.querySelector(".stack")) container.insertAdjacentHTML("beforeend", PARTS);
  const [imageCanvas, mapCanvas] = container.querySelectorAll("canvas");
  const [slider, legend, readout] = ["input[type=range]", ".legend", ".readout"].map((name) => container.querySelector(name));
  readout.textContent = "Point at the map to name a class. Press a class to see it alone.";
  container.hidden = false;
  if (image) copyTo(imageCanvas, image);
  imageCanvas.hidden = !image;
  slider.parentElement.hidden = !image;
  mapCanvas.classList.toggle("over", Boolean(image));
  const setOpacity = () => { mapCanvas.style.opacity = image ? slider.value / 100 : 1; };
  slider.oninput = setOpacity;
  setOpacity();
  const entries = legendOf(map, info);
  const shares = entries.map(({ name, share }) => `${name} ${percent(share)}`).join(", ");
  mapCanvas.setAttribute("aria-label", `Segmentation map: ${shares}`);
  paintLabels(mapCanvas, map, info.palette);
  legend.replaceChildren(...legendButtons(entries, (only) => paintLabels(mapCanvas, map, info.palette, only)));
  mapCanvas.onpointermove = mapCanvas.onpointerdown = (event) => {
    const box = mapCanvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * map.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * map.height);
    readout.textContent = nameOf(map.labels[y * map.width + x], info);
  };
}

/**
 * The map over the image with the opacity that the container's slider has.
 * @param {HTMLElement} container
 * @returns {HTMLCanvasElement}
 */
export function overlayOf(container) {
  const [imageCanvas, mapCanvas] = container.querySelectorAll("canvas");
  const canvas = document.createElement("canvas");
  copyTo(canvas, imageCanvas);
  const context = canvas.getContext("2d");
  context.globalAlpha = container.querySelector("input[type=range]").value / 100;
  context.drawImage(mapCanvas, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The name of a class for people. @param {number} label @param {object} info */
export function nameOf(label, info) {
  return String(info.labels[label] ?? label).replaceAll("_", " ");
}

/**
 * Every class of a map, largest first; those below half a percent are one entry at the end.
 * @param {import("./image.js").SegmentationMap} map
 * @param {object} info
 * @returns {LegendEntry[]}
 */
export function legendOf(map, info) {
  const counts = new Map();
  for (const label of map.labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const entries = [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) => ({
    name: nameOf(label, info), labels: [label], share: count / map.labels.length, colour: `rgb(${info.palette[label] ?? [0, 0, 0]})`,
  }));
  const large = entries.filter(({ share }) => share >= SMALLEST_SHARE);
  const small = entries.filter(({ share }) => share < SMALLEST_SHARE);
  if (small.length < 2) return entries;
  const stripes = small.map(({ colour }, i) => `${colour} ${(100 * i) / small.length}% ${(100 * (i + 1)) / small.length}%`);
  return [...large, {
    name: `other (${small.map(({ name }) => name).join(", ")})`,
    labels: small.flatMap(({ labels }) => labels),
    share: small.reduce((sum, { share }) => sum + share, 0),
    colour: `linear-gradient(90deg, ${stripes.join(", ")})`,
  }];
}

const percent = (share) => (share < 0.001 ? "below 0.1\u00a0%" : `${(100 * share).toFixed(1)}\u00a0%`);

function legendButtons(entries, single) {
  const buttons = entries.map(({ name, labels, share, colour }) => {
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour;
    button.append(swatch, `${name} ${percent(share)}`);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => {
      const pressed = button.getAttribute("aria-pressed") === "true";
      for (const other of buttons) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(!pressed));
      single(pressed ? null : new Set(labels));
    };
    return button;
  });
  return buttons;
}
