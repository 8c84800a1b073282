//! `GET /_matrix/key/v2/server` ([spec]): this server's signing key, signed by itself.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server

use appliance_model::Error;
use appliance_services::House;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ruma::signatures::sign_json;
use ruma::{CanonicalJsonObject, Int};
use serde_json::json;

/// "Servers MUST use the lesser of this field and 7 days into the future".
const VALID_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// The key, as the JSON that other servers read. Valid for a week from now.
///
/// # Errors
///
/// If the key cannot be signed with, which a key that was read always can.
pub fn own_keys(house: &House) -> Result<String, Error> {
    let key = &house.signing_key;
    let key_id = format!("ed25519:{}", key.version());
    let public = STANDARD_NO_PAD.encode(key.public_key());
    let valid_until_ms = (house.clock.now_ms() + VALID_MS).cast_signed();
    let body = json!({
        "server_name": house.server_name,
        "verify_keys": { key_id: { "key": public } },
        "old_verify_keys": {},
        "valid_until_ts": i64::from(Int::new_saturating(valid_until_ms)),
    });
    let mut body: CanonicalJsonObject = serde_json::from_value(body).map_err(Error::internal)?;
    sign_json(house.server_name.as_str(), key, &mut body).map_err(Error::internal)?;
    serde_json::to_string(&body).map_err(Error::internal)
}
