//! Two administrators, and everything that can go wrong between them.

use appliance_model::ruma::server_name;

use super::*;
use crate::peers::Standing;
use crate::scenario::{Ward, options};

/// Two hospitals that do not know each other.
async fn two() -> (Ward, Ward) {
    (hospital("a.example", 1).await, hospital("b.example", 2).await)
}

async fn hospital(name: &str, seed: u64) -> Ward {
    Ward::of_server(name, options(), seed).await
}

fn terms(legal_name: &str) -> Terms {
    Terms { legal_name: Some(legal_name.to_owned()), ..Terms::default() }
}

async fn offer(a: &Ward) -> String {
    let terms = Terms {
        contract: Some("2026/17".to_owned()),
        valid_until: Some("2030-12-31".to_owned()),
        ..terms("Hospital A")
    };
    a.services.peers.invite(server_name!("b.example"), terms, "uid 0").await.unwrap().text
}

async fn accept(ward: &Ward, text: &str, name: &str) -> Result<Accepted, Error> {
    ward.services.peers.accept(text, terms(name), "uid 0").await
}

async fn why_not(ward: &Ward, text: &str) -> String {
    let refused = accept(ward, text, "x").await.unwrap_err();
    assert_eq!(refused.kind, Kind::InvalidParam);
    refused.message.into_owned()
}

#[tokio::test]
async fn both_see_the_same_words_and_pin_each_other() {
    let (a, b) = two().await;
    let offer = offer(&a).await;
    let theirs = accept(&b, &offer, "Hospital B").await.unwrap();
    let answer = theirs.answer.unwrap();
    // A mail program breaks lines.
    let broken: String = answer.chars().flat_map(|c| [c, '\n']).collect();
    let ours = accept(&a, &broken, "ignored").await.unwrap();
    assert!(ours.answer.is_none(), "that is all");

    let words = ours.peer.check_phrase.clone().unwrap();
    assert_eq!(words, theirs.peer.check_phrase.clone().unwrap());
    assert_eq!(words.split(' ').count(), 6);
    let (name_a, name_b) = (server_name!("a.example"), server_name!("b.example"));
    for (ward, other, name, legal_name) in
        [(&a, &b, name_b, "Hospital B"), (&b, &a, name_a, "Hospital A")]
    {
        let roll = &ward.services.house.roll;
        assert_eq!(roll.standing(name), Standing::Suspended, "nobody has compared the words");
        let row = roll.described(name).unwrap();
        assert_eq!(row.legal_name, legal_name);
        let key = base64(&other.services.house.signing_key.public_key());
        assert_eq!(row.pinned_keys, [("ed25519:a_1".to_owned(), key)]);
        let resumed = PeerChange { suspended: Some(false), ..PeerChange::default() };
        ward.services.peers.describe(name, resumed, "uid 0").await.unwrap();
        assert!(roll.allows(name));
    }
    let row = b.services.house.roll.described(name_a).unwrap();
    assert_eq!(row.contract.as_deref(), Some("2026/17"), "the contract goes with the offer");
    let row = a.services.house.roll.described(name_b).unwrap();
    assert_eq!(row.contract.as_deref(), Some("2026/17"), "on both sides");
    assert!(row.valid_until_ms.is_some());
    for (ward, verb) in [(&a, "peer.invited"), (&a, "peer.accepted"), (&b, "peer.accepted")] {
        let facts = ward.audit().await;
        assert!(facts.iter().any(|fact| fact.contains(verb)), "{verb}: {facts:?}");
    }
}

#[tokio::test]
async fn a_letter_is_good_once_also_after_a_power_cut() {
    let (a, b) = two().await;
    let offer = offer(&a).await;
    let answer = accept(&b, &offer, "B").await.unwrap().answer.unwrap();
    let b = b.power_cut_and_restart().await;
    assert!(why_not(&b, &offer).await.contains("accepted here already"));
    accept(&a, &answer, "A").await.unwrap();
    let a = a.power_cut_and_restart().await;
    assert!(why_not(&a, &answer).await.contains("answers no offer that is open here"));
}

