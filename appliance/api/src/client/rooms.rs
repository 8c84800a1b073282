//! Rooms: creating, membership, sending.

use appliance_model::Error;
use appliance_model::ruma::api::client::membership::{invite_user, join_room_by_id, leave_room};
use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::api::client::room::create_room;
use appliance_model::ruma::api::client::state::send_state_event;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_services::rooms::Move;

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(create_room);
    routes.serve(join);
    routes.serve(leave);
    routes.serve(invite);
    routes.serve(send_event);
    routes.serve(send_state);
}

async fn create_room(
    visit: Visit<create_room::v3::Request>,
) -> Result<create_room::v3::Response, Error> {
    let room_id = visit.services.rooms.create_room(visit.caller()?, &visit.request).await?;
    Ok(create_room::v3::Response::new(room_id))
}

async fn join(
    visit: Visit<join_room_by_id::v3::Request>,
) -> Result<join_room_by_id::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let change =
        Move { target: &caller.user_id, to: MembershipState::Join, reason: request.reason.clone() };
    visit.services.rooms.move_member(caller, &request.room_id, change).await?;
    Ok(join_room_by_id::v3::Response::new(request.room_id.clone()))
}

async fn leave(visit: Visit<leave_room::v3::Request>) -> Result<leave_room::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let change = Move {
        target: &caller.user_id,
        to: MembershipState::Leave,
        reason: request.reason.clone(),
    };
    visit.services.rooms.move_member(caller, &request.room_id, change).await?;
    Ok(leave_room::v3::Response::new())
}

async fn invite(
    visit: Visit<invite_user::v3::Request>,
) -> Result<invite_user::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let invite_user::v3::InvitationRecipient::UserId(invite_user::v3::InviteUserId {
        user_id,
        reason,
        ..
    }) = &request.recipient
    else {
        return Err(Error::invalid_param("Invite people by their Matrix ID."));
    };
    let change = Move { target: user_id, to: MembershipState::Invite, reason: reason.clone() };
    visit.services.rooms.move_member(caller, &request.room_id, change).await?;
    Ok(invite_user::v3::Response::new())
}

async fn send_event(
    visit: Visit<send_message_event::v3::Request>,
) -> Result<send_message_event::v3::Response, Error> {
    let event_id = visit.services.rooms.send_event(visit.caller()?, &visit.request).await?;
    Ok(send_message_event::v3::Response::new(event_id))
}

async fn send_state(
    visit: Visit<send_state_event::v3::Request>,
) -> Result<send_state_event::v3::Response, Error> {
    let event_id = visit.services.rooms.send_state(visit.caller()?, &visit.request).await?;
    Ok(send_state_event::v3::Response::new(event_id))
}
