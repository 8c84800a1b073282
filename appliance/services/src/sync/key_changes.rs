//! `GET /keys/changes` ([spec]): whose device lists changed between two syncs, for a client that
//! has missed what was said in between.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges

use appliance_model::{Caller, Error};

use super::devices::DeviceLists;
use super::look::Look;
use super::{Sync, Token};

impl Sync {
    /// Users whose device lists changed after `from` up to `to` or who came to share a room with the
    /// caller, and users who share none any more: what a sync over the same stretch would say.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn key_changes(
        &self,
        caller: &Caller,
        from: Token,
        to: Token,
    ) -> Result<(Vec<String>, Vec<String>), Error> {
        let upto = to.position.min(self.house.ledger.position());
        if from.position >= upto {
            return Ok((Vec::new(), Vec::new()));
        }
        let look = Look { sync: self, caller, since: Some(from.position), upto };
        let subscription = self.waiters.subscribe(caller.user);
        let memberships = self.memberships(caller, &subscription).await?;
        let company = look.company(&memberships).await?;
        let lists = look.device_lists(&memberships, company).await?;
        let DeviceLists { changed, left } = lists.unwrap_or_default();
        Ok((changed, left))
    }
}
