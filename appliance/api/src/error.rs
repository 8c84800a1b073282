//! The one table from kinds of errors to status and errcode.

use appliance_model::ruma::api::error::{DeserializationError, FromHttpRequestError};
use appliance_model::{Error, Kind, Uia};
use axum::response::Response;
use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use serde_json::{Map, Value, json};

use crate::route::json_response;

/// Status and errcode of a kind.
pub fn code(kind: &Kind) -> (StatusCode, &'static str) {
    use StatusCode as S;
    match kind {
        Kind::Forbidden => (S::FORBIDDEN, "M_FORBIDDEN"),
        // "400: The Policy Server refuses to sign the event", which people hear as it was said.
        Kind::NotRecommended => (S::BAD_REQUEST, "M_FORBIDDEN"),
        Kind::NotFound => (S::NOT_FOUND, "M_NOT_FOUND"),
        Kind::MissingToken => (S::UNAUTHORIZED, "M_MISSING_TOKEN"),
        Kind::UnknownToken { .. } => (S::UNAUTHORIZED, "M_UNKNOWN_TOKEN"),
        Kind::Unauthorized => (S::UNAUTHORIZED, "M_UNAUTHORIZED"),
        Kind::NotJson => (S::BAD_REQUEST, "M_NOT_JSON"),
        Kind::BadJson => (S::BAD_REQUEST, "M_BAD_JSON"),
        Kind::InvalidParam => (S::BAD_REQUEST, "M_INVALID_PARAM"),
        Kind::MissingParam => (S::BAD_REQUEST, "M_MISSING_PARAM"),
        Kind::TooLarge => (S::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
        Kind::ResourceLimit { .. } => (S::FORBIDDEN, "M_RESOURCE_LIMIT_EXCEEDED"),
        Kind::UnknownPos => (S::BAD_REQUEST, "M_UNKNOWN_POS"),
        Kind::Limited { .. } => (S::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED"),
        Kind::Unrecognized => (S::NOT_FOUND, "M_UNRECOGNIZED"),
        Kind::WrongMethod => (S::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED"),
        Kind::Managed => (S::METHOD_NOT_ALLOWED, "M_BAD_JSON"),
        Kind::UserInUse => (S::BAD_REQUEST, "M_USER_IN_USE"),
        Kind::InvalidUsername => (S::BAD_REQUEST, "M_INVALID_USERNAME"),
        Kind::UnknownLoginType => (S::BAD_REQUEST, "M_UNKNOWN"),
        Kind::GuestsForbidden => (S::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN"),
        Kind::ThreepidDenied => (S::FORBIDDEN, "M_THREEPID_DENIED"),
        Kind::Exclusive => (S::BAD_REQUEST, "M_EXCLUSIVE"),
        Kind::UnknownDevice => (S::BAD_REQUEST, "M_UNKNOWN_DEVICE"),
        Kind::UrlNotSet => (S::BAD_REQUEST, "M_URL_NOT_SET"),
        Kind::BadStatus { .. } => (S::BAD_GATEWAY, "M_BAD_STATUS"),
        Kind::ConnectionFailed => (S::BAD_GATEWAY, "M_CONNECTION_FAILED"),
        Kind::ConnectionTimeout => (S::GATEWAY_TIMEOUT, "M_CONNECTION_TIMEOUT"),
        Kind::AliasExists => (S::CONFLICT, "M_UNKNOWN"),
        Kind::RoomInUse => (S::BAD_REQUEST, "M_ROOM_IN_USE"),
        Kind::InvalidRoomState => (S::BAD_REQUEST, "M_INVALID_ROOM_STATE"),
        Kind::UnsupportedRoomVersion => (S::BAD_REQUEST, "M_UNSUPPORTED_ROOM_VERSION"),
        Kind::IncompatibleRoomVersion { .. } => (S::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION"),
        Kind::UserDeactivated => (S::FORBIDDEN, "M_USER_DEACTIVATED"),
        Kind::UserLocked => (S::UNAUTHORIZED, "M_USER_LOCKED"),
        Kind::UserSuspended => (S::FORBIDDEN, "M_USER_SUSPENDED"),
        Kind::KeyTooLarge => (S::BAD_REQUEST, "M_KEY_TOO_LARGE"),
        Kind::ProfileTooLarge => (S::BAD_REQUEST, "M_PROFILE_TOO_LARGE"),
        Kind::MaxDelayExceeded { .. } => (S::BAD_REQUEST, "M_MAX_DELAY_EXCEEDED"),
        Kind::Conflict => (S::CONFLICT, "M_UNKNOWN"),
        Kind::NotInThread => (S::BAD_REQUEST, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"),
        Kind::ConflictingUnsubscription => {
            (S::CONFLICT, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
        }
        Kind::WeakPassword => (S::BAD_REQUEST, "M_WEAK_PASSWORD"),
        Kind::WrongRoomKeysVersion { .. } => (S::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION"),
        Kind::NotYetUploaded => (S::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED"),
        Kind::CannotOverwriteMedia => (S::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA"),
        Kind::CannotThumbnail => (S::BAD_REQUEST, "M_UNKNOWN"),
        Kind::UnsatisfiableRange => (S::RANGE_NOT_SATISFIABLE, "M_UNKNOWN"),
        Kind::CannotLeaveServerNoticeRoom => (S::FORBIDDEN, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"),
        Kind::UnableToAuthoriseJoin => (S::BAD_REQUEST, "M_UNABLE_TO_AUTHORISE_JOIN"),
        Kind::UnableToGrantJoin => (S::BAD_REQUEST, "M_UNABLE_TO_GRANT_JOIN"),
        Kind::DuplicateAnnotation => (S::BAD_REQUEST, "M_DUPLICATE_ANNOTATION"),
        Kind::InviteBlocked => (S::FORBIDDEN, "M_INVITE_BLOCKED"),
        Kind::BadRelation | Kind::StillInRoom => (S::BAD_REQUEST, "M_UNKNOWN"),
        Kind::BadAlias => (S::BAD_REQUEST, "M_BAD_ALIAS"),
        Kind::InvalidSignature => (S::BAD_REQUEST, "M_INVALID_SIGNATURE"),
        Kind::RemoteUnavailable => (S::BAD_GATEWAY, "M_UNKNOWN"),
        Kind::Unavailable => (S::SERVICE_UNAVAILABLE, "M_UNKNOWN"),
        Kind::Internal => (S::INTERNAL_SERVER_ERROR, "M_UNKNOWN"),
        Kind::Uia(_) => (S::UNAUTHORIZED, "M_FORBIDDEN"),
    }
}

/// The answer to a request that failed.
pub(crate) fn refuse(error: &Error) -> Response {
    let (status, errcode) = code(&error.kind);
    let mut body = match &error.kind {
        Kind::Uia(uia) => uia_body(uia),
        _ => body_of(errcode, error),
    };
    match &error.kind {
        // "M_USER_LOCKED … with soft_logout set to true" (account locking).
        Kind::UnknownToken { soft_logout: true } | Kind::UserLocked => {
            body.insert("soft_logout".to_owned(), true.into());
        }
        Kind::Limited { retry_after_ms } => {
            body.insert("retry_after_ms".to_owned(), (*retry_after_ms).into());
        }
        Kind::ResourceLimit { admin_contact } => {
            body.insert("admin_contact".to_owned(), admin_contact.as_str().into());
        }
        Kind::MaxDelayExceeded { max_delay_ms } => {
            body.insert("max_delay".to_owned(), (*max_delay_ms).into());
        }
        Kind::BadStatus { status, body: text } => {
            body.insert("status".to_owned(), (*status).into());
            body.insert("body".to_owned(), text.as_str().into());
        }
        Kind::IncompatibleRoomVersion { room_version } => {
            body.insert("room_version".to_owned(), room_version.as_str().into());
        }
        Kind::WrongRoomKeysVersion { current_version } => {
            body.insert("current_version".to_owned(), current_version.as_str().into());
        }
        _ => {}
    }
    let mut response = json_response(status, Value::Object(body).to_string());
    if let Kind::Limited { retry_after_ms } = error.kind {
        let seconds = retry_after_ms.div_ceil(1_000);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Errcode and sentence, where an answer tells of several errors.
pub(crate) fn error_body(error: &Error) -> Map<String, Value> {
    body_of(code(&error.kind).1, error)
}

fn body_of(errcode: &str, error: &Error) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("errcode".to_owned(), errcode.into());
    body.insert("error".to_owned(), error.message.as_ref().into());
    body
}

/// "A standard error response … plus flows, params, session, completed" ([spec]).
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-api-in-the-rest-api
fn uia_body(uia: &Uia) -> Map<String, Value> {
    let mut body = match &uia.failure {
        Some(failure) => body_of(code(&failure.kind).1, failure),
        None => Map::new(),
    };
    let flows: Vec<_> = uia.flows.iter().map(|stages| json!({ "stages": stages })).collect();
    body.insert("flows".to_owned(), flows.into());
    body.insert("params".to_owned(), json!({}));
    body.insert("session".to_owned(), uia.session.as_str().into());
    if !uia.completed.is_empty() {
        body.insert("completed".to_owned(), uia.completed.as_slice().into());
    }
    body
}

/// What a client hears whose request does not parse.
pub(crate) fn respond_to_bad_request(error: FromHttpRequestError) -> Error {
    let message = format!("The request does not have the form it needs: {error}");
    let FromHttpRequestError::Deserialization(error) = error else {
        return Error::new(Kind::Unrecognized, "This endpoint does not take that method.");
    };
    let kind = match error {
        DeserializationError::Utf8(_) => Kind::NotJson,
        DeserializationError::Json(error) if error.is_data() => Kind::BadJson,
        DeserializationError::Json(_) => Kind::NotJson,
        _ => Kind::InvalidParam,
    };
    Error::new(kind, message)
}
