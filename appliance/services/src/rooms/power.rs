//! Power levels outside the authorization rules: who may ring everyone, who may vouch for a join.

use std::collections::BTreeSet;

use appliance_model::ruma::OwnedUserId;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::events::room::power_levels::{
    RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource,
};
use appliance_model::{Error, RoomNid};
use serde::Deserialize;

use super::{Rooms, rules_of};

impl Rooms {
    /// The power levels of a room now.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn power_levels(&self, room: RoomNid) -> Result<RoomPowerLevels, Error> {
        let room_id = self.house.ledger.room_id(room).await?;
        let (_, version) = self.known(&room_id).await?;
        let rules = rules_of(&version)?.authorization;
        let levels = self.current(room, &StateEventType::RoomPowerLevels, "").await?;
        let levels = levels.and_then(|event| {
            serde_json::from_str::<RoomPowerLevelsEventContent>(event.content()).ok()
        });
        let creators = self.creators(room).await?;
        Ok(RoomPowerLevels::new(RoomPowerLevelsSource::from(levels), &rules, creators))
    }

    /// The creators: the create event's sender, and from version 12 on those it names.
    async fn creators(&self, room: RoomNid) -> Result<BTreeSet<OwnedUserId>, Error> {
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            additional_creators: Vec<OwnedUserId>,
        }
        let create = self.current(room, &StateEventType::RoomCreate, "").await?;
        let Some(create) = create else { return Ok(BTreeSet::new()) };
        let mut creators: BTreeSet<OwnedUserId> =
            serde_json::from_str(create.part(create.spans.sender)).into_iter().collect();
        if let Ok(content) = serde_json::from_str::<Content>(create.content()) {
            creators.extend(content.additional_creators);
        }
        Ok(creators)
    }
}
