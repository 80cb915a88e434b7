// Milliseconds in which the page's code encrypts an image, with WebAssembly and without it, in turns.
//
//     node benchmarks/page_encryption.mjs
//
// Both have the same key, and have to write the same file.

import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const ROUNDS = 7;
const SIZES = [[512, 512], [720, 1072]];
const PATCH_SIZE = 16;
const MODULES = new URL("../hf_privseg/service/static/", import.meta.url);

if (isMainThread) await compare();
else await answer();

async function compare() {
  const { SecretKey } = await import(new URL("keys.js", MODULES));
  for (const family of ["orthogonal", "matrix"]) {
    const text = SecretKey.generate(family).toText();
    const workers = [true, false].map((hasVectors) => new Worker(new URL(import.meta.url), { workerData: { text, hasVectors } }));
    for (const [height, width] of SIZES) {
      const times = [[], []];
      for (let round = 0; round <= ROUNDS; round++) {
        const found = [];
        for (const worker of workers) found.push(await ask(worker, [height, width]));
        if (!Buffer.from(found[0].file).equals(Buffer.from(found[1].file))) throw new Error("the files differ");
        if (round > 0) found.forEach(({ ms }, i) => times[i].push(ms)); // the first is for the compilers
      }
      const [fast, slow] = times.map((each) => each.sort((a, b) => a - b)[Math.floor(ROUNDS / 2)]);
      console.log(
        `${family}, ${width} x ${height}: ${fast.toFixed(0)} ms with WebAssembly, ${slow.toFixed(0)} ms without, ` +
          `ratio ${(slow / fast).toFixed(2)} (medians of ${ROUNDS})`,
      );
    }
    for (const worker of workers) worker.terminate();
  }
}

function ask(worker, size) {
  return new Promise((resolve) => {
    worker.once("message", resolve);
    worker.postMessage(size);
  });
}

async function answer() {
  if (!workerData.hasVectors) delete globalThis.WebAssembly;
  const { OwnerClient } = await import(new URL("owner_client.js", MODULES));
  const ownerClient = new OwnerClient();
  await ownerClient.loadKey("mine", workerData.text);
  await ownerClient.prepare("mine", PATCH_SIZE);
  parentPort.on("message", async ([height, width]) => {
    const rgba = Uint8Array.from({ length: 4 * height * width }, (_, i) => (i * 7919) % 256);
    const start = performance.now();
    const { file } = await ownerClient.encryptImage("mine", rgba, height, width, PATCH_SIZE, [height, width]);
    parentPort.postMessage({ ms: performance.now() - start, file });
  });
}
