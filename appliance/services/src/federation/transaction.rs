//! `PUT /send/{txnId}` ([spec]): the events of a transaction. Its other contents are not the business of
//! rooms.
//!
//! A transaction that is sent again gets the answer that it got, for as long as servers try again; after
//! that its events are known by their hashes all the same.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid

use std::collections::BTreeMap;

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::{INBOUND_TXN_TIMES, INBOUND_TXNS, USER_ROOMS};
use appliance_ledger::membership;
use appliance_ledger::rows::InboundTxnRow;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, ServerName, UserId};
use appliance_model::{Error, Kind, Pdu};
use appliance_rules::Permit;
use appliance_rules::inbound::Standing;
use futures_util::future::join_all;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::check::{formed, room_named_in};
use super::fetch::{Errand, Source};
use super::receive::{Inflow, only_this_one};
use super::resident::{arrival_of, turn_of};
use crate::rooms::room::membership_of;
use crate::rooms::{Rooms, rules_of};

/// "pdus: … Must not be more than 50 PDUs."
const PDUS_MAX: usize = 50;
/// Answers are kept this long: far longer than a server that got none waits before it asks again.
const KEPT_MS: u64 = 24 * 60 * 60 * 1_000;
/// Answers forgotten with one commit.
const FORGOTTEN_MAX: usize = 500;

type Results = Map<String, Value>;

impl Rooms {
    /// Takes in the events of a transaction of `origin`; returns the result of each by its ID, as the JSON
    /// that the other server is answered: `{"pdus": {"$event": {}}}`.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::InvalidParam`]: more than 50 events; none was looked at.
    /// * [`appliance_model::Kind::Unavailable`]: the store failed; the other server is to send the
    ///   transaction again.
    pub async fn receive_pdus(
        &self,
        origin: &ServerName,
        txn_id: &str,
        pdus: Vec<Box<RawValue>>,
    ) -> Result<String, Error> {
        if pdus.len() > PDUS_MAX {
            return Err(Error::invalid_param("A transaction has at most 50 events."));
        }
        let ledger = &self.house.ledger;
        let digest = ledger.digest(&[b"inbound", origin.as_bytes(), txn_id.as_bytes()]);
        // The same transaction twice at once: the second waits for the first's answer.
        let number = u64::from_be_bytes(digest[..8].try_into().expect("eight of sixteen bytes"));
        let _turn = self.receiving.enter(number).await;
        if let Some(row) = ledger.get(&INBOUND_TXNS, &digest).await? {
            return Ok(row.answer);
        }
        let mut by_room: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> = BTreeMap::new();
        for pdu in pdus {
            // Events that name no room cannot be told apart by anyone; the answer cannot name them.
            if let Some(room_id) = room_named_in(pdu.get()) {
                by_room.entry(room_id).or_default().push(pdu);
            }
        }
        let rooms =
            by_room.into_iter().map(|(room_id, pdus)| self.receive_in(origin, room_id, pdus));
        let mut results = Results::new();
        // Rooms do not wait for each other: one that must ask far away holds up nobody else.
        for of_room in join_all(rooms).await {
            results.extend(of_room?);
        }
        let answer = json!({ "pdus": results }).to_string();
        let at_ms = self.house.clock.now_ms();
        let mut commit = ledger.begin(Permit::housekeeping());
        let row = InboundTxnRow { answer: answer.clone(), at_ms };
        commit.put(&INBOUND_TXNS, &digest, &row);
        commit.put(&INBOUND_TXN_TIMES, &(at_ms, digest), &());
        self.forget_old_answers(at_ms, &mut commit).await?;
        ledger.commit(commit).await?;
        Ok(answer)
    }

    async fn forget_old_answers(
        &self,
        now_ms: u64,
        commit: &mut appliance_ledger::Commit,
    ) -> Result<(), Error> {
        let range = (&0_u64, &now_ms.saturating_sub(KEPT_MS));
        let newest = self.house.ledger.newest();
        let (rows, _) = newest
            .scan_between(&INBOUND_TXN_TIMES, range, Direction::Forward, FORGOTTEN_MAX)
            .await?;
        for ((at_ms, digest), ()) in rows {
            commit.delete(&INBOUND_TXN_TIMES, &(at_ms, digest));
            commit.delete(&INBOUND_TXNS, &digest);
        }
        Ok(())
    }

