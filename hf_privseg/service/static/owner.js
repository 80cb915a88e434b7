// The page's end of the worker that holds the keys (worker.js).

import { Cancelled, sentence } from "./work.js";

/** @typedef {{family: string, version: number, fingerprint: string}} KeyFacts what may be known of a key */

export class Owner {
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();

  constructor() {
    this.#worker.onmessage = ({ data: { id, share, result, error } }) => {
      const call = this.#waiting.get(id);
      if (call === undefined) return; // it was cancelled
      if (share !== undefined) {
        call.onShare(share);
        return;
      }
      this.#waiting.delete(id);
      if (error === undefined) call.resolve(result);
      else call.reject(new Error(sentence(error)));
    };
  }

  /**
   * One call of a method of OwnerClient.
   * @param {string} method
   * @param {unknown[]} args
   * @param {{signal?: AbortSignal, onShare?: (share: number) => void}} options onShare is told how much is done, 0 to 1
   * @returns {Promise<any>}
   */
  call(method, args, { signal, onShare = () => {} } = {}) {
    return new Promise((resolve, reject) => {
      const id = crypto.randomUUID();
      this.#waiting.set(id, { resolve, reject, onShare });
      signal?.addEventListener("abort", () => {
        if (!this.#waiting.delete(id)) return;
        this.#worker.postMessage({ cancel: id });
        reject(new Cancelled());
      });
      this.#worker.postMessage({ id, method, args });
    });
  }
}
