//! Files: lists, quarantine, protection, deletion.

use appliance_model::{Error, Kind};
use appliance_services::media::administer::{FileView, MediaJudgement};
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::{Desk, answer, is_backward, number, page_of, room_at, user_at};
use crate::route::{RawRequest, Visit};

pub(super) fn add(desk: &mut Desk<'_>) {
    use Method as M;
    let of_user = "/_synapse/admin/v1/users/{user_id}/media";
    desk.serve(M::GET, of_user, "admin.media_listed", list);
    desk.serve(M::DELETE, of_user, "admin.media_deleted", delete_of_user);
    let path = "/_synapse/admin/v1/room/{room_id}/media";
    desk.serve(M::GET, path, "admin.media_listed", list_of_room);
    let path = "/_synapse/admin/v1/room/{room_id}/media/quarantine";
    desk.serve(M::POST, path, "admin.media_quarantined", quarantine_room);
    let path = "/_synapse/admin/v1/user/{user_id}/media/quarantine";
    desk.serve(M::POST, path, "admin.media_quarantined", quarantine_user);
    let path = "/_synapse/admin/v1/media/quarantine/{server_name}/{media_id}";
    desk.serve(M::POST, path, "admin.media_quarantined", quarantine);
    let path = "/_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}";
    desk.serve(M::POST, path, "admin.media_released", release);
    let path = "/_synapse/admin/v1/media/protect/{media_id}";
    desk.serve(M::POST, path, "admin.media_protected", protect);
    let path = "/_synapse/admin/v1/media/unprotect/{media_id}";
    desk.serve(M::POST, path, "admin.media_unprotected", unprotect);
    let path = "/_synapse/admin/v1/media/{server_name}/{media_id}";
    desk.serve(M::DELETE, path, "admin.media_deleted", delete);
    let path = "/_synapse/admin/v1/media/delete";
    desk.serve(M::POST, path, "admin.media_deleted", delete_old);
    let path = "/_synapse/admin/v1/purge_media_cache";
    desk.serve(M::POST, path, "admin.media_cache_purged", no_cache);
    let path = "/_synapse/admin/v1/statistics/users/media";
    desk.serve(M::GET, path, "admin.media_counted", statistics);
}

fn shown(file: &FileView) -> Value {
    json!({
        "media_id": file.row.media_id,
        "media_type": file.row.content_type,
        "media_length": file.row.bytes,
        "upload_name": file.row.filename,
        "created_ts": file.row.at_ms,
        "last_access_ts": null,
        "quarantined_by": file.mark.quarantined_by,
        "safe_from_quarantine": file.mark.protected,
    })
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let (from, limit) = page_of(&visit.request)?;
    let view = visit.services.administration.account(&user_id).await?;
    let mut files = visit.services.media.files(Some(view.user)).await?;
    if is_backward(&visit.request)? {
        files.reverse();
    }
    let media: Vec<_> = files.iter().skip(from).take(limit).map(shown).collect();
    let mut body = json!({ "media": media, "total": files.len() });
    if from.saturating_add(limit) < files.len() {
        body["next_token"] = (from + limit).into();
    }
    answer(&body)
}

async fn list_of_room(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_at(&visit.request, 0)?;
    let (room, _) = visit.services.rooms.known(&room_id).await?;
    let server = &visit.services.house.server_name;
    let files = visit.services.media.files_in(room).await?;
    let local: Vec<_> = files.iter().map(|id| format!("mxc://{server}/{id}")).collect();
    answer(&json!({ "local": local, "remote": [] }))
}

async fn judge_all(visit: Visit<RawRequest>, media_ids: Vec<String>) -> Result<Response, Error> {
    let (services, by) = (visit.services.clone(), visit.caller()?.clone());
    let server = services.house.server_name.to_string();
    let mut count = 0;
    for media_id in media_ids {
        let judgement = MediaJudgement::Quarantine(true);
        let judged = services.media.judge(&by, (&server, &media_id), judgement).await?;
        count += usize::from(judged);
    }
    answer(&json!({ "num_quarantined": count }))
}

async fn quarantine_room(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let room_id = room_at(&visit.request, 0)?;
    let (room, _) = visit.services.rooms.known(&room_id).await?;
    let files = visit.services.media.files_in(room).await?;
    judge_all(visit, files).await
}

