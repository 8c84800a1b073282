//! Other servers' signing keys: fetched from the servers themselves, never from a notary, verified,
//! and kept.

use std::collections::BTreeMap;
use std::time::Duration;

use appliance_ledger::keyspaces::{Digest, PEER_KEYS};
use appliance_ledger::rows::peers::{PeerKey, PeerKeysRow, PeerRow};
use appliance_model::ruma::api::federation::discovery::get_server_keys;
use appliance_model::ruma::serde::Base64;
use appliance_model::ruma::signatures::{PublicKeyMap, PublicKeySet};
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::{Error, Kind};
use appliance_rules::Permit;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde_json::Value;

use super::canonical::canonical;
use super::{PeerChange, Peers};
use crate::egress::Limits;

/// "Servers MUST use the lesser of this field and 7 days into the future".
const VALID_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;

/// A server that has just been asked is not asked again: who signs with invented keys must not make
/// this server knock at another's door all day.
const ASK_AGAIN_MS: u64 = 60_000;

/// The answer is about 1 KB; a server with hundreds of old keys stays below.
const LIMITS: Limits = Limits { total: Duration::from_secs(20), answer_bytes_max: 256 * 1024 };

/// Keys of one server that are read.
const KEYS_MAX: usize = 128;

/// A server whose keys were fetched, successfully or not, and when.
pub(super) type Asked = quick_cache::sync::Cache<Digest, u64>;

impl Peers {
    /// The public key with which a server signs requests now.
    ///
    /// # Errors
    ///
    /// [`Kind::Unauthorized`]: it has no such key, or cannot be asked.
    pub async fn key_in_use(&self, server: &ServerName, key_id: &str) -> Result<Vec<u8>, Error> {
        let now_ms = self.house.clock.now_ms();
        let usable = |row: &PeerKeysRow| {
            let key = row.keys.iter().find(|key| key.key_id == key_id);
            let key = key.filter(|key| key.expired_ms.is_none() && row.valid_until_ms >= now_ms);
            key.map(|key| key.public.clone())
        };
        if let Some(key) = self.known_keys(server).await?.as_ref().and_then(usable) {
            return Ok(key);
        }
        let fetched = self.fetch_keys(server).await?;
        fetched.as_ref().and_then(usable).ok_or_else(|| {
            Error::new(
                Kind::Unauthorized,
                format!("{server} has no key {key_id} in use, or cannot be asked for its keys."),
            )
        })
    }

