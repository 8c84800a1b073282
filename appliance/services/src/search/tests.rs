use appliance_model::Caller;
use appliance_model::ruma::RoomId;
use appliance_model::ruma::events::room::member::MembershipState as M;
use serde_json::{Value, json};

use super::*;
use crate::Options;
use crate::rooms::Redaction;
use crate::scenario::{Ward, options, visibility};

/// A ward whose search index lies in a folder.
async fn ward(folder: &tempfile::TempDir) -> Ward {
    let search_folder = Some(folder.path().join("search"));
    Ward::with_options(Options { search_folder, ..options() }).await
}

fn request(term: &str) -> SearchRequest {
    SearchRequest { term: term.to_owned(), order: SearchOrder::Recent, ..Default::default() }
}

/// Bodies of what was found, newest first.
async fn found(ward: &Ward, who: &Caller, request: &SearchRequest) -> Vec<String> {
    let found = ward.services.search.find(who, request).await.unwrap();
    let body = |one: &FoundEvent| {
        let content: Value = serde_json::from_str(one.event.content()).unwrap();
        let text = ["body", "name", "topic"].iter().find_map(|key| content[key].as_str());
        text.unwrap().to_owned()
    };
    found.results.iter().map(body).collect()
}

async fn take_back(ward: &Ward, who: &Caller, room: &RoomId, event_id: &str) {
    let event_id = EventId::parse(event_id).unwrap();
    let txn_id = ward.services.house.dice.letters(8);
    let redaction = Redaction { event_id: &event_id, txn_id: (*txn_id).into(), reason: None };
    ward.services.rooms.redact(who, room, redaction).await.unwrap();
}

#[tokio::test]
async fn what_was_said_is_found_at_once_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let ward = ward(&folder).await;
    let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
    let room =
        ward.room_as(&nurse, json!({ "name": "Ward four", "topic": "Beds and meals" })).await;
    let other = ward.room(&doctor).await;
    ward.say(&nurse, &room, "Bed four is free").await;
    ward.say(&doctor, &other, "My bed").await;
    assert!(!folder.path().join("search").exists(), "nobody has searched yet");
    assert_eq!(found(&ward, &nurse, &request("bed")).await, ["Bed four is free"]);
    assert_eq!(found(&ward, &nurse, &request("BEDS")).await, ["Beds and meals"]);
    let last = ward.say(&nurse, &room, "Bed five is free").await;
    let both = ["Bed five is free", "Bed four is free"];
    assert_eq!(found(&ward, &nurse, &request("free bed")).await, both);
    let keys = Some(vec!["content.name".to_owned()]);
    let names = SearchRequest { keys, ..request("four") };
    assert_eq!(found(&ward, &nurse, &names).await, ["Ward four"]);

    // The power goes: what the index had is there, what it had not follows, nothing is there twice.
    ward.say(&nurse, &room, "Bed six is free").await;
    let ward = ward.power_cut_and_restart().await;
    let all = ["Bed six is free", "Bed five is free", "Bed four is free"];
    assert_eq!(found(&ward, &nurse, &request("free")).await, all);
    take_back(&ward, &nurse, &room, &last).await;
    assert_eq!(
        found(&ward, &nurse, &request("free")).await,
        ["Bed six is free", "Bed four is free"]
    );
    assert_eq!(found(&ward, &doctor, &request("bed")).await, ["My bed"]);
}

