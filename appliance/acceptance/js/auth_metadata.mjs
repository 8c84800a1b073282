// What matrix-js-sdk, and Element Web with it, makes of a server's OAuth 2.0.
//
//   node auth_metadata.mjs BASE_URL
//
// Prints one JSON object: the metadata, once the SDK has found nothing wrong with it.
import "./runtime.mjs";
import { createClient } from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";

logger.setLevel?.("silent", false);
const client = createClient({ baseUrl: process.argv[2] });
const metadata = await client.getAuthMetadata();
// What the SDK says goes elsewhere.
process.stdout.write(`${JSON.stringify(metadata)}\n`, () => process.exit());
