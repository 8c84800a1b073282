//! What is measured: one file per thing, each setting its own scene.

mod expiry;
mod fanout;
mod federation;
mod governed;
mod history;
mod idle;
mod keys;
mod media;
mod polls;
mod push;
mod room;
mod search;
mod send;
mod sliding;
mod start;
mod sync;

use anyhow::{Result, bail};

use crate::measure::Row;
use crate::server::{Kind, Server};

/// In the order in which they run: an empty server first, a full one last.
pub(crate) const NAMES: [&str; 16] = [
    "idle",
    "polls",
    "send",
    "fanout",
    "sync",
    "sliding",
    "history",
    "search",
    "room",
    "push",
    "keys",
    "media",
    "governed",
    "expiry",
    "federation",
    "start",
];

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// How long each closed loop of sends runs.
    pub(crate) send_s: u64,
    /// Clients that wait while one message is sent: a ward, and a house.
    pub(crate) waiters: [usize; 2],
    /// Messages sent to the waiters, one at a time.
    pub(crate) fanout_messages: usize,
    /// Rooms of the one who syncs.
    pub(crate) sync_rooms: usize,
    /// Rooms of the one who uses sliding sync.
    pub(crate) sliding_rooms: usize,
    /// Messages among which one is searched.
    pub(crate) search_events: usize,
    /// Members of the room of the whole house.
    pub(crate) house_members: usize,
    /// Clients that wait while nothing happens, and for how long that is watched.
    pub(crate) idle_clients: usize,
    pub(crate) idle_s: u64,
    /// Events written to one room, for disk use and paging.
    pub(crate) history_events: usize,
    /// Members of the big room.
    pub(crate) members: usize,
    /// Joins that are timed.
    pub(crate) joins: usize,
    /// People with device keys.
    pub(crate) key_users: usize,
    /// Photos of about 3 MB.
    pub(crate) photos: usize,
    /// Files whose time comes at once.
    pub(crate) expiring_files: usize,
    /// Messages to another server: one at a time, and as fast as they go.
    pub(crate) peer_messages: [usize; 2],
    /// Members and events of the room that somebody of another server joins.
    pub(crate) peer_room: [usize; 2],
    /// Events that another server misses while it is away.
    pub(crate) missed_events: usize,
    /// Members of the room that is forked.
    pub(crate) forked_members: usize,
    /// Events in the store for a cold start.
    pub(crate) start_events: usize,
}

impl Sizes {
    /// The sizes that the targets speak of.
    pub(crate) fn full() -> Self {
        Self {
            send_s: 15,
            waiters: [200, 500],
            fanout_messages: 40,
            sync_rooms: 122,
            sliding_rooms: 500,
            search_events: 5_000,
            house_members: 5_000,
            idle_clients: 1_000,
            idle_s: 60,
            history_events: 10_000,
            members: 1_000,
            joins: 50,
            key_users: 200,
            photos: 10,
            expiring_files: 100_000,
            peer_messages: [200, 5_000],
            peer_room: [1_000, 20_000],
            missed_events: 10_000,
            forked_members: 10_000,
            start_events: 100_000,
        }
    }

    /// A look, not a measurement.
    pub(crate) fn quick() -> Self {
        Self {
            send_s: 3,
            waiters: [40, 60],
            fanout_messages: 10,
            sync_rooms: 12,
            sliding_rooms: 30,
            search_events: 200,
            house_members: 100,
            idle_clients: 50,
            idle_s: 10,
            history_events: 500,
            members: 60,
            joins: 10,
            key_users: 20,
            photos: 2,
            expiring_files: 300,
            peer_messages: [20, 200],
            peer_room: [40, 300],
            missed_events: 300,
            forked_members: 60,
            start_events: 2_000,
        }
    }

    /// What two servers like `server` share. Two of Synapse need the better part of a night for what the
    /// targets speak of: theirs is smaller, and the figures are of one event or one member each.
    pub(crate) fn shared(&self, server: &Server) -> Shared {
        let [single_messages, messages] = self.peer_messages;
        let [members, events] = self.peer_room;
        let whole = Shared {
            single_messages,
            messages,
            members,
            events,
            missed_events: self.missed_events,
            forked_members: self.forked_members,
        };
        match server.kind {
            Kind::Wardstone => whole,
            Kind::Synapse => Shared {
                single_messages,
                messages: messages.min(500),
                members,
                events: events.min(2_000),
                missed_events: self.missed_events.min(500),
                forked_members: self.forked_members.min(500),
            },
        }
    }

    /// Events that `server` holds when its cold start is timed. 100,000 sends take Synapse most of
    /// an hour, and its start does not depend on them.
    pub(crate) fn start_events(&self, server: &Server) -> usize {
        match server.kind {
            Kind::Wardstone => self.start_events,
            Kind::Synapse => 0,
        }
    }
}

/// How much two servers share; each as in [`Sizes`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    pub(crate) single_messages: usize,
    pub(crate) messages: usize,
    pub(crate) members: usize,
    pub(crate) events: usize,
    pub(crate) missed_events: usize,
    pub(crate) forked_members: usize,
}

/// Runs the scenario called `name`.
pub(crate) async fn run(name: &str, server: &mut Server, sizes: &Sizes) -> Result<Vec<Row>> {
    match name {
        "idle" => idle::measure(server).await,
        "send" => send::measure(server, sizes).await,
        "fanout" => fanout::measure(server, sizes).await,
        "sync" => sync::measure(server, sizes).await,
        "polls" => polls::measure(server, sizes).await,
        "sliding" => sliding::measure(server, sizes).await,
        "search" => search::measure(server, sizes).await,
        "push" => push::measure(server, sizes).await,
        "history" => history::measure(server, sizes).await,
        "room" => room::measure(server, sizes).await,
        "keys" => keys::measure(server, sizes).await,
        "media" => media::measure(server, sizes).await,
        "governed" => governed::measure(server, sizes).await,
        "expiry" => expiry::measure(server, sizes).await,
        "federation" => federation::measure(server, sizes).await,
        "start" => start::measure(server, sizes).await,
        _ => bail!("no scenario is called {name}: there are {NAMES:?}"),
    }
}
