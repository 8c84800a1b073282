//! Dehydrated devices ([MSC3814]): a device that lies frozen on the server and receives keys while
//! its owner is signed out everywhere. Whoever signs in again thaws it and reads what it got.
//!
//! [MSC3814]: https://github.com/matrix-org/matrix-spec-proposals/pull/3814

use appliance_ledger::keyspaces::{DEHYDRATED, DEVICES};
use appliance_ledger::rows::DeviceRow;
use appliance_ledger::rows::extras::DehydratedRow;
use appliance_model::ruma::OwnedDeviceId;
use appliance_model::ruma::api::client::keys::upload_keys::v3::Request as Upload;
use appliance_model::{Caller, DeviceNid, Error, Position};
use appliance_rules::Permit;
use serde_json::value::RawValue;

use super::Accounts;

/// A pickle with a hundred one-time keys is about 30 KB.
const DATA_BYTES_MAX: usize = 128 * 1024;
/// "limited to a reasonable number" of messages a page.
const EVENTS_PAGE: usize = 100;

/// A device to be frozen.
pub struct NewDehydrated {
    /// Its ID.
    pub device_id: OwnedDeviceId,
    /// Its name.
    pub display_name: Option<String>,
    /// What its owner needs to thaw it, as JSON.
    pub data: String,
    /// Its keys.
    pub keys: Upload,
}

/// A frozen device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dehydrated {
    /// Its ID.
    pub device_id: OwnedDeviceId,
    /// What its owner needs to thaw it, as JSON.
    pub data: String,
}

/// A page of what a frozen device was sent.
pub struct WaitingEvents {
    /// The messages, oldest first.
    pub events: Vec<Box<RawValue>>,
    /// Where the next page begins.
    pub next: Position,
}

impl Accounts {
    /// Freezes a device of the caller's, in place of the one before.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::InvalidParam`]: the ID is that of a device that is signed in, or the
    ///   keys are another device's.
    /// * [`appliance_model::Kind::TooLarge`]: more than 128 KiB to keep.
    /// * [`appliance_model::Kind::Forbidden`], of this and all others: the house keeps the caller's device out
    ///   of encryption.
    pub async fn dehydrate(&self, caller: &Caller, new: NewDehydrated) -> Result<(), Error> {
        self.keys.check_takes_part(caller)?;
        if new.data.len() > DATA_BYTES_MAX {
            return Err(Error::too_large("A dehydrated device has at most 128 KiB."));
        }
        let frozen = self.freeze(caller, &new).await?;
        let uploaded = self.keys.upload(&frozen, &new.keys).await;
        if let Err(error) = uploaded {
            // Without keys nobody can write to it.
            self.discard_dehydrated(caller).await?;
            return Err(error);
        }
        Ok(())
    }

    async fn freeze(&self, caller: &Caller, new: &NewDehydrated) -> Result<Caller, Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(caller.user.0).await;
        let permit = Permit::own("device.dehydrated", &caller.user_id, &new.device_id);
        let mut commit = ledger.begin(permit);
        super::session::check_device_id(new.device_id.as_str())?;
        let key = (caller.user, new.device_id.to_string());
        let before = self.dehydrated_row(caller).await?;
        let is_before = before.as_ref().is_some_and(|(row, _)| row.device_id == key.1);
        if !is_before && ledger.get(&DEVICES, &key).await?.is_some() {
            return Err(Error::invalid_param("A device of this ID is signed in."));
        }
        if let Some((row, device)) = before {
            self.end_device((caller.user, row.device_id), device, &mut commit).await?;
        }
        let device = self.new_device(&key, new.display_name.clone()).await?;
        let row = DehydratedRow {
            device_id: key.1.clone(),
            device: device.device,
            data: new.data.clone(),
        };
        commit.put(&DEVICES, &key, &device);
        commit.put(&DEHYDRATED, &caller.user, &row);
        commit.hold(inside);
        ledger.commit(commit).await?;
        let device = DeviceNid(device.device);
        Ok(Caller { device_id: new.device_id.clone(), device, ..caller.clone() })
    }

    /// The caller's frozen device.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none.
    pub async fn dehydrated(&self, caller: &Caller) -> Result<Dehydrated, Error> {
        self.keys.check_takes_part(caller)?;
        let (row, _) = self.dehydrated_row(caller).await?.ok_or_else(none)?;
        Ok(Dehydrated { device_id: row.device_id.into(), data: row.data })
    }

    /// Ends the caller's frozen device; returns its ID.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is none.
    pub async fn discard_dehydrated(&self, caller: &Caller) -> Result<OwnedDeviceId, Error> {
        self.keys.check_takes_part(caller)?;
        let inside = self.doors.enter(caller.user.0).await;
        let (row, device) = self.dehydrated_row(caller).await?.ok_or_else(none)?;
        let permit = Permit::own("device.discarded", &caller.user_id, &row.device_id);
        let mut commit = self.house.ledger.begin(permit);
        self.end_device((caller.user, row.device_id.clone()), device, &mut commit).await?;
        commit.delete(&DEHYDRATED, &caller.user);
        commit.hold(inside);
        self.house.ledger.commit(commit).await?;
        Ok(row.device_id.into())
    }

    /// What the caller's frozen device was sent after `after`. It stays until the device goes.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if the caller has none,
    /// [`appliance_model::Kind::Forbidden`] if it is another device that is asked for.
    pub async fn dehydrated_events(
        &self,
        caller: &Caller,
        device_id: &str,
        after: Position,
    ) -> Result<WaitingEvents, Error> {
        self.keys.check_takes_part(caller)?;
        let (row, device) = self.dehydrated_row(caller).await?.ok_or_else(none)?;
        if row.device_id != device_id {
            return Err(Error::forbidden("Only what your dehydrated device got is read here."));
        }
        let upto = self.house.ledger.position();
        let device = DeviceNid(device.device);
        let (events, _) = self.keys.to_device(device, after, upto, EVENTS_PAGE).await?;
        let next = events.last().map_or(after, |(position, _)| *position);
        Ok(WaitingEvents { events: events.into_iter().map(|(_, json)| json).collect(), next })
    }

    /// The row, if its device was not removed some other way.
    async fn dehydrated_row(
        &self,
        caller: &Caller,
    ) -> Result<Option<(DehydratedRow, DeviceRow)>, Error> {
        let ledger = &self.house.ledger;
        let Some(row) = ledger.get(&DEHYDRATED, &caller.user).await? else { return Ok(None) };
        let device = ledger.get(&DEVICES, &(caller.user, row.device_id.clone())).await?;
        Ok(device.filter(|device| device.device == row.device).map(|device| (row, device)))
    }
}

fn none() -> Error {
    Error::not_found("You have no dehydrated device.")
}
