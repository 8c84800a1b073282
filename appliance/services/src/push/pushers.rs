//! `GET /pushers` and `POST /pushers/set` ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset

use std::sync::PoisonError;

use appliance_ledger::keyspaces::{PUSHER_OWNERS, PUSHERS};
use appliance_ledger::rows::push::PusherRow;
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::{Caller, DeviceNid, Error, Kind, UserNid};
use appliance_rules::Permit;
use http::Uri;
use serde_json::{Map, Value};

use super::Push;

/// "pushkey … max length, 512 bytes", "app_id … max length, 64 chars" ([`NewPusher`]).
const PUSHKEY_BYTES_MAX: usize = 512;
const APP_ID_CHARS_MAX: usize = 64;
/// Names and data together: some clients put a whole default payload there.
const JSON_BYTES_MAX: usize = 16 * 1024;
/// Pushers of one user. Each new message is told to all of them.
pub(super) const PUSHERS_MAX: usize = 100;
/// Users of one device, one after the other.
const OWNERS_MAX: usize = 1_000;
/// "MUST be an HTTPS URL with a path of `/_matrix/push/v1/notify`."
const PATH: &str = "/_matrix/push/v1/notify";

/// What a client sets.
#[derive(Clone, Debug)]
pub struct NewPusher {
    /// The app, by ID.
    pub app_id: String,
    /// The device, as the gateway knows it.
    pub pushkey: String,
    /// Everything else, `kind` and `data` included: returned as it came.
    pub rest: Map<String, Value>,
    /// Leaves other users' pushers with the same app and key alone.
    pub append: bool,
}

/// A pusher, as its owner sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pusher {
    /// The app, by ID.
    pub app_id: String,
    /// The device, as the gateway knows it.
    pub pushkey: String,
    /// Everything else.
    pub rest: Map<String, Value>,
}

impl Push {
    /// The caller's pushers.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn pushers(&self, caller: &Caller) -> Result<Vec<Pusher>, Error> {
        self.pushers_of(caller.user).await
    }

    /// A user's pushers, for administrators.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn pushers_of(&self, user: UserNid) -> Result<Vec<Pusher>, Error> {
        let rows = self.rows(user).await?;
        let pusher = |(_, row): (_, PusherRow)| Pusher {
            rest: serde_json::from_str(&row.json).unwrap_or_default(),
            app_id: row.app_id,
            pushkey: row.pushkey,
        };
        Ok(rows.into_iter().map(pusher).collect())
    }

    pub(super) async fn rows(&self, user: UserNid) -> Result<Vec<(Digest, PusherRow)>, Error> {
        let newest = self.house.ledger.newest();
        let (rows, _) = newest.scan(&PUSHERS, &user, Direction::Forward, PUSHERS_MAX).await?;
        Ok(rows.into_iter().map(|((_, digest), row)| (digest, row)).collect())
    }

    /// Sets a pusher, or changes the one with the same app and key.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidParam`] if something is too long, there are too many, or the gateway is none
    /// that this server may tell; [`Kind::MissingParam`].
    pub async fn set_pusher(&self, caller: &Caller, new: NewPusher) -> Result<(), Error> {
        check(&new)?;
        let json = Value::Object(new.rest.clone()).to_string();
        if json.len() > JSON_BYTES_MAX {
            return Err(Error::invalid_param("A pusher has at most 16 KiB of names and data."));
        }
        let digest = self.pusher_digest(&new.app_id, &new.pushkey);
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(caller.user.0).await;
        let rows = self.rows(caller.user).await?;
        let is_new = !rows.iter().any(|(known, _)| *known == digest);
        if is_new && rows.len() >= PUSHERS_MAX {
            return Err(Error::invalid_param("You have 100 pushers. Remove some first."));
        }
        let mut commit =
            ledger.begin(Permit::own("pusher.set", &caller.user_id, &caller.device_id));
        // "If false, the homeserver must remove any other pushers with the same App ID and pushkey
        // for different users."
        if !new.append {
            let (owners, _) = ledger
                .newest()
                .scan(&PUSHER_OWNERS, &digest, Direction::Forward, OWNERS_MAX)
                .await?;
            for ((_, owner), ()) in owners.into_iter().filter(|((_, o), ())| *o != caller.user) {
                forget((owner, digest), &mut commit);
            }
        }
        let row = PusherRow {
            app_id: new.app_id,
            pushkey: new.pushkey,
            device: caller.device.0,
            json,
            set_ms: self.house.clock.now_ms(),
            backlog: None,
        };
        commit.put(&PUSHERS, &(caller.user, digest), &row);
        commit.put(&PUSHER_OWNERS, &(digest, caller.user), &());
        commit.hold(inside);
        ledger.commit(commit).await?;
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(caller.user);
        Ok(())
    }

    /// Removes the caller's pusher with this app and key, if there is one.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn remove_pusher(
        &self,
        caller: &Caller,
        (app_id, pushkey): (&str, &str),
    ) -> Result<(), Error> {
        let key = (caller.user, self.pusher_digest(app_id, pushkey));
        let ledger = &self.house.ledger;
        if ledger.get(&PUSHERS, &key).await?.is_none() {
            return Ok(());
        }
        let permit = Permit::own("pusher.removed", &caller.user_id, &caller.device_id);
        let mut commit = ledger.begin(permit);
        forget(key, &mut commit);
        ledger.commit(commit).await.map(drop)
    }

    fn pusher_digest(&self, app_id: &str, pushkey: &str) -> Digest {
        self.house.ledger.digest(&[b"pusher", app_id.as_bytes(), pushkey.as_bytes()])
    }
}

