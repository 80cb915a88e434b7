// Secret keys in the browser: the derivation of hf_privseg/setr (keys.py, derivation.py), on WebCrypto alone.
// Orders and signs are equal to Python's bit for bit, rotations to about 1e-14. A key never leaves the object except
// through toText, which whoever calls it has to mean.

export const FAMILIES = ["permutation", "signed_permutation", "orthogonal", "matrix"];
export const FORMAT_VERSION = 1;

export const NAMESPACE = "hf-privseg/v1";
const PREFIX = `privseg${FORMAT_VERSION}`;
const ascii = (text) => new TextEncoder().encode(text);

export class SecretKey {
  #secret;
  #prk = null;

  // 32 bytes and a family -> key.
  constructor(secret, family = "orthogonal") {
    if (!(secret instanceof Uint8Array) || secret.length !== 32) {
      throw new RangeError("a secret key is exactly 32 bytes; make one with SecretKey.generate");
    }
    if (!FAMILIES.includes(family)) {
      throw new RangeError(`unknown key family '${family}'; choose one of ${FAMILIES.join(", ")}`);
    }
    this.#secret = secret.slice();
    this.family = family;
    this.version = FORMAT_VERSION;
  }

  static generate(family = "orthogonal") {
    return new SecretKey(crypto.getRandomValues(new Uint8Array(32)), family);
  }

  // "privseg1.<family>.<base64url>" with white space around it ignored -> key; an error never repeats the text.
  static fromText(text) {
    const parts = text.trim().split(".");
    // 43 characters hold 258 bits, and the last two are zero
    const isSecret = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/;
    if (parts.length !== 3 || parts[0] !== PREFIX || !FAMILIES.includes(parts[1]) || !isSecret.test(parts[2])) {
      throw new RangeError(`this is no key, whose text form is '${PREFIX}.<family>.<base64url>' with one of the ` +
        `families ${FAMILIES.join(", ")}. Choose a key file that hf-privseg or this page wrote`);
    }
    const binary = atob(parts[2].replaceAll("-", "+").replaceAll("_", "/") + "=");
    return new SecretKey(Uint8Array.from(binary, (character) => character.charCodeAt(0)), parts[1]);
  }

  // The secret itself, as the content of a file.
  toFile() {
    return `${this.toText()}\n`;
  }

  // The secret itself.
  toText() {
    const base64 = btoa(String.fromCharCode(...this.#secret));
    return `${PREFIX}.${this.family}.${base64.replaceAll("+", "-").replaceAll("/", "_").replace("=", "")}`;
  }

  // 16 hexadecimal characters, public.
  async fingerprint() {
    const bytes = await this.#stream(`${NAMESPACE}/${this.family}/fingerprint`, 8);
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  // The public facts, as Python's public_facts.
  async facts() {
    return { family: this.family, version: this.version, fingerprint: await this.fingerprint() };
  }

  // The first numBytes bytes of the stream of a purpose.
  deriveBytes(purpose, length, numBytes) {
    return this.#stream(`${NAMESPACE}/${this.family}/${length}/${purpose}`, numBytes);
  }

  // Uint16Array (length), a uniformly random order of 0 .. length - 1.
  async permutation(length, purpose = "order") {
    for (let numWords = length + 64; ; numWords *= 2) { // a rejected word takes the next; more are made if need be
      const order = shuffled(length, await this.deriveBytes(purpose, length, 4 * numWords));
      if (order !== null) return order;
    }
  }

  // Int8Array (length) of +1 and -1: bit i, most significant bit of each byte first, 1 is -1.
  async signs(length, purpose = "signs") {
    const bytes = await this.deriveBytes(purpose, length, Math.ceil(length / 8));
    return Int8Array.from({ length }, (_, i) => 1 - 2 * ((bytes[i >> 3] >> (7 - (i & 7))) & 1));
  }

  // Float64Array (length * length), row by row: an orthogonal matrix with Haar distribution.
  async haar(length, purpose = "haar") {
    const numPairs = Math.ceil((length * (length + 1)) / 4);
    return orthogonalFromNormals(length, normals(await this.deriveBytes(purpose, length, 16 * numPairs)));
  }

  async #stream(label, numBytes) {
    this.#prk ??= await pseudorandomKey(this.#secret);
    return streamBytes(this.#prk, label, numBytes);
  }
}

// Secret bytes -> what streams are made from.
export async function pseudorandomKey(secret) {
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const salt = await crypto.subtle.importKey("raw", ascii(NAMESPACE), hmac, false, ["sign"]);
  const prk = await crypto.subtle.sign("HMAC", salt, secret);
  return crypto.subtle.importKey("raw", prk, "PBKDF2", false, ["deriveBits"]);
}

// HMAC(prk, label || 1) || HMAC(prk, label || 2) || ...: PBKDF2 with one iteration is this stream in one call.
export async function streamBytes(prk, label, numBytes) {
  const settings = { name: "PBKDF2", hash: "SHA-256", salt: ascii(label), iterations: 1 };
  return new Uint8Array(await crypto.subtle.deriveBits(settings, prk, 8 * numBytes));
}

// Fisher-Yates downwards with rejection sampling of 32-bit words; null where the bytes do not suffice.
function shuffled(length, bytes) {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const order = Uint16Array.from({ length }, (_, i) => i);
  let position = 0;
  for (let i = length - 1; i > 0; i--) {
    const bound = i + 1;
    const limit = Math.floor(2 ** 32 / bound) * bound;
    let word;
    do {
      if (position + 4 > bytes.length) return null;
      word = words.getUint32(position);
      position += 4;
    } while (word >= limit);
    const j = word % bound;
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// 16 bytes for each pair -> Float64Array of standard normals (Box-Muller on the upper 53 bits of big-endian words).
function normals(bytes) {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const upper53 = (offset) => words.getUint32(offset) * 2 ** 21 + (words.getUint32(offset + 4) >>> 11);
  const numbers = new Float64Array(bytes.length / 8);
  for (let i = 0; i < numbers.length; i += 2) {
    const radius = Math.sqrt(-2 * Math.log((upper53(8 * i) + 1) * 2 ** -53));
    const angle = 2 * Math.PI * (upper53(8 * i + 8) * 2 ** -53);
    numbers[i] = radius * Math.cos(angle);
    numbers[i + 1] = radius * Math.sin(angle);
  }
  return numbers;
}

// Stewart's Householder vectors of lengths size, size - 1, ..., 1 -> Q = H_0 H_1 ... D, row by row.
function orthogonalFromNormals(size, numbers) {
  const q = new Float64Array(size * size);
  const starts = [];
  for (let j = 0, start = 0; j < size; start += size - j, j++) starts.push(start);
  const w = new Float64Array(size);
  for (let j = size - 1; j >= 0; j--) { // from the innermost factor outwards
    const v = numbers.slice(starts[j], starts[j] + size - j);
    const sign = v[0] >= 0 ? 1 : -1;
    v[0] += sign * Math.sqrt(dot(v, v));
    const scale = Math.sqrt(2 / dot(v, v));
    for (let i = 0; i < v.length; i++) v[i] *= scale;
    q[j * size + j] = -sign;
    w.fill(0, j);
    for (let i = j; i < size; i++) { // w = v' q
      const row = i * size;
      for (let k = j; k < size; k++) w[k] += v[i - j] * q[row + k];
    }
    for (let i = j; i < size; i++) { // q = q - v w
      const row = i * size;
      for (let k = j; k < size; k++) q[row + k] -= v[i - j] * w[k];
    }
  }
  return q;
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
