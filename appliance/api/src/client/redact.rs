//! Taking an event back.

use appliance_model::Error;
use appliance_model::ruma::api::client::redact::redact_event;
use appliance_services::rooms::Redaction;

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(redact);
}

async fn redact(
    visit: Visit<redact_event::v3::Request>,
) -> Result<redact_event::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let redaction = Redaction {
        event_id: &request.event_id,
        txn_id: &request.txn_id,
        reason: request.reason.clone(),
    };
    let event_id = visit.services.rooms.redact(caller, &request.room_id, redaction).await?;
    Ok(redact_event::v3::Response::new(event_id))
}
