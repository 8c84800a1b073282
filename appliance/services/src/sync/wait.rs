//! Waiting for something new, and waking only those concerned.
//!
//! The lane tells of each commit ([`Observer`]); a commit names the rooms, users and devices that it
//! touches. Users with a request under way (or recently) are *present*: their joined rooms are
//! indexed, so a message wakes the present members of its room and nobody else.
//!
//! [`Marks`] remember when each room and user last changed, so that a request skips what has not
//! changed without asking the store. They begin at the position of the start; what is older is asked
//! from the store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance_ledger::rows::MembershipRow;
use appliance_ledger::{Observer, Touched};
use appliance_model::{DeviceNid, Position, RoomNid, UserNid};
use tokio::sync::watch;

/// Marks beyond this are forgotten all at once; what is forgotten is asked from the store. At 50
/// bytes a mark this is 5 MB.
const MARKS_MAX: usize = 100_000;
/// Users that stay present without a request under way. One costs about 3 KB with 100 rooms.
const PRESENT_IDLE_MAX: usize = 2_000;

/// A user's rooms, as last read from the store.
pub type Memberships = Arc<Vec<(RoomNid, MembershipRow)>>;

/// The rooms among them that the user is in.
pub(super) fn joined_rooms(memberships: &Memberships) -> Vec<RoomNid> {
    let joined = |row: &MembershipRow| row.membership == appliance_ledger::membership::JOIN;
    memberships.iter().filter(|(_, row)| joined(row)).map(|(room, _)| *room).collect()
}

/// Those who wait.
#[derive(Default)]
pub struct Waiters {
    inner: Mutex<Inner>,
    closing: watch::Sender<bool>,
    /// Workers that follow the commits too.
    followers: Mutex<Vec<Arc<dyn Observer>>>,
}

#[derive(Default)]
struct Inner {
    present: HashMap<UserNid, Present>,
    idle: usize,
    /// The present users joined to a room.
    rooms: HashMap<RoomNid, HashSet<UserNid>>,
    /// Users who look into a room from outside, once for each request.
    peeks: HashMap<RoomNid, Vec<UserNid>>,
    marks: Marks,
}

struct Present {
    wake: watch::Sender<u64>,
    waiting: usize,
    rooms: HashSet<RoomNid>,
    memberships: Option<Memberships>,
    /// Raised with every change of the user's memberships.
    generation: u64,
}

/// When things last changed, as far as is known since [`Marks::floor`].
#[derive(Default)]
pub struct Marks {
    floor: Position,
    timelines: HashMap<RoomNid, Position>,
    receipts: HashMap<RoomNid, Position>,
    own_receipts: HashMap<(UserNid, RoomNid), Position>,
    users: HashMap<UserNid, Position>,
    devices: HashMap<DeviceNid, Position>,
    /// Up to where the messages to a device are delivered and deleted.
    emptied: HashMap<DeviceNid, Position>,
    device_lists: Position,
}

/// What may have changed after a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Certainly nothing.
    None,
    /// Something, or it is not known.
    Perhaps,
}

/// What may have changed in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomNews {
    /// Events.
    pub timeline: News,
    /// Public receipts.
    pub receipts: News,
    /// The reader's own receipts, private ones too.
    pub own_receipts: News,
}

impl RoomNews {
    /// Everything may have changed.
    pub const ALL: Self =
        Self { timeline: News::Perhaps, receipts: News::Perhaps, own_receipts: News::Perhaps };
    const NONE: Self =
        Self { timeline: News::None, receipts: News::None, own_receipts: News::None };
}

/// One request that looks into a room. While it lives, the room's events wake its user.
pub struct Peek {
    waiters: Arc<Waiters>,
    user: UserNid,
    room: RoomNid,
}

/// One request that waits. While it lives, its user is present.
pub struct Subscription {
    waiters: Arc<Waiters>,
    user: UserNid,
    wake: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
}