async fn quarantine_user(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let view = visit.services.administration.account(&user_id).await?;
    let files = visit.services.media.files(Some(view.user)).await?;
    let ids = files.into_iter().map(|file| file.row.media_id).collect();
    judge_all(visit, ids).await
}

async fn judge(
    visit: Visit<RawRequest>,
    (server_name, media_id): (String, String),
    judgement: MediaJudgement,
) -> Result<Response, Error> {
    let by = visit.caller()?.clone();
    visit.services.media.judge(&by, (&server_name, &media_id), judgement).await?;
    answer(&json!({}))
}

fn named(visit: &Visit<RawRequest>) -> Result<(String, String), Error> {
    Ok((visit.request.param(0)?.to_owned(), visit.request.param(1)?.to_owned()))
}

fn own(visit: &Visit<RawRequest>) -> Result<(String, String), Error> {
    let server = visit.services.house.server_name.to_string();
    Ok((server, visit.request.param(0)?.to_owned()))
}

async fn quarantine(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let file = named(&visit)?;
    judge(visit, file, MediaJudgement::Quarantine(true)).await
}

async fn release(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let file = named(&visit)?;
    judge(visit, file, MediaJudgement::Quarantine(false)).await
}

async fn protect(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let file = own(&visit)?;
    judge(visit, file, MediaJudgement::Protect(true)).await
}

async fn unprotect(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let file = own(&visit)?;
    judge(visit, file, MediaJudgement::Protect(false)).await
}

async fn purge(visit: Visit<RawRequest>, media_ids: Vec<String>) -> Result<Response, Error> {
    let services = visit.services.clone();
    let server = services.house.server_name.to_string();
    for media_id in &media_ids {
        services.media.purge_now(&server, media_id).await?;
    }
    answer(&json!({ "total": media_ids.len(), "deleted_media": media_ids }))
}

async fn delete(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (server_name, media_id) = named(&visit)?;
    if server_name != visit.services.house.server_name {
        return Err(Error::invalid_param("Can only delete local media"));
    }
    purge(visit, vec![media_id]).await
}

async fn delete_of_user(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = user_at(&visit.request, 0)?;
    let (from, limit) = page_of(&visit.request)?;
    let view = visit.services.administration.account(&user_id).await?;
    let files = visit.services.media.files(Some(view.user)).await?;
    let ids = files.into_iter().skip(from).take(limit).map(|file| file.row.media_id).collect();
    purge(visit, ids).await
}

async fn delete_old(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let missing = || Error::new(Kind::MissingParam, "`before_ts` is missing.");
    let before_ms = number(&visit.request, "before_ts")?.ok_or_else(missing)?;
    let larger_than = number(&visit.request, "size_gt")?.unwrap_or(0);
    let files = visit.services.media.files(None).await?;
    let old = files.into_iter().filter(|file| {
        file.row.at_ms < before_ms && file.row.bytes > larger_than && !file.mark.protected
    });
    let ids = old.map(|file| file.row.media_id).collect();
    purge(visit, ids).await
}

/// Nothing of other servers is kept here.
async fn no_cache(_: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&json!({ "deleted": 0 }))
}

async fn statistics(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (from, limit) = page_of(&visit.request)?;
    let desk = &visit.services.administration;
    let files = visit.services.media.files(None).await?;
    let mut counts = std::collections::BTreeMap::<u64, (u64, u64)>::new();
    for file in files {
        let count = counts.entry(file.row.uploader).or_default();
        *count = (count.0 + 1, count.1 + file.row.bytes);
    }
    let accounts = desk.accounts().await?;
    let counted: Vec<_> = accounts
        .iter()
        .filter_map(|view| {
            let (count, bytes) = counts.get(&view.user.0)?;
            Some(json!({
                "user_id": view.user_id,
                "displayname": view.row.displayname,
                "media_count": count,
                "media_length": bytes,
            }))
        })
        .collect();
    let users: Vec<_> = counted.iter().skip(from).take(limit).collect();
    let mut body = json!({ "users": users, "total": counted.len() });
    if from.saturating_add(limit) < counted.len() {
        body["next_token"] = (from + limit).into();
    }
    answer(&body)
}