#[tokio::test]
async fn what_is_wrong_with_a_letter_is_said() {
    let (a, b) = two().await;
    let c = hospital("c.example", 3).await;
    let text = offer(&a).await;
    assert!(why_not(&a, &text).await.contains("written by this server"));
    assert!(
        why_not(&c, &text).await.contains("This is for b.example, and this server is c.example")
    );
    for broken in ["", "hello", "wardstone-offer-", "wardstone-offer-%%", &text[..text.len() - 8]] {
        assert!(why_not(&b, broken).await.contains("not a whole offer"), "{broken}");
    }
    assert!(why_not(&b, &"x".repeat(20_000)).await.contains("not a whole offer"));
    // Every single letter counts: changed, it is another letter or none.
    for place in (16..text.len()).step_by(7) {
        let mut altered = text.clone().into_bytes();
        altered[place] = if altered[place] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        let why = why_not(&b, &altered).await;
        assert!(why.contains("not as it was written") || why.contains("not a whole"), "{why}");
    }
    let renamed = text.replace("offer", "answer");
    assert!(why_not(&b, &renamed).await.contains("not as it was written"));

    a.clock.pass_ms(OFFER_MS);
    b.clock.pass_ms(OFFER_MS);
    assert!(why_not(&b, &text).await.contains("good for 48 hours"));
    assert!(b.services.house.roll.described(server_name!("a.example")).is_none(), "none of them");
}

#[tokio::test]
async fn an_answer_comes_too_late_or_from_somebody_else() {
    let (a, b) = two().await;
    let text = offer(&a).await;
    let answer = accept(&b, &text, "B").await.unwrap().answer.unwrap();
    a.clock.pass_ms(OFFER_MS);
    assert!(why_not(&a, &answer).await.contains("no offer that is open"));

    // Somebody else who saw the offer writes an answer, in the name of their own server.
    let (a, _) = two().await;
    let (letter, bytes) = letter::read(&offer(&a).await).unwrap();
    let thief = hospital("c.example", 4).await;
    let peers = &thief.services.peers;
    let (to, until_ms) = (server_name!("a.example"), letter.until_ms);
    let forged = peers.letter(to, Terms::default(), until_ms, Some(sha256(&bytes)));
    let (forged, _) = letter::write(&forged, &thief.services.house.signing_key).unwrap();
    assert!(why_not(&a, &forged).await.contains("no offer that is open"));
}

/// Whoever sits between the two can make each believe in a letter of theirs. The words tell.
#[tokio::test]
async fn somebody_in_the_middle_is_heard_in_the_words() {
    let (a, b) = two().await;
    let eve = Ward::of_server("a.example", options(), 5).await;
    let eves_other_face = Ward::of_server("b.example", options(), 6).await;
    let seen_by_b = accept(&b, &offer(&eve).await, "B").await.unwrap();
    let forged = accept(&eves_other_face, &offer(&a).await, "B").await.unwrap();
    let seen_by_a = accept(&a, &forged.answer.unwrap(), "A").await.unwrap();
    assert_ne!(seen_by_a.peer.check_phrase, seen_by_b.peer.check_phrase);
}

#[tokio::test]
async fn offers_make_sense_and_are_not_many() {
    let (a, _) = two().await;
    let peers = &a.services.peers;
    let own = peers.invite(server_name!("a.example"), Terms::default(), "uid 0").await;
    assert!(own.is_err());
    let nonsense = Terms { valid_from: Some("soon".to_owned()), ..Terms::default() };
    assert!(peers.invite(server_name!("b.example"), nonsense, "uid 0").await.is_err());
    for _ in 0..OFFERS_MAX {
        peers.invite(server_name!("b.example"), Terms::default(), "uid 0").await.unwrap();
    }
    let many = peers.invite(server_name!("b.example"), Terms::default(), "uid 0").await;
    assert_eq!(many.unwrap_err().kind, Kind::TooLarge);
    a.clock.pass_ms(OFFER_MS);
    peers.invite(server_name!("b.example"), Terms::default(), "uid 0").await.unwrap();
}

/// The words are part of the protocol: another release must show the same.
#[test]
fn the_words_of_two_letters_are_these() {
    let words = phrase(b"offer", b"answer").unwrap();
    assert_eq!(words, "guitar decade orange sketch sheriff camera");
}