    /// The events of one room, in their order.
    async fn receive_in(
        &self,
        origin: &ServerName,
        room_id: OwnedRoomId,
        pdus: Vec<Box<RawValue>>,
    ) -> Result<Results, Error> {
        let _turn = self.receiving.enter(turn_of(self, &room_id, origin)).await;
        // Who lets us in tells us what comes next before our join is done.
        drop(self.receiving.enter(arrival_of(self, &room_id)).await);
        let mut results = Results::new();
        let version = match self.known(&room_id).await {
            Ok((_, version)) => version,
            // Without the version not even its hash is known: nothing can be answered about it.
            Err(error) => return only_this_one(error).map(|_| results),
        };
        let rules = rules_of(&version)?;
        let open = self.enter(&room_id).await?;
        let (is_resident, is_admitted) = (open.is_resident(), open.admits(origin).await?);
        drop(open);
        let errand = Errand::begin(&self.house);
        let source = Source::new(origin, &room_id, &rules, &errand);
        let (mut inflow, mut unjudged) = (Inflow::new(self, source), None);
        for raw in pdus {
            let formed = match formed(&raw, &rules) {
                Ok(formed) => formed,
                Err(why) => {
                    self.dropped(source, &why);
                    continue;
                }
            };
            let event_id = formed.event_id.clone();
            let checked = match is_admitted {
                true => self.verified(formed, &rules).await,
                false => Ok(Err("the room's access list keeps your server out".to_owned())),
            };
            let outcome = match checked {
                Err(error) => Err(refused(error, &event_id, &mut unjudged)?),
                Ok(Err(why)) => {
                    self.dropped(source, &why);
                    Err(why)
                }
                Ok(Ok(pdu)) if !is_resident => self.receive_outside(origin, &room_id, pdu).await?,
                Ok(Ok(pdu)) => match inflow.live(pdu).await {
                    Ok(Standing::Rejected(why)) => Err(why),
                    // "a soft-failed event … is not an error": the other server did nothing wrong.
                    Ok(_) => Ok(()),
                    Err(error) => Err(refused(error, &event_id, &mut unjudged)?),
                },
            };
            let result = outcome.map_or_else(|why| json!({ "error": why }), |()| json!({}));
            results.insert(event_id.to_string(), result);
        }
        inflow.flush().await?;
        if let Some(event_id) = unjudged.filter(|_| is_resident) {
            self.note_unjudged(source, &event_id).await?;
        }
        Ok(results)
    }

    /// An event of a room that this server is not in matters only if it takes back an invite, or turns
    /// down a knock, of one of our users.
    async fn receive_outside(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdu: Pdu,
    ) -> Result<Result<(), String>, Error> {
        let not_in = || Ok(Err("this server is not in that room".to_owned()));
        let target = pdu.state_key.as_deref().and_then(|key| UserId::parse(key).ok());
        let Some(target) = target.filter(|target| self.house.is_ours(target)) else {
            return not_in();
        };
        let is_out = pdu.kind.to_string() == "m.room.member"
            && matches!(membership_of(&pdu), MembershipState::Leave | MembershipState::Ban);
        let ledger = &self.house.ledger;
        let mut open = self.enter(room_id).await?;
        let Some(user) = ledger.user(&target).await?.filter(|_| is_out) else { return not_in() };
        let Some(row) = ledger.get(&USER_ROOMS, &(user, open.room)).await? else { return not_in() };
        let is_called = matches!(row.membership, membership::INVITE | membership::KNOCK);
        // Only through whom the call came can it be taken back: nobody else is known to be in the room.
        if !is_called || pdu.sender.server_name() != origin || open.is_resident() {
            return not_in();
        }
        let call = ledger.get(&appliance_ledger::keyspaces::CALLS, &(open.room, user)).await?;
        if call.is_none_or(|call| call.via != origin.as_str()) {
            return not_in();
        }
        let room = open.room;
        let mut commit = open.begin(Standing::Accepted.permit(&pdu));
        let event = open.add_outlier(&std::sync::Arc::new(pdu), &mut commit).await?;
        commit.delete(&appliance_ledger::keyspaces::CALLS, &(room, user));
        self.stand_outside((user, room), membership::LEAVE, event, &mut commit).await?;
        open.resume(commit);
        open.leave().await?;
        Ok(Ok(()))
    }
}

/// Why an event was not taken; notes it if it cannot be judged now, which is no fault of its own.
fn refused(
    error: Error,
    event_id: &EventId,
    unjudged: &mut Option<OwnedEventId>,
) -> Result<String, Error> {
    let error = only_this_one(error)?;
    if error.kind == Kind::RemoteUnavailable {
        *unjudged = Some(event_id.to_owned());
    }
    Ok(error.message.into_owned())
}
