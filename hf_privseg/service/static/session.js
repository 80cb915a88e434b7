// What the page has at hand: a key, an image, and what came of them. It plays the model's owner and the client. Keys
// live in the worker, images in this page; what is sent are an encrypted patch embedding, once for each key, and
// encrypted images. Nothing is stored in the browser, and nothing here touches the page's elements.

import { agreement, gridSize, onGrid, rgbaOf } from "./image.js";

const MEGABYTE = 1e6;

/** A number of bytes for people. @param {number} bytes */
export const megabytes = (bytes) => `${(bytes / MEGABYTE).toFixed(1)}\u00a0MB`;

/**
 * An image that was encrypted, and the map that came back.
 * @typedef {object} Result
 * @property {Uint8Array} file the ciphertext
 * @property {import("./image.js").SegmentationMap} map
 */

export class Session {
  /** What the service says of its model, once it was asked. */
  info = null;
  /** The facts of the key at hand. @type {import("./owner.js").KeyFacts | null} */
  facts = null;
  /** @type {import("./image.js").ChosenImage | null} */
  image = null;
  /** The map of the image under the key at hand. @type {import("./image.js").SegmentationMap | null} */
  map = null;
  /** The ciphertext that was sent last. @type {Uint8Array | null} */
  sent = null;

  /**
   * How numbers are rounded: to 8 or 16 bits, or with a transform code to so many a block; permutation families have 8.
   * @type {{bits: number, bitsPerBlock: number | null}}
   */
  rounding = { bits: 16, bitsPerBlock: null };

  #service;
  #owner;
  #embedding = null;
  #warming = null;
  #registered = null;
  #isOwnKey = false; // whether this page made the key
  #hasSavedKey = false;
  #hasUsedKey = false;
  #hasUsedKeyOnSample = false;

  /** @param {import("./service.js").Service} service @param {import("./owner.js").Owner} owner */
  constructor(service, owner) {
    [this.#service, this.#owner] = [service, owner];
  }

  /** Whether visitors bring keys of their own, since the model is public. */
  get isPublic() {
    return this.info.encryption === null;
  }

  /** Whether a key would be lost with the page that opens something. */
  get wouldLoseKey() {
    return this.#isOwnKey && this.#hasUsedKey && !this.#hasSavedKey;
  }

  /** Asks the service about its model, once. @param {import("./service.js").Watch} [watch] */
  async learn(watch) {
    this.info ??= await this.#service.model(watch);
    return this.info;
  }

  // ----------------------------------------------------------------------------------------------------------- keys

  /** Makes a key, which takes the place of the one at hand. @param {string} family @param {AbortSignal} [signal] */
  async makeKey(family, signal) {
    this.#setKey(await this.#owner.call("newKey", ["mine", family], { signal }), true);
  }

  /**
   * Makes a key of a public model's visitor ahead of its first use, and derives what it needs.
   * @param {string} family
   */
  warm(family) {
    if (this.facts !== null) return Promise.resolve();
    this.#warming ??= this.makeKey(family)
      .then(() => this.learn())
      .then(() => this.#owner.call("prepare", ["mine", this.info.patch_size]))
      .catch(() => {}); // it is tried again when it is needed
    return this.#warming;
  }

  /** Takes the content of a key's file, in the place of the key at hand. @param {Uint8Array} content */
  async loadKey(content) {
    this.#setKey(await this.#owner.call("loadKey", ["mine", content]), false);
    if (this.info !== null) this.#checkKey();
  }

  /** The secret itself, for a file. @returns {Promise<string | Uint8Array>} */
  async keyFile() {
    const content = await this.#owner.call("keyFile", ["mine"]);
    this.#hasSavedKey = true;
    return content;
  }

  /** Has the service forget the embedding of this page's key. */
  forget() {
    if (this.#registered !== null) this.#service.revoke(this.#registered);
    this.#registered = null;
  }

  #setKey(facts, isOwn) {
    this.forget();
    this.#isOwnKey = isOwn;
    this.#hasSavedKey = this.#hasUsedKey = this.#hasUsedKeyOnSample = false;
    [this.facts, this.map, this.sent] = [facts, null, null];
    this.rounding.bitsPerBlock = null; // which is the key's own
  }

  #checkKey() {
    const [theirs, mine] = [this.info.encryption, this.facts];
    const fits = theirs === null ? mine?.family !== "embedding" : mine === null || theirs.fingerprint === mine.fingerprint;
    if (fits) return;
    this.facts = null;
    if (theirs === null) {
      throw new Error("The model of this server is public. A client embedding is for the model that its owner encrypted with it.");
    }
    throw new Error(
      `The model of this server is encrypted with the key ${theirs.fingerprint} (${theirs.family}), and this is the ` +
        `key ${mine.fingerprint} (${mine.family}). Load the key of the model.`,
    );
  }

  /**
   * Sees to it that a key is at hand, ready for use.
   * @param {string} family of a key that is made where there is none
   * @param {AbortSignal} [signal]
   */
  async ensureKey(family, signal) {
    await this.#warming;
    await this.learn({ signal });
    this.#checkKey();
    if (this.facts === null && !this.isPublic) throw new Error("Load the key file of the model first, in step 2.");
    if (this.facts === null) await this.makeKey(family, signal);
    await this.#owner.call("prepare", ["mine", this.info.patch_size], { signal });
  }

  /** Encrypts the public embedding with keys and registers it under the fingerprint of the key `claimed`; returns that. */
  async #register(names, claimed, progress) {
    const { signal } = progress;
    this.#embedding ??= await this.#service.publicEmbedding({ signal });
    const { file, fingerprint } = await this.#owner.call("encryptEmbedding", [this.#embedding, names, claimed], { signal });
    progress.detail(`${megabytes(file.length)} up`);
    await this.#service.register(fingerprint, file, { signal });
    return fingerprint;
  }

