// The service's routes as the page uses them: one request each, with files going and coming as they are.
//
// A service that is gone or hangs is noticed within seconds: while a request waits, /healthz is asked beside it.

import { Cancelled, sentence } from "./work.js";

const BINARY = "application/octet-stream";
const SILENCE_MS = 3000; // without a sign of life, after which the service is asked for one
const HEALTH_MS = 4000; // that it has to answer in; the second silence in a row ends the request
const LIMIT_MS = 180_000; // of any request

const GONE = "The server cannot be reached. Check your connection, then try again.";
const SILENT = "The server has stopped answering. Try again in a minute.";
const TOO_LONG = `The server took longer than ${LIMIT_MS / 1000} seconds. Try a smaller image, or try again later.`;

/** A refusal of the service; `code` is one word for programs. */
export class Refusal extends Error {
  /** @param {string} message @param {string | undefined} code */
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/**
 * How a request is watched.
 * @typedef {object} Watch
 * @property {AbortSignal} [signal] ends it
 * @property {(share: number) => void} [onUpload] is told how much of the body has gone up, 0 to 1
 */

export class Service {
  #token;
  #revoked = Promise.resolve(); // the last request to forget an embedding

  /** @param {() => string} token returns the visitor's access token, or "" */
  constructor(token) {
    this.#token = token;
  }

  /** The public facts of the model. @param {Watch} [watch] */
  async model(watch) {
    return JSON.parse(new TextDecoder().decode(await this.#request("GET", "v1/model", { watch })));
  }

  /** The plain patch embedding of a public model, as a file. @param {Watch} [watch] @returns {Promise<Uint8Array>} */
  publicEmbedding(watch) {
    return this.#request("GET", "v1/model/embedding", { watch });
  }

  /**
   * Registers the file of an encrypted patch embedding under its key's fingerprint.
   * @param {string} fingerprint @param {Uint8Array} file @param {Watch} [watch]
   */
  async register(fingerprint, file, watch) {
    await this.#revoked; // which may be of the same key, and would otherwise take this embedding away
    await this.#request("PUT", `v1/embeddings/${fingerprint}`, { body: file, watch });
  }

  /** Has the service forget a registered embedding, even while the page is being closed. @param {string} fingerprint */
  revoke(fingerprint) {
    const options = { method: "DELETE", headers: this.#headers(), keepalive: true, signal: AbortSignal.timeout(HEALTH_MS) };
    this.#revoked = fetch(`v1/embeddings/${fingerprint}`, options).catch(() => {});
  }

  /**
   * The file of an encrypted image -> its segmentation map.
   * @param {Uint8Array} file @param {Watch} [watch]
   * @returns {Promise<import("./image.js").SegmentationMap>}
   */
  async segment(file, watch) {
    return readMap(await this.#request("POST", "v1/segment", { body: file, accept: "application/x-npy", watch }));
  }

  /**
   * The file of an encrypted image -> what the service makes of it.
   * @param {Uint8Array} file @param {Watch} [watch]
   * @returns {Promise<{picture: string, title: string, note: string}[]>}
   */
  async serverView(file, watch) {
    return JSON.parse(new TextDecoder().decode(await this.#request("POST", "privseg/server-view", { body: file, watch })));
  }

  /** A sample image -> a picture file. @param {string} name @param {Watch} [watch] */
  async sampleImage(name, watch) {
    return new File([await this.#request("GET", `privseg/samples/${name}.webp`, { watch })], `${name}.webp`);
  }

  #headers() {
    const token = this.#token();
    return token ? { Authorization: `Bearer ${token}` } : {};
  }

  async #request(method, path, { body, accept, watch } = {}) {
    const headers = { ...this.#headers(), ...(body && { "Content-Type": BINARY }), ...(accept && { Accept: accept }) };
    const { status, content } = await exchange(method, path, headers, body, watch);
    if (status >= 200 && status < 300) return content;
    throw refusal(status, content);
  }
}

// One exchange -> {status, content}. XMLHttpRequest, for fetch does not say how much of a body has gone up.
function exchange(method, path, headers, body, { signal, onUpload } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.responseType = "arraybuffer";
    request.timeout = LIMIT_MS;
    const watchdog = new Watchdog(() => fail(new Error(SILENT)));
    const fail = (error) => {
      watchdog.stop();
      reject(error);
      request.abort();
    };
    request.upload.onprogress = ({ loaded, total }) => {
      watchdog.sign();
      onUpload?.(loaded / total);
    };
    request.onprogress = () => watchdog.sign();
    request.onerror = () => fail(new Error(GONE));
    request.ontimeout = () => fail(new Error(TOO_LONG));
    request.onload = () => {
      watchdog.stop();
      resolve({ status: request.status, content: new Uint8Array(request.response) });
    };
    if (signal?.aborted) {
      fail(new Cancelled());
      return;
    }
    signal?.addEventListener("abort", () => fail(new Cancelled()));
    request.send(body);
  });
}

// Calls `onSilence` once the service has twice in a row not said within HEALTH_MS that it lives.
class Watchdog {
  #timer;
  #onSilence;
  #silences = 0;

  constructor(onSilence) {
    this.#onSilence = onSilence;
    this.sign();
  }

  sign() {
    this.stop();
    this.#silences = 0;
    this.#timer = setTimeout(() => this.#ask(), SILENCE_MS);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #ask() {
    const timer = this.#timer;
    const lives = await fetch("healthz", { cache: "no-store", signal: AbortSignal.timeout(HEALTH_MS) })
      .then((response) => response.ok, () => false);
    if (this.#timer !== timer) return; // the request has ended or moved on meanwhile
    if (lives) this.sign();
    else if (++this.#silences > 1) this.#onSilence();
    else await this.#ask();
  }
}

// Refusals that are said in other words here than to programs.
const BY_CODE = {
  unauthorized: "The server wants an access token. Enter yours at the top of the page, then try again.",
  busy: "The server is busy. Try again in a few seconds.",
  rate_limit: "You have sent too many requests for now. Try again in a minute.",
  no_sample: "The server has no sample images. Choose an image of your own.",
  not_ready: "The server is starting. Try again in a few seconds.",
};

function refusal(status, content) {
  let error = {};
  try {
    ({ error = {} } = JSON.parse(new TextDecoder().decode(content)));
  } catch {
    // not our service's words: a proxy's page, for example
  }
  const unknown = `The server answered with status ${status}. Try again later.`;
  return new Refusal(BY_CODE[error.code] ?? sentence(error.message ?? unknown), error.code);
}

// An .npy file of (height, width) uint8 -> {labels, height, width}.
function readMap(file) {
  const start = 10 + new DataView(file.buffer, file.byteOffset).getUint16(8, true);
  const header = new TextDecoder("latin1").decode(file.subarray(10, start));
  const [, height, width] = header.match(/'shape': \((\d+), (\d+)\)/).map(Number);
  return { labels: file.subarray(start), height, width };
}