/// Removes a pusher in `commit`.
pub(super) fn forget((owner, digest): super::PusherKey, commit: &mut Commit) {
    commit.delete(&PUSHERS, &(owner, digest));
    commit.delete(&PUSHER_OWNERS, &(digest, owner));
}

/// Removes the pushers that a device set, in the commit that ends it.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn forget_of_device(
    ledger: &appliance_ledger::Ledger,
    (user, device): (UserNid, DeviceNid),
    commit: &mut Commit,
) -> Result<(), Error> {
    let scan = ledger.newest().scan(&PUSHERS, &user, Direction::Forward, PUSHERS_MAX);
    let (rows, _): (Vec<((UserNid, Digest), PusherRow)>, _) = scan.await?;
    for ((_, digest), _) in rows.into_iter().filter(|(_, row)| row.device == device.0) {
        forget((user, digest), commit);
    }
    Ok(())
}

fn check(new: &NewPusher) -> Result<(), Error> {
    if new.pushkey.is_empty() || new.pushkey.len() > PUSHKEY_BYTES_MAX {
        return Err(Error::invalid_param("`pushkey` has 1 to 512 bytes."));
    }
    if new.app_id.is_empty() || new.app_id.chars().count() > APP_ID_CHARS_MAX {
        return Err(Error::invalid_param("`app_id` has 1 to 64 characters."));
    }
    for name in ["app_display_name", "device_display_name", "lang"] {
        if !new.rest.get(name).is_some_and(Value::is_string) {
            return Err(Error::new(Kind::MissingParam, format!("`{name}` is missing.")));
        }
    }
    if new.rest.get("kind").and_then(Value::as_str) != Some("http") {
        return Err(Error::invalid_param("This server rings at gateways: `kind` is `http`."));
    }
    let url = new.rest.get("data").and_then(|data| data.get("url")).and_then(Value::as_str);
    let missing = || Error::new(Kind::MissingParam, "`data.url` is missing.");
    let wrong =
        || Error::invalid_param("`data.url` is a URL with the path /_matrix/push/v1/notify.");
    let uri: Uri = url.ok_or_else(missing)?.parse().map_err(|_| wrong())?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    if !is_http || !has_host || uri.path() != PATH || uri.query().is_some() {
        return Err(wrong());
    }
    Ok(())
}
