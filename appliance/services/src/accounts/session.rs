//! A session: a device and its access token.

use appliance_ledger::Commit;
use appliance_ledger::keyspaces::{DEVICES, TOKENS};
use appliance_ledger::rows::{DeviceRow, TokenRow};
use appliance_model::ruma::{OwnedDeviceId, OwnedUserId};
use appliance_model::{Error, UserNid};

use super::Accounts;

/// "Device IDs … up to 255 bytes"; ours are ten letters.
const DEVICE_ID_LENGTH: usize = 10;
/// 43 letters and digits: 256 bits.
const TOKEN_LENGTH: usize = 43;

/// What the client asks for.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    /// The device to use; a new one if none is given.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of a new device.
    pub display_name: Option<String>,
}

/// What it gets.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whose.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// The secret to show.
    pub access_token: String,
}

impl Accounts {
    /// Adds a session to `commit`.
    ///
    /// "If the device ID … corresponds to a known device, any access tokens … associated with that
    /// device are invalidated" ([spec]).
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#relationship-between-access-tokens-and-devices
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(super) async fn open_session(
        &self,
        (user, user_id): (UserNid, OwnedUserId),
        new: NewSession,
        commit: &mut Commit,
    ) -> Result<Session, Error> {
        let dice = &self.house.dice;
        let device_id = new.device_id.unwrap_or_else(|| dice.letters(DEVICE_ID_LENGTH).into());
        let access_token = format!("wst_{}", dice.letters(TOKEN_LENGTH));
        let digest = self.token_digest(&access_token);
        let key = (user, device_id.to_string());
        let known = self.house.ledger.get(&DEVICES, &key).await?;
        let device = match known {
            Some(mut device) => {
                if let Ok(old) = <[u8; 16]>::try_from(device.token.as_slice()) {
                    commit.delete(&TOKENS, &old);
                    self.callers.remove(&old);
                }
                device.token = digest.to_vec();
                device
            }
            None => DeviceRow {
                device: self.house.ledger.next_number(),
                display_name: new.display_name,
                created_ms: self.house.clock.now_ms(),
                token: digest.to_vec(),
            },
        };
        let token = TokenRow {
            user: user.0,
            device_id: device_id.to_string(),
            device: device.device,
            expires_ms: None,
        };
        commit.put(&DEVICES, &key, &device);
        commit.put(&TOKENS, &digest, &token);
        Ok(Session { user_id, device_id, access_token })
    }

    /// Signs in with a password.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if user or password are wrong: which of the two is not
    /// said.
    pub async fn login(
        &self,
        user_id: OwnedUserId,
        password: String,
        new: NewSession,
    ) -> Result<Session, Error> {
        let wrong = || Error::forbidden("The user name or the password is wrong.");
        let ledger = &self.house.ledger;
        let user = ledger.user(&user_id).await?.ok_or_else(wrong)?;
        let account =
            ledger.get(&appliance_ledger::keyspaces::ACCOUNTS, &user).await?.ok_or_else(wrong)?;
        let hash = account.password_hash.ok_or_else(wrong)?;
        if !self.verify_password(password, hash).await? {
            return Err(wrong());
        }
        let _inside = self.doors.enter(user.0).await;
        let permit = appliance_rules::Permit::own("session.opened", &user_id, &user_id);
        let mut commit = ledger.begin(permit);
        let session = self.open_session((user, user_id), new, &mut commit).await?;
        ledger.commit(commit).await?;
        Ok(session)
    }
}
