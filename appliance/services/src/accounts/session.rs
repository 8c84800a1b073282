//! A session: a device and the tokens that open it.

use appliance_ledger::keyspaces::{
    CROSS_SIGNING, DEVICES, LAST_SEEN, REFRESH_TOKENS, SESSIONS, TOKENS,
};
use appliance_ledger::rows::{DeviceRow, RefreshRow, TokenRow};
use appliance_ledger::{Commit, Digest, Direction};
use appliance_model::ruma::{OwnedDeviceId, OwnedUserId};
use appliance_model::{DeviceNid, Error, SessionClass, UserNid};

use super::Accounts;
use crate::push::{forget_of_device as forget_pushers, owe_farewell};

/// A device ID of ours: ten letters and digits.
const DEVICE_ID_LENGTH: usize = 10;
/// "Opaque identifiers … MUST NOT exceed 255 bytes" ([spec]); a key of the store has room for it.
///
/// [spec]: https://spec.matrix.org/v1.19/appendices/#opaque-identifiers
const DEVICE_ID_BYTES_MAX: usize = 255;
/// What fits on a list of devices.
pub(super) const DISPLAY_NAME_CHARS_MAX: usize = 100;
/// Devices of one person. More is a script that signs in anew for every run, and everybody who
/// writes to that person encrypts for each of them.
pub(super) const DEVICES_MAX: usize = 1_000;
/// Master, self-signing and user-signing.
const SIGNING_KEYS_MAX: usize = 3;
/// 43 letters and digits: 256 bits.
const TOKEN_LENGTH: usize = 43;

/// What the client asks for.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    /// The device to use; a new one if none is given.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of a new device. What is longer than a name is cut off.
    pub display_name: Option<String>,
    /// The client can renew its access token, so it gets one that expires.
    pub refreshable: bool,
    /// Its class, where the way in decides that; else as the settings say.
    pub class: Option<SessionClass>,
    /// The app that opens it with OAuth 2.0.
    pub client: Option<Digest>,
}

/// What it gets.
#[derive(Clone)]
pub struct Session {
    /// Whose.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// The secret to show.
    pub access_token: String,
    /// The secret that renews it.
    pub refresh_token: Option<String>,
    /// How long the access token lives, in milliseconds; `None`: until revoked.
    pub expires_in_ms: Option<u64>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { user_id, device_id, .. } = self;
        f.debug_struct("Session")
            .field("user_id", user_id)
            .field("device_id", device_id)
            .finish_non_exhaustive()
    }
}

