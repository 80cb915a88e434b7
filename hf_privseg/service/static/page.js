// The page: it plays the model's owner and the client. Keys live in a worker, images in this page; what is sent are an
// encrypted patch embedding, once for each key, and encrypted images. Nothing is stored in the browser.

import { showMap } from "./map_view.js";
import { agreement, paint, readImage, rgbaOf } from "./image.js";
import { Service } from "./service.js";

const service = new Service(() => find("token").value.trim());
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
const state = { info: null, embedding: null, facts: null, registered: null, image: null, upload: null, map: null };

const find = (name) => document.querySelector(`[data-privseg="${name}"]`);

// One call of a method of OwnerClient in the worker.
function owner(method, ...args) {
  return new Promise((resolve, reject) => {
    const id = crypto.randomUUID();
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, method, args });
  });
}

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) resolve(result);
  else reject(new Error(error));
};

// ------------------------------------------------------------------------------------------------------------- keys

async function learnService() {
  state.info ??= await service.model();
  if (state.info.encryption === null) state.embedding ??= await service.publicEmbedding();
}

// Makes or takes a key, encrypts the public embedding with it and sends that: the owner's part, once for each key.
async function useKey(makeKey) {
  await learnService();
  const start = performance.now();
  const facts = await makeKey();
  forget();
  Object.assign(state, { facts: null, map: null }); // the worker no longer has the key they belong to
  const theirs = state.info.encryption;
  if (theirs !== null && theirs.fingerprint !== facts.fingerprint) {
    showKey(null);
    throw new Error(`the model of this service is encrypted with the key ${theirs.fingerprint} (${theirs.family}), ` +
      `but this is the key ${facts.fingerprint} (${facts.family}); load the key of the model`);
  }
  state.facts = facts;
  showKey(facts);
  if (theirs === null) await registerMine();
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  return `The key is ready after ${seconds} s. It stays in this page and is gone when you close it.`;
}

function showKey(facts) {
  find("key-facts").textContent = facts ? `${facts.family}, fingerprint ${facts.fingerprint}` : "none that fits";
  find("save-key").disabled = !facts;
}

// Encrypts the public embedding with keys and registers it under the fingerprint of the key `claimed`; returns that.
async function register(names, claimed) {
  const { file, fingerprint } = await owner("encryptEmbedding", state.embedding, names, claimed);
  await service.register(fingerprint, file);
  return fingerprint;
}

async function registerMine() {
  state.registered = await register(["mine"], "mine");
}

// Has the service forget the embedding of this page's key.
function forget() {
  if (state.registered !== null) service.revoke(state.registered);
  state.registered = null;
}

// A key, and its embedding at the service; an encrypted model has its own.
async function ensureKey() {
  await learnService();
  if (state.info.encryption !== null) return;
  if (state.facts === null) await useKey(() => owner("newKey", "mine", find("family").value));
  else if (state.registered === null) await registerMine();
}

async function loadKey(file) {
  const text = await file.text();
  return useKey(() => owner("loadKey", "mine", text));
}

