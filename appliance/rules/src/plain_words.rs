//! The refusals of the authorization rules, in words for the person refused.

use std::borrow::Cow;

/// Ruma's sentence and ours. What is not here is passed on as it is: understandable, if dry.
const SENTENCES: &[(&str, &str)] = &[
    ("sender's membership is not `join`", "You are not in this room."),
    ("cannot join a room that is not `public`", "You are not invited to this room."),
    ("banned user cannot join room", "You are banned from this room."),
    (
        "cannot join restricted room without `join_authorised_via_users_server` field if not \
         invited",
        "You are not invited to this room, nor a member of one that opens it.",
    ),
    ("sender of join event must match target user", "Nobody can join a room for someone else."),
    ("cannot invite user if sender is not joined", "You are not in this room."),
    (
        "cannot invite user that is joined or banned",
        "This person is in the room already, or banned from it.",
    ),
    (
        "sender does not have enough power to invite",
        "You do not have the power level to invite people to this room.",
    ),
    (
        "cannot leave if not joined, invited or knocked",
        "You are neither in this room nor invited to it.",
    ),
    ("cannot kick if sender is not joined", "You are not in this room."),
    (
        "sender does not have enough power to kick target user",
        "You do not have the power level to remove this person.",
    ),
    (
        "sender does not have enough power to unban",
        "You do not have the power level to lift bans in this room.",
    ),
    ("cannot ban if sender is not joined", "You are not in this room."),
    (
        "sender does not have enough power to ban target user",
        "You do not have the power level to ban this person.",
    ),
    (
        "join rule is not set to knock or knock_restricted, knocking is not allowed",
        "This room does not take knocks.",
    ),
    (
        "cannot knock if user is banned, invited or joined",
        "You cannot knock: you are in this room, invited to it, or banned from it.",
    ),
    ("unknown membership", "Rooms of this version do not know that membership."),
    (
        "sender cannot send event with `state_key` matching another user's ID",
        "This state belongs to another person.",
    ),
    (
        "creator user IDs are not allowed in the `users` field",
        "The creators of this room stand above its power levels and cannot be listed in them.",
    ),
];

/// The sentence for a refusal.
pub(crate) fn plain(why: String) -> Cow<'static, str> {
    const POWER: &str = "sender does not have enough power to ";
    if let Some((_, ours)) = SENTENCES.iter().find(|(theirs, _)| *theirs == why) {
        return Cow::Borrowed(ours);
    }
    match why.strip_prefix(POWER) {
        Some(what) => format!("You do not have the power level to {what}.").into(),
        None => why.into(),
    }
}
