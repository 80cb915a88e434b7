// The service's routes as the page uses them: one request each, with files going and coming as they are.

const BINARY = "application/octet-stream";

// A refusal of the service, in its own words; `code` is one word for programs.
export class Refusal extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

export class Service {
  #token;

  // token: a function that returns the visitor's access token, or "".
  constructor(token) {
    this.#token = token;
  }

  // The public facts of the model.
  async model() {
    return (await this.#request("GET", "v1/model")).json();
  }

  // The plain patch embedding of a public model -> Uint8Array, the file.
  async publicEmbedding() {
    return new Uint8Array(await (await this.#request("GET", "v1/model/embedding")).arrayBuffer());
  }

  // Registers the file of an encrypted patch embedding under its key's fingerprint.
  async register(fingerprint, file) {
    await this.#request("PUT", `v1/embeddings/${fingerprint}`, file);
  }

  // Has the service forget a registered embedding, even while the page is being closed.
  revoke(fingerprint) {
    fetch(`v1/embeddings/${fingerprint}`, { method: "DELETE", headers: this.#headers(), keepalive: true }).catch(() => {});
  }

  // The file of an encrypted image -> {labels: Uint8Array, height, width}.
  async segment(file) {
    const response = await this.#request("POST", "v1/segment", file, { Accept: "application/x-npy" });
    return readMap(new Uint8Array(await response.arrayBuffer()));
  }

  // The file of an encrypted image -> [{picture, title, note}], what the service makes of it.
  async serverView(file) {
    return (await this.#request("POST", "privseg/server-view", file)).json();
  }

  // The sample image -> a picture file.
  async sampleImage() {
    const response = await this.#request("GET", "privseg/sample.jpg");
    return new File([await response.blob()], "the sample image");
  }

  #headers() {
    const token = this.#token();
    return token ? { Authorization: `Bearer ${token}` } : {};
  }

  async #request(method, path, body = undefined, headers = {}) {
    const all = { ...this.#headers(), ...(body ? { "Content-Type": BINARY } : {}), ...headers };
    let response;
    try {
      response = await fetch(path, { method, body, headers: all });
    } catch {
      throw new Error("the service cannot be reached; check your connection and try again");
    }
    if (response.ok) return response;
    const { error } = await response.json().catch(() => ({}));
    if (error?.code === "unauthorized") throw new Refusal("enter your access token first, at the top of the page", error.code);
    throw new Refusal(error?.message ?? `the service answered with status ${response.status}; try again later`, error?.code);
  }
}

// An .npy file of (height, width) uint8 -> {labels, height, width}.
function readMap(file) {
  const start = 10 + new DataView(file.buffer, file.byteOffset).getUint16(8, true);
  const header = new TextDecoder("latin1").decode(file.subarray(10, start));
  const [, height, width] = header.match(/'shape': \((\d+), (\d+)\)/).map(Number);
  return { labels: file.subarray(start), height, width };
}