    /// The public keys to verify signatures with: which keys of which servers, and when they signed
    /// (milliseconds since the Unix epoch; none where the time does not matter). A key that cannot be
    /// had, or was not valid at that time, is missing from the map.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn public_keys(
        &self,
        wanted: Vec<(OwnedServerName, Vec<String>, Option<u64>)>,
    ) -> Result<PublicKeyMap, Error> {
        let mut map = PublicKeyMap::new();
        for (server, key_ids, at_ms) in wanted {
            let mut set = PublicKeySet::new();
            for key_id in key_ids {
                if let Some(public) = self.key_at(&server, &key_id, at_ms).await? {
                    set.insert(key_id, Base64::new(public));
                }
            }
            map.entry(server.to_string()).or_default().append(&mut set);
        }
        Ok(map)
    }

    async fn key_at(
        &self,
        server: &ServerName,
        key_id: &str,
        at_ms: Option<u64>,
    ) -> Result<Option<Vec<u8>>, Error> {
        if *server == *self.house.server_name {
            return Ok(self.own_key(key_id));
        }
        if let Some(key) =
            self.known_keys(server).await?.and_then(|row| valid_at(&row, key_id, at_ms))
        {
            return Ok(Some(key));
        }
        let fetched = self.fetch_keys(server).await?;
        Ok(fetched.and_then(|row| valid_at(&row, key_id, at_ms)))
    }

    /// The keys that the administrator pinned.
    fn pinned(&self, server: &ServerName) -> Pinned {
        let peer = self.house.roll.described(server);
        let key =
            |(key_id, public): &(String, String)| Some((key_id.clone(), decode(public).ok()?));
        let pinned = peer.iter().flat_map(|peer| &peer.pinned_keys);
        pinned.filter_map(key).collect()
    }

    fn own_key(&self, key_id: &str) -> Option<Vec<u8>> {
        let key = &self.house.signing_key;
        let is_it = key_id.strip_prefix("ed25519:") == Some(key.version());
        is_it.then(|| key.public_key().to_vec())
    }

    /// What a server last said about its keys.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn known_keys(&self, server: &ServerName) -> Result<Option<PeerKeysRow>, Error> {
        self.house.ledger.get(&PEER_KEYS, &self.house.server_digest(server)).await
    }

    /// Asks a server for its keys, unless it was asked a moment ago. Returns what is known then.
    pub(super) async fn fetch_keys(
        &self,
        server: &ServerName,
    ) -> Result<Option<PeerKeysRow>, Error> {
        let digest = self.house.server_digest(server);
        // Those who wait here find what the first one fetched.
        let _inside = self.doors.enter(door(&digest)).await;
        let now_ms = self.house.clock.now_ms();
        let known = self.known_keys(server).await?;
        // A clock that was set back must not keep us from asking until it is where it was.
        let asked_ms = self.asked.get(&digest);
        if asked_ms.is_some_and(|asked_ms| now_ms.abs_diff(asked_ms) < ASK_AGAIN_MS) {
            return Ok(known);
        }
        let answer = self.house.call_raw(server, get_server_keys::v2::Request::new(), LIMITS).await;
        self.asked.insert(digest, now_ms);
        let trusted = self.trusted(server, known.as_ref());
        let read = answer
            .map_err(|error| error.to_string().into())
            .and_then(|answer| read_keys((server, &trusted), answer.body(), now_ms))
            .and_then(|row| one_key_each(row, known.as_ref(), &self.pinned(server)));
        let row = match read {
            Ok(row) => keep_old_keys(row, known),
            Err(Unusable { why, unapproved }) => {
                let kind = if unapproved.is_some() { "peers.other_keys" } else { "peers.no_keys" };
                if let Some(times) = self.alarms.count(kind, server.as_str(), now_ms) {
                    tracing::warn!(kind, %server, why, times, "no keys of another server");
                }
                let Some(unapproved) = unapproved else { return Ok(known) };
                let new = || PeerKeysRow { server_name: server.to_string(), ..Default::default() };
                PeerKeysRow { unapproved: Some(unapproved), ..known.unwrap_or_else(new) }
            }
        };
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.put(&PEER_KEYS, &digest, &row);
        self.house.ledger.commit(commit).await?;
        Ok(Some(row))
    }

    /// The keys one of which must vouch for all others, if the administrator pinned any: those that
    /// were pinned, and those in use for which one of them has vouched before. So a peer changes its
    /// key without anybody's help as long as the old one signs the new one.
    fn trusted(&self, server: &ServerName, known: Option<&PeerKeysRow>) -> Pinned {
        let mut trusted = self.pinned(server);
        if !trusted.is_empty() {
            let in_use = known.into_iter().flat_map(|row| &row.keys);
            let in_use = in_use.filter(|key| key.expired_ms.is_none());
            trusted.extend(in_use.map(|key| (key.key_id.clone(), key.public.clone())));
        }
        trusted
    }

    /// Pins a key that a peer showed and that no pinned key vouches for. Returns its keys, fetched anew
    /// if it can be asked.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: no such key waits for approval.
    /// * [`Kind::InvalidParam`]: too many keys are pinned; take one back first.
    pub async fn approve_key(
        &self,
        server: &ServerName,
        key_id: &str,
        by: &str,
    ) -> Result<Option<PeerKeysRow>, Error> {
        let waiting = self.known_keys(server).await?.and_then(|row| row.unapproved);
        let key = waiting.into_iter().flatten().find(|key| key.key_id == key_id);
        let nothing = || {
            Error::not_found(format!(
                "No key {key_id} of {server} waits for approval; `wardstone peers show` lists those \
                 that do."
            ))
        };
        let key = key.ok_or_else(nothing)?;
        let approve = |mut row: PeerRow| {
            row.pinned_keys.retain(|(known, _)| *known != key.key_id);
            row.pinned_keys.push((key.key_id.clone(), base64(&key.public)));
            PeerChange::default().apply(row)
        };
        self.describe_as("peer.key_approved", server, approve, by).await?;
        self.fetch_keys(server).await
    }
}

/// Why what a server says about its keys does not count.
struct Unusable {
    why: String,
    /// The keys, if all that is missing is somebody's word for them.
    unapproved: Option<Vec<PeerKey>>,
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self { why, unapproved: None }
    }
}

