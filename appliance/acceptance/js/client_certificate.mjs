// Signs in over TLS, with the certificate of a device or without.
//
//   node client_certificate.mjs '{"port", "ca", "user", "password", "certificate", "key"}'
//
// Prints one JSON object: `status` and `token`, or why there was no answer: `refused`.
import { readFileSync } from "node:fs";
import { request } from "node:https";

const given = JSON.parse(process.argv[2]);
const read = (file) => file && readFileSync(file);
const body = JSON.stringify({
  type: "m.login.password",
  identifier: { type: "m.id.user", user: given.user },
  password: given.password,
});
const options = {
  host: "localhost",
  port: given.port,
  path: "/_matrix/client/v3/login",
  method: "POST",
  ca: read(given.ca),
  cert: read(given.certificate),
  key: read(given.key),
  headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body) },
};
const asked = request(options, async (answer) => {
  let text = "";
  for await (const piece of answer) text += piece;
  console.log(JSON.stringify({ status: answer.statusCode, token: JSON.parse(text).access_token ?? null }));
});
asked.on("error", (error) => console.log(JSON.stringify({ refused: error.code ?? String(error) })));
asked.end(body);
