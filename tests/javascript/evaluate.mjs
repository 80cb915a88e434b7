// Reads JSON from standard input: {modules: folder, code: body of an async function}; writes what it returns as JSON.
// The code sees every export of the page's modules that need no document.

const { modules, code } = JSON.parse(await new Response(process.stdin).text());
const scope = {};
const NAMES = "keys client_embedding ciphers products containers eight_bit_blocks packed_integers owner_client image";
for (const name of NAMES.split(" ")) {
  Object.assign(scope, await import(`${modules}/${name}.js`));
}
const AsyncFunction = (async () => {}).constructor;
const result = await new AsyncFunction("js", code)(scope);
process.stdout.write(JSON.stringify(result));
