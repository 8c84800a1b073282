//! This server's signing key, signed by itself ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#get_matrixkeyv2server

use appliance_model::Error;
use appliance_model::ruma::serde::{Base64, base64::Standard};
use appliance_model::ruma::signatures::sign_json;
use appliance_model::ruma::{CanonicalJsonObject, Int};
use serde_json::json;

use crate::House;

/// "Servers MUST use the lesser of this field and 7 days into the future".
const VALID_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

impl House {
    /// The key, as the JSON that other servers read. Valid for a week from now.
    ///
    /// # Errors
    ///
    /// If the key cannot be signed with, which a key that was read always can.
    pub fn own_keys(&self) -> Result<CanonicalJsonObject, Error> {
        let key = &self.signing_key;
        let key_id = format!("ed25519:{}", key.version());
        let public = Base64::<Standard, _>::new(key.public_key()).encode();
        let valid_until_ms = (self.clock.now_ms() + VALID_MS).cast_signed();
        let body = json!({
            "server_name": self.server_name,
            "verify_keys": { key_id: { "key": public } },
            "old_verify_keys": {},
            "valid_until_ts": i64::from(Int::new_saturating(valid_until_ms)),
        });
        let mut body: CanonicalJsonObject =
            serde_json::from_value(body).map_err(Error::internal)?;
        sign_json(self.server_name.as_str(), key, &mut body).map_err(Error::internal)?;
        Ok(body)
    }
}
