//! Whether a list of photos may still name one.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::ROOM_MEDIA;
use appliance_ledger::rows::media::{LINK_KEPT, RoomMediaRow};
use appliance_model::ruma::EventId;
use appliance_model::{Error, EventNid, MediaNid, RoomNid};

use super::Media;
use super::link::{AFAR_LATER_MS, afar_digest};

/// References of one event; no more are followed.
const PAGE: usize = 64;

impl Media {
    /// Whether what an event shows is over by the clock, whatever the jobs have done so far: the file is not to
    /// be had, or the event's own time has come.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn is_no_more(
        &self,
        event_id: &EventId,
        (server_name, media_id): (&str, &str),
    ) -> Result<bool, Error> {
        let ledger = self.ledger();
        let Some(event) = ledger.event_number(event_id).await? else { return Ok(true) };
        let room = ledger.event(event).await?.room;
        let is_ours = self.0.house.server_name == server_name;
        // The event outlives what lies on another server by so much, for that server to take it back.
        let later_ms = if is_ours { 0 } else { AFAR_LATER_MS };
        let view = ledger.newest();
        let (rows, _) = view.scan(&ROOM_MEDIA, &(room, event), Direction::Forward, PAGE).await?;
        let rows: Vec<((RoomNid, EventNid, MediaNid), RoomMediaRow)> = rows;
        let is_met = rows.iter().any(|((_, _, media), row)| {
            row.class != LINK_KEPT
                && self.time_ms_for(*media) >= row.deadline_ms.saturating_sub(later_ms)
        });
        if is_met {
            return Ok(true);
        }
        if !is_ours {
            let uri = format!("mxc://{server_name}/{media_id}");
            return self.has_ended(&afar_digest(ledger, &uri)).await;
        }
        let Some((number, _)) = self.row(server_name, media_id).await? else { return Ok(true) };
        Ok(self.living(number).await?.is_none())
    }
}