impl From<&str> for Unusable {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

/// Key IDs and public keys.
type Pinned = Vec<(String, Vec<u8>)>;

/// A number for a door; two servers behind one only wait for each other.
pub(super) fn door(digest: &Digest) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// "Servers MUST … the key's `valid_until_ts` … at least `origin_server_ts`", and keys that are out
/// of use count for what was signed before.
fn valid_at(row: &PeerKeysRow, key_id: &str, at_ms: Option<u64>) -> Option<Vec<u8>> {
    let key = row.keys.iter().find(|key| key.key_id == key_id)?;
    let until_ms = key.expired_ms.unwrap_or(row.valid_until_ms);
    at_ms.is_none_or(|at_ms| at_ms <= until_ms).then(|| key.public.clone())
}

/// What a key is called means one key for ever: a server that shows another under the same name says one
/// thing here and another there, or has let itself be robbed. What it said first stays, and what was
/// signed with it stays true; the other counts when the administrator has asked and pins it.
fn one_key_each(
    row: PeerKeysRow,
    known: Option<&PeerKeysRow>,
    pinned: &Pinned,
) -> Result<PeerKeysRow, Unusable> {
    let known = known.map(|known| &*known.keys).unwrap_or_default();
    let is_other = |key: &&PeerKey| {
        known.iter().any(|old| old.key_id == key.key_id && old.public != key.public)
            && !pinned.contains(&(key.key_id.clone(), key.public.clone()))
    };
    let others: Vec<_> = row.keys.iter().filter(is_other).cloned().collect();
    let Some(first) = others.first() else { return Ok(row) };
    let why = format!("{} is another key than it was", first.key_id);
    Err(Unusable { why, unapproved: Some(others) })
}

/// Keys that the server no longer lists at all count until it last vouched for them.
fn keep_old_keys(mut row: PeerKeysRow, known: Option<PeerKeysRow>) -> PeerKeysRow {
    let Some(known) = known else { return row };
    for key in known.keys {
        if row.keys.len() < KEYS_MAX && row.keys.iter().all(|kept| kept.key_id != key.key_id) {
            let expired_ms = key.expired_ms.or(Some(known.valid_until_ms));
            row.keys.push(PeerKey { expired_ms, ..key });
        }
    }
    row
}

/// Reads and verifies what a server says about its keys.
fn read_keys(
    (server, pinned): (&ServerName, &Pinned),
    json: &[u8],
    now_ms: u64,
) -> Result<PeerKeysRow, Unusable> {
    let mut said: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if said["server_name"].as_str() != Some(server.as_str()) {
        return Err(format!("these are the keys of {}", said["server_name"]).into());
    }
    let valid_until_ms = said["valid_until_ts"].as_u64().ok_or("no `valid_until_ts`")?;
    let in_use = public_keys(&said["verify_keys"])?;
    let signatures = said["signatures"][server.as_str()].clone();
    // "signatures" and "unsigned" are not signed.
    let object = said.as_object_mut().ok_or("no object")?;
    object.remove("signatures");
    object.remove("unsigned");
    let signed = canonical(&said);
    let mut vouched = Vec::new();
    for (key_id, (public, _)) in &in_use {
        let Some(signature) = signatures[key_id.as_str()].as_str() else { continue };
        let signature = decode(signature)?;
        UnparsedPublicKey::new(&ED25519, public)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| format!("the signature by {key_id} is wrong"))?;
        vouched.push((key_id.clone(), public.clone()));
    }
    if vouched.is_empty() {
        return Err("no key of its own has signed them".into());
    }
    if !pinned.is_empty() && !vouched.iter().any(|key| pinned.contains(key)) {
        let key = |(key_id, public)| PeerKey { key_id, public, expired_ms: None };
        return Err(Unusable {
            why: "none of its pinned keys has signed them".to_owned(),
            unapproved: Some(vouched.into_iter().map(key).collect()),
        });
    }
    let mut keys = public_keys(&said["old_verify_keys"])?;
    keys.extend(in_use);
    let keys = keys.into_iter().map(|(key_id, (public, expired_ms))| PeerKey {
        key_id,
        public,
        expired_ms,
    });
    Ok(PeerKeysRow {
        server_name: server.to_string(),
        fetched_ms: now_ms,
        valid_until_ms: valid_until_ms.min(now_ms + VALID_MS_MAX),
        keys: keys.collect(),
        json: json.to_vec(),
        unapproved: None,
    })
}

type Keys = BTreeMap<String, (Vec<u8>, Option<u64>)>;

fn public_keys(listed: &Value) -> Result<Keys, String> {
    let Some(listed) = listed.as_object() else { return Ok(Keys::new()) };
    let mut keys = Keys::new();
    for (key_id, entry) in listed.iter().take(KEYS_MAX) {
        // Other algorithms may come; they do not make these keys worse.
        if !key_id.starts_with("ed25519:") {
            continue;
        }
        let public = decode(entry["key"].as_str().unwrap_or_default())?;
        if public.len() != 32 {
            return Err(format!("{key_id} is no Ed25519 key"));
        }
        keys.insert(key_id.clone(), (public, entry["expired_ts"].as_u64()));
    }
    Ok(keys)
}

/// Unpadded Base64, as everywhere in Matrix; padding is forgiven.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, String> {
    Base64::<appliance_model::ruma::serde::base64::Standard>::parse(text)
        .map(Base64::into_inner)
        .map_err(|error| error.to_string())
}

/// Unpadded Base64 of a public key.
pub fn base64(bytes: &[u8]) -> String {
    Base64::<appliance_model::ruma::serde::base64::Standard, _>::new(bytes).encode()
}

#[cfg(test)]
mod tests;
