//! What each connection has been shown, so that it is shown only what is new.
//!
//! A connection is one loop of one device ("scoped to that user and device"). It lives in memory:
//! after a restart, or when it was forgotten to make room, its client hears that its `pos` is
//! unknown and begins anew. Two states are kept of each: the one that the client has certainly
//! received, and the one of the answer that may have been lost on its way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance_model::{DeviceNid, Error, Kind, Position, RoomNid};

use super::super::token::Pos;
use super::request::StateWish;

/// Element X has three; the one that was not used for the longest time goes.
const CONNECTIONS_PER_DEVICE_MAX: usize = 8;
/// Rooms remembered for all connections together, at about 70 bytes each: what 5,000 devices with
/// two hundred rooms need. Beyond it the half of the devices that were away the longest begin anew.
const ROOMS_REMEMBERED_MAX: usize = 1_000_000;
/// Devices remembered. At about 1 KB each without their rooms this is 50 MB.
const DEVICES_REMEMBERED_MAX: usize = 50_000;
/// Different wishes for state whose identity is remembered; more are compared word by word.
const WISHES_MAX: usize = 16;

/// Everything of one kind that happened in a room up to some point was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Upto {
    /// Nothing was.
    #[default]
    Never,
    /// Up to here; there was more when the room was not asked for.
    At(Position),
    /// All there was when the answer was made.
    Live,
}

/// How a room was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// With timeline and state.
    Joined,
    /// With the state that outsiders are shown.
    Invited,
    /// As one that the user is out of.
    Left,
}

/// What was sent of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub face: Face,
    /// Timeline and state.
    pub events: Upto,
    pub receipts: Upto,
    pub account_data: Upto,
    /// Which state.
    pub wishes: Wishes,
    /// So many of the newest events are known to the client.
    pub limit: usize,
    pub is_dm: bool,
}

/// What a room is to be told with: any of these.
pub(super) type Wishes = Arc<Vec<StateWish>>;

/// What a client knows.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// All that is live is known up to here. None at the beginning.
    pub upto: Option<Position>,
    /// Typing notices known.
    pub typing: u64,
    pub rooms: Arc<HashMap<RoomNid, Sent>>,
    /// How many rooms the lists had.
    pub counts: Arc<BTreeMap<String, usize>>,
    /// Wishes seen before: equal ones are the same ones.
    pub wishes: Arc<Vec<Wishes>>,
    /// Which extensions about rooms were on.
    pub receipts_on: bool,
    pub account_data_on: bool,
    /// Whether the client knows which threads the user is subscribed to.
    pub thread_subscriptions_on: bool,
}

impl Upto {
    /// Where to go on from, if anything was sent.
    pub fn position(self, live: Option<Position>) -> Option<Position> {
        match self {
            Self::Never => None,
            Self::At(position) => Some(position),
            Self::Live => live,
        }
    }

    /// What comes from now on is not sent.
    pub fn stop_at(&mut self, position: Position) {
        if *self == Self::Live {
            *self = Self::At(position);
        }
    }
}

impl Known {
    /// The same wishes as before, if there were any like them.
    pub fn intern(&mut self, wishes: Vec<StateWish>) -> Wishes {
        if let Some(known) = self.wishes.iter().find(|known| ***known == wishes) {
            return known.clone();
        }
        let wishes = Arc::new(wishes);
        let all = Arc::make_mut(&mut self.wishes);
        if all.len() >= WISHES_MAX {
            all.remove(0);
        }
        all.push(wishes.clone());
        wishes
    }
}

/// Every connection of every device.
#[derive(Default)]
pub(crate) struct Connections(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    devices: HashMap<DeviceNid, Device>,
    /// Rooms remembered in all.
    rooms: usize,
    /// Counts requests, to know who was away the longest.
    now: u64,
}

#[derive(Default)]
struct Device {
    connections: Vec<Connection>,
    used: u64,
}

struct Connection {
    conn_id: String,
    name: u64,
    used: u64,
    turn: u64,
    /// The client has this.
    received: (u64, Known),
    /// The client may have this.
    sent: Option<(u64, Known)>,
}

/// One request's place in its connection.
pub(super) struct Turn {
    device: DeviceNid,
    conn_id: String,
    /// The connection's name.
    pub connection: u64,
    turn: u64,
    /// The client knows this.
    pub known: Known,
}