impl Waiters {
    /// Sets the position that the marks begin at. To be called before the first commit.
    pub fn start_at(&self, position: Position) {
        let mut inner = self.lock();
        inner.marks.floor = position;
        inner.marks.device_lists = position;
    }

    /// Tells `follower` of every commit from now on.
    pub(crate) fn also_tell(&self, follower: Arc<dyn Observer>) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).push(follower);
    }

    /// Begins to listen for a user. Subscribe before reading the position: a change in between then
    /// wakes.
    pub fn subscribe(self: &Arc<Self>, user: UserNid) -> Subscription {
        let mut inner = self.lock();
        let was_idle = inner.present.get(&user).is_some_and(|present| present.waiting == 0);
        let present = inner.present.entry(user).or_insert_with(|| Present {
            wake: watch::Sender::new(0),
            waiting: 0,
            rooms: HashSet::new(),
            memberships: None,
            generation: 0,
        });
        present.waiting += 1;
        let wake = present.wake.subscribe();
        inner.idle = inner.idle.saturating_sub(usize::from(was_idle));
        drop(inner);
        Subscription { waiters: self.clone(), user, wake, closing: self.closing.subscribe() }
    }

    /// Wakes the present members of a room for something that is no commit, such as typing.
    pub fn wake_room(&self, room: RoomNid) {
        let inner = self.lock();
        for user in inner.rooms.get(&room).into_iter().flatten() {
            inner.wake(*user);
        }
    }

    /// Wakes those who share a room with a user.
    pub fn wake_sharing(&self, user: UserNid) {
        self.lock().wake_those_who_share_with(user);
    }

    /// Whether a request of the user is under way.
    pub fn is_waiting(&self, user: UserNid) -> bool {
        self.lock().present.get(&user).is_some_and(|present| present.waiting > 0)
    }

    /// Tells every request that waits to answer now: the server stops.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// The rooms among `rooms` in which something may have changed for `user` after `since`.
    pub fn rooms_with_news(
        &self,
        user: UserNid,
        rooms: impl Iterator<Item = RoomNid>,
        since: Position,
    ) -> HashMap<RoomNid, RoomNews> {
        let inner = self.lock();
        let marks = &inner.marks;
        rooms
            .map(|room| {
                let news = RoomNews {
                    timeline: marks.news(marks.timelines.get(&room), since),
                    receipts: marks.news(marks.receipts.get(&room), since),
                    own_receipts: marks.news(marks.own_receipts.get(&(user, room)), since),
                };
                (room, news)
            })
            .filter(|(_, news)| *news != RoomNews::NONE)
            .collect()
    }

    /// Whether events may have come into a room after `since`.
    pub fn timeline_news(&self, room: RoomNid, since: Position) -> News {
        let inner = self.lock();
        inner.marks.news(inner.marks.timelines.get(&room), since)
    }

    /// What may have changed of a user's own after `since`: account data, memberships, counts.
    pub fn user_news(&self, user: UserNid, since: Position) -> News {
        let inner = self.lock();
        inner.marks.news(inner.marks.users.get(&user), since)
    }

    /// What may have arrived for a device after `since`.
    pub fn device_news(&self, device: DeviceNid, since: Position) -> News {
        let inner = self.lock();
        inner.marks.news(inner.marks.devices.get(&device), since)
    }

    /// Every message to a device up to and including `upto` is deleted. No later position than that of
    /// the store: what comes next lies behind it.
    pub fn note_emptied(&self, device: DeviceNid, upto: Position) {
        self.lock().marks.emptied.insert(device, upto);
    }

    /// Whether it is known that no message to a device is left.
    pub fn is_emptied(&self, device: DeviceNid) -> bool {
        let inner = self.lock();
        let Marks { devices, emptied, .. } = &inner.marks;
        let news = |upto| inner.marks.news(devices.get(&device), upto);
        emptied.get(&device).is_some_and(|upto| news(*upto) == News::None)
    }

    /// Whether anyone's device list may have changed after `since`.
    pub fn device_list_news(&self, since: Position) -> News {
        let inner = self.lock();
        let changed = since < inner.marks.floor || since < inner.marks.device_lists;
        if changed { News::Perhaps } else { News::None }
    }

    /// How many rooms somebody looks into from outside.
    #[cfg(test)]
    pub(super) fn rooms_peeked_at(&self) -> usize {
        self.lock().peeks.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Waiters {
    fn changing(&self, touched: &Touched, position: Position) {
        for follower in &*self.followers.lock().unwrap_or_else(PoisonError::into_inner) {
            follower.changing(touched, position);
        }
        let mut inner = self.lock();
        inner.marks.note(touched, position);
        for (user, room, joined) in &touched.memberships {
            inner.membership_changed(*user, *room, *joined);
        }
    }

    fn committed(&self, touched: &Touched, position: Position) {
        for follower in &*self.followers.lock().unwrap_or_else(PoisonError::into_inner) {
            follower.committed(touched, position);
        }
        let inner = self.lock();
        let woken: HashSet<UserNid> = (touched.timelines.iter().chain(&touched.receipts))
            .filter_map(|room| inner.rooms.get(room))
            .flatten()
            .chain(touched.timelines.iter().filter_map(|room| inner.peeks.get(room)).flatten())
            .chain(&touched.users)
            .chain(touched.own_receipts.iter().map(|(reader, _)| reader))
            .chain(touched.devices.iter().map(|(owner, _)| owner))
            .chain(touched.ended_devices.iter().map(|(owner, _)| owner))
            .copied()
            .collect();
        for user in woken {
            inner.wake(user);
        }
        for owner in &touched.device_lists {
            inner.wake_those_who_share_with(*owner);
        }
    }
}

impl Inner {
    fn wake(&self, user: UserNid) {
        if let Some(present) = self.present.get(&user) {
            present.wake.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn membership_changed(&mut self, user: UserNid, room: RoomNid, joined: bool) {
        let Some(present) = self.present.get_mut(&user) else { return };
        present.memberships = None;
        present.generation += 1;
        if joined {
            present.rooms.insert(room);
            self.rooms.entry(room).or_default().insert(user);
        } else {
            present.rooms.remove(&room);
            remove_member(&mut self.rooms, room, user);
        }
    }

    /// A changed device list concerns those who share a room with its owner. Owners who are not
    /// present have no index of rooms here; then everybody present looks for themselves.
    fn wake_those_who_share_with(&self, owner: UserNid) {
        let Some(present) = self.present.get(&owner).filter(|p| p.memberships.is_some()) else {
            self.present.keys().for_each(|user| self.wake(*user));
            return;
        };
        let sharing: HashSet<_> =
            present.rooms.iter().filter_map(|room| self.rooms.get(room)).flatten().collect();
        self.wake(owner);
        sharing.into_iter().for_each(|user| self.wake(*user));
    }

    fn retire(&mut self, user: UserNid) {
        let Some(present) = self.present.remove(&user) else { return };
        for room in present.rooms {
            remove_member(&mut self.rooms, room, user);
        }
    }

    fn forget_idle(&mut self) {
        let idle = self.present.iter().filter(|(_, present)| present.waiting == 0);
        let idle: Vec<_> = idle.map(|(user, _)| *user).collect();
        idle.into_iter().for_each(|user| self.retire(user));
        self.idle = 0;
    }
}

fn remove_member(rooms: &mut HashMap<RoomNid, HashSet<UserNid>>, room: RoomNid, user: UserNid) {
    if let Some(members) = rooms.get_mut(&room) {
        members.remove(&user);
        if members.is_empty() {
            rooms.remove(&room);
        }
    }
}

impl Marks {
    fn news(&self, mark: Option<&Position>, since: Position) -> News {
        let unchanged = mark.is_none_or(|changed| *changed <= since) && since >= self.floor;
        if unchanged { News::None } else { News::Perhaps }
    }

    fn note(&mut self, touched: &Touched, position: Position) {
        let rooms = self.timelines.len() + self.receipts.len();
        let size = rooms + self.users.len() + self.devices.len() + self.emptied.len();
        if size > MARKS_MAX {
            *self = Self { floor: position, device_lists: position, ..Self::default() };
        }
        self.timelines.extend(touched.timelines.iter().map(|room| (*room, position)));
        self.receipts.extend(touched.receipts.iter().map(|room| (*room, position)));
        self.own_receipts.extend(touched.own_receipts.iter().map(|own| (*own, position)));
        let users = touched.users.iter().copied();
        let members = touched.memberships.iter().map(|(user, ..)| *user);
        self.users.extend(users.chain(members).map(|user| (user, position)));
        self.devices.extend(touched.devices.iter().map(|(_, device)| (*device, position)));
        if !touched.device_lists.is_empty() {
            self.device_lists = position;
        }
    }
}

impl Subscription {
    /// Forgets what has woken it so far. Call it before reading the position.
    pub fn rearm(&mut self) {
        self.wake.borrow_and_update();
    }

    /// Has a room wake the user whether they are in it or not.
    pub fn peek(&self, room: RoomNid) -> Peek {
        self.waiters.lock().peeks.entry(room).or_default().push(self.user);
        Peek { waiters: self.waiters.clone(), user: self.user, room }
    }

    /// Waits until something concerns the user. `false` if the server stops.
    pub async fn woken(&mut self) -> bool {
        if *self.closing.borrow() {
            return false;
        }
        tokio::select! {
            changed = self.wake.changed() => changed.is_ok(),
            _ = self.closing.changed() => false,
        }
    }

    /// Waits until the server stops.
    pub async fn closed(&mut self) {
        while !*self.closing.borrow_and_update() {
            if self.closing.changed().await.is_err() {
                return;
            }
        }
    }

    /// The user's rooms if they are known and unchanged, and the generation to keep new ones under.
    pub fn memberships(&self) -> (Option<Memberships>, u64) {
        let inner = self.waiters.lock();
        match inner.present.get(&self.user) {
            Some(present) => (present.memberships.clone(), present.generation),
            None => (None, 0),
        }
    }

    /// Keeps the user's rooms as read from the store. `false` if they have changed meanwhile: then
    /// read again.
    pub fn keep_memberships(&self, memberships: &Memberships, generation: u64) -> bool {
        let mut inner = self.waiters.lock();
        let Inner { present, rooms, .. } = &mut *inner;
        let Some(present) = present.get_mut(&self.user) else { return true };
        if present.generation != generation {
            return false;
        }
        present.memberships = Some(memberships.clone());
        let joined = |row: &MembershipRow| row.membership == appliance_ledger::membership::JOIN;
        for (room, _) in memberships.iter().filter(|(_, row)| joined(row)) {
            present.rooms.insert(*room);
            rooms.entry(*room).or_default().insert(self.user);
        }
        true
    }
}

impl Drop for Peek {
    fn drop(&mut self) {
        let mut inner = self.waiters.lock();
        let Some(users) = inner.peeks.get_mut(&self.room) else { return };
        if let Some(index) = users.iter().position(|user| *user == self.user) {
            users.swap_remove(index);
        }
        if users.is_empty() {
            inner.peeks.remove(&self.room);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.waiters.lock();
        let Some(present) = inner.present.get_mut(&self.user) else { return };
        present.waiting -= 1;
        if present.waiting > 0 {
            return;
        }
        if present.memberships.is_none() {
            inner.retire(self.user);
            return;
        }
        inner.idle += 1;
        if inner.idle > PRESENT_IDLE_MAX {
            inner.forget_idle();
        }
    }
}
