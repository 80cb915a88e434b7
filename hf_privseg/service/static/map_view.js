// A segmentation map in a container with the classes privseg-map: over an image where there is one, with a legend.
//
// No class is told by its colour alone: the legend has names and shares, a press on an entry shows that class by
// itself, and the class under the pointer is named.

import { copyTo, paintLabels } from "./image.js";

const SMALLEST_SHARE = 0.005;
const PARTS = `
  <div class="stack"><canvas hidden></canvas><canvas class="labels" role="img" aria-label="Segmentation map"></canvas></div>
  <label>Map over the image <input type="range" min="0" max="100" value="60" aria-label="Opacity of the map"></label>
  <p class="readout" aria-live="off"></p>
  <div class="legend" role="group" aria-label="Classes; press one to see it by itself"></div>`;

// The parts are put at the container's end the first time.
export function showMap(container, map, info, image = null) {
  if (!container.querySelector(".stack")) container.insertAdjacentHTML("beforeend", PARTS);
  const [imageCanvas, mapCanvas] = container.querySelectorAll("canvas");
  const [slider, legend] = ["input[type=range]", ".legend"].map((selector) => container.querySelector(selector));
  const readout = container.querySelector(".readout");
  readout.textContent = "Point at the map to name a class; press a class to see it alone.";
  container.hidden = false;
  if (image) copyTo(imageCanvas, image);
  imageCanvas.hidden = !image;
  slider.parentElement.hidden = !image;
  mapCanvas.classList.toggle("over", Boolean(image));
  const setOpacity = () => { mapCanvas.style.opacity = image ? slider.value / 100 : 1; };
  slider.oninput = setOpacity;
  setOpacity();
  paintLabels(mapCanvas, map, info.palette);
  legend.replaceChildren(...legendEntries(map, info, (only) => paintLabels(mapCanvas, map, info.palette, only)));
  mapCanvas.onpointermove = mapCanvas.onpointerdown = (event) => {
    const box = mapCanvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * map.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * map.height);
    readout.textContent = info.labels[map.labels[y * map.width + x]] ?? "";
  };
}

function legendEntries(map, info, single) {
  const counts = new Map();
  for (const label of map.labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  const present = [...counts].filter(([, count]) => count >= SMALLEST_SHARE * map.labels.length);
  const buttons = present.sort((a, b) => b[1] - a[1]).map(([label, count]) => {
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = `rgb(${info.palette[label]})`;
    const share = `${((100 * count) / map.labels.length).toFixed(1)} %`;
    button.append(swatch, `${info.labels[label] ?? label} ${share}`);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => {
      const pressed = button.getAttribute("aria-pressed") === "true";
      for (const other of buttons) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(!pressed));
      single(pressed ? null : label);
    };
    return button;
  });
  return buttons;
}
