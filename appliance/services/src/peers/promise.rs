//! What hospitals of our kind promise each other about files, signed: that files of others pass through and
//! are kept nowhere, that what is erased at its home is erased within a minute, that files are lent look by
//! look. On trust: a signature says who promised, not that it is kept.

use std::time::Duration;

use appliance_model::ruma::ServerName;
use appliance_model::ruma::signatures::sign_json;
use appliance_model::ruma::{CanonicalJsonObject, Int};
use appliance_model::{Error, Kind};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use http::StatusCode;
use serde_json::{Value, json};

use super::canonical::canonical;
use super::keys::{decode, door};
use super::{Peers, RemoteError};
use crate::egress::Limits;
use crate::house::House;

/// Where a hospital says it.
pub const PATH: &str = "/_matrix/federation/unstable/io.wardstone/policy";

/// Between the end of a file at its home and the end of everything of it elsewhere.
pub const ERASED_WITHIN_MS: u64 = 60_000;

/// A promise is asked for again after so long, whatever it says.
const KEPT_MS: u64 = 60 * 60 * 1_000;
/// Who could not be asked is asked again after so long: longer than one picture after the other.
const ASK_AGAIN_MS: u64 = 60_000;
/// The answer has some 500 bytes.
const LIMITS: Limits = Limits { total: Duration::from_secs(20), answer_bytes_max: 64 * 1024 };

/// Servers whose promises are remembered; about 60 bytes each.
pub(super) const PROMISES_MAX: usize = 4_096;
/// What a server promised, and until when that is remembered: milliseconds since the Unix epoch.
pub(super) type Promises = quick_cache::sync::Cache<String, (Promise, u64)>;

/// What a server promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promise {
    /// It lends its files, and passes lent ones through without keeping anything. All others are not of
    /// our kind.
    pub lends: bool,
}

impl House {
    /// What this server promises, signed; good for an hour from now.
    ///
    /// # Errors
    ///
    /// If the key cannot be signed with, which a key that was read always can.
    pub fn own_promise(&self) -> Result<CanonicalJsonObject, Error> {
        let valid_until_ms = (self.clock.now_ms() + KEPT_MS).cast_signed();
        let body = json!({
            "server_name": self.server_name,
            "valid_until_ts": i64::from(Int::new_saturating(valid_until_ms)),
            "lends": true,
            "lease_ms_max": crate::media::lease::LEASE_MS,
            "foreign_media": "stream",
            "erased_within_ms": ERASED_WITHIN_MS,
        });
        let mut body: CanonicalJsonObject =
            serde_json::from_value(body).map_err(Error::internal)?;
        sign_json(self.server_name.as_str(), &self.signing_key, &mut body)
            .map_err(Error::internal)?;
        Ok(body)
    }
}

impl Peers {
    /// What another server promises; nothing, if it is not of our kind. Asked for once an hour.
    ///
    /// # Errors
    ///
    /// * [`Kind::RemoteUnavailable`]: it cannot be asked now.
    /// * [`Kind::Forbidden`]: what it says is not signed by it, or over.
    pub async fn promise_of(&self, server: &ServerName) -> Result<Promise, Error> {
        let now_ms = || self.house.clock.now_ms();
        let known = || {
            let (promise, until_ms) = self.promises.get(server.as_str())?;
            // A clock that was set back does not prolong a promise.
            let left_ms = until_ms.saturating_sub(now_ms());
            (1..=KEPT_MS).contains(&left_ms).then_some(promise)
        };
        if let Some(promise) = known() {
            return Ok(promise);
        }
        // Those who wait here find what the first one was told.
        let _inside = self.promising.enter(door(&self.house.server_digest(server))).await;
        if let Some(promise) = known() {
            return Ok(promise);
        }
        let answer = self.house.ask_json(server, ("GET", PATH), None, LIMITS).await;
        let (promise, kept_ms) = match answer {
            Ok(answer) => (self.read(server, answer.body()).await?, KEPT_MS),
            // It has no such path.
            Err(RemoteError::Refused {
                status: StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED,
                ..
            }) => (Promise::default(), KEPT_MS),
            // Those whose lists this server is not on, for example, say so for every path.
            Err(RemoteError::Refused { .. }) => (Promise::default(), ASK_AGAIN_MS),
            Err(error) => return Err(error.into()),
        };
        self.promises.insert(server.to_string(), (promise, now_ms() + kept_ms));
        Ok(promise)
    }

    async fn read(&self, server: &ServerName, json: &[u8]) -> Result<Promise, Error> {
        let unbelievable = |why: &str| {
            tracing::warn!(kind = "peers.promise", %server, why, "a promise that does not count");
            Error::new(Kind::Forbidden, format!("What {server} promises about files is {why}."))
        };
        let mut said: Value = serde_json::from_slice(json).map_err(|_| unbelievable("no JSON"))?;
        let signatures = said["signatures"][server.as_str()].take();
        let Some(object) = said.as_object_mut() else { return Err(unbelievable("no object")) };
        // "signatures" and "unsigned" are not signed.
        object.remove("signatures");
        object.remove("unsigned");
        let signed = canonical(&said);
        let Some((key_id, signature)) = signatures.as_object().and_then(|all| all.iter().next())
        else {
            return Err(unbelievable("not signed by it"));
        };
        let key = self.key_in_use(server, key_id).await?;
        let signature = signature.as_str().and_then(|text| decode(text).ok()).unwrap_or_default();
        UnparsedPublicKey::new(&ED25519, key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| unbelievable("not signed by it"))?;
        if said["server_name"].as_str() != Some(server.as_str()) {
            return Err(unbelievable("another server's"));
        }
        let now_ms = self.house.clock.now_ms();
        if said["valid_until_ts"].as_u64().is_none_or(|until_ms| until_ms < now_ms) {
            return Err(unbelievable("over"));
        }
        let erases = said["erased_within_ms"].as_u64().is_some_and(|ms| ms <= ERASED_WITHIN_MS);
        let lends = said["lends"] == true && said["foreign_media"] == "stream" && erases;
        Ok(Promise { lends })
    }
}
