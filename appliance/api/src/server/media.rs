//! `/_matrix/federation/v1/media/…`: files for the users of other servers, if this server gives theirs
//! any. And what other servers say of the end of files of their own ([MSC4322]).
//!
//! [MSC4322]: https://github.com/matrix-org/matrix-spec-proposals/pull/4322

use appliance_model::Error;
use appliance_model::ruma::api::federation::authenticated_media::{
    get_content, get_content_thumbnail,
};
use appliance_services::Services;
use appliance_services::media::elsewhere::LEASE_PARAM;
use appliance_services::media::notice::REDACT_PATH;
use appliance_services::media::serve::{Found, Opened, Reader};
use appliance_services::media::thumbnail::Thumbnail;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method};
use serde_json::json;

use crate::client::media::{describe, pieces, unstored, wait_ms, wanted_of};
use crate::json::answer;
use crate::route::{Access, RawRequest, Routes, Visit};

/// No file has these letters in a row but by a chance of 1 in 10^50.
const BOUNDARY_LETTERS: usize = 30;

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<get_content::v1::Request, _, _>(download);
    routes.serve_raw_as::<get_content_thumbnail::v1::Request, _, _>(thumbnail);
    routes.serve_raw(Method::POST, REDACT_PATH, Access::Peer, redact);
}

/// 200 says that nothing of the file is left here, nor will be.
async fn redact(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (server_name, media_id) = (visit.request.param(0)?, visit.request.param(1)?);
    visit.services.media.erased_there(visit.origin()?, (server_name, media_id)).await?;
    answer(&json!({}))
}

async fn download(visit: Visit<RawRequest>) -> Result<Response, Error> {
    Ok(unstored(try_download(visit).await))
}

async fn try_download(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let media = &visit.services.media;
    let own = visit.services.house.server_name.as_str();
    let media_id = visit.request.param(0)?;
    let found = media.find(own, media_id, wait_ms(&visit.request)?).await?;
    let lease = visit.request.query(LEASE_PARAM);
    let opened = match &lease {
        None => media.open(Reader::Server(visit.origin()?), &found, (0, found.bytes())).await?,
        Some(lease) => media.open_lent(visit.origin()?, (&found, lease), None).await?,
    };
    let told = |is_ephemeral| metadata((lease.is_some(), is_ephemeral), &found);
    let delivery = match opened {
        Opened::Original(delivery) => delivery,
        Opened::Picture(made) => return picture(&visit.services, &told(made.is_ephemeral), made),
    };
    let told = told(delivery.is_ephemeral());
    let mut headers = HeaderMap::new();
    describe(&mut headers, (found.content_type(), found.sniffed()), found.filename())?;
    let file = pieces(delivery);
    multipart(&visit.services, &told, &headers, file)
}

async fn thumbnail(visit: Visit<RawRequest>) -> Result<Response, Error> {
    Ok(unstored(try_thumbnail(visit).await))
}

async fn try_thumbnail(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let media = &visit.services.media;
    let own = visit.services.house.server_name.as_str();
    let wanted = wanted_of(&visit.request)?;
    let found = media.find(own, visit.request.param(0)?, wait_ms(&visit.request)?).await?;
    let lease = visit.request.query(LEASE_PARAM);
    let made = match &lease {
        None => media.thumbnail(Reader::Server(visit.origin()?), &found, wanted).await?,
        Some(lease) => {
            let lent = (&found, lease.as_str());
            match media.open_lent(visit.origin()?, lent, Some(wanted)).await? {
                Opened::Picture(made) => made,
                Opened::Original(_) => return Err(Error::internal("a thumbnail is a picture")),
            }
        }
    };
    let told = metadata((lease.is_some(), made.is_ephemeral), &found);
    picture(&visit.services, &told, made)
}

