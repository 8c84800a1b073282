//! What a change of the current state means for the indexes: who is in the room, with how many from
//! which server, and what local users are in it.

use appliance_ledger::keyspaces::{MEMBERS, STATE_KEYS, USER_ROOMS};
use appliance_ledger::rows::MembershipRow;
use appliance_ledger::state::Change;
use appliance_ledger::{Commit, membership};
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{OwnedServerName, ServerName, UserId};
use appliance_model::{Error, EventNid, StateKeyNid};

use super::room::{OpenRoom, is_resident, membership_of};

impl OpenRoom<'_> {
    /// The other servers with joined users.
    pub(crate) fn servers(&self) -> impl Iterator<Item = OwnedServerName> + '_ {
        let servers = self.head.servers.iter().flatten();
        servers.filter_map(|(name, _)| OwnedServerName::try_from(name.as_str()).ok())
    }

    /// Whether a server has joined users.
    pub(crate) fn has_server(&self, server: &ServerName) -> bool {
        if *server == *self.rooms.house.server_name {
            return self.is_resident();
        }
        self.head.servers.iter().flatten().any(|(name, _)| name == server.as_str())
    }

    /// Whether one of our users is joined: only then is what we know of the room current.
    pub(crate) fn is_resident(&self) -> bool {
        is_resident(&self.head)
    }

    /// Keeps the indexes in step with what changed in the current state.
    pub(super) async fn follow(
        &mut self,
        changes: Vec<Change>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        for (key, old, new) in changes {
            if !key.is_member() {
                continue;
            }
            let user_id = self.member_key(key, old.or(new)).await?;
            let old = match old {
                Some(number) => Some(membership_of(&*self.pdu(number).await?)),
                None => None,
            };
            let new = match new {
                Some(number) => Some((number, membership_of(&*self.pdu(number).await?))),
                None => None,
            };
            self.move_member(&user_id, old, new, commit).await?;
        }
        Ok(())
    }

    async fn member_key(&self, key: StateKeyNid, event: Option<EventNid>) -> Result<String, Error> {
        if let Some(number) = event {
            return Ok(self.pdu(number).await?.state_key.clone().unwrap_or_default());
        }
        let row = self.rooms.house.ledger.get(&STATE_KEYS, &key).await?;
        Ok(row.map(|row| row.key).unwrap_or_default())
    }

    /// Keeps the current-membership indexes in step with a member event.
    pub(super) async fn move_member(
        &mut self,
        user_id: &str,
        old: Option<MembershipState>,
        new: Option<(EventNid, MembershipState)>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let ledger = &self.rooms.house.ledger;
        let user_id = UserId::parse(user_id)
            .map_err(|_| Error::invalid_param("The state key of a member event is a user ID."))?;
        let user = ledger.user_in(&user_id, commit).await?;
        let old_code = old.as_ref().map(membership::code);
        let new_code = new.as_ref().map(|(_, new)| membership::code(new));
        if let Some(old_code) = old_code {
            commit.delete(&MEMBERS, &(self.room, old_code, user));
        }
        if let Some(((number, _), new_code)) = new.as_ref().zip(new_code) {
            commit.put(&MEMBERS, &(self.room, new_code, user), &number.0);
        }
        for (code, count) in [
            (membership::JOIN, &mut self.head.joined),
            (membership::INVITE, &mut self.head.invited),
        ] {
            *count = (*count + u64::from(new_code == Some(code)))
                .saturating_sub(u64::from(old_code == Some(code)));
        }
        let (is_in, was_in) =
            (new_code == Some(membership::JOIN), old_code == Some(membership::JOIN));
        if !self.rooms.house.is_ours(&user_id) {
            if is_in != was_in {
                self.count_server(user_id.server_name(), is_in);
                // Who encrypts for the room hears of devices that came or went.
                commit.touched().device_lists.push(user);
            }
            return Ok(());
        }
        let room = self.room;
        let new_code = new_code.unwrap_or(membership::LEAVE);
        let event = new.map_or(0, |(number, _)| number.0);
        let known = ledger.get(&USER_ROOMS, &(user, room)).await?;
        let since = known.as_ref().filter(|row| row.membership == new_code);
        let since = since.map(|row| row.since);
        let was_in_until = known.as_ref().and_then(|row| row.joined_until);
        // A member event that a resolution took away without another in its place: the last one stands
        // for where the user was.
        let event = if event == 0 { known.map_or(0, |row| row.event) } else { event };
        commit.stamp(move |position, rows| {
            let joined_until = if was_in { Some(position.0) } else { was_in_until };
            let row = MembershipRow {
                membership: new_code,
                position: position.0,
                event,
                forgotten: false,
                since: since.unwrap_or(position.0),
                joined_until: joined_until.filter(|_| !is_in),
            };
            rows.put(&USER_ROOMS, &(user, room), &row);
        });
        commit.touched().users.push(user);
        commit.touched().memberships.push((user, room, is_in));
        Ok(())
    }

    fn count_server(&mut self, server: &ServerName, came: bool) {
        let servers = self.head.servers.get_or_insert_default();
        match servers.iter_mut().find(|(name, _)| name == server.as_str()) {
            Some((_, count)) if came => *count += 1,
            Some((_, count)) => *count = count.saturating_sub(1),
            None if came => servers.push((server.to_string(), 1)),
            None => {}
        }
        servers.retain(|(_, count)| *count > 0);
    }
}
