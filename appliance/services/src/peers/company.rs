//! Which servers are in a room, or in any room with a user.

use std::collections::BTreeSet;

use appliance_ledger::keyspaces::{HEADS, MEMBERS, ROOMS, USER_ROOMS};
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};
use appliance_model::{Error, RoomNid, UserNid};

use crate::house::House;

/// Members and rooms read at once.
const PAGE: usize = 1_000;

/// Rooms in a list for an administrator: more are counted nowhere else either.
const LISTED_MAX: usize = 10_000;

impl House {
    /// The other servers with a joined member, as far as they may be owed anything.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn servers_in(&self, room: RoomNid) -> Result<Vec<OwnedServerName>, Error> {
        let mut servers = BTreeSet::new();
        self.add_servers_in(room, &mut servers).await?;
        Ok(servers.into_iter().collect())
    }

    /// The other servers that share a room with a user, as far as they may be owed anything.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn servers_with(&self, user: UserNid) -> Result<Vec<OwnedServerName>, Error> {
        let mut servers = BTreeSet::new();
        if self.roll.is_empty() {
            return Ok(Vec::new());
        }
        let view = self.ledger.newest();
        let mut from = (user, RoomNid(0));
        loop {
            let range = (&from, &(UserNid(user.0 + 1), RoomNid(0)));
            let (rows, more) =
                view.scan_between(&USER_ROOMS, range, Direction::Forward, PAGE).await?;
            for ((_, room), row) in &rows {
                if row.membership == membership::JOIN {
                    self.add_servers_in(*room, &mut servers).await?;
                }
            }
            match rows.last() {
                Some(((_, room), _)) if more => from = (user, RoomNid(room.0 + 1)),
                _ => return Ok(servers.into_iter().collect()),
            }
        }
    }

    /// The rooms in which users of another server are, or to which they are invited, whether or not
    /// anything is exchanged with it now. Looks at every room: for administrators, not for every request.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn rooms_with(&self, server: &ServerName) -> Result<Vec<OwnedRoomId>, Error> {
        let view = self.ledger.newest();
        let mut from = RoomNid(0);
        let mut found = Vec::new();
        loop {
            let range = (&from, &RoomNid(u64::MAX));
            let (rooms, more) = view.scan_between(&ROOMS, range, Direction::Forward, PAGE).await?;
            for (room, row) in &rooms {
                if self.has_people_of(*room, server).await? {
                    found.push(RoomId::parse(&*row.room_id).map_err(Error::internal)?);
                }
            }
            match rooms.last() {
                Some((room, _)) if more && found.len() < LISTED_MAX => from = RoomNid(room.0 + 1),
                _ => return Ok(found),
            }
        }
    }

    async fn add_servers_in(
        &self,
        room: RoomNid,
        servers: &mut BTreeSet<OwnedServerName>,
    ) -> Result<(), Error> {
        if self.roll.is_empty() {
            return Ok(());
        }
        let mut all = self.servers_of(room).await?;
        all.retain(|server| *server != *self.server_name && self.roll.may_be_owed(server));
        servers.append(&mut all);
        Ok(())
    }

    async fn has_people_of(&self, room: RoomNid, server: &ServerName) -> Result<bool, Error> {
        let Some(head) = self.ledger.get(&HEADS, &room).await? else { return Ok(false) };
        if head.servers.iter().flatten().any(|(name, count)| name == server.as_str() && *count > 0)
        {
            return Ok(true);
        }
        if head.invited == 0 {
            return Ok(false);
        }
        let invited = self.members_of(room, membership::INVITE).await?;
        Ok(invited.iter().any(|user_id| user_id.server_name() == server))
    }

    /// The servers with a joined member, this one and those off the list included.
    async fn servers_of(&self, room: RoomNid) -> Result<BTreeSet<OwnedServerName>, Error> {
        let members = self.members_of(room, membership::JOIN).await?;
        Ok(members.iter().map(|user_id| user_id.server_name().to_owned()).collect())
    }

    /// Who has a membership in a room.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(crate) async fn members_of(
        &self,
        room: RoomNid,
        code: u8,
    ) -> Result<Vec<OwnedUserId>, Error> {
        let view = self.ledger.newest();
        let (mut from, to) = ((room, code, UserNid(0)), (room, code + 1, UserNid(0)));
        let mut found = Vec::new();
        loop {
            let (rows, more) =
                view.scan_between(&MEMBERS, (&from, &to), Direction::Forward, PAGE).await?;
            for ((_, _, user), _) in rows {
                let user: UserNid = user;
                from.2 = UserNid(user.0 + 1);
                found.push(self.ledger.user_id(user).await?);
            }
            if !more {
                return Ok(found);
            }
        }
    }
}
