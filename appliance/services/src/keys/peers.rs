//! Keys and other servers: what they are told of ours, what they tell of theirs.
//!
//! A change of a device list is owed to the servers that share a room with its owner, and written out
//! when it is sent. Of others' users the last answer is kept: for an hour while nobody says that it
//! has changed, and beyond that for as long as their server does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use appliance_ledger::keyspaces::{CROSS_SIGNING, DEVICE_KEYS, DEVICE_LISTS, DEVICES, REMOTE_KEYS};
use appliance_ledger::rows::keys::CrossSigningRow;
use appliance_ledger::rows::peers::{DeviceNews, EduRow, RemoteKeysRow};
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::api::federation::keys::{claim_keys, get_keys};
use appliance_model::ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use appliance_model::{DeviceNid, Error, Position, UserNid};
use appliance_rules::Permit;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use super::query::{DEVICES_SHOWN_MAX, MASTER, SELF_SIGNING, show_cross_signing, show_device};
use super::{ClaimedKeys, Claims, Keys, QueriedKeys, Queries, RawJson, raw};
use crate::egress::Limits;
use crate::house::House;

/// A person waits before a message can be encrypted; clients give up after about as long.
const LIMITS: Limits =
    Limits { total: Duration::from_secs(10), answer_bytes_max: 32 * 1024 * 1024 };

/// An answer is believed for so long if no change is told.
const KEPT_MS: u64 = 60 * 60 * 1_000;

/// Users of one server that are asked about at once.
const USERS_MAX: usize = 10_000;

/// What of a user's keys has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyNews {
    /// These devices.
    pub devices: BTreeSet<String>,
    /// Cross-signing keys.
    pub signing_keys: bool,
}

impl KeyNews {
    /// One device.
    pub fn device(device_id: impl ToString) -> Self {
        Self { devices: [device_id.to_string()].into(), signing_keys: false }
    }

    /// Cross-signing keys.
    pub fn signing_keys() -> Self {
        Self { devices: BTreeSet::new(), signing_keys: true }
    }
}

impl Keys {
    /// Notes in `commit` that the servers that share a room with a user are owed the news.
    pub(super) async fn tell_servers(
        &self,
        user: UserNid,
        news: KeyNews,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let servers = self.house.servers_with(user).await?;
        if servers.is_empty() {
            return Ok(());
        }
        let mut previous = self.house.ledger.get(&DEVICE_LISTS, &user).await?;
        for device_id in news.devices {
            let device = DeviceNews { user: user.0, device_id, previous: previous.take() };
            let row = |_: Position| EduRow { device: Some(device), ..EduRow::default() };
            self.house.owe_row(servers.clone(), row, commit);
        }
        if news.signing_keys {
            let row = move |_: Position| EduRow { signing_keys: Some(user.0), ..EduRow::default() };
            self.house.owe_row(servers, row, commit);
        }
        Ok(())
    }

    /// The devices of a local user, for a server: `GET /user/devices`.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`]
    pub async fn devices_for_server(&self, user_id: &UserId) -> Result<Value, Error> {
        let unknown = || Error::not_found("This server has no such user.");
        let ledger = &self.house.ledger;
        let user = ledger.user(user_id).await?.filter(|_| self.house.is_ours(user_id));
        let user = user.ok_or_else(unknown)?;
        let account = ledger.get(&appliance_ledger::keyspaces::ACCOUNTS, &user).await?;
        account.ok_or_else(unknown)?;
        let view = ledger.newest();
        let (rows, _) = view.scan(&DEVICES, &user, Direction::Forward, DEVICES_SHOWN_MAX).await?;
        let numbers: Vec<_> = rows.iter().map(|(_, row)| DeviceNid(row.device)).collect();
        let kept_out = self.house.kept_out(&numbers).await?;
        let mut devices = Vec::new();
        for (((_, device_id), row), is_kept_out) in rows.into_iter().zip(kept_out) {
            if is_kept_out {
                continue;
            }
            let key = (user, DeviceNid(row.device));
            let Some(keys) = view.get(&DEVICE_KEYS, &key).await? else { continue };
            let mut device = json!({ "device_id": device_id, "keys": show_device(&keys, None)? });
            if let Some(name) = row.display_name {
                device["device_display_name"] = name.into();
            }
            devices.push(device);
        }
        let stream_id = view.get(&DEVICE_LISTS, &user).await?.unwrap_or_default();
        let mut answer = json!({ "user_id": user_id, "stream_id": stream_id, "devices": devices });
        for (name, key) in signing_keys_of(&self.house, user).await? {
            answer[name] = json!(key);
        }
        Ok(answer)
    }

    /// The keys of local users, for a server: `POST /user/keys/query`. Users of other servers are left
    /// out.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::TooLarge`] for more than 10,000 users at once.
    pub async fn query_for_server(&self, queries: Queries) -> Result<QueriedKeys, Error> {
        let mut found = QueriedKeys::default();
        if queries.len() > USERS_MAX {
            return Err(Error::too_large("These are too many users for one request."));
        }
        for (user_id, devices) in queries {
            if !self.house.is_ours(&user_id) {
                continue;
            }
            let Some(user) = self.known_account(&user_id).await? else { continue };
            for (name, key) in signing_keys_of(&self.house, user).await? {
                let into = match name {
                    "master_key" => &mut found.master_keys,
                    _ => &mut found.self_signing_keys,
                };
                into.insert(user_id.clone(), key);
            }
            let devices = self.device_keys_of(user, &devices).await?;
            found.device_keys.insert(user_id, devices);
        }
        Ok(found)
    }

