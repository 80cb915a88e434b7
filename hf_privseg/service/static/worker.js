// The worker: calls of OwnerClient's methods by message. {id, method, args} is answered with {id, result} or
// {id, error}, and before that with {id, share} of what is done; {cancel: id} ends a call.

import { OwnerClient } from "./owner_client.js";

const ownerClient = new OwnerClient();
const cancelled = new Set();

self.onmessage = async ({ data: { id, method, args, cancel } }) => {
  if (cancel !== undefined) {
    cancelled.add(cancel);
    return;
  }
  const onBand = async (share) => {
    self.postMessage({ id, share });
    await new Promise((resolve) => setTimeout(resolve)); // messages come in meanwhile
    if (cancelled.delete(id)) throw new Error("cancelled");
  };
  try {
    self.postMessage({ id, result: await ownerClient[method](...args, onBand) });
  } catch (error) {
    self.postMessage({ id, error: error.message });
  }
};