impl Connections {
    /// Takes a turn in a connection, a new one if the client has no `pos`. Whoever had a turn before
    /// and has not answered yet, answers to nobody.
    ///
    /// # Errors
    ///
    /// [`Kind::UnknownPos`] if the connection is not known, or not where the client says it is.
    pub(super) fn enter(
        &self,
        device: DeviceNid,
        conn_id: &str,
        pos: Option<&str>,
        fresh_name: u64,
    ) -> Result<Turn, Error> {
        let mut inner = self.lock();
        inner.now += 1;
        let now = inner.now;
        let turn = match pos {
            None => inner.begin(device, conn_id, fresh_name, now),
            Some(pos) => inner.resume(device, conn_id, pos, now),
        };
        turn.ok_or_else(|| {
            Error::new(Kind::UnknownPos, "This connection is not known any more. Begin a new one.")
        })
    }

    /// Whether nobody has taken a later turn.
    pub(super) fn is_last(&self, turn: &Turn) -> bool {
        self.lock().find(turn).is_some_and(|connection| connection.turn == turn.turn)
    }

    /// Keeps what is being answered, and returns the `pos` that the client comes back with. None if
    /// the client has asked again meanwhile and hears from that request.
    pub(super) fn answer(&self, turn: &Turn, known: Known) -> Option<String> {
        let mut inner = self.lock();
        let position = known.upto.unwrap_or_default();
        let connection = inner.find(turn).filter(|connection| connection.turn == turn.turn)?;
        let before = connection.weight();
        connection.sent = Some((turn.turn, known));
        let after = connection.weight();
        inner.rooms = (inner.rooms + after).saturating_sub(before);
        inner.tidy();
        Some(Pos { position, turn: turn.turn, connection: turn.connection }.text())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.devices.values().map(|device| device.connections.len()).sum(), inner.rooms)
    }
}

impl Inner {
    fn begin(&mut self, device: DeviceNid, conn_id: &str, name: u64, now: u64) -> Option<Turn> {
        let all = self.devices.entry(device).or_default();
        all.used = now;
        let mut gone: usize = 0;
        all.connections.retain(|known| {
            let same = known.conn_id == conn_id;
            gone += if same { known.weight() } else { 0 };
            !same
        });
        if all.connections.len() >= CONNECTIONS_PER_DEVICE_MAX {
            let oldest = all.connections.iter().enumerate().min_by_key(|(_, known)| known.used);
            if let Some((index, _)) = oldest {
                gone += all.connections.swap_remove(index).weight();
            }
        }
        all.connections.push(Connection {
            conn_id: conn_id.to_owned(),
            name,
            used: now,
            turn: 1,
            received: (0, Known::default()),
            sent: None,
        });
        self.rooms = self.rooms.saturating_sub(gone);
        let known = Known::default();
        Some(Turn { device, conn_id: conn_id.to_owned(), connection: name, turn: 1, known })
    }

    fn resume(&mut self, device: DeviceNid, conn_id: &str, pos: &str, now: u64) -> Option<Turn> {
        let pos = Pos::parse(pos)?;
        let all = self.devices.get_mut(&device)?;
        let connection = all
            .connections
            .iter_mut()
            .find(|known| known.conn_id == conn_id && known.name == pos.connection)?;
        let before = connection.weight();
        let at = |known: &(u64, Known)| known.0 == pos.turn && known.1.upto == Some(pos.position);
        if connection.sent.as_ref().is_some_and(at) {
            // "Once a server has seen a request with a given pos, the server may clean up any
            // per-connection state from before that pos."
            connection.received = connection.sent.take()?;
        } else if !at(&connection.received) {
            return None;
        }
        (connection.used, all.used) = (now, now);
        connection.turn += 1;
        let turn = Turn {
            device,
            conn_id: conn_id.to_owned(),
            connection: connection.name,
            turn: connection.turn,
            known: connection.received.1.clone(),
        };
        let after = connection.weight();
        self.rooms = (self.rooms + after).saturating_sub(before);
        Some(turn)
    }

    fn find(&mut self, turn: &Turn) -> Option<&mut Connection> {
        let all = self.devices.get_mut(&turn.device)?;
        all.connections
            .iter_mut()
            .find(|known| known.conn_id == turn.conn_id && known.name == turn.connection)
    }

    fn tidy(&mut self) {
        if self.rooms <= ROOMS_REMEMBERED_MAX && self.devices.len() <= DEVICES_REMEMBERED_MAX {
            return;
        }
        let mut used: Vec<_> = self.devices.values().map(|device| device.used).collect();
        used.sort_unstable();
        let middle = used.get(used.len() / 2).copied().unwrap_or_default();
        self.devices.retain(|_, device| device.used >= middle);
        let connections = self.devices.values().flat_map(|device| &device.connections);
        self.rooms = connections.map(Connection::weight).sum();
    }
}