    /// Asks other servers for the keys of their users, all at once, and adds what they say.
    pub(super) async fn add_remote(
        &self,
        queries: BTreeMap<OwnedServerName, Queries>,
        found: &mut QueriedKeys,
    ) -> Result<(), Error> {
        let asked = queries.into_iter().map(|(server, queries)| async move {
            let answer = self.remote_keys(&server, queries).await;
            (server, answer)
        });
        for (server, answer) in join_all(asked).await {
            let (answer, is_whole) = answer?;
            if !is_whole {
                found.failures.insert(server);
            }
            for (user_id, row, devices) in answer {
                let mut by_id: BTreeMap<String, RawJson> =
                    serde_json::from_str(&row.device_keys).map_err(Error::internal)?;
                by_id.retain(|device_id, _| devices.is_empty() || devices.contains(device_id));
                if let Some(key) = row.master_key {
                    found.master_keys.insert(user_id.clone(), raw(key)?);
                }
                if let Some(key) = row.self_signing_key {
                    found.self_signing_keys.insert(user_id.clone(), raw(key)?);
                }
                found.device_keys.insert(user_id, by_id);
            }
        }
        Ok(())
    }

    /// What is known of users of one server, asking it for what is not; and whether it answered.
    async fn remote_keys(
        &self,
        server: &ServerName,
        queries: Queries,
    ) -> Result<(Vec<(OwnedUserId, RemoteKeysRow, Vec<String>)>, bool), Error> {
        let (now_ms, ledger) = (self.house.clock.now_ms(), &self.house.ledger);
        let (mut known, mut missing) = (Vec::new(), Vec::new());
        for (user_id, devices) in queries {
            let user = ledger.user(&user_id).await?;
            let row = match user {
                Some(user) => ledger.get(&REMOTE_KEYS, &user).await?,
                None => None,
            };
            match row {
                Some(row) if now_ms < row.fetched_ms.saturating_add(KEPT_MS) => {
                    known.push((user_id, row, devices));
                }
                row => missing.push((user_id, user, row, devices)),
            }
        }
        if missing.is_empty() {
            return Ok((known, true));
        }
        let wanted = missing.iter().map(|(user_id, ..)| (user_id.clone(), Vec::new())).collect();
        let request = get_keys::v1::Request::new(wanted);
        let answer = self.house.call_raw(server, request, LIMITS).await;
        let told =
            answer.ok().and_then(|answer| serde_json::from_slice::<Told>(answer.body()).ok());
        let is_whole = told.is_some();
        let mut told = told.unwrap_or_default();
        for (user_id, user, old, devices) in missing {
            let row = match told.take(&user_id, now_ms)? {
                Some(row) => {
                    self.keep_remote(user, &row).await?;
                    Some(row)
                }
                // What was true the last time is better than nothing while the line is cut.
                None => old.filter(|_| !is_whole),
            };
            known.extend(row.map(|row| (user_id, row, devices)));
        }
        Ok((known, is_whole))
    }

    async fn keep_remote(&self, user: Option<UserNid>, row: &RemoteKeysRow) -> Result<(), Error> {
        // Whoever shares no room with us is forgotten again: nobody would tell of changes.
        let Some(user) = user else { return Ok(()) };
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.put(&REMOTE_KEYS, &user, row);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// A server tells that the keys of one of its users changed.
    pub(crate) async fn keys_changed_there(&self, user_id: &UserId) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        // Nobody here has to do with people that this server has never heard of.
        let Some(user) = ledger.user(user_id).await? else { return Ok(()) };
        let mut commit = ledger.begin(Permit::housekeeping());
        if let Some(mut row) = ledger.get(&REMOTE_KEYS, &user).await? {
            row.fetched_ms = 0;
            commit.put(&REMOTE_KEYS, &user, &row);
        }
        self.list_moved(user, &mut commit).await?;
        ledger.commit(commit).await.map(drop)
    }

    /// Asks other servers for one-time keys, all at once, and adds what they give.
    pub(super) async fn claim_remote(
        &self,
        claims: BTreeMap<OwnedServerName, Claims>,
        claimed: &mut ClaimedKeys,
    ) {
        let asked = claims.into_iter().map(|(server, claims)| async move {
            let one_time_keys = claims
                .iter()
                .map(|(user_id, devices)| {
                    let devices = devices.iter().map(|(device, algorithm)| {
                        (device.as_str().into(), algorithm.as_str().into())
                    });
                    (user_id.clone(), devices.collect())
                })
                .collect();
            let request = claim_keys::v1::Request::new(one_time_keys);
            let answer = self.house.call_raw(&server, request, LIMITS).await;
            let told = answer
                .ok()
                .and_then(|answer| serde_json::from_slice::<ToldOneTimeKeys>(answer.body()).ok());
            (server, claims, told)
        });
        for (server, claims, told) in join_all(asked).await {
            let Some(mut told) = told else {
                claimed.failures.insert(server);
                continue;
            };
            // Only what was asked for: a server speaks for nobody else.
            for (user_id, devices) in claims {
                let Some(mut given) = told.one_time_keys.remove(&user_id) else { continue };
                given.retain(|device_id, _| devices.contains_key(device_id));
                claimed.one_time_keys.insert(user_id, given);
            }
        }
    }
}

