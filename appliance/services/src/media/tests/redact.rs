//! Scenes in which people redact files that they have uploaded.

use appliance_model::Role;
use appliance_model::ruma::server_name;

use super::*;

#[tokio::test]
async fn an_uploader_takes_a_file_back_with_what_showed_it_and_others_do_not() {
    let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
    let room = ward.room_of(&[&nurse, &doctor]).await;
    let uri = ward.upload(&nurse, b"photo").await;
    let shown = ward.show(&nurse, &room, &uri).await;
    let media = &ward.services.media;
    let file = (SERVER, id(&uri));
    let mut running = ward.deliver(&doctor, &uri).await.unwrap();
    assert_eq!(kind(media.redact_file(&doctor, file, None).await), Kind::Forbidden);
    assert!(ward.find(&uri).await.is_ok());

    media.redact_file(&nurse, file, Some(" the wrong leg ")).await.unwrap();
    assert_eq!(kind(ward.find(&uri).await), Kind::NotFound, "at once");
    assert_eq!(kind(running.next().await), Kind::NotFound, "in the middle of a download");
    media.redact_file(&nurse, file, None).await.unwrap();
    let report = ward.look().await;
    assert_eq!((report.erased, report.redacted), (1, 1));
    let redacted = [(nurse.user_id.to_string(), shown.event_id.to_string())];
    assert_eq!(ward.redactions(&room).await, redacted);
    assert_eq!(files_below(&ward.folder.path().join("media")), 0);

    // "Subsequent requests … no-op": nothing new is on record, and others are refused as before.
    media.redact_file(&nurse, file, None).await.unwrap();
    assert_eq!(kind(media.redact_file(&doctor, file, None).await), Kind::Forbidden);
    let on_record = ward.audit_objects().await;
    let said = |verb: &str| {
        let lines = on_record.iter().filter(|line| line.starts_with(verb));
        lines.cloned().collect::<Vec<_>>()
    };
    let because = format!("media.redacted {uri} because: the wrong leg");
    assert_eq!(said("media.redacted "), [because]);
    assert_eq!(said("media.purging "), [format!("media.purging {uri} redacted")]);
    assert_eq!(said("media.redaction_refused ").len(), 2);
    let ward = ward.power_cut_and_restart().await;
    ward.services.media.redact_file(&nurse, file, None).await.unwrap();
}

#[tokio::test]
async fn an_administrator_redacts_anybody_s_file_and_closes_the_way_to_another_server_s() {
    let (ward, [nurse, chief]) = Ward::with_members(["nurse", "chief"]).await;
    let chief = Caller { role: Role::Administrator, ..chief };
    let room = ward.room_of(&[&nurse]).await;
    let uri = ward.upload(&nurse, b"photo").await;
    let media = &ward.services.media;
    media.redact_file(&chief, (SERVER, id(&uri)), None).await.unwrap();
    assert_eq!(kind(ward.find(&uri).await), Kind::NotFound);
    ward.look().await;

    let afar = ("two.example", "arm");
    ward.show(&nurse, &room, "mxc://two.example/arm").await;
    assert_eq!(kind(media.redact_file(&nurse, afar, None).await), Kind::Forbidden);
    assert_eq!(ward.look().await.redacted, 0);
    let closed = async || {
        let file = crate::media::link::afar_digest(media.ledger(), "mxc://two.example/arm");
        media.has_ended(&file).await.unwrap()
    };
    assert!(!closed().await);
    for _ in 0..2 {
        media.redact_file(&chief, afar, Some("ticket 7")).await.unwrap();
    }
    assert!(closed().await, "it is not asked for any more");
    assert_eq!(ward.look().await.redacted, 1, "nor shown");
    media.erased_there(server_name!("two.example"), afar).await.unwrap();
    media.redact_file(&chief, afar, None).await.unwrap();
    let on_record = ward.audit_objects().await;
    let of_it: Vec<_> = on_record.iter().filter(|line| line.contains("two.example/arm")).collect();
    assert_eq!(
        of_it,
        [
            "media.redaction_refused mxc://two.example/arm",
            "media.redacted mxc://two.example/arm because: ticket 7",
            "media.erased_there mxc://two.example/arm",
        ],
        "the word of its own server counts for more, and each is there once"
    );
    for nothing in [(SERVER, "never"), (SERVER, "../x"), ("two.example", "../x")] {
        assert_eq!(kind(media.redact_file(&chief, nothing, None).await), Kind::NotFound);
    }
    let reserved = media.create(&nurse).await.unwrap().content_uri;
    let refused = media.redact_file(&nurse, (SERVER, id(&reserved)), None).await;
    assert_eq!(kind(refused), Kind::NotFound, "there is no file yet");
}