#[tokio::test]
async fn nothing_readable_lies_on_the_disk_and_damage_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let ward = ward(&folder).await;
    let [nurse] = ward.members(["nurse"]).await;
    let room = ward.room(&nurse).await;
    let secret = ward.say(&nurse, &room, "Appendektomie").await;
    ward.say(&nurse, &room, "Visite").await;
    assert_eq!(found(&ward, &nurse, &request("appendektomie")).await, ["Appendektomie"]);
    let files = || -> Vec<_> {
        let entries = std::fs::read_dir(folder.path().join("search")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    assert!(files().len() > 3);
    for path in files() {
        let bytes = std::fs::read(&path).unwrap().to_ascii_lowercase();
        for word in [b"appendek".as_slice(), b"ektomie", b"visite", b"segment"] {
            let is_there = bytes.windows(word.len()).any(|window| window == word);
            assert!(!is_there, "{}", path.display());
        }
    }
    // Any file may be damaged, or lost: the index is made anew.
    let count = files().len();
    for index in 0..count {
        let ward_files = files();
        let Some(path) = ward_files.get(index % ward_files.len()) else { continue };
        ward.services.search.shelf.lock().await.index = None;
        if index % 2 == 0 {
            std::fs::write(path, b"noise, and a lot of it: more than a head has").unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
        let again = found(&ward, &nurse, &request("appendektomie")).await;
        assert_eq!(again, ["Appendektomie"], "{}", path.display());
    }
    // An hour later the files know nothing of what was taken back.
    take_back(&ward, &nurse, &room, &secret).await;
    ward.clock.pass_ms(FORGET_MS);
    ward.services.search.activate().await.unwrap();
    assert!(ward.services.search.shelf.lock().await.index.is_none(), "memory is given back");
    assert!(found(&ward, &nurse, &request("appendektomie")).await.is_empty());
    assert_eq!(found(&ward, &nurse, &request("visite")).await, ["Visite"]);
}

/// Trap 14: event-time visibility.
#[tokio::test]
async fn only_what_the_reader_may_see_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let ward = ward(&folder).await;
    let [nurse, doctor, visitor] = ward.members(["nurse", "doctor", "visitor"]).await;
    let room = ward.room(&nurse).await;
    visibility(&ward, &nurse, &room, "joined").await;
    ward.say(&nurse, &room, "word before").await;
    ward.set(&nurse, &room, &doctor.user_id, M::Invite).await;
    ward.set(&doctor, &room, &doctor.user_id, M::Join).await;
    ward.say(&nurse, &room, "word between").await;
    ward.set(&doctor, &room, &doctor.user_id, M::Leave).await;
    ward.say(&nurse, &room, "word after").await;
    assert_eq!(found(&ward, &doctor, &request("word")).await, ["word between"]);
    assert_eq!(found(&ward, &nurse, &request("word")).await.len(), 3);
    assert!(found(&ward, &visitor, &request("word")).await.is_empty());
    ward.services.rooms.forget(&doctor, &room).await.unwrap();
    assert!(found(&ward, &doctor, &request("word")).await.is_empty());

    // Rooms that are encrypted are not searched, even where something is said in the clear.
    let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    ward.state(&nurse, &room, ("m.room.encryption", ""), algorithm).await;
    ward.say(&nurse, &room, "word in the clear").await;
    assert_eq!(found(&ward, &nurse, &request("word")).await.len(), 3);
    let ignored = json!({ "ignored_users": { nurse.user_id.as_str(): {} } }).to_string();
    let hall = ward.room_of(&[&nurse, &doctor]).await;
    ward.say(&nurse, &hall, "word").await;
    assert_eq!(found(&ward, &doctor, &request("word")).await.len(), 1);
    let own = (doctor.user, doctor.user_id.as_str());
    let kind = "m.ignored_user_list";
    ward.services.personal.set_account_data(own, None, kind, &ignored).await.unwrap();
    assert!(found(&ward, &doctor, &request("word")).await.is_empty());
}

#[tokio::test]
async fn pages_filters_and_surroundings() {
    let ward = Ward::new().await;
    let [nurse, doctor] = ward.members(["nurse", "doctor"]).await;
    let (one, two) = (ward.room_of(&[&nurse, &doctor]).await, ward.room(&nurse).await);
    let mut said = Vec::new();
    for number in 0..12 {
        let (who, room) = if number % 3 == 0 { (&doctor, &one) } else { (&nurse, &one) };
        let room = if number % 4 == 1 { &two } else { room };
        let who = if number % 4 == 1 { &nurse } else { who };
        let text = format!("word {number}");
        ward.say(who, room, &text).await;
        said.push(text);
    }
    said.reverse();
    for order in [SearchOrder::Recent, SearchOrder::Rank] {
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let mut request = SearchRequest { order, from, ..request("word") };
            request.filter.limit = Some(5_u8.into());
            all.extend(found(&ward, &nurse, &request).await);
            from = ward.services.search.find(&nurse, &request).await.unwrap().next;
            // What is said meanwhile moves nothing.
            ward.say(&nurse, &one, "word later").await;
            if from.is_none() {
                break;
            }
        }
        all.retain(|text| text != "word later");
        if order == SearchOrder::Rank {
            all.sort_by_key(|text| said.iter().position(|other| other == text));
        }
        assert_eq!(all, said, "{order:?}");
    }
    let mut by_doctor = request("word");
    by_doctor.filter.senders = Some(vec![doctor.user_id.clone()]);
    assert_eq!(found(&ward, &nurse, &by_doctor).await, ["word 6", "word 3", "word 0"]);
    let mut in_two = SearchRequest { state: true, ..request("word") };
    in_two.filter.rooms = Some(vec![two.clone()]);
    in_two.around = Some(Surroundings { before: 1, after: 1, profiles: true });
    let page = ward.services.search.find(&nurse, &in_two).await.unwrap();
    assert_eq!((page.count, page.results.len(), page.words), (3, 3, vec!["word".to_owned()]));
    assert_eq!(page.state.keys().collect::<Vec<_>>(), [&two]);
    let middle = &page.results[1].context;
    assert_eq!((middle.before.len(), middle.after.len(), middle.state.len()), (1, 1, 1));
    for odd in ["x", "n1", "n-1_5", "n999999999_5"] {
        let odd = SearchRequest { from: Some(odd.to_owned()), ..request("word") };
        let refused = ward.services.search.find(&nurse, &odd).await.err().unwrap();
        assert_eq!(refused.kind, Kind::InvalidParam);
    }
}