/// An answer to `/user/keys/query`, as far as it is used.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    device_keys: BTreeMap<OwnedUserId, BTreeMap<String, RawJson>>,
    master_keys: BTreeMap<OwnedUserId, RawJson>,
    self_signing_keys: BTreeMap<OwnedUserId, RawJson>,
}

impl Told {
    /// What it says of one user.
    fn take(&mut self, user_id: &UserId, now_ms: u64) -> Result<Option<RemoteKeysRow>, Error> {
        let Some(mut devices) = self.device_keys.remove(user_id) else { return Ok(None) };
        // A device that says that it is another, or somebody else's, is none.
        devices.retain(|device_id, keys| is_about(keys.get(), user_id, device_id));
        let text = |key: Option<RawJson>| key.map(|key| key.get().to_owned());
        Ok(Some(RemoteKeysRow {
            fetched_ms: now_ms,
            device_keys: serde_json::to_string(&devices).map_err(Error::internal)?,
            master_key: text(self.master_keys.remove(user_id)),
            self_signing_key: text(self.self_signing_keys.remove(user_id)),
        }))
    }
}

#[derive(Deserialize)]
struct ToldOneTimeKeys {
    one_time_keys: BTreeMap<OwnedUserId, BTreeMap<String, BTreeMap<String, RawJson>>>,
}

fn is_about(keys: &str, user_id: &UserId, device_id: &str) -> bool {
    serde_json::from_str::<Value>(keys).is_ok_and(|keys| {
        keys["user_id"].as_str() == Some(user_id.as_str())
            && keys["device_id"].as_str() == Some(device_id)
    })
}

/// Master and self-signing key of a local user, by their names in answers.
async fn signing_keys_of(
    house: &House,
    user: UserNid,
) -> Result<Vec<(&'static str, RawJson)>, Error> {
    let view = house.ledger.newest();
    let (rows, _) = view.scan(&CROSS_SIGNING, &user, Direction::Forward, 3).await?;
    let named = |(code, row): (u8, CrossSigningRow)| match code {
        MASTER => Some(show_cross_signing(&row, None).map(|key| ("master_key", key))),
        SELF_SIGNING => Some(show_cross_signing(&row, None).map(|key| ("self_signing_key", key))),
        _ => None,
    };
    rows.into_iter().filter_map(|((_, code), row)| named((code, row))).collect()
}

/// A message for a server as it is sent; none if there is nothing left to say.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn write_out(
    house: &House,
    position: Position,
    row: EduRow,
) -> Result<Option<String>, Error> {
    if row.json.is_some() {
        return Ok(row.json);
    }
    let (edu_type, content) = match (row.device, row.signing_keys) {
        (Some(news), _) => ("m.device_list_update", device_update(house, position, &news).await?),
        (None, Some(user)) => ("m.signing_key_update", signing_update(house, UserNid(user)).await?),
        (None, None) => return Ok(None),
    };
    let message = json!({ "edu_type": edu_type, "content": content });
    Ok(Some(crate::peers::canonical(&message)))
}

/// The content of `m.device_list_update`.
async fn device_update(
    house: &House,
    position: Position,
    news: &DeviceNews,
) -> Result<Value, Error> {
    let user = UserNid(news.user);
    let mut content = json!({
        "user_id": house.ledger.user_id(user).await?,
        "device_id": news.device_id,
        "stream_id": position.0,
        "prev_id": news.previous.into_iter().collect::<Vec<_>>(),
    });
    let view = house.ledger.newest();
    let device = view.get(&DEVICES, &(user, news.device_id.clone())).await?;
    let is_kept_out = match &device {
        Some(device) => house.kept_out(&[DeviceNid(device.device)]).await? == [true],
        None => false,
    };
    // There is no word for a device that is there and not to be encrypted for.
    let Some(device) = device.filter(|_| !is_kept_out) else {
        content["deleted"] = true.into();
        return Ok(content);
    };
    if let Some(keys) = view.get(&DEVICE_KEYS, &(user, DeviceNid(device.device))).await? {
        content["keys"] = json!(show_device(&keys, None)?);
    }
    if let Some(name) = device.display_name {
        content["device_display_name"] = name.into();
    }
    Ok(content)
}

/// The content of `m.signing_key_update`.
async fn signing_update(house: &House, user: UserNid) -> Result<Value, Error> {
    let mut content = json!({ "user_id": house.ledger.user_id(user).await? });
    for (name, key) in signing_keys_of(house, user).await? {
        content[name] = json!(key);
    }
    Ok(content)
}
