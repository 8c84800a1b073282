//! Files ([spec]): reserving, uploading, downloading, thumbnails, limits. Reading needs a session; the
//! routes from before v1.11, which do not, are closed. Redacting files is [MSC4322].
//!
//! [MSC4322]: https://github.com/matrix-org/matrix-spec-proposals/pull/4322
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#content-repository

pub(crate) mod range;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use appliance_model::ruma::http_headers::{ContentDisposition, ContentDispositionType};
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::{Error, Kind};
use appliance_services::media::kind::agrees;
use appliance_services::media::serve::{Delivery, Opened};
use appliance_services::media::thumbnail::{Thumbnail, Wanted};
use appliance_services::media::upload::NewFile;
use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use self::range::Part;
use crate::error::refuse;
use crate::json::read_json_or_nothing;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

/// "The default value is 20000 (20 seconds)."
const WAIT_MS_DEFAULT: u64 = 20_000;

/// What browsers may show in place ("Serving inline content"); everything else is an attachment.
const INLINE_TYPES: &[&str] = &[
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

pub(crate) fn add(routes: &mut Routes) {
    use Access::{Optional, SignedIn};
    routes.serve_raw(Method::POST, "/_matrix/media/v1/create", SignedIn, create);
    for path in ["/_matrix/media/v3/upload", "/_matrix/media/r0/upload"] {
        routes.serve_raw(Method::POST, path, SignedIn, upload);
    }
    let path = "/_matrix/media/v3/upload/{server_name}/{media_id}";
    routes.serve_raw(Method::PUT, path, SignedIn, fill);
    let path = "/_matrix/client/unstable/uk.timedout.msc4322/media/redact/{server_name}/{media_id}";
    routes.serve_raw(Method::POST, path, SignedIn, redact);
    // The old `config` tells nothing but the limit, and only to those signed in: some clients ask
    // there first.
    for path in
        ["/_matrix/client/v1/media/config", "/_matrix/media/v3/config", "/_matrix/media/r0/config"]
    {
        routes.serve_raw(Method::GET, path, SignedIn, config);
    }
    for path in [
        "/_matrix/client/v1/media/download/{server_name}/{media_id}",
        "/_matrix/client/v1/media/download/{server_name}/{media_id}/{file_name}",
    ] {
        routes.serve_raw(Method::GET, path, SignedIn, download);
    }
    let path = "/_matrix/client/v1/media/thumbnail/{server_name}/{media_id}";
    routes.serve_raw(Method::GET, path, SignedIn, thumbnail);
    for path in [
        "/_matrix/client/v1/media/preview_url",
        "/_matrix/media/v3/preview_url",
        "/_matrix/media/r0/preview_url",
    ] {
        routes.serve_raw(Method::GET, path, SignedIn, preview);
    }
    // "404 M_NOT_FOUND … after the server froze unauthenticated media access": here, from the start.
    for path in [
        "/_matrix/media/v3/download/{server_name}/{media_id}",
        "/_matrix/media/v3/download/{server_name}/{media_id}/{file_name}",
        "/_matrix/media/v3/thumbnail/{server_name}/{media_id}",
        "/_matrix/media/r0/download/{server_name}/{media_id}",
        "/_matrix/media/r0/download/{server_name}/{media_id}/{file_name}",
        "/_matrix/media/r0/thumbnail/{server_name}/{media_id}",
        "/_matrix/media/v1/download/{server_name}/{media_id}",
        "/_matrix/media/v1/download/{server_name}/{media_id}/{file_name}",
        "/_matrix/media/v1/thumbnail/{server_name}/{media_id}",
    ] {
        routes.serve_raw(Method::GET, path, Optional, frozen);
    }
}

async fn create(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let reserved = visit.services.media.create(visit.caller()?).await?;
    let body = json!({
        "content_uri": reserved.content_uri,
        "unused_expires_at": reserved.unused_expires_at_ms,
    });
    Ok(json_response(StatusCode::OK, body.to_string()))
}

async fn upload(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let new = new_file(&visit);
    let (services, caller) = (visit.services.clone(), visit.caller()?.clone());
    let body = visit.request.body.into_data_stream();
    let content_uri = services.media.upload(&caller, new, body).await?;
    Ok(json_response(StatusCode::OK, json!({ "content_uri": content_uri }).to_string()))
}

async fn fill(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let new = new_file(&visit);
    let (services, caller) = (visit.services.clone(), visit.caller()?.clone());
    let RawRequest { params, body, .. } = visit.request;
    let place = media_id_of(&params)?;
    services.media.fill(&caller, place, new, body.into_data_stream()).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

/// "The redact endpoint may include an optional `reason` parameter … a string, or omitted entirely."
#[derive(Deserialize)]
struct Redaction {
    reason: Option<String>,
}

async fn redact(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: Option<Redaction> = read_json_or_nothing(&mut visit.request).await?;
    let reason = body.and_then(|body| body.reason);
    let file = media_id_of(&visit.request.params)?;
    visit.services.media.redact_file(visit.caller()?, file, reason.as_deref()).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

fn new_file(visit: &Visit<RawRequest>) -> NewFile {
    let text = |name: HeaderName| visit.headers.get(name).and_then(|value| value.to_str().ok());
    NewFile {
        content_type: text(CONTENT_TYPE).map(str::to_owned),
        filename: visit.request.query("filename"),
        announced_bytes: text(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        is_captured: false,
    }
}

async fn config(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body = json!({ "m.upload.size": visit.services.media.upload_bytes_max() });
    Ok(json_response(StatusCode::OK, body.to_string()))
}

async fn preview(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let missing = || Error::new(Kind::MissingParam, "`url` is missing.");
    let url = visit.request.query("url").ok_or_else(missing)?;
    let (services, caller) = (visit.services.clone(), visit.caller()?.clone());
    let preview = services.media.preview(&caller, &url).await?;
    Ok(json_response(StatusCode::OK, serde_json::Value::Object(preview).to_string()))
}

async fn frozen(visit: Visit<RawRequest>) -> Result<Response, Error> {
    if visit.services.house.options.for_suites.legacy_media && visit.visitor.is_some() {
        return match visit.uri.path().contains("/thumbnail/") {
            true => thumbnail(visit).await,
            false => download(visit).await,
        };
    }
    Ok(unstored(Err(Error::not_found(
        "Files are served to signed-in users only, at /_matrix/client/v1/media.",
    ))))
}

async fn download(visit: Visit<RawRequest>) -> Result<Response, Error> {
    Ok(unstored(try_download(visit).await))
}

async fn try_download(visit: Visit<RawRequest>) -> Result<Response, Error> {
    if let Some(server) = elsewhere(&visit)? {
        return pass_on(visit, server, None).await;
    }
    let media = &visit.services.media;
    let (server_name, media_id) = media_id_of(&visit.request.params)?;
    let found = media.find(server_name, media_id, wait_ms(&visit.request)?).await?;
    let part = range::wanted(&visit.headers, found.bytes());
    let Part::Bytes { from, to, is_whole } = part else {
        let error = Error::new(Kind::UnsatisfiableRange, "The file has no bytes in that range.");
        let mut response = refuse(&error);
        let range = HeaderValue::from_str(&format!("bytes */{}", found.bytes()));
        response.headers_mut().insert(CONTENT_RANGE, range.map_err(Error::internal)?);
        return Ok(response);
    };
    let delivery = match media.open(visit.caller()?, &found, (from, to)).await? {
        Opened::Original(delivery) => delivery,
        // A picture of this server's stands for the file: whole, whatever range was asked for.
        Opened::Picture(made) => return picture(made),
    };
    let file_name = visit.request.params.get(2).map(String::as_str).or(found.filename());
    let mut response = Response::new(stream(delivery));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(to - from));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    describe(headers, (found.content_type(), found.sniffed()), file_name)?;
    if !is_whole {
        let range = format!("bytes {from}-{}/{}", to.saturating_sub(1), found.bytes());
        headers.insert(CONTENT_RANGE, HeaderValue::from_str(&range).map_err(Error::internal)?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// A body that asks for the next chunk when the last one has left.
fn stream(delivery: Delivery) -> Body {
    Body::from_stream(pieces(delivery))
}

/// The chunks of a delivery.
pub(crate) fn pieces(
    delivery: Delivery,
) -> impl futures_util::Stream<Item = Result<bytes::Bytes, Error>> + Send + 'static {
    futures_util::stream::unfold(Some(delivery), |delivery| async move {
        let mut delivery = delivery?;
        match delivery.next().await {
            Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some(delivery))),
            // The connection breaks off: the client must not take what it has for the whole.
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// The server of a file, if it is another one.
fn elsewhere(visit: &Visit<RawRequest>) -> Result<Option<OwnedServerName>, Error> {
    let (server_name, _) = media_id_of(&visit.request.params)?;
    let server = ServerName::parse(server_name).ok();
    Ok(server.filter(|server| *server != visit.services.house.server_name))
}

/// A file of another server, passed on.
async fn pass_on(
    visit: Visit<RawRequest>,
    server: OwnedServerName,
    wanted: Option<Wanted>,
) -> Result<Response, Error> {
    let (_, media_id) = media_id_of(&visit.request.params)?;
    let wait_ms = wait_ms(&visit.request)?;
    let caller = visit.caller()?;
    let file = visit.services.media.fetch(caller, (&server, media_id), wanted, wait_ms).await?;
    let named = file.disposition.and_then(|text| ContentDisposition::from_str(&text).ok());
    let named = named.and_then(|disposition| disposition.filename);
    let asked_for = visit.request.params.get(2).cloned();
    let content_type = file.content_type.as_deref().unwrap_or("application/octet-stream");
    let mut response = Response::new(Body::from_stream(file.body));
    describe(response.headers_mut(), (content_type, None), asked_for.or(named).as_deref())?;
    Ok(response)
}

async fn thumbnail(visit: Visit<RawRequest>) -> Result<Response, Error> {
    Ok(unstored(try_thumbnail(visit).await))
}

async fn try_thumbnail(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let media = &visit.services.media;
    let wanted = wanted_of(&visit.request)?;
    if let Some(server) = elsewhere(&visit)? {
        return pass_on(visit, server, Some(wanted)).await;
    }
    let (server_name, media_id) = media_id_of(&visit.request.params)?;
    let found = media.find(server_name, media_id, wait_ms(&visit.request)?).await?;
    picture(media.thumbnail(visit.caller()?, &found, wanted).await?)
}

fn picture(made: Thumbnail) -> Result<Response, Error> {
    let file_name = format!("thumbnail.{}", made.extension);
    let mut response = Response::new(Body::from(made.bytes));
    describe(response.headers_mut(), (made.content_type, None), Some(&file_name))?;
    Ok(response)
}

pub(crate) fn wanted_of(request: &RawRequest) -> Result<Wanted, Error> {
    let pixels = |name: &str| -> Result<u32, Error> {
        let missing = || Error::new(Kind::MissingParam, format!("`{name}` is missing."));
        let text = request.query(name).ok_or_else(missing)?;
        text.parse().map_err(|_| Error::invalid_param(format!("`{name}` is no number of pixels.")))
    };
    let crop = match request.query("method").as_deref() {
        None | Some("scale") => false,
        Some("crop") => true,
        Some(_) => return Err(Error::invalid_param("`method` is `crop` or `scale`.")),
    };
    let animated = match request.query("animated").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Error::invalid_param("`animated` is `true` or `false`.")),
    };
    Ok(Wanted { width: pixels("width")?, height: pixels("height")?, crop, animated })
}

/// What the client is to do with the bytes: show or save them, run nothing, guess nothing.
pub(crate) fn describe(
    headers: &mut HeaderMap,
    (content_type, sniffed): (&str, Option<&str>),
    file_name: Option<&str>,
) -> Result<(), Error> {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let may_show = INLINE_TYPES.contains(&essence.as_str()) && agrees(&essence, sniffed);
    let kind =
        if may_show { ContentDispositionType::Inline } else { ContentDispositionType::Attachment };
    let disposition = ContentDisposition::new(kind).with_filename(file_name.map(str::to_owned));
    let disposition = HeaderValue::from_str(&disposition.to_string()).map_err(Error::internal)?;
    let content_type = HeaderValue::from_str(content_type).map_err(Error::internal)?;
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_DISPOSITION, disposition);
    Ok(())
}

/// What every answer about media carries: nobody on the way keeps it, no browser runs it.
pub(crate) fn unstored(answer: Result<Response, Error>) -> Response {
    const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
        HeaderName::from_static("cross-origin-resource-policy");
    let mut response = answer.unwrap_or_else(|error| refuse(&error));
    for (name, value) in [
        (CACHE_CONTROL, "no-store, private"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"),
        // The policy that the specification recommends for the content repository.
        (
            CONTENT_SECURITY_POLICY,
            "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
             style-src 'unsafe-inline'; object-src 'self';",
        ),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn media_id_of(params: &[String]) -> Result<(&str, &str), Error> {
    match params {
        [server_name, media_id, ..] => Ok((server_name, media_id)),
        _ => Err(Error::internal("a media route without its variables")),
    }
}

pub(crate) fn wait_ms(request: &RawRequest) -> Result<u64, Error> {
    let Some(text) = request.query("timeout_ms") else { return Ok(WAIT_MS_DEFAULT) };
    u64::from_str(&text)
        .map_err(|_| Error::invalid_param("`timeout_ms` is no number of milliseconds."))
}
