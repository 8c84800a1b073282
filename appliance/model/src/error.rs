//! Errors, by what the caller can do next. `api/src/error.rs` gives each kind its status and
//! errcode; nothing else in the appliance knows those.

use std::borrow::Cow;

/// Something went wrong. `message` is for the person in front of the client: it says what is true
/// now and what to do. Inside detail goes to the journal, never in here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller can do next.
    pub kind: Kind,
    /// A human sentence.
    pub message: Cow<'static, str>,
}

/// The kinds of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not allowed; asking again will not help.
    Forbidden,
    /// The policy server of the room does not recommend it.
    NotRecommended,
    /// Not there, or not for this caller to know about.
    NotFound,
    /// The request has no access token.
    MissingToken,
    /// The access token is not (or no longer) valid.
    UnknownToken {
        /// The session can be renewed with a refresh token or a new login; local data may stay.
        soft_logout: bool,
    },
    /// A server has not proved who it is.
    Unauthorized,
    /// The body is not JSON.
    NotJson,
    /// The body is JSON of the wrong shape.
    BadJson,
    /// A parameter has an unusable value.
    InvalidParam,
    /// A parameter is missing.
    MissingParam,
    /// Larger than a limit.
    TooLarge,
    /// As much is here as may be.
    ResourceLimit {
        /// A URI where the administrator is asked for more.
        admin_contact: String,
    },
    /// The place in a sync connection is not known any more; begin anew.
    UnknownPos,
    /// Too many requests; try again after `retry_after_ms`.
    Limited {
        /// Milliseconds to wait.
        retry_after_ms: u64,
    },
    /// No such endpoint.
    Unrecognized,
    /// The endpoint exists, but not with this method.
    WrongMethod,
    /// The server manages this itself; there is another endpoint to change it.
    Managed,
    /// The user ID is taken.
    UserInUse,
    /// The user ID is not of the allowed form.
    InvalidUsername,
    /// A way of signing in that this server does not have.
    UnknownLoginType,
    /// This server has no guests.
    GuestsForbidden,
    /// This server keeps no e-mail addresses or phone numbers of its users.
    ThreepidDenied,
    /// The name belongs to an application service.
    Exclusive,
    /// The user has no such device.
    UnknownDevice,
    /// The application service has no URL.
    UrlNotSet,
    /// The application service answered otherwise than it should.
    BadStatus {
        /// The status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// The application service cannot be reached.
    ConnectionFailed,
    /// The application service did not answer in time.
    ConnectionTimeout,
    /// The alias asked for with a new room is taken.
    RoomInUse,
    /// The alias is taken.
    AliasExists,
    /// The state given for a new room is not acceptable.
    InvalidRoomState,
    /// This server does not create rooms of that version.
    UnsupportedRoomVersion,
    /// The room's version is not among those that the asking server speaks.
    IncompatibleRoomVersion {
        /// The room's version.
        room_version: String,
    },
    /// The account is deactivated.
    UserDeactivated,
    /// The account is locked by an administrator.
    UserLocked,
    /// The account is suspended by an administrator.
    UserSuspended,
    /// The name of a profile field is longer than names may be.
    KeyTooLarge,
    /// The profile would be larger than profiles may be.
    ProfileTooLarge,
    /// An event is to be delayed for longer than this server delays events.
    MaxDelayExceeded {
        /// The longest delay, in milliseconds.
        max_delay_ms: u64,
    },
    /// What is asked contradicts what was settled before.
    Conflict,
    /// The event that is said to be in a thread is not.
    NotInThread,
    /// The user has unsubscribed from the thread after the event for which a client subscribes.
    ConflictingUnsubscription,
    /// The password is too weak.
    WeakPassword,
    /// A key backup of another version is current.
    WrongRoomKeysVersion {
        /// The version that is current.
        current_version: String,
    },
    /// The media is reserved but not uploaded yet.
    NotYetUploaded,
    /// The media is uploaded already.
    CannotOverwriteMedia,
    /// There can be no thumbnail of that content.
    CannotThumbnail,
    /// The file has no bytes in that range.
    UnsatisfiableRange,
    /// This room must not be left.
    CannotLeaveServerNoticeRoom,
    /// A restricted room cannot be joined through this server.
    UnableToAuthoriseJoin,
    /// This server cannot vouch for the join.
    UnableToGrantJoin,
    /// The same reaction exists already.
    DuplicateAnnotation,
    /// The person refuses all invites.
    InviteBlocked,
    /// An event cannot relate to another in that way.
    BadRelation,
    /// A room can be forgotten only by those who left it.
    StillInRoom,
    /// An alias in the event does not point at the room.
    BadAlias,
    /// The signature on an uploaded key is wrong.
    InvalidSignature,
    /// Another server must be asked and cannot be reached.
    RemoteUnavailable,
    /// The server cannot do this now; trying again is safe.
    Unavailable,
    /// A fault of ours.
    Internal,
    /// More authentication is needed ([UIA]).
    ///
    /// [UIA]: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api
    Uia(Box<Uia>),
}

/// The state of a user-interactive authentication session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uia {
    /// The session to continue.
    pub session: String,
    /// The flows of which one must be completed; each a list of stages.
    pub flows: Vec<Vec<String>>,
    /// The stages completed so far.
    pub completed: Vec<String>,
    /// Why the last attempt failed, if one did.
    pub failure: Option<Box<Error>>,
}

impl Error {
    /// An error of a kind.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Not allowed.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Forbidden, message)
    }

    /// Not there.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// JSON of the wrong shape.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::BadJson, message)
    }

    /// An unusable parameter.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidParam, message)
    }

    /// Larger than a limit.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::TooLarge, message)
    }

    /// A fault of ours. `detail` goes to the journal, the caller hears only that it happened.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        tracing::error!(kind = "internal", %detail, "a request failed inside the server");
        Self::new(Kind::Internal, "The server failed to do this. Its journal says why.")
    }
}
