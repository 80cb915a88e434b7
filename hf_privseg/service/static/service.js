// The service as the page sees it: Gradio's named endpoints by plain fetch, with files going and coming as they are.

export class Service {
  // Answer of an endpoint with these arguments; a refusal becomes an Error with the service's own words.
  async call(name, ...data) {
    const { event_id: id } = await (await this.#post(`call/${name}`, JSON.stringify({ data }), {
      "Content-Type": "application/json",
    })).json();
    const events = await (await reached(`gradio_api/call/${name}/${id}`)).text();
    const last = [...events.matchAll(/^event: (complete|error)\ndata: (.*)$/gm)].pop();
    if (!last) throw new Error("the service ended its answer early; try again");
    const answer = JSON.parse(last[2]);
    if (last[1] === "error") {
      throw new Error(answer?.error ?? "the service failed; its log says more than it tells a visitor");
    }
    return answer;
  }

  // Uint8Array and a file name's ending -> what an endpoint takes as a file. Its name is a random one: the service keeps
  // equal files of one name as one, and deletes that when it has read it; and names can tell what is in an image.
  async upload(bytes, suffix) {
    const name = `${crypto.randomUUID()}${suffix}`;
    const form = new FormData();
    form.append("files", new Blob([bytes]), name);
    const [path] = await (await this.#post("upload", form)).json();
    return { path, orig_name: name, meta: { _type: "gradio.FileData" } };
  }

  // A file among the answers of an endpoint -> Response.
  async download(file) {
    const response = await reached(`gradio_api/file=${file.path}`);
    if (!response.ok) throw new Error(`the service no longer has its answer (${response.status}); try again`);
    return response;
  }

  // The sample image -> a picture file.
  async sampleImage() {
    const response = await reached("privseg/sample.jpg");
    if (!response.ok) throw new Error("the service has no sample image; choose an image of your own");
    return new File([await response.blob()], "the sample image");
  }

  // Tells the service that a session is over, even while the page is being closed.
  endSession(session) {
    const body = new Blob([JSON.stringify({ data: [session] })], { type: "application/json" });
    navigator.sendBeacon("gradio_api/call/end_session", body);
  }

  async #post(path, body, headers = {}) {
    const response = await reached(`gradio_api/${path}`, { method: "POST", body, headers });
    if (response.status === 413) throw new Error("the file is larger than the service takes; reduce the image");
    if (!response.ok) throw new Error(`the service answered with status ${response.status}; try again later`);
    return response;
  }
}

// As fetch, with words for a visitor where there is no answer at all.
async function reached(...request) {
  try {
    return await fetch(...request);
  } catch {
    throw new Error("the service cannot be reached; check your connection and try again");
  }
}
