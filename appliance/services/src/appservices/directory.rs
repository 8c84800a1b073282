//! `PUT /directory/list/appservice/{networkId}/{roomId}` ([spec]): the room directories of other
//! networks, which application services keep.
//!
//! [spec]: https://spec.matrix.org/v1.19/application-service-api/#application-service-room-directories

use appliance_ledger::keyspaces::NETWORK_ROOMS;
use appliance_ledger::{Digest, Direction};
use appliance_model::ruma::RoomId;
use appliance_model::{Caller, Error, RoomNid};
use appliance_rules::Permit;

use super::{Appservices, instance_id};

/// A name of a network.
const NETWORK_BYTES_MAX: usize = 255;

impl Appservices {
    /// Puts a room into the directory of one of the service's networks, or takes it out.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`]: the caller is no application service.
    /// * [`appliance_model::Kind::NotFound`]: this server does not know the room.
    pub async fn publish(
        &self,
        caller: &Caller,
        (network, room_id): (&str, &RoomId),
        published: bool,
    ) -> Result<(), Error> {
        let Some(service) = caller.appservice.as_deref() else {
            return Err(Error::forbidden("Only application services keep these directories."));
        };
        if network.is_empty() || network.len() > NETWORK_BYTES_MAX {
            return Err(Error::invalid_param("The name of a network has 1 to 255 bytes."));
        }
        let (room, _) = self.rooms.known(room_id).await?;
        let key = (self.network(&instance_id(service, network)), room);
        let ledger = &self.house.ledger;
        let verb = if published { "room.published" } else { "room.unpublished" };
        let mut commit = ledger.begin(Permit::own(verb, &caller.user_id, room_id));
        if published {
            commit.put(&NETWORK_ROOMS, &key, &());
        } else {
            commit.delete(&NETWORK_ROOMS, &key);
        }
        ledger.commit(commit).await.map(drop)
    }

    /// At most `limit` rooms in the directory of a network, from after `after` on, and whether there
    /// are more. The network is named as in `third_party_instance_id` of `/publicRooms`.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn published(
        &self,
        instance_id: &str,
        after: RoomNid,
        limit: usize,
    ) -> Result<(Vec<RoomNid>, bool), Error> {
        let network = self.network(instance_id);
        let range = ((network, RoomNid(after.0 + 1)), (network, RoomNid(u64::MAX)));
        let newest = self.house.ledger.newest();
        let (rows, more) = newest
            .scan_between(&NETWORK_ROOMS, (&range.0, &range.1), Direction::Forward, limit)
            .await?;
        Ok((rows.into_iter().map(|((_, room), ())| room).collect(), more))
    }

    fn network(&self, instance_id: &str) -> Digest {
        self.house.ledger.digest(&[b"network", instance_id.as_bytes()])
    }
}