impl Accounts {
    /// Adds a session to `commit`. The caller is inside the account's door.
    ///
    /// "If the device ID … corresponds to a known device, any access tokens … associated with that
    /// device are invalidated" ([spec]).
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#relationship-between-access-tokens-and-devices
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] if the device ID is unusable,
    /// [`appliance_model::Kind::Forbidden`] if there are too many devices, or it is the ID of a
    /// cross-signing key, or of another app's device.
    pub(super) async fn open_session(
        &self,
        (user, user_id): (UserNid, OwnedUserId),
        new: NewSession,
        commit: &mut Commit,
    ) -> Result<Session, Error> {
        let dice = &self.house.dice;
        let device_id = new.device_id.unwrap_or_else(|| dice.letters(DEVICE_ID_LENGTH).into());
        check_device_id(device_id.as_str())?;
        let key = (user, device_id.to_string());
        let mut device = match self.house.ledger.get(&DEVICES, &key).await? {
            Some(mut device) => {
                may_take_over(&device, new.client.as_ref())?;
                self.end_tokens(&mut device, commit);
                // Who still waits with the old token hears that it is over.
                commit.touched().ended_devices.push((user, DeviceNid(device.device)));
                device
            }
            None => self.new_device(&key, new.display_name).await?,
        };
        device.client = new.client.map(|client| client.to_vec());
        let tokens = self.issue(&key, &mut device, new.refreshable, commit);
        self.begin_class(&key, DeviceNid(device.device), new.class, commit).await?;
        commit.put(&DEVICES, &key, &device);
        Ok(Session {
            user_id,
            device_id,
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            expires_in_ms: tokens.expires_in_ms,
        })
    }

    pub(super) async fn new_device(
        &self,
        (user, device_id): &(UserNid, String),
        display_name: Option<String>,
    ) -> Result<DeviceRow, Error> {
        let ledger = &self.house.ledger;
        // "The given device ID must not be the same as a cross-signing key ID" ([spec]): both name
        // keys of one user, and a signature must not be taken for the other's.
        //
        // [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login
        let newest = ledger.newest();
        let (signing, _) =
            newest.scan(&CROSS_SIGNING, user, Direction::Forward, SIGNING_KEYS_MAX).await?;
        if signing.iter().any(|(_, row)| row.public_key == *device_id) {
            return Err(Error::forbidden("This device ID is the name of a cross-signing key."));
        }
        let devices = newest.scan(&DEVICES, user, Direction::Forward, DEVICES_MAX);
        let (devices, _): (Vec<((UserNid, String), _)>, _) = devices.await?;
        if devices.len() >= DEVICES_MAX {
            return Err(Error::forbidden(
                "This account has 1,000 devices. Sign some of them out before adding another.",
            ));
        }
        let cut = |name: String| name.chars().take(DISPLAY_NAME_CHARS_MAX).collect();
        Ok(DeviceRow {
            device: ledger.next_number(),
            display_name: display_name.map(cut),
            created_ms: self.house.clock.now_ms(),
            token: Vec::new(),
            refresh: None,
            token_before: None,
            refresh_before: None,
            client: None,
        })
    }

    /// Makes new tokens for a device and sets them in its row, which is the caller's to write.
    pub(super) fn issue(
        &self,
        key: &(UserNid, String),
        device: &mut DeviceRow,
        refreshable: bool,
        commit: &mut Commit,
    ) -> Tokens {
        let dice = &self.house.dice;
        let access = format!("wst_{}", dice.letters(TOKEN_LENGTH));
        let access_digest = self.token_digest(&access);
        let lives_ms = self.house.options.access_token_ms;
        let row = TokenRow {
            user: key.0.0,
            device_id: key.1.clone(),
            device: device.device,
            expires_ms: refreshable.then(|| self.house.clock.now_ms().saturating_add(lives_ms)),
            unused: device.refresh_before.is_some().then_some(true),
        };
        commit.put(&TOKENS, &access_digest, &row);
        device.token = access_digest.to_vec();
        let refresh = refreshable.then(|| format!("wsr_{}", dice.letters(TOKEN_LENGTH)));
        device.refresh = refresh.as_ref().map(|refresh| {
            let digest = self.token_digest(refresh);
            let row = RefreshRow { user: key.0.0, device_id: key.1.clone() };
            commit.put(&REFRESH_TOKENS, &digest, &row);
            digest.to_vec()
        });
        Tokens { access, refresh, expires_in_ms: refreshable.then_some(lives_ms) }
    }

    /// Ends all tokens of a device; its row is the caller's to write.
    pub(super) fn end_tokens(&self, device: &mut DeviceRow, commit: &mut Commit) {
        self.end_newest_tokens(device, commit);
        self.end_tokens_before(device, commit);
    }

    /// Ends the tokens that are current.
    pub(super) fn end_newest_tokens(&self, device: &mut DeviceRow, commit: &mut Commit) {
        self.end_access(&std::mem::take(&mut device.token), commit);
        end_refresh(device.refresh.take(), commit);
    }

    /// Ends the tokens that a refresh replaced.
    pub(super) fn end_tokens_before(&self, device: &mut DeviceRow, commit: &mut Commit) {
        self.end_access(&device.token_before.take().unwrap_or_default(), commit);
        end_refresh(device.refresh_before.take(), commit);
    }

    /// What is remembered about a device's session is read again after `commit`.
    pub(super) fn forget_device(&self, device: &DeviceRow, commit: &mut Commit) {
        let before = device.token_before.as_deref().unwrap_or_default();
        for digest in [&device.token[..], before] {
            if let Ok(digest) = Digest::try_from(digest) {
                self.callers.forget_with(commit, digest);
            }
        }
    }

    fn end_access(&self, digest: &[u8], commit: &mut Commit) {
        if let Ok(digest) = Digest::try_from(digest) {
            commit.delete(&TOKENS, &digest);
            self.callers.forget_with(commit, digest);
        }
    }

    /// Ends a device with all that is its own. The caller is inside the account's door.
    ///
    /// "The device associated with the access token is also deleted. Device keys for the device are
    /// deleted alongside the device" ([spec]).
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3logout
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(super) async fn end_device(
        &self,
        (user, device_id): (UserNid, String),
        device: DeviceRow,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let number = DeviceNid(device.device);
        let now_ms = self.house.clock.now_ms();
        owe_farewell(&self.house.ledger, (user, number), now_ms, commit).await?;
        self.end_own_device((user, device_id), device, commit).await
    }

    /// The same for the device that asks for it: nobody needs to ring there.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(super) async fn end_own_device(
        &self,
        (user, device_id): (UserNid, String),
        mut device: DeviceRow,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        self.end_tokens(&mut device, commit);
        let number = DeviceNid(device.device);
        commit.delete(&LAST_SEEN, &(user, number));
        commit.delete(&SESSIONS, &number);
        commit.touched().ended_devices.push((user, number));
        self.keys.forget_device(user, number, commit).await?;
        // "Pushers … removed when the access token that made them is".
        forget_pushers(&self.house.ledger, (user, number), commit).await?;
        commit.delete(&DEVICES, &(user, device_id));
        Ok(())
    }
}

/// New tokens of a session.
pub(super) struct Tokens {
    pub access: String,
    pub refresh: Option<String>,
    pub expires_in_ms: Option<u64>,
}

fn end_refresh(digest: Option<Vec<u8>>, commit: &mut Commit) {
    if let Some(Ok(digest)) = digest.map(Digest::try_from) {
        commit.delete(&REFRESH_TOKENS, &digest);
    }
}

/// An app names the device that it signs in, and may name one that is there: one whose session is over in
/// part keeps its keys so. Another app's is none of its business, whatever its user is persuaded to.
pub(super) fn may_take_over(device: &DeviceRow, client: Option<&Digest>) -> Result<(), Error> {
    let (Some(opened_by), Some(client)) = (device.client.as_deref(), client) else { return Ok(()) };
    if opened_by == client.as_slice() {
        return Ok(());
    }
    Err(Error::forbidden("This device is signed in with another app. Sign in as a new device."))
}

pub(super) fn check_device_id(device_id: &str) -> Result<(), Error> {
    let usable = !device_id.is_empty()
        && device_id.len() <= DEVICE_ID_BYTES_MAX
        && !device_id.chars().any(char::is_control);
    if usable {
        return Ok(());
    }
    Err(Error::invalid_param("A device ID has 1 to 255 bytes and no control characters."))
}
