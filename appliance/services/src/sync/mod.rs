//! What is new for whom, and waiting for it.

mod room;
mod sent_members;
pub mod token;
mod v3;
mod wait;
mod write;

use std::sync::Arc;

pub use token::Token;
pub use v3::SyncRequest;
pub use wait::{News, Subscription, Waiters};
pub use write::{StateForm, Unread};

use self::sent_members::SentMembers;
use crate::accounts::Accounts;
use crate::house::House;
use crate::rooms::Rooms;

/// What is new, for whom.
pub struct Sync {
    house: Arc<House>,
    waiters: Arc<Waiters>,
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    sent_members: SentMembers,
}

impl Sync {
    pub(crate) fn new(
        house: Arc<House>,
        waiters: Arc<Waiters>,
        rooms: Arc<Rooms>,
        accounts: Arc<Accounts>,
    ) -> Self {
        Self { house, waiters, rooms, accounts, sent_members: SentMembers::default() }
    }
}