/// What is told with a file. "a metadata object … currently … always an empty object"; of one that is lent,
/// or only to be passed on, it says that it is not to be kept (MSC4425), and of one that is lent until when
/// it lives.
fn metadata((is_lent, is_ephemeral): (bool, bool), found: &Found) -> String {
    match (is_lent, is_ephemeral) {
        (false, false) => return "{}".to_owned(),
        (false, true) => return json!({ "org.matrix.msc4425.ephemeral": true }).to_string(),
        (true, _) => {}
    }
    let ours = json!({ "mode": "stream", "expires_at": found.deadline_ms() });
    json!({ "org.matrix.msc4425.ephemeral": true, "io.wardstone": ours }).to_string()
}

fn picture(services: &Services, told: &str, made: Thumbnail) -> Result<Response, Error> {
    let mut headers = HeaderMap::new();
    describe(
        &mut headers,
        (made.content_type, None),
        Some(&format!("thumbnail.{}", made.extension)),
    )?;
    multipart(services, told, &headers, stream::iter([Ok(made.bytes)]))
}

/// "`multipart/mixed` … two parts: a metadata object … and the media itself".
fn multipart(
    services: &Services,
    told: &str,
    headers: &HeaderMap,
    file: impl futures_util::Stream<Item = Result<Bytes, Error>> + Send + 'static,
) -> Result<Response, Error> {
    let boundary = services.house.dice.letters(BOUNDARY_LETTERS);
    let mut head =
        format!("--{boundary}\r\nContent-Type: application/json\r\n\r\n{told}\r\n--{boundary}\r\n")
            .into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let tail = format!("\r\n--{boundary}--\r\n");
    let whole = stream::iter([Ok(Bytes::from(head))])
        .chain(file)
        .chain(stream::iter([Ok(Bytes::from(tail))]));
    // A file whose deadline comes in the middle breaks off: the tail must not make it look whole.
    let whole = whole.scan(false, |has_failed, piece: Result<Bytes, Error>| {
        let ended = *has_failed;
        *has_failed |= piece.is_err();
        std::future::ready((!ended).then_some(piece))
    });
    let mut response = Response::new(Body::from_stream(whole));
    let content_type = format!("multipart/mixed; boundary={boundary}");
    let content_type = HeaderValue::from_str(&content_type).map_err(Error::internal)?;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::ServerName;
    use appliance_services::peers::{MediaMode, PeerChange};
    use axum::body::Body;
    use futures_util::StreamExt;
    use http::Request;
    use http::header::AUTHORIZATION;

    use crate::town::Town;

    const PHOTO: &[u8] = b"\x89PNG not really \r\n--x";

    async fn upload(town: &Town, token: &str) -> String {
        let request = Request::post("/_matrix/media/v3/upload?filename=wound.png")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header("content-type", "image/png")
            .body(Body::from(PHOTO))
            .unwrap();
        let (status, _, body) = town.desk(0).ring(request).await;
        assert_eq!(status, 200);
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        answer["content_uri"].as_str().unwrap().trim_start_matches("mxc://").to_owned()
    }

    async fn download(town: &Town, token: &str, file: &str) -> (u16, bytes::Bytes) {
        let request = Request::get(format!("/_matrix/client/v1/media/download/{file}"))
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        let (status, headers, body) = town.desk(1).ring(request).await;
        if status == 200 {
            assert_eq!(headers["content-type"], "image/png");
            assert_eq!(headers["content-disposition"], "inline; filename=wound.png");
        }
        (status, body)
    }

    #[tokio::test]
    async fn a_photo_crosses_the_line_if_both_sides_agree_and_dies_with_its_deadline() {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let doctor = town.desk(1).sign_up("doctor").await;
        let room = town.share(&nurse, &doctor, serde_json::json!({})).await;
        let file = upload(&town, &nurse).await;
        town.show(&nurse, &room, &file).await;
        assert_eq!(download(&town, &doctor, &file).await.0, 404, "b takes no files of a");
        town.allow_media(1, "a.example").await;
        assert_eq!(download(&town, &doctor, &file).await.0, 403, "a gives b no files");
        town.allow_media(0, "b.example").await;
        let (status, photo) = download(&town, &doctor, &file).await;
        assert_eq!((status, photo.as_ref()), (200, PHOTO));
        let week_ms = 7 * 24 * 60 * 60 * 1_000;
        town.desk(0).clock.pass_ms(week_ms);
        town.desk(1).clock.pass_ms(week_ms);
        assert_eq!(download(&town, &doctor, &file).await.0, 404, "and nothing of it stayed");
    }

    /// What a record says of files, mode by mode, and what a policy says beside it: the stricter holds.
    #[tokio::test]
    async fn every_mode_of_a_record_is_kept_where_files_go_out() {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let file = upload(&town, &nurse).await;
        let media_id = file.split_once('/').unwrap().1;
        let path = format!("/_matrix/federation/v1/media/download/{media_id}");
        let ask = async || {
            let request = town.signed(1, "a.example", "GET", &path, "");
            let server = ServerName::parse("a.example").unwrap();
            let mut opened = town.line.ring(&server, request).await.unwrap();
            let mut body = Vec::new();
            while let Some(piece) = opened.body.next().await {
                body.extend_from_slice(&piece.unwrap());
            }
            let text = String::from_utf8_lossy(&body).into_owned();
            assert_eq!(opened.headers["cache-control"], "no-store, private", "{text}");
            (opened.status.as_u16(), text)
        };
        let b = ServerName::parse("b.example").unwrap();
        let peers = &town.desk(0).services.peers;
        let marked = r#"{"org.matrix.msc4425.ephemeral":true}"#;
        for (mode, status, is_marked) in [
            (None, 404, false),
            (Some(MediaMode::Allow), 200, false),
            (Some(MediaMode::Lease), 404, false),
            (Some(MediaMode::Ephemeral), 200, true),
            (Some(MediaMode::Deny), 404, false),
        ] {
            if mode.is_some() {
                let change = PeerChange { media: mode, ..PeerChange::default() };
                peers.describe(&b, change, "uid 0").await.unwrap();
            }
            let (answered, text) = ask().await;
            assert_eq!(answered, status, "{mode:?}: {text}");
            assert_eq!(text.contains(marked), is_marked, "{mode:?}: {text}");
        }
        town.allow_media(0, "b.example").await;
        let policy = &town.desk(0).services.policy;
        for (word, status, is_marked) in [
            ("allow", 200, false),
            ("ephemeral", 200, true),
            ("lease", 404, false),
            ("deny", 404, false),
        ] {
            let pack = serde_json::json!({ "server": { "federation": { "other": word } } });
            policy.set(&pack, "uid 0").await.unwrap();
            let (answered, text) = ask().await;
            assert_eq!((answered, text.contains(marked)), (status, is_marked), "{word}: {text}");
        }
        policy.set(&serde_json::json!({}), "uid 0").await.unwrap();
        assert_eq!(ask().await.0, 200);
        let suspended = PeerChange { suspended: Some(true), ..PeerChange::default() };
        peers.describe(&b, suspended, "uid 0").await.unwrap();
        assert!(!town.desk(0).services.house.roll.allows_media(&b), "at once");
    }

    /// Who has not confirmed what, and how often it was told.
    async fn unconfirmed(town: &Town, at: usize) -> Vec<String> {
        let (found, more) = town.desk(at).services.media.unconfirmed().await.unwrap();
        assert!(!more);
        found
            .into_iter()
            .map(|one| format!("{} {} {}", one.server_name, one.uri, one.times))
            .collect()
    }

    async fn tell(town: &Town, from: usize, to: &str) {
        let to = ServerName::parse(to).unwrap();
        town.desk(from).services.media.tell_of_erased(&to).await.unwrap();
    }

    fn redact_path(server_name: &str, media_id: &str) -> String {
        let path = super::REDACT_PATH.replace("{server_name}", server_name);
        path.replace("{media_id}", media_id)
    }

    #[tokio::test]
    async fn whoever_was_given_a_photo_is_told_of_its_end_until_it_confirms() {
        let town = Town::of(&["a.example", "b.example", "c.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let doctor = town.desk(1).sign_up("doctor").await;
        let room = town.share(&nurse, &doctor, serde_json::json!({})).await;
        let [seen, unseen] = [upload(&town, &nurse).await, upload(&town, &nurse).await];
        for file in [&seen, &unseen] {
            town.show(&nurse, &room, file).await;
        }
        town.allow_media(0, "b.example").await;
        town.allow_media(1, "a.example").await;
        assert_eq!(download(&town, &doctor, &seen).await.0, 200);
        assert_eq!(unconfirmed(&town, 0).await, Vec::<String>::new(), "it lives");

        town.line.set_up("b.example", false);
        for file in [&seen, &unseen] {
            let path = format!("/_matrix/client/unstable/uk.timedout.msc4322/media/redact/{file}");
            let body = serde_json::json!({ "reason": "wrong patient" });
            assert_eq!(town.desk(0).post(&path, &nurse, body).await.ok(), serde_json::json!({}));
        }
        let waits = format!("b.example mxc://{seen}");
        let owed = [format!("{waits} 0")];
        assert_eq!(unconfirmed(&town, 0).await, owed, "who was given nothing is not told");
        tell(&town, 0, "b.example").await;
        assert_eq!(unconfirmed(&town, 0).await, [format!("{waits} 1")], "the line is cut");

        town.line.set_up("b.example", true);
        tell(&town, 0, "b.example").await;
        assert_eq!(unconfirmed(&town, 0).await, Vec::<String>::new());
        let rung = || {
            let rung = town.line.rung.lock().unwrap();
            rung.iter().filter(|(_, path, _)| path.contains("/media/")).count()
        };
        let before = rung();
        assert_eq!(download(&town, &doctor, &seen).await.0, 404);
        assert_eq!(rung(), before, "it is not even asked for any more");
        assert_eq!(download(&town, &doctor, &unseen).await.0, 404);
        assert_eq!(rung(), before + 1);
    }

    #[tokio::test]
    async fn a_server_speaks_for_its_own_files_and_confirms_for_itself() {
        let town = Town::of(&["a.example", "b.example", "c.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let doctor = town.desk(1).sign_up("doctor").await;
        let room = town.share(&nurse, &doctor, serde_json::json!({})).await;
        let file = upload(&town, &nurse).await;
        town.show(&nurse, &room, &file).await;
        town.allow_media(0, "b.example").await;
        town.allow_media(1, "a.example").await;
        assert_eq!(download(&town, &doctor, &file).await.0, 200);
        let media_id = file.split_once('/').unwrap().1;
        let says = async |from: usize, to: &str, of: &str, media_id: &str| {
            let path = redact_path(of, media_id);
            let (status, said) = town.ask(from, to, "POST", &path, serde_json::json!({})).await;
            (status, said["errcode"].as_str().unwrap_or_default().to_owned())
        };
        let forbidden = (403, "M_FORBIDDEN".to_owned());
        assert_eq!(says(2, "b.example", "a.example", media_id).await, forbidden);
        assert_eq!(says(1, "a.example", "a.example", media_id).await, forbidden);
        assert_eq!(says(0, "b.example", "b.example", "any").await, forbidden);
        assert_eq!(download(&town, &doctor, &file).await.0, 200, "none of that counts");
        let wrong = (400, "M_INVALID_PARAM".to_owned());
        assert_eq!(says(0, "b.example", "a.example", "no%2Fid").await, wrong);

        let done = (200, String::new());
        assert_eq!(says(0, "b.example", "a.example", "never-seen").await, done);
        for _ in 0..2 {
            assert_eq!(says(0, "b.example", "a.example", media_id).await, done);
        }
        assert_eq!(download(&town, &doctor, &file).await.0, 404);
    }
}
