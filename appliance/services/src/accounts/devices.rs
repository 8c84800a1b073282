//! A person's devices: seeing them, naming them, ending them.

use appliance_ledger::keyspaces::{DEVICES, LAST_SEEN};
use appliance_ledger::rows::DeviceRow;
use appliance_model::ruma::{DeviceId, OwnedDeviceId, UserId};
use appliance_model::{Caller, DeviceNid, Error, UserNid};
use appliance_rules::Permit;

use super::session::{DEVICES_MAX, DISPLAY_NAME_CHARS_MAX, check_device_id};
use super::{Accounts, OWN_PASSWORD, Proof};
use crate::keys::KeyNews;

/// A device as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its ID.
    pub device_id: OwnedDeviceId,
    /// Its name.
    pub display_name: Option<String>,
    /// The address it last came from.
    pub last_seen_ip: Option<String>,
    /// When it was last seen, in milliseconds since the Unix epoch; some minutes behind at most.
    pub last_seen_ms: u64,
}

impl Accounts {
    /// The caller's devices, by device ID.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn devices(&self, caller: &Caller) -> Result<Vec<Device>, Error> {
        self.all_devices(caller.user).await
    }

    /// The devices of a user, by device ID.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn all_devices(&self, user: UserNid) -> Result<Vec<Device>, Error> {
        let rows = self.devices_of(user).await?;
        let numbers: Vec<_> = rows.iter().map(|(_, row)| (user, DeviceNid(row.device))).collect();
        let seen = self.house.ledger.newest().get_many(&LAST_SEEN, &numbers).await?;
        let shown = rows.into_iter().zip(seen);
        Ok(shown.map(|(((_, id), row), seen)| self.shown(id, row, seen)).collect())
    }

    /// Where somebody is signed in, for themselves or for an administrator.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such account.
    pub async fn whois(&self, by: &Caller, user_id: &UserId) -> Result<Vec<Device>, Error> {
        let user = self.account(user_id).await?.0;
        let permit = Permit::own("account.whois", &by.user_id, user_id);
        self.house.ledger.commit(self.house.ledger.begin(permit)).await?;
        self.all_devices(user).await
    }

    /// One of the caller's devices.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`]: "The current user has no device with the given ID."
    pub async fn device(&self, caller: &Caller, device_id: &DeviceId) -> Result<Device, Error> {
        let ledger = &self.house.ledger;
        let key = (caller.user, device_id.to_string());
        let row = ledger.get(&DEVICES, &key).await?.ok_or_else(no_device)?;
        let seen = ledger.get(&LAST_SEEN, &(caller.user, DeviceNid(row.device))).await?;
        Ok(self.shown(key.1, row, seen))
    }

    fn shown(
        &self,
        device_id: String,
        row: DeviceRow,
        seen: Option<appliance_ledger::rows::SeenRow>,
    ) -> Device {
        let (last_seen_ms, last_seen_ip) = match (self.seen_lately(DeviceNid(row.device)), seen) {
            (Some(lately), _) => lately,
            (None, Some(seen)) => (seen.at_ms, seen.address),
            (None, None) => (row.created_ms, None),
        };
        let device_id = device_id.into();
        Device { device_id, display_name: row.display_name, last_seen_ip, last_seen_ms }
    }

    /// Names one of the caller's devices. "If not given, the display name is unchanged." A name that is
    /// an enrolment code is taken for the code ([`Accounts::enrol`]).
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such device,
    /// [`appliance_model::Kind::TooLarge`] beyond 100 characters.
    pub async fn name_device(
        &self,
        caller: &Caller,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<(), Error> {
        if display_name.as_ref().is_some_and(|name| name.chars().count() > DISPLAY_NAME_CHARS_MAX) {
            return Err(Error::too_large("The name of a device has at most 100 characters."));
        }
        if let Some(code) = display_name.as_deref().filter(|name| Self::is_code(name)) {
            return self.enrol(caller, device_id, code).await.map(drop);
        }
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(caller.user.0).await;
        let key = (caller.user, device_id.to_string());
        let mut device = ledger.get(&DEVICES, &key).await?.ok_or_else(no_device)?;
        if display_name.is_none() || display_name == device.display_name {
            return Ok(());
        }
        device.display_name = display_name;
        let mut commit = ledger.begin(Permit::own("device.named", &caller.user_id, device_id));
        commit.put(&DEVICES, &key, &device);
        // Others see the name beside the keys of the device.
        let news = KeyNews::device(device_id);
        self.keys.device_list_changed(caller.user, news, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// An application service names a device of one of its users, which is made if there is none.
    /// Returns whether it was made.
    ///
    /// "PUT /_matrix/client/v3/devices/{deviceId} … application services … create the device if it
    /// does not already exist" ([spec]).
    ///
    /// [spec]: https://spec.matrix.org/v1.19/application-service-api/#device-management
    ///
    /// # Errors
    ///
    /// Those of [`Accounts::name_device`], and [`appliance_model::Kind::InvalidParam`] if the ID is
    /// unusable.
    pub async fn put_device(
        &self,
        caller: &Caller,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<bool, Error> {
        check_device_id(device_id.as_str())?;
        let ledger = &self.house.ledger;
        let key = (caller.user, device_id.to_string());
        let inside = self.doors.enter(caller.user.0).await;
        if ledger.get(&DEVICES, &key).await?.is_some() {
            drop(inside);
            return self.name_device(caller, device_id, display_name).await.map(|()| false);
        }
        let device = self.new_device(&key, display_name).await?;
        let mut commit = ledger.begin(Permit::own("device.made", &caller.user_id, device_id));
        commit.put(&DEVICES, &key, &device);
        commit.hold(inside);
        ledger.commit(commit).await.map(|_| true)
    }

    /// Ends some of the caller's devices, once they have proved who they are.
    ///
    /// "The devices were successfully removed, or had been removed previously."
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Uia`] until the proof is complete,
    /// [`appliance_model::Kind::TooLarge`] if more are named than an account can have.
    pub async fn delete_devices(
        &self,
        caller: &Caller,
        proof: Proof,
        device_ids: &[OwnedDeviceId],
    ) -> Result<(), Error> {
        if device_ids.len() > DEVICES_MAX {
            return Err(Error::too_large("Name at most 1,000 devices at once."));
        }
        self.require(Some(caller), OWN_PASSWORD, proof).await?;
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(caller.user.0).await;
        let mut keys: Vec<(UserNid, String)> =
            device_ids.iter().map(|device_id| (caller.user, device_id.to_string())).collect();
        keys.sort_unstable();
        keys.dedup();
        let rows = ledger.newest().get_many(&DEVICES, &keys).await?;
        let names = keys.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>().join(" ");
        let mut commit = ledger.begin(Permit::own("devices.ended", &caller.user_id, names));
        for (key, row) in keys.into_iter().zip(rows) {
            if let Some(device) = row {
                self.end_device(key, device, &mut commit).await?;
            }
        }
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }
}

fn no_device() -> Error {
    Error::not_found("You have no device with this ID.")
}
