// The worker: calls of OwnerClient's methods by message, {id, method, args} -> {id, result} or {id, error}.

import { OwnerClient } from "./owner_client.js";

const ownerClient = new OwnerClient();

self.onmessage = async ({ data: { id, method, args } }) => {
  try {
    self.postMessage({ id, result: await ownerClient[method](...args) });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};
