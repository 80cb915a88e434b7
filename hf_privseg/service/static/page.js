// The page: brings its elements to life. What is computed and sent is in session.js, one action at a time in work.js.

import { imageFacts, mapToFile } from "./containers.js";
import { save, savePicture } from "./downloads.js";
import { copyTo, paint, readImage } from "./image.js";
import { nameOf, overlayOf, showMap } from "./map_view.js";
import { Owner } from "./owner.js";
import { Service } from "./service.js";
import { megabytes, Session } from "./session.js";
import { startTabs } from "./tabs.js";
import { cancel, isBusy, run } from "./work.js";

const service = new Service(() => find("token").value.trim());
const session = new Session(service, new Owner());

/** @param {string} name @returns {any} the element of the page with that name */
const find = (name) => document.querySelector(`[data-privseg="${name}"]`);
const all = (selector) => document.querySelectorAll(selector);
const family = () => session.facts?.family ?? find("family").value;

// ------------------------------------------------------------------------------------------------------- the model

// Says what the model knows: before the first image, where the service can be asked.
function showModel(info) {
  const names = Object.keys(info.labels).map((label) => nameOf(label, info));
  find("classes").textContent = `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  find("scenes").textContent = find("scenes").closest("#privseg").dataset.scenes;
  showSize();
}

// ------------------------------------------------------------------------------------------------------------- keys

async function makeKey(chosen, { signal }) {
  const lost = session.wouldLoseKey;
  await session.makeKey(chosen, signal);
  showKey();
  return `A new key of the family ${chosen} is ready.${lost ? " The last one is gone, with all that it could open." : ""}`;
}

const MAX_KEY_BYTES = 2 ** 28; // of a client embedding

async function loadKey(file, progress) {
  try {
    if (file.size > MAX_KEY_BYTES) throw new Error(`${file.name} is no key file. Choose one that hf-privseg or this page wrote.`);
    await session.learn(progress).catch(() => {}); // a key can be loaded without the server
    await session.loadKey(new Uint8Array(await file.arrayBuffer()));
  } finally {
    showKey();
  }
  return "The key is loaded. It stays in this page.";
}

function showKey() {
  const { facts } = session;
  find("key-facts").textContent = facts ? `${facts.family}, fingerprint ${facts.fingerprint}` : "none that fits";
  if (facts && facts.family !== "embedding") find("family").value = facts.family;
  showRates(facts?.bitsPerBlock);
  hideResults();
  showSize();
}

// How few bits a block may take, with a client embedding that has a transform code.
function showRates(range) {
  find("few-bits").hidden = !range;
  find("bits-per-block").value = "";
  if (range) find("rates").textContent = `${Math.ceil(range[0])} to ${Math.floor(range[1])}`;
}

async function saveKey() {
  if (session.facts === null) throw new Error("There is no key yet. Choose a family, or load a key file.");
  save(`privseg-${session.facts.fingerprint}.key`, await session.keyFile(), "application/octet-stream");
  return "The key file is in your downloads. Whoever has it can open what you encrypt with it.";
}

// ---------------------------------------------------------------------------------------------------------- images

const chooseImage = (file) => takeImage(file, "own");

async function chooseSample(progress, button) {
  progress.step("Fetching the image");
  return takeImage(await service.sampleImage(button.dataset.sample, progress), "sample");
}

// Takes an image in place of the one at hand; where it cannot be read, none is at hand any more.
async function takeImage(file, kind) {
  session.setImage(null);
  showImage();
  const image = await readImage(file, kind);
  session.setImage(image);
  showImage();
  if (!find("family").closest(".private")) session.warm(family());
  return kind === "own" ? "Nothing has been sent." : "The image is here, and is treated as your own.";
}

function showImage() {
  const { image } = session;
  for (const button of all("[data-sample]")) {
    const isChosen = image?.kind === "sample" && image.name.startsWith(`${button.dataset.sample}.`);
    button.setAttribute("aria-pressed", String(isChosen));
  }
  const canvas = document.querySelector("canvas.chosen-image");
  canvas.hidden = image === null;
  if (image) {
    copyTo(canvas, image.shown);
    canvas.setAttribute("aria-label", `Your image, ${image.name}`);
  }
  hideResults();
  showSize();
}

// The image's name and size, and what will be sent.
function showSize() {
  const { image } = session;
  if (image === null) {
    find("image-name").textContent = "No image yet.";
    return;
  }
  const size = session.sendingSize(family());
  const parts = [`${image.name}, ${image.bitmap.width} x ${image.bitmap.height} pixels.`];
  if (size) {
    const grows = size.isEnlarged ? "The model takes larger images, so it is enlarged to" : "It is sent as";
    parts.push(`${grows} ${size.width} x ${size.height} pixels, ${megabytes(size.bytes)}.`);
  }
  find("image-name").textContent = parts.join(" ");
}

// Results are of one image and one key.
function hideResults() {
  for (const result of all('[data-privseg="ciphertext"], [data-result]')) result.hidden = true;
  for (const example of all(".example")) example.hidden = session.image !== null;
  document.querySelector(".nothing").hidden = session.image === null;
  find("views").replaceChildren();
}

async function segmentImage(progress) {
  hideResults();
  const { map } = await session.segmentImage(family(), progress, (rgba, height, width, bytes) => {
    showKey();
    const canvas = find("ciphertext");
    paint(canvas, rgba, height, width);
    document.querySelector(".nothing").hidden = true;
    canvas.hidden = false;
    canvas.setAttribute("aria-label", `The ciphertext of your image, ${megabytes(bytes)}`);
  });
  const result = find("result");
  result.hidden = false;
  showMap(find("segment-map"), map, session.info, session.image.shown);
  reveal(result);
  return "The map below was computed from the ciphertext.";
}

// Brings an element to where it is seen.
function reveal(element) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

// ------------------------------------------------------------------------------------------------- files to take home

const baseName = () => session.image.name.replace(/\.[^.]*$/, "") || "image";
const savedAs = (name) => `${name} is in your downloads.`;

async function saveMap() {
  const name = `${baseName()}-map.png`;
  save(name, await mapToFile(session.map, session.info.palette), "image/png");
  return `${savedAs(name)} Its pixels are the numbers of the classes.`;
}

async function saveOverlay() {
  const name = `${baseName()}-overlay.png`;
  await savePicture(name, overlayOf(find("segment-map")));
  return savedAs(name);
}

async function saveCiphertext() {
  const isPicture = session.facts.family.endsWith("permutation");
  const name = `${baseName()}.encrypted.${isPicture ? "png" : "safetensors"}`;
  save(name, session.sent, "application/octet-stream");
  return session.facts.family === "embedding" ? savedAs(name) : `${savedAs(name)} Save the key as well: nothing else opens it.`;
}

// --------------------------------------------------------------------------------------- no key, uploads, the attack

async function tryWithout(progress) {
  if (session.map === null) await segmentFirst(progress);
  const { refusal, maps } = await session.withoutKey(progress);
  find("refusal").textContent = refusal;
  find("without-results").hidden = false;
  ["wrong-key-map", "no-key-map"].forEach((name, i) => {
    showMap(find(name), maps[i].map, session.info, session.image.shown);
    const share = (100 * maps[i].agreement).toFixed(1);
    find(`${name}-share`).textContent = `Agrees with the map under the right key on ${share} % of the pixels.`;
  });
  return "These maps are what the model gives without the right key.";
}

async function segmentFirst(progress) {
  if (session.image === null) throw new Error("Choose an image first, in the tab Segment.");
  await segmentImage(progress);
}

let uploaded = null;

async function segmentUpload(file, progress) {
  find("upload-result").hidden = true;
  uploaded = null;
  const bytes = new Uint8Array(await file.arrayBuffer());
  const facts = imageFacts(bytes);
  if (facts === null) {
    throw new Error(`${file.name} is no encrypted image, so it was not sent. Choose a file that privseg encrypt or this page wrote.`);
  }
  const map = await session.segmentFile(bytes, facts, progress);
  uploaded = { map, name: file.name.replace(/(\.encrypted)?\.[^.]*$/, "") };
  find("upload-result").hidden = false;
  showMap(find("upload-map"), map, session.info);
  reveal(find("upload-result"));
  return `${file.name} was segmented as it is.`;
}

async function saveUploadMap() {
  const name = `${uploaded.name}-map.png`;
  save(name, await mapToFile(uploaded.map, session.info.palette), "image/png");
  return savedAs(name);
}

async function serverView(progress) {
  const views = await session.serverView(progress);
  find("views").replaceChildren(...views.map(({ picture, title, note }) => {
    const [figure, image, caption] = ["figure", "img", "figcaption"].map((tag) => document.createElement(tag));
    Object.assign(image, { src: `data:image/png;base64,${picture}`, alt: `Reconstruction. ${title}` });
    const [heading, text] = ["strong", "span"].map((tag) => document.createElement(tag));
    [heading.textContent, text.textContent] = [title, ` ${note}`];
    caption.append(heading, text);
    figure.append(image, caption);
    return figure;
  }));
  return "None of this needed your key.";
}

// ----------------------------------------------------------------------------------------------------------- wiring

/** What a press does: (progress, button) -> what is said at its end. */
const PRESSES = {
  "new-key": (progress) => makeKey(find("family").value, progress),
  "save-key": saveKey,
  "save-used-key": saveKey,
  sample: chooseSample,
  segment: segmentImage,
  "save-map": saveMap,
  "save-overlay": saveOverlay,
  "save-ciphertext": saveCiphertext,
  "try-without": tryWithout,
  "save-upload-map": saveUploadMap,
  "server-view": serverView,
};
/** What a chosen file does: (file, progress) -> what is said at its end. */
const FILES = { "load-key": loadKey, image: chooseImage, "ciphertext-file": segmentUpload };
/** What another choice does: (value, progress) -> what is said at its end. */
const CHOICES = {
  family: makeKey,
  token: async (token, progress) => {
    showModel(await session.learn(progress));
    return "The token is right.";
  },
};

const INSECURE = "Browsers offer their cryptography over https or on localhost alone. Open this page that way.";

function act(control, action) {
  return run(control, (progress) => {
    if (!isSecureContext) throw new Error(INSECURE);
    return action(progress);
  });
}

// By delegation, since Gradio puts the elements into the page when it likes.
document.addEventListener("click", ({ target }) => {
  if (target.closest?.("[data-cancel]")) cancel();
  const button = target.closest?.("button[data-privseg]");
  const press = PRESSES[button?.dataset.privseg];
  if (press) act(button, (progress) => press(progress, button));
});
document.addEventListener("change", ({ target }) => {
  const name = target.dataset?.privseg;
  const [file] = target.files ?? [];
  if (FILES[name] && file) {
    target.value = ""; // so that the same file may be chosen again; its name is shown beside
    act(target, (progress) => FILES[name](file, progress));
  }
  if (name === "eight-bits") {
    session.rounding = { bits: target.checked ? 8 : 16, bitsPerBlock: null };
    find("bits-per-block").value = "";
    showSize();
  }
  if (name === "bits-per-block") {
    session.rounding = { bits: 16, bitsPerBlock: target.value === "" ? null : Number(target.value) };
    find("eight-bits").checked = false;
    showSize();
  }
  if (CHOICES[name]) act(target, (progress) => CHOICES[name](target.value, progress));
});

// A file that is dropped anywhere is taken as the image, and never opened in place of the page.
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (!file || isBusy()) return;
  location.hash = "segment";
  act(find("image"), () => chooseImage(file));
});

addEventListener("beforeunload", (event) => {
  if (session.wouldLoseKey) event.preventDefault(); // the browser asks
});
addEventListener("pagehide", () => session.forget());

function start(page) {
  startTabs(page);
  for (const details of page.querySelectorAll(".private details")) details.open = true;
  if (!page.classList.contains("with-token")) session.learn().then(showModel, () => {}); // said when it is needed
}

// Gradio puts the page into the document before or after this script runs.
function startOnceThere() {
  const page = document.querySelector("#privseg");
  if (!page) return;
  observer.disconnect();
  start(page);
}

const observer = new MutationObserver(startOnceThere);
observer.observe(document, { childList: true, subtree: true });
startOnceThere();
