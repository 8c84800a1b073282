//! When and from where devices were last seen: noted in memory with every request, written now and
//! then. After a crash the last minutes are missing, which the spec allows: "may be a few minutes
//! out of date, for efficiency reasons".

use std::net::IpAddr;
use std::sync::PoisonError;

use appliance_ledger::keyspaces::{DEVICES, LAST_SEEN};
use appliance_ledger::rows::SeenRow;
use appliance_model::{Caller, DeviceNid, Error, UserNid};
use appliance_rules::Permit;

use super::Accounts;

/// Devices noted between two writings; about 150 bytes each. Of more, the idlest are not noted.
pub(super) const DEVICES_MAX: usize = 50_000;
/// Accounts whose devices are written in one commit; it keeps their doors shut meanwhile.
const ACCOUNTS_PER_COMMIT_MAX: usize = 64;

/// When and from where.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    user: UserNid,
    device_id: String,
    at_ms: u64,
    address: Option<IpAddr>,
    synced: Option<u64>,
}

impl Accounts {
    pub(super) fn note_seen(&self, caller: &Caller, address: Option<IpAddr>, at_ms: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = seen.entry(caller.device, || Seen {
            user: caller.user,
            device_id: caller.device_id.to_string(),
            at_ms,
            address,
            synced: None,
        });
        noted.at_ms = at_ms;
        noted.address = address.or(noted.address);
    }

    /// A device has read everything up to a position: it shows a token that says so.
    pub(crate) fn note_synced(&self, caller: &Caller, position: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = seen.entry(caller.device, || Seen {
            user: caller.user,
            device_id: caller.device_id.to_string(),
            at_ms: self.house.clock.now_ms(),
            address: None,
            synced: None,
        });
        noted.synced = noted.synced.max(Some(position));
    }

    /// When a device was last here (milliseconds since the Unix epoch), and up to which position it
    /// has read; zero for what is not known.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn last_trace(
        &self,
        user: UserNid,
        device: DeviceNid,
    ) -> Result<(u64, u64), Error> {
        let row = self.house.ledger.get(&LAST_SEEN, &(user, device)).await?;
        let (at_ms, synced) = row.map_or((0, 0), |row| (row.at_ms, row.synced.unwrap_or_default()));
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match seen.get(&device) {
            Some(lately) => (lately.at_ms, lately.synced.unwrap_or_default().max(synced)),
            None => (at_ms, synced),
        })
    }

    /// When a device was seen since the last writing.
    pub(super) fn seen_lately(&self, device: DeviceNid) -> Option<(u64, Option<String>)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.get(&device)?;
        Some((seen.at_ms, seen.address.map(|address| address.to_canonical().to_string())))
    }

    /// Writes down who was seen since the last time. A job calls this every few minutes, and once
    /// before the house closes. Returns how many devices were written.
    ///
    /// # Errors
    ///
    /// If the store fails; who was not written yet is forgotten until they are seen again.
    pub async fn write_last_seen(&self) -> Result<usize, Error> {
        let mut seen: Vec<_> = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.drain().collect()
        };
        seen.sort_unstable_by_key(|(device, seen)| (seen.user, *device));
        let accounts: Vec<_> = seen.chunk_by(|(_, one), (_, two)| one.user == two.user).collect();
        let mut written = 0;
        for accounts in accounts.chunks(ACCOUNTS_PER_COMMIT_MAX) {
            written += self.write_some(accounts).await?;
        }
        Ok(written)
    }

    async fn write_some(&self, accounts: &[&[(DeviceNid, Seen)]]) -> Result<usize, Error> {
        let ledger = &self.house.ledger;
        let mut commit = ledger.begin(Permit::housekeeping());
        let mut written = 0;
        for devices in accounts {
            let Some((_, first)) = devices.first() else { continue };
            // Inside the door no device ends between the look and the commit. Nobody else waits
            // at a second door while inside a first, so nobody waits in a circle.
            commit.hold(self.doors.enter(first.user.0).await);
            for (device, seen) in *devices {
                let key = (seen.user, seen.device_id.clone());
                let row = ledger.get(&DEVICES, &key).await?;
                if row.is_some_and(|row| row.device == device.0) {
                    let address = seen.address.map(|address| address.to_canonical().to_string());
                    let before = ledger.get(&LAST_SEEN, &(seen.user, *device)).await?;
                    let synced = seen.synced.max(before.and_then(|before| before.synced));
                    let row = SeenRow { at_ms: seen.at_ms, address, synced };
                    commit.put(&LAST_SEEN, &(seen.user, *device), &row);
                    written += 1;
                }
            }
        }
        if written > 0 {
            ledger.commit(commit).await?;
        }
        Ok(written)
    }
}
