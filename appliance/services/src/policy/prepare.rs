//! What a room's class does to a message before it is signed.

use appliance_model::Error;
use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue};
use appliance_rules::policy::POLICY_TYPE;

use super::room_policy;
use crate::house::House;
use crate::rooms::OpenRoom;

/// Takes `info.size` out of what shows a file in clear, in rooms whose class needs a server that can
/// read. There are apps (those on matrix-dart-sdk) that put a file into a store of their own, which
/// outlives a sign-out, only if they are told that it is small.
pub(crate) async fn prepare(
    house: &House,
    room: &OpenRoom<'_>,
    content: &mut CanonicalJsonObject,
) -> Result<(), Error> {
    let is_clear = matches!(content.get("url"), Some(CanonicalJsonValue::String(_)));
    if !is_clear || house.options.policy.is_off {
        return Ok(());
    }
    let Some(CanonicalJsonValue::Object(info)) = content.get_mut("info") else { return Ok(()) };
    if !info.contains_key("size") && !info.contains_key("thumbnail_info") {
        return Ok(());
    }
    let event = room.state(&StateEventType::from(POLICY_TYPE), "").await?;
    let of_room = event.map(|event| room_policy(event.content.get()));
    if house.policy.now().class_of(of_room.as_ref()).is_server_readable() {
        info.remove("size");
        if let Some(CanonicalJsonValue::Object(thumbnail)) = info.get_mut("thumbnail_info") {
            thumbnail.remove("size");
        }
    }
    Ok(())
}
