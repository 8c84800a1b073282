//! The schema, on one page. A test prints it, so that no change slips by.

use std::marker::PhantomData;

use appliance_engine::Space;
use appliance_model::{DeviceNid, EventNid, MediaNid, Position, RoomNid, StateKeyNid, UserNid};

use crate::rows::appservices::{AppserviceRow, AppserviceStreamRow};
use crate::rows::extras::{
    BlockedRoomRow, DehydratedRow, DelayedRow, MediaMarkRow, OAuthClientRow, OpenIdRow,
    ProfileFieldRow, SubscribedThreadRow, SubscriptionRow, TaskRow,
};
use crate::rows::keys::{
    BackedUpKeyRow, BackupRow, ClaimedKeyRow, CrossSigningRow, DeviceKeysRow, OneTimeKeyRow,
    SentRow, StockRow, ToDeviceRow, TrustRow,
};
use crate::rows::media::{
    LinkRow, MediaRow, PurgeRow, RedactionRow, RoomMediaRow, UnboundRow, UsageRow,
};
use crate::rows::peers::{
    AwayRow, DestinationRow, EduRow, JoinInDoubtRow, ListRow, OfferRow, OwedRow, PeerKeysRow,
    PeerRow, RemoteKeysRow, UnjudgedRow,
};
use crate::rows::policy::{
    CopyRow, EndedAfarRow, EnrolmentRow, EraseNoticeRow, ErasureRow, HousePolicyRow, OpensRow,
    PeerCopyRow, PolicyServerKeyRow, SessionRow,
};
use crate::rows::push::PusherRow;
use crate::rows::relations::{RelatedRow, RelationRow, ThreadRow};
use crate::rows::reports::ReportRow;
use crate::rows::{
    AccountDataRow, AccountRow, AliasRow, AuditRow, AuthRow, CallRow, ChangedDataRow, DeviceRow,
    EventRow, FilterRow, GapRow, HeadRow, InboundTxnRow, LoggedRow, MembershipRow, MovedReceiptRow,
    PublishedRow, ReceiptRow, RefreshRow, RegistrationTokenRow, RoomRow, SeenRow, StateKeyRow,
    StateNode, StoreRow, TimelineRow, TokenRow, TxnRow, UserRow,
};

/// The schema's version. Raised with every change that an older binary would not understand.
pub const SCHEMA_VERSION: u64 = 1;