  // A public model's service has to know the page's key: the owner's part, once for each key.
  async #ensureRegistered(progress, title = "Telling the server the encrypted patch embedding") {
    if (!this.isPublic || this.#registered !== null) return;
    progress.step(title);
    this.#registered = await this.#register(["mine"], "mine", progress);
  }

  // -------------------------------------------------------------------------------------------------------- images

  /** Takes an image, or none, in place of the one at hand. @param {import("./image.js").ChosenImage | null} image */
  setImage(image) {
    this.image?.bitmap.close();
    [this.image, this.map] = [image, null];
  }

  /**
   * The size in which the image at hand is sent, once the model is known.
   * @param {string} family of the key
   * @returns {{height: number, width: number, bytes: number, isEnlarged: boolean} | null}
   */
  sendingSize(family) {
    if (this.image === null || this.info === null) return null;
    const { bitmap, shown } = this.image;
    const [height, width] = gridSize(shown.height, shown.width, this.info);
    const { bits, bitsPerBlock } = this.rounding;
    const { patch_size: patchSize } = this.info;
    const ofBlock = (this.facts?.width ?? 3 * patchSize ** 2) * (family.endsWith("permutation") ? 8 : bits);
    const bytes = ((bitsPerBlock ?? ofBlock) / 8) * ((height * width) / patchSize ** 2);
    return { height, width, bytes, isEnlarged: height * width > 1.5 * bitmap.height * bitmap.width };
  }

