//! Asking again and again until there is something to say: the loop of every form of sync.

use std::pin::Pin;
use std::time::Duration;

use appliance_model::ruma::presence::PresenceState;
use appliance_model::{Caller, Error, Position};
use tokio::time::Sleep;

use super::{Subscription, Sync};

/// A longer wait would meet the limits of proxies; clients ask again.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// One request that looks, waits, and looks again.
pub(super) struct Poll<'a> {
    sync: &'a Sync,
    caller: &'a Caller,
    access_token: &'a str,
    /// What the user's changes wake.
    pub subscription: Subscription,
    deadline: Pin<Box<Sleep>>,
    over: bool,
}

impl Sync {
    /// Begins to listen, and notes that the user is there.
    pub(super) fn poll<'a>(
        &'a self,
        caller: &'a Caller,
        access_token: &'a str,
        (timeout, presence): (Duration, PresenceState),
    ) -> Poll<'a> {
        let subscription = self.waiters.subscribe(caller.user);
        self.reading.seen_syncing(caller.user, presence);
        let deadline = Box::pin(tokio::time::sleep(timeout.min(WAIT_MAX)));
        Poll { sync: self, caller, access_token, subscription, deadline, over: timeout.is_zero() }
    }
}

impl Poll<'_> {
    /// The position up to which the next look reads. Listen first, read then: what changes in
    /// between wakes. And only those wake whose rooms are known: so these are read before.
    pub async fn next_look(&mut self) -> Result<Position, Error> {
        self.subscription.rearm();
        self.sync.memberships(self.caller, &self.subscription).await?;
        Ok(self.sync.house.ledger.position())
    }

    /// Waits until something concerns the user: then it is worth another look. `false` if the time is
    /// over, or the server stops, and nothing has come since the last one: what that saw is the
    /// answer. A session that ended meanwhile gets an error.
    pub async fn wait(&mut self) -> Result<bool, Error> {
        if self.over {
            return Ok(false);
        }
        let woken = tokio::select! {
            biased;
            woken = self.subscription.woken() => woken,
            () = &mut self.deadline => false,
        };
        self.over = !woken;
        self.check_session().await?;
        Ok(woken)
    }

    /// Waits until the time is over, whatever happens.
    pub async fn wait_out(&mut self) -> Result<(), Error> {
        if !self.over {
            tokio::select! {
                () = self.subscription.closed() => {}
                () = &mut self.deadline => {}
            }
            self.over = true;
        }
        self.check_session().await
    }

    async fn check_session(&self) -> Result<(), Error> {
        self.sync.accounts.authenticate(self.access_token).await.map(drop)
    }
}