impl Connection {
    /// How many rooms it remembers; what both states share counts once.
    fn weight(&self) -> usize {
        let received = &self.received.1.rooms;
        let sent = self.sent.as_ref().map(|(_, known)| &known.rooms);
        let other = sent.filter(|rooms| !Arc::ptr_eq(rooms, received));
        received.len() + other.map_or(0, |rooms| rooms.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(position: u64, rooms: u64) -> Known {
        let sent = Sent {
            face: Face::Joined,
            events: Upto::Live,
            receipts: Upto::Never,
            account_data: Upto::Never,
            wishes: Wishes::default(),
            limit: 1,
            is_dm: false,
        };
        let rooms = (0..rooms).map(|room| (RoomNid(room), sent.clone())).collect();
        Known { upto: Some(Position(position)), rooms: Arc::new(rooms), ..Known::default() }
    }

    const PHONE: DeviceNid = DeviceNid(1);

    #[test]
    fn the_last_pos_can_be_asked_again_and_no_other() {
        let all = Connections::default();
        let turn = all.enter(PHONE, "list", None, 7).unwrap();
        let first = all.answer(&turn, known(5, 1)).unwrap();
        let turn = all.enter(PHONE, "list", Some(&first), 8).unwrap();
        assert_eq!(turn.known.rooms.len(), 1);
        let lost = all.answer(&turn, known(6, 2)).unwrap();
        // The answer did not arrive: the client asks again from where it was.
        let turn = all.enter(PHONE, "list", Some(&first), 9).unwrap();
        assert_eq!((turn.known.upto, turn.known.rooms.len()), (Some(Position(5)), 1));
        let second = all.answer(&turn, known(7, 2)).unwrap();
        assert!(all.enter(PHONE, "list", Some(&lost), 9).is_err(), "it was taken back");
        let turn = all.enter(PHONE, "list", Some(&second), 9).unwrap();
        assert_eq!(turn.known.rooms.len(), 2);
        assert!(all.enter(PHONE, "list", Some(&first), 9).is_err(), "long past");
        assert!(all.enter(DeviceNid(2), "list", Some(&second), 9).is_err(), "another device's");
        assert!(all.enter(PHONE, "other", Some(&second), 9).is_err());
        for strange in ["", "p", "s5", "p7_9_7", "p7_3_8"] {
            assert!(all.enter(PHONE, "list", Some(strange), 9).is_err(), "{strange}");
        }
        let after_restart = Connections::default();
        let error = after_restart.enter(PHONE, "list", Some(&second), 7).err().unwrap();
        assert_eq!(error.kind, Kind::UnknownPos);
    }

    #[test]
    fn a_request_that_was_given_up_answers_to_nobody() {
        let all = Connections::default();
        let turn = all.enter(PHONE, "", None, 7).unwrap();
        let pos = all.answer(&turn, known(5, 1)).unwrap();
        let given_up = all.enter(PHONE, "", Some(&pos), 8).unwrap();
        let asked_again = all.enter(PHONE, "", Some(&pos), 8).unwrap();
        assert!(!all.is_last(&given_up) && all.is_last(&asked_again));
        let next = all.answer(&asked_again, known(6, 1)).unwrap();
        assert_eq!(all.answer(&given_up, known(6, 1)), None);
        assert!(all.enter(PHONE, "", Some(&next), 8).is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let all = Connections::default();
        for number in 0..100 {
            let turn = all.enter(PHONE, &number.to_string(), None, number).unwrap();
            all.answer(&turn, known(1, 10)).unwrap();
        }
        let max = CONNECTIONS_PER_DEVICE_MAX;
        assert_eq!(all.size(), (max, 10 * max));
        for device in 2..1_202 {
            let turn = all.enter(DeviceNid(device), "", None, device).unwrap();
            all.answer(&turn, known(1, 1_000)).unwrap();
            assert!(all.size().1 <= ROOMS_REMEMBERED_MAX);
        }
        assert!(all.size().0 > 400, "the newer half is still there");
        let turn = all.enter(DeviceNid(1_201), "", None, 1).unwrap();
        let one = all.answer(&turn, known(1, 5)).unwrap();
        all.enter(DeviceNid(1_201), "", Some(&one), 1).unwrap();
        let inner = all.lock();
        let connections = inner.devices.values().flat_map(|device| &device.connections);
        assert_eq!(inner.rooms, connections.map(Connection::weight).sum::<usize>());
    }
}