async function saveKey() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${await owner("keyText", "mine")}\n`], { type: "text/plain" }));
  link.download = `privseg-${state.facts.fingerprint}.key`;
  link.click();
  URL.revokeObjectURL(link.href);
  return "The key file was handed to your browser's downloads. Whoever has it can open what you encrypt with it.";
}

// ---------------------------------------------------------------------------------------------------------- segment

const chooseImage = (file) => takeImage(file, "own");

// From here on it is treated as an image of the visitor's own.
async function chooseSample() {
  const image = await service.sampleImage();
  for (const input of document.querySelectorAll('[data-privseg="image"]')) input.value = "";
  return takeImage(image, "sample");
}

async function takeImage(file, kind) {
  await learnService();
  state.image = await readImage(file, state.info);
  state.map = null;
  for (const shown of document.querySelectorAll("canvas.chosen-image")) {
    paint(shown, rgbaOf(state.image.shown), state.image.shown.height, state.image.shown.width);
    shown.closest("figure").hidden = false;
  }
  for (const text of document.querySelectorAll("[data-image]")) text.hidden = text.dataset.image !== kind;
  for (const result of document.querySelectorAll(".of-image")) result.hidden = true; // they are of the last image
  return `The image is in this page${kind === "own" ? ", and nowhere else" : ""}. Encrypt it next.`;
}

async function encrypted(name) {
  const { grid, shown } = state.image;
  const original = [shown.height, shown.width];
  return owner("encryptImage", name, rgbaOf(grid), grid.height, grid.width, state.info.patch_size, original);
}

// The map of an encrypted image's file. A service that has forgotten this page's key in the meantime is told it again.
async function segmentFile(file) {
  try {
    return await service.segment(file);
  } catch (error) {
    if (error.code !== "unknown_key" || state.registered === null) throw error;
    await registerMine();
    return service.segment(file);
  }
}

async function segmentImage(report) {
  if (state.image === null) throw new Error("choose an image first");
  await ensureKey();
  if (state.facts === null) throw new Error("load the key file of the model first, at the top of the page");
  report("Encrypting ...");
  const start = performance.now();
  const { file, picture } = await encrypted("mine");
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const { height, width } = state.image.grid;
  paint(find("ciphertext"), picture, height, width);
  find("ciphertext").closest("figure").hidden = false;
  find("ciphertext-size").textContent =
    `${file.length.toLocaleString("en")} bytes, ${width} x ${height} pixels, encrypted in ${seconds}\u00a0s`;
  report("The ciphertext is on its way. The service segments it ...");
  state.upload = file;
  state.map = await segmentFile(file);
  showMap(find("segment-map"), state.map, state.info, state.image.shown);
  return "Done: the map was computed from the ciphertext.";
}

// ------------------------------------------------------------------------------------------------ wrong key, no key

async function tryWithout(report) {
  await learnService();
  if (state.info.encryption !== null) {
    throw new Error("this needs the plain patch embedding, which the owner of this service's model keeps to itself");
  }
  if (state.map === null) await segmentImage(report);
  await ensureKey();
  report("Encrypting with another key ...");
  await owner("newKey", "other", state.facts.family);
  const { file } = await encrypted("other");
  let refusal = "the service took it, which it should not have done";
  await service.segment(file).catch((error) => { refusal = error.message; });
  find("refusal").textContent = refusal;
  for (const [box, names] of [["wrong-key-map", ["mine"]], ["no-key-map", ["mine", "other"]]]) {
    report("The service segments it all the same, under a false label ...");
    const fingerprint = await register(names, "other");
    const map = await service.segment(file);
    service.revoke(fingerprint);
    showMap(find(box), map, state.info, state.image.shown);
    const share = (100 * agreement(map, state.map)).toFixed(1);
    find(`${box}-share`).textContent = `Agrees with the map under the right key on ${share} % of the pixels.`;
  }
  find("without-results").hidden = false;
  return "Done: the maps below are what the model gives without the right key.";
}

// ------------------------------------------------------------------------------- uploaded ciphertexts, server's view

async function segmentUpload(file) {
  await ensureKey();
  const bytes = new Uint8Array(await file.arrayBuffer());
  const map = await segmentFile(bytes);
  state.upload = bytes;
  showMap(find("upload-map"), map, state.info);
  return "Done: the service segmented the file as it was.";
}

async function serverView(report) {
  if (state.upload === null) throw new Error("segment an image or a ciphertext first: the attack is on what you sent");
  report("The service attacks your ciphertext. It takes some seconds ...");
  const views = await service.serverView(state.upload);
  find("views").replaceChildren(...views.map(({ picture, title, note }) => {
    const [figure, image, caption] = ["figure", "img", "figcaption"].map((tag) => document.createElement(tag));
    Object.assign(image, { src: `data:image/png;base64,${picture}`, alt: title });
    const [heading, text] = ["strong", "span"].map((tag) => document.createElement(tag));
    [heading.textContent, text.textContent] = [title, ` ${note}`];
    caption.append(heading, text);
    figure.append(image, caption);
    return figure;
  }));
  return "Done. None of this needed your key.";
}

// ------------------------------------------------------------------------------------------------------------ wiring

const ACTIONS = {
  "new-key": () => useKey(() => owner("newKey", "mine", find("family").value)),
  "save-key": saveKey,
  sample: chooseSample,
  segment: segmentImage,
  "try-without": tryWithout,
  "server-view": serverView,
};
const FILES = { "load-key": loadKey, image: chooseImage, "ciphertext-file": segmentUpload };

let busy = false;

// Runs an action and says what becomes of it in the nearest status line; one at a time.
async function run(element, action, ...args) {
  const status = element.closest(".privseg").querySelector(".status");
  const report = (text, kind = "") => {
    status.textContent = text;
    status.dataset.kind = kind;
  };
  if (busy) {
    report("One thing at a time: the last one is not finished yet.", "error");
    return;
  }
  if (!isSecureContext) {
    report("Browsers offer their cryptography over https or on localhost alone. Open this page that way.", "error");
    return;
  }
  busy = true;
  report("Working ...", "busy");
  try {
    report(await action(...args, (text) => report(text, "busy")), "done");
  } catch (error) {
    report(error.message, "error");
  } finally {
    busy = false;
  }
}

// By delegation, since Gradio puts the elements into the page when it likes.
document.addEventListener("click", ({ target }) => {
  if (FILES[target.dataset?.privseg]) target.value = ""; // so that the same file may be chosen again
  const button = target.closest?.("button[data-privseg]");
  if (button && ACTIONS[button.dataset.privseg]) run(button, ACTIONS[button.dataset.privseg]);
});
document.addEventListener("change", ({ target }) => {
  const action = FILES[target.dataset?.privseg];
  if (action && target.files?.length) run(target, action, target.files[0]);
});
addEventListener("pagehide", forget);