/// A typed keyspace: which keys, which rows, under which byte.
pub struct Keyspace<K, V> {
    /// The byte that keeps its keys apart.
    pub space: Space,
    /// Its name, for people.
    pub name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> Keyspace<K, V> {
    const fn new(space: u8, name: &'static str) -> Self {
        Self { space: Space(space), name, types: PhantomData }
    }
}

/// A keyed 128-bit digest of a long name ([`crate::Ledger::digest`]).
pub type Digest = [u8; 16];

macro_rules! keyspaces {
    ($($(#[$doc:meta])* $name:ident $byte:literal $key:ty => $row:ty;)*) => {
        $($(#[$doc])* pub const $name: Keyspace<$key, $row> = Keyspace::new($byte, stringify!($name));)*

        /// Every keyspace: byte, name, key, row.
        pub const ALL: &[(u8, &str, &str, &str)] =
            &[$(($byte, stringify!($name), stringify!($key), stringify!($row))),*];
    };
}

keyspaces! {
    /// One row: where the store stands.
    STORE b'0' () => StoreRow;
    /// Data keys, wrapped by the master key; the row is the 32 bytes of the key.
    DATA_KEYS b'1' u64 => minicbor::bytes::ByteVec;
    /// The audit chain.
    AUDIT b'A' Position => AuditRow;

    /// Media ID to number.
    MEDIA_IDS b'2' Digest => u64;
    /// Uploaded files, and IDs reserved for some.
    MEDIA b'3' MediaNid => MediaRow;
    /// IDs a user has reserved and not used, until when (milliseconds since the Unix epoch).
    MEDIA_PENDING b'4' (UserNid, MediaNid) => u64;
    /// When to look at a file again: milliseconds since the Unix epoch. Every deadline has a row; a row
    /// may be stale.
    MEDIA_DUE b'5' (u64, MediaNid) => ();
    /// What refers to a file: class, deadline in milliseconds since the Unix epoch (none: zero), the
    /// number of the event or user.
    MEDIA_LINKS b'6' (MediaNid, u8, u64, u64) => LinkRow;
    /// The same by room and event.
    ROOM_MEDIA b'7' (RoomNid, EventNid, MediaNid) => RoomMediaRow;
    /// Data keys of files without a deadline, wrapped by the key that is kept.
    MEDIA_KEPT b'8' MediaNid => minicbor::bytes::ByteVec;
    /// Files to be erased.
    MEDIA_PURGES b'9' MediaNid => PurgeRow;
    /// Events to be redacted because what they show is gone.
    MEDIA_REDACTIONS b'=' EventNid => RedactionRow;
    /// Encrypted files that no event of the device may be about yet.
    MEDIA_UNBOUND b'+' (DeviceNid, MediaNid) => UnboundRow;

    /// What users have uploaded that is still there, and their own limits.
    MEDIA_USAGE 0xBD UserNid => UsageRow;

    /// User ID to number.
    USER_IDS b'u' Digest => u64;
    /// Number to user ID.
    USERS b'U' UserNid => UserRow;
    /// Local accounts.
    ACCOUNTS b'a' UserNid => AccountRow;
    /// Devices of local users, by device ID.
    DEVICES b'd' (UserNid, String) => DeviceRow;
    /// Access tokens, by digest.
    TOKENS b't' Digest => TokenRow;
    /// Refresh tokens, by digest.
    REFRESH_TOKENS b'~' Digest => RefreshRow;
    /// Registration tokens that administrators gave out, by digest.
    REGISTRATION_TOKENS 0xBA Digest => RegistrationTokenRow;
    /// When and from where devices were last seen.
    LAST_SEEN b'S' (UserNid, DeviceNid) => SeenRow;

    /// Room ID to number.
    ROOM_IDS b'r' Digest => u64;
    /// Rooms.
    ROOMS b'R' RoomNid => RoomRow;
    /// Where each room stands: its forward extremities and current state.
    HEADS b'h' RoomNid => HeadRow;
    /// Event ID to number.
    EVENT_IDS b'i' Digest => u64;
    /// Events. Behind all others, because they are most of the store: a tree that grows at its end
    /// fills its pages (see the engine's `lmdb.rs`).
    EVENTS b'\xff' EventNid => EventRow;
    /// The order in which this server shows a room's events.
    TIMELINE b'l' (RoomNid, i64, EventNid) => TimelineRow;
    /// State event type and state key to number.
    STATE_KEY_IDS b'k' Digest => u64;
    /// Number to state event type and state key.
    STATE_KEYS b'K' StateKeyNid => StateKeyRow;
    /// Nodes of the rooms' state tries.
    STATE_NODES b's' (RoomNid, u64) => StateNode;
    /// Who is what in a room now: membership code, then user.
    MEMBERS b'M' (RoomNid, u8, UserNid) => u64;
    /// What a local user is in which room.
    USER_ROOMS b'w' (UserNid, RoomNid) => MembershipRow;
    /// Transaction IDs of sent events, by the day of their use since the Unix epoch, device, and digest
    /// of path and ID.
    TXNS b'x' (u64, DeviceNid, Digest) => TxnRow;
    /// The rooms in the published directory.
    PUBLISHED b'P' RoomNid => PublishedRow;

    /// Room aliases of this server.
    ALIASES b'#' Digest => AliasRow;
    /// The aliases of a room; the row is the number of who made it.
    ROOM_ALIASES b'&' (RoomNid, String) => u64;

    /// Other hospitals, as the administrator describes them, by digest of their server's name.
    PEERS 0xD5 Digest => PeerRow;
    /// Destinations that were contacted or refused, by digest of purpose and host.
    DESTINATIONS 0xD6 Digest => DestinationRow;
    /// Offers to peers that are open, and those of peers that were accepted, by digest of the offer.
    OFFERS 0xD7 Digest => OfferRow;
    /// The signed federation list, under 0.
    FEDERATION_LIST 0xD8 u8 => ListRow;
    /// Peers that cannot be reached, or could not until a while ago, by digest of their names.
    AWAY 0xD9 Digest => AwayRow;
    /// Who was told of that, and not yet of its end.
    AWAY_TOLD 0xDA (Digest, UserNid) => ();
    /// Signing keys of other servers, by digest of the server's name.
    PEER_KEYS 0xD0 Digest => PeerKeysRow;
    /// Events that other servers are owed, by digest of the server's name; the row is the event.
    OUTBOX 0xD1 (Digest, Position) => u64;
    /// The same for messages that are no events.
    OUTBOX_EDUS 0xD2 (Digest, Position) => EduRow;
    /// The servers that were ever owed something.
    OWED 0xD3 Digest => OwedRow;
    /// Keys of other servers' users and their devices.
    REMOTE_KEYS 0xD4 UserNid => RemoteKeysRow;

    /// Account data by owner, room (zero: global) and type.
    ACCOUNT_DATA b'D' (UserNid, RoomNid, String) => AccountDataRow;
    /// When account data last changed, newest change of each only.
    ACCOUNT_DATA_CHANGES b'C' (UserNid, Position) => ChangedDataRow;
    /// Filters by owner and name.
    FILTERS b'f' (UserNid, u64) => FilterRow;
    /// Read receipts by room, reader, kind (1 public, 2 private) and thread.
    RECEIPTS b'v' (RoomNid, UserNid, u8, String) => ReceiptRow;
    /// When receipts last moved, newest move of each only.
    RECEIPT_CHANGES b'V' (RoomNid, Position) => MovedReceiptRow;

    /// Identity keys of local users' devices.
    DEVICE_KEYS b'E' (UserNid, DeviceNid) => DeviceKeysRow;
    /// Cross-signing keys of local users: 1 master, 2 self-signing, 3 user-signing.
    CROSS_SIGNING b'X' (UserNid, u8) => CrossSigningRow;
    /// Who has signed whose master key: signer, then signed.
    TRUST b'I' (UserNid, UserNid) => TrustRow;
    /// When a signer signed whom: each of the signed once, at the newest signature.
    TRUST_CHANGES b'G' (UserNid, Position) => u64;
    /// How many one-time keys a device has, and its fallback keys: one read for every sync.
    STOCKS b'O' DeviceNid => StockRow;
    /// Unclaimed one-time keys: device, algorithm (index in its stock), in the order of upload.
    ONE_TIME_KEYS b'o' (DeviceNid, u8, u64) => OneTimeKeyRow;
    /// Algorithm and key ID of an unclaimed one-time key to its number.
    ONE_TIME_KEY_IDS b'n' (DeviceNid, String) => u64;
    /// The last one-time keys claimed of a device: a ring.
    CLAIMED_KEYS b'c' (DeviceNid, u64) => ClaimedKeyRow;
    /// Whose device list changed when: each user once, at the newest change.
    DEVICE_LIST_CHANGES b'L' (Position, UserNid) => ();
    /// When a user's device list changed last.
    DEVICE_LISTS b'J' UserNid => u64;
    /// Messages waiting for a device, in order.
    TO_DEVICE b'T' (DeviceNid, Position) => ToDeviceRow;
    /// The newest transaction IDs under which a device sent to others.
    SENT_TO_DEVICE b'H' DeviceNid => SentRow;
    /// Versions of a user's key backup.
    BACKUPS b'B' (UserNid, u64) => BackupRow;
    /// Sessions in a key backup: owner, version, digest of the room ID, session ID.
    BACKED_UP_KEYS b'b' (UserNid, u64, Digest, String) => BackedUpKeyRow;

    /// Every event at the end of a timeline, in the one order in which this server has them.
    EVENT_LOG 0x90 Position => LoggedRow;
    /// Application services that the administrator registered, by ID.
    APPSERVICES 0x91 String => AppserviceRow;
    /// How far each application service has been told, by ID.
    APPSERVICE_STREAMS 0x92 String => AppserviceStreamRow;
    /// Where to ring, by owner and digest of app and key.
    PUSHERS 0x94 (UserNid, Digest) => PusherRow;
    /// Whose pushers have an app and key.
    PUSHER_OWNERS 0x95 (Digest, UserNid) => ();
    /// Pushers of sessions that were ended, which are rung once more; `set_ms` is when they were.
    FAREWELLS 0x97 (UserNid, Digest) => PusherRow;
    /// Up to where push has followed the log of all events.
    PUSH_CURSOR 0x96 () => u64;
    /// Rooms in the directories of other networks, by digest of the network's name.
    NETWORK_ROOMS 0x93 (Digest, RoomNid) => ();
    /// Events that relate to another: digest of room and that other, kind of relation, place in the
    /// timeline.
    RELATIONS 0xA0 (Digest, u8, i64, EventNid) => RelationRow;
    /// What relates to an event, in sum: by the same digest.
    RELATED 0xA1 Digest => RelatedRow;
    /// The threads of a room by the place of their newest event.
    THREADS 0xA2 (RoomNid, i64, EventNid) => ThreadRow;
    /// How many events of a thread are whose.
    THREAD_SENDERS 0xA3 (Digest, UserNid) => u64;
    /// Reactions by digest of what was reacted to, by whom, and how.
    ANNOTATIONS 0xA4 Digest => u64;
    /// What people reported, by the position at which it came.
    REPORTS 0xA5 Position => ReportRow;
    /// OpenID tokens, by digest.
    OPENID_TOKENS 0xB0 Digest => OpenIdRow;
    /// Apps that registered themselves to sign people in, by digest of what they said of themselves.
    OAUTH_CLIENTS 0xBE Digest => OAuthClientRow;
    /// Profile fields beside name and picture, by owner and name.
    PROFILE_FIELDS 0xB1 (UserNid, String) => ProfileFieldRow;
    /// The dehydrated device of a user.
    DEHYDRATED 0xB2 UserNid => DehydratedRow;
    /// Threads that a user has subscribed to or unsubscribed from, by room and root.
    THREAD_SUBSCRIPTIONS 0xB3 (UserNid, RoomNid, EventNid) => SubscriptionRow;
    /// When that last changed: each thread once, at its newest change.
    THREAD_SUBSCRIPTION_CHANGES 0xB4 (UserNid, Position) => SubscribedThreadRow;
    /// Delayed events, by delay ID.
    DELAYED_EVENTS 0xB5 String => DelayedRow;
    /// When to look at a delayed event: to send it, or to forget what became of it.
    DELAYED_DUE 0xB6 (u64, String) => ();
    /// The delayed events of a user.
    DELAYED_OF 0xB7 (UserNid, String) => ();
    /// The room in which the server tells a user what it has to tell.
    NOTICE_ROOMS 0xB8 UserNid => u64;
    /// Rooms that nobody of this server may join, by the digest of their ID.
    BLOCKED_ROOMS 0xB9 Digest => BlockedRoomRow;
    /// What administrators have ordered that takes long: deleting rooms, purging history.
    TASKS 0xBB u64 => TaskRow;
    /// What administrators have said about files.
    MEDIA_MARKS 0xBC MediaNid => MediaMarkRow;
    /// What allowed each state event.
    AUTH_EDGES 0xC0 EventNid => AuthRow;
    /// Holes in the history of rooms: the place and number of the event above.
    GAPS 0xC1 (RoomNid, i64, EventNid) => GapRow;
    /// Invites and knocks to rooms that this server is not in.
    CALLS 0xC2 (RoomNid, UserNid) => CallRow;
    /// Transactions of other servers, and messages to devices in them, by digest of origin and ID.
    INBOUND_TXNS 0xC3 Digest => InboundTxnRow;
    /// The same by the millisecond of their coming, to be forgotten.
    INBOUND_TXN_TIMES 0xC4 (u64, Digest) => ();
    /// Redactions that came before what they redact, by digest of the target's event ID.
    WAITING_REDACTIONS 0xC5 Digest => u64;
    /// Joins that another server was asked to take, until it is known what became of them, by digest of room,
    /// user and server.
    JOINS_IN_DOUBT 0xC6 Digest => JoinInDoubtRow;
    /// The date of the newest member event of a local user that another server was asked to take, by digest of
    /// room and user: milliseconds since the Unix epoch.
    MEMBER_DATES 0xC7 Digest => u64;
    /// The last event that a server sent of a room and that could not be judged, by digest of both.
    UNJUDGED 0xC8 Digest => UnjudgedRow;

    /// The policy of the house.
    HOUSE_POLICY 0xE0 () => HousePolicyRow;
    /// Sessions and their classes.
    SESSIONS 0xE1 DeviceNid => SessionRow;
    /// Enrolment codes, by digest.
    ENROLMENTS 0xE2 Digest => EnrolmentRow;
    /// How often a file was opened: by whom; under user zero, by all together.
    OPENS 0xE3 (MediaNid, UserNid) => OpensRow;
    /// Which file was given to which device in which form.
    COPIES 0xE4 (MediaNid, DeviceNid, u8) => CopyRow;
    /// The same by device.
    DEVICE_COPIES 0xE5 (DeviceNid, MediaNid, u8) => ();
    /// Files that were erased, by digest of their ID.
    ERASURES 0xE6 Digest => ErasureRow;
    /// Until when bytes live that were shown where copies inherit: by digest of the bytes; milliseconds
    /// since the Unix epoch.
    INHERITED 0xE7 Digest => u64;
    /// The newest position at which an event that showed a file was redacted.
    REDACTED_AT 0xE8 MediaNid => u64;
    /// Up to which time a room's events were erased, or are about to be: milliseconds since the Unix
    /// epoch.
    RETENTION 0xE9 RoomNid => u64;
    /// Events that were erased, for the index of words, which follows.
    ERASED_EVENTS 0xEA Position => u64;
    /// Encryption sessions of events that are gone: from when on, in milliseconds since the Unix epoch, it is to
    /// be seen whether anything needs their keys in backups; by room and event.
    ERASED_SESSIONS 0xEE (u64, RoomNid, EventNid) => String;
    /// Which servers were given a file, by digest of their names.
    PEER_COPIES 0xEB (MediaNid, Digest) => PeerCopyRow;
    /// Servers that have not confirmed that a file is erased there, by digest of their name and of the
    /// file's ID.
    ERASE_NOTICES 0xEC (Digest, Digest) => EraseNoticeRow;
    /// When they are to be told (again), if they are: server, milliseconds since the Unix epoch, file. The row is
    /// the server's name.
    NOTICES_DUE 0xF8 (Digest, u64, Digest) => String;
    /// Files of other servers that are at their end, by digest of their URI.
    ENDED_AFAR 0xF9 Digest => EndedAfarRow;
    /// What events show of other servers, by digest of the URI: the number under which [`MEDIA_LINKS`] has
    /// the event.
    SHOWN_AFAR 0xFA (Digest, MediaNid) => ();
    /// The key with which this server vouches for events as a policy server.
    POLICY_SERVER_KEY 0xED () => PolicyServerKeyRow;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keyspaces_share_a_byte() {
        let mut bytes: Vec<_> = ALL.iter().map(|(byte, ..)| byte).collect();
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), ALL.len());
    }
}
