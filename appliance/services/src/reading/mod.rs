//! Who has read how far, what is unread, and who is typing.

mod receipts;
mod typing;
mod unread;

use std::sync::Arc;

pub use receipts::{NewReceipt, PRIVATE, PUBLIC, Receipt};
pub use unread::UnreadRoom;

use crate::doors::Doors;
use crate::house::House;
use crate::personal::Personal;
use crate::rooms::Rooms;
use crate::sync::Waiters;

/// Reading and typing.
pub struct Reading {
    house: Arc<House>,
    waiters: Arc<Waiters>,
    rooms: Arc<Rooms>,
    personal: Arc<Personal>,
    doors: Doors,
    typists: typing::Typists,
    counts: unread::KnownCounts,
}

impl Reading {
    pub(crate) fn new(
        house: Arc<House>,
        waiters: Arc<Waiters>,
        rooms: Arc<Rooms>,
        personal: Arc<Personal>,
    ) -> Self {
        // Serial numbers of another run must not be taken for this one's.
        let typists = typing::Typists::starting_at(house.clock.now_ms());
        Self {
            house,
            waiters,
            rooms,
            personal,
            doors: Doors::default(),
            typists,
            counts: unread::KnownCounts::new(),
        }
    }
}
