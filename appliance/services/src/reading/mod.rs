//! Who has read how far, what is unread, who is typing, who is there.

mod presence;
mod receipts;
mod ring;
mod typing;
mod unread;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use receipts::{NewReceipt, PRIVATE, PUBLIC, Receipt};
pub(crate) use ring::Scene;
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
    serial: presence::Serial,
    typists: typing::Typists,
    everyone: presence::Everyone,
    tallies: unread::Tallies,
    flat: ring::FlatEvents,
    /// Up to which serial number other servers were told of presence.
    presence_told: AtomicU64,
}

impl Reading {
    pub(crate) fn new(
        house: Arc<House>,
        waiters: Arc<Waiters>,
        rooms: Arc<Rooms>,
        personal: Arc<Personal>,
    ) -> Self {
        let serial = presence::Serial::starting_at(house.clock.now_ms());
        Self {
            house,
            waiters,
            rooms,
            personal,
            doors: Doors::default(),
            typists: typing::Typists::new(serial.clone()),
            everyone: presence::Everyone::new(serial.clone()),
            serial,
            tallies: unread::Tallies::new(),
            flat: ring::FlatEvents::new(),
            presence_told: AtomicU64::new(0),
        }
    }
}