  /**
   * Encrypts the image at hand and has the service segment it.
   * @param {string} family of a key that is made where there is none
   * @param {import("./work.js").Progress} progress
   * @param {(rgba: Uint8ClampedArray, height: number, width: number, bytes: number) => void} onEncrypted is shown
   *   what can be seen in the ciphertext, before it is sent
   * @returns {Promise<Result>}
   */
  async segmentImage(family, progress, onEncrypted) {
    const image = this.image;
    if (image === null) throw new Error("Choose an image first, in step 1.");
    progress.step("Preparing the key");
    // one known image opens whatever else is encrypted with its key
    if (image.kind === "own" && this.#isOwnKey && this.#hasUsedKeyOnSample) await this.makeKey(this.facts.family, progress.signal);
    await this.ensureKey(family, progress.signal);
    progress.step("Encrypting");
    const { file, picture, height, width } = await this.#encrypted("mine", progress);
    this.#hasUsedKey = true;
    if (image.kind === "sample") this.#hasUsedKeyOnSample = true;
    onEncrypted(picture, height, width, file.length);
    this.sent = file;
    this.map = await this.#segmented(file, progress);
    return { file, map: this.map };
  }

  /**
   * Has the service segment a ciphertext from elsewhere.
   * @param {Uint8Array} file
   * @param {{family: string, fingerprint: string}} facts of the file
   * @param {import("./work.js").Progress} progress
   */
  async segmentFile(file, facts, progress) {
    progress.step("Asking the server");
    await this.learn(progress);
    try {
      const map = await this.#segmented(file, progress, facts.fingerprint === this.facts?.fingerprint);
      this.sent = file;
      return map;
    } catch (error) {
      if (!["unknown_key", "key_mismatch"].includes(error.code)) throw error;
      const other = `This file was made with another key (${facts.family}, fingerprint ${facts.fingerprint}).`;
      if (this.isPublic) throw new Error(`${other} Load that key in step 2 of the tab Segment, then choose the file again.`);
      throw new Error(`${other} Encrypt the image with the key ${this.info.encryption.fingerprint}, which the model has.`);
    }
  }

  /** What the service can make of the ciphertext that was sent last. @param {import("./work.js").Progress} progress */
  async serverView(progress) {
    if (this.sent === null) throw new Error("Segment an image first, in the tab Segment. The attack is on what you sent.");
    progress.step("Attacking your ciphertext");
    return this.#renewed(() => this.#service.serverView(this.sent, { signal: progress.signal }), progress);
  }

  async #encrypted(name, progress) {
    const grid = onGrid(this.image, this.info);
    const { height, width } = grid;
    const size = [this.image.shown.height, this.image.shown.width];
    const onShare = (share) => progress.detail(`${Math.round(100 * share)}\u00a0%`);
    const { file, picture } = await this.#owner.call(
      "encryptImage", [name, rgbaOf(grid), height, width, this.info.patch_size, size, this.rounding], { signal: progress.signal, onShare },
    );
    progress.detail(megabytes(file.length));
    return { file, picture, height, width };
  }

  // Sends a ciphertext -> its map. needsKey: whether it was made with the key at hand.
  async #segmented(file, progress, needsKey = true) {
    const send = async () => {
      progress.step("Sending");
      let isUp = false;
      const onUpload = (share) => {
        if (isUp) return;
        progress.detail(`${megabytes(share * file.length)} of ${megabytes(file.length)} up`);
        isUp = share === 1;
        if (isUp) progress.step("Segmenting on the server");
      };
      return this.#service.segment(file, { signal: progress.signal, onUpload });
    };
    if (!needsKey) return send();
    await this.#ensureRegistered(progress);
    return this.#renewed(send, progress);
  }

  // A service that has forgotten this page's key in the meantime is told it again, once.
  async #renewed(call, progress) {
    try {
      return await call();
    } catch (error) {
      if (error.code !== "unknown_key" || this.#registered === null) throw error;
      this.#registered = null;
      await this.#ensureRegistered(progress, "The session had ended; renewing it");
      return call();
    }
  }

  // ----------------------------------------------------------------------------------------- wrong key, no key

  /**
   * What the model gives without the right key.
   * @param {import("./work.js").Progress} progress
   * @returns {Promise<{refusal: string, maps: {map: import("./image.js").SegmentationMap, agreement: number}[]}>} the
   *   service's refusal of another key; the maps of another key and of no key under a false label, and on what share
   *   of the pixels they agree with the map under the right key
   */
  async withoutKey(progress) {
    progress.step("Encrypting with another key");
    await this.#owner.call("newKey", ["other", this.facts.family]);
    const { file } = await this.#encrypted("other", progress);
    progress.step("Sending it, to be refused");
    let refusal = "The server took it, which it should not have done.";
    await this.#service.segment(file, { signal: progress.signal }).catch((error) => {
      if (error.code === undefined) throw error;
      refusal = error.message;
    });
    const maps = [];
    for (const [title, names] of [["another key", ["mine"]], ["no key", ["mine", "other"]]]) {
      progress.step(`Segmenting with ${title}, under a false label`);
      const fingerprint = await this.#register(names, "other", progress);
      const segmenting = this.#service.segment(file, { signal: progress.signal });
      const map = await segmenting.finally(() => this.#service.revoke(fingerprint));
      maps.push({ map, agreement: agreement(map, this.map) });
    }
    return { refusal, maps };
  }
}
