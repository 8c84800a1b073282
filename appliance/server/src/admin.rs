//! What the administrator orders on this machine, with or without a running server.
//!
//! A command makes an [`Order`]. If a server runs, the order goes through its Unix socket
//! ([`caller`] to [`door`]); if none runs, the command opens the house itself and carries the order
//! out there. Both ways end in [`Admin::carry_out`].

pub mod caller;
pub mod door;
mod peers;
pub mod store;
mod users;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use appliance_api::governance::{self, PolicyQuestion};
use appliance_model::ruma::{OwnedMxcUri, OwnedServerName, OwnedUserId};
use appliance_model::{Error, Kind};
use appliance_services::media::erase::Which;
use appliance_services::peers::{PeerChange, Terms};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::settings::Secret;
use crate::wiring::House;

/// What can be ordered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "order", rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Is a server there, and which?
    Status,
    /// A new account.
    CreateUser {
        /// The part before the colon.
        localpart: String,
        /// Its password.
        password: Spoken,
        /// May use the administration endpoints.
        administrator: bool,
    },
    /// All accounts.
    ListUsers,
    /// Close an account for good.
    DeactivateUser {
        /// Whose.
        user_id: OwnedUserId,
    },
    /// A new password for an account.
    ResetPassword {
        /// Whose.
        user_id: OwnedUserId,
        /// The new password.
        password: Spoken,
        /// Leave the sessions that are open.
        keep_sessions: bool,
    },
    /// Put a server on the list of peers, or change what it says of one.
    DescribePeer {
        /// Its name.
        server_name: OwnedServerName,
        /// What to say of it.
        change: Box<PeerChange>,
    },
    /// The same for many at once.
    ImportPeers {
        /// By their names.
        peers: BTreeMap<OwnedServerName, PeerChange>,
    },
    /// What the list says of all peers, in the form that `ImportPeers` takes.
    ExportPeers,
    /// Write an offer to exchange rooms.
    InvitePeer {
        /// To which server.
        server_name: OwnedServerName,
        /// What it says of this organisation and of the contract.
        terms: Terms,
    },
    /// Accept an offer or an answer.
    AcceptPeer {
        /// The offer or the answer.
        letter: String,
        /// What the answer says of this organisation.
        terms: Terms,
    },
    /// Pin a key that a peer showed.
    ApprovePeerKey {
        /// Its name.
        server_name: OwnedServerName,
        /// Which key.
        key_id: String,
    },
    /// All peers.
    ListPeers,
    /// How things stand with a server.
    ShowPeer {
        /// Its name.
        server_name: OwnedServerName,
    },
    /// Take a server off the list.
    RemovePeer {
        /// Its name.
        server_name: OwnedServerName,
        /// And its people out of the rooms here.
        expel: bool,
    },
    /// Exchange nothing with a server for now.
    SuspendPeer {
        /// Its name.
        server_name: OwnedServerName,
        /// And take its people out of the rooms here.
        expel: bool,
    },
    /// Ask a server who it is.
    CheckPeer {
        /// Its name.
        server_name: OwnedServerName,
    },
    /// Every destination that was contacted or refused.
    ListEgress,
    /// Is every row as it was written?
    CheckStore,
    /// What takes how much room.
    StoreStats,
    /// Everything into one file.
    ExportStore {
        /// An absolute path that does not exist.
        to: PathBuf,
    },
    /// A file into an empty store.
    ImportStore {
        /// What an export wrote.
        from: PathBuf,
    },
    /// The policy of the house.
    ShowPolicy,
    /// Another policy of the house.
    SetPolicy {
        /// A policy pack.
        pack: Value,
    },
    /// What holds, and who said so.
    ExplainPolicy {
        /// For whom and where.
        question: PolicyQuestion,
        /// What if this were the policy of the house?
        pack: Option<Value>,
    },
    /// A code that raises the class of a session.
    Enrol {
        /// The class, by its word.
        class: String,
        /// The only user who may use it.
        user_id: Option<OwnedUserId>,
        /// For how long it is good.
        valid_ms: u64,
    },
    /// Who was given a file.
    WhereIsMedia {
        /// `mxc://server/id`.
        uri: OwnedMxcUri,
    },
    /// Erase files.
    EraseMedia {
        /// Which.
        which: Which,
    },
    /// What a user may have here, and has.
    MediaQuota {
        /// Whose.
        user_id: OwnedUserId,
        /// What is to hold; none: only look.
        quota: Option<Quota>,
    },
    /// Files whose erasure is not finished.
    PurgingMedia,
    /// The servers that have not confirmed that a file is erased there.
    UnconfirmedErasures,
    /// A device is lost.
    DeviceLost {
        /// Whose.
        user_id: OwnedUserId,
        /// Which.
        device_id: String,
    },
    /// Another master key.
    RotateKey {
        /// Where to write it; none: in place of the old one.
        new_key_file: Option<PathBuf>,
    },
}

/// What a user may have here.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quota {
    /// As everyone.
    General,
    /// So many bytes.
    Bytes(u64),
}

/// A secret on its way through the socket: the one place where it is written in clear.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Spoken(pub Secret);

impl Serialize for Spoken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.reveal())
    }
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Refusal {
    /// What sort of reason.
    pub reason: Reason,
    /// A sentence for the administrator.
    pub message: String,
}

/// What sort of reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The order makes no sense, or the thing is not there.
    Refused,
    /// The server failed; its journal says why.
    Failed,
    /// The store is damaged.
    Damaged,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let reason = match error.kind {
            Kind::Internal | Kind::Unavailable => Reason::Failed,
            _ => Reason::Refused,
        };
        Self { reason, message: error.message.into_owned() }
    }
}

/// Carries out orders in a house.
pub struct Admin {
    house: Arc<House>,
}

impl Admin {
    /// For one house.
    pub fn new(house: Arc<House>) -> Self {
        Self { house }
    }

    /// Carries out an order. `by` is who gave it, for the audit trail.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] with a sentence.
    pub async fn carry_out(&self, order: Order, by: &str) -> Result<Value, Refusal> {
        let services = &self.house.services;
        match order {
            Order::Status => Ok(self.status().await),
            Order::CreateUser { localpart, password, administrator } => {
                self.create_user(localpart, password.0, administrator, by).await
            }
            Order::ListUsers => self.list_users().await,
            Order::DeactivateUser { user_id } => self.deactivate_user(&user_id, by).await,
            Order::ResetPassword { user_id, password, keep_sessions } => {
                self.reset_password(&user_id, &password.0, keep_sessions, by).await
            }
            Order::DescribePeer { server_name, change } => {
                self.describe_peer(&server_name, *change, by).await
            }
            Order::ImportPeers { peers } => self.import_peers(peers, by).await,
            Order::ExportPeers => self.export_peers().await,
            Order::InvitePeer { server_name, terms } => {
                self.invite_peer(&server_name, terms, by).await
            }
            Order::AcceptPeer { letter, terms } => self.accept_peer(&letter, terms, by).await,
            Order::ApprovePeerKey { server_name, key_id } => {
                self.approve_peer_key(&server_name, &key_id, by).await
            }
            Order::ListPeers => self.list_peers().await,
            Order::ShowPeer { server_name } => self.show_peer(&server_name).await,
            Order::RemovePeer { server_name, expel } => {
                self.remove_peer(&server_name, expel, by).await
            }
            Order::SuspendPeer { server_name, expel } => {
                self.suspend_peer(&server_name, expel, by).await
            }
            Order::CheckPeer { server_name } => self.check_peer(&server_name).await,
            Order::ListEgress => self.list_egress().await,
            Order::ShowPolicy => Ok(services.policy.show()),
            Order::SetPolicy { pack } => {
                services.policy.set(&pack, by).await?;
                Ok(services.policy.show())
            }
            Order::ExplainPolicy { question, pack } => {
                Ok(governance::explain(services, &question, pack.as_ref()).await?)
            }
            Order::Enrol { class, user_id, valid_ms } => {
                let terms = (valid_ms, by);
                Ok(governance::enrol(services, &class, user_id.as_deref(), terms).await?)
            }
            Order::WhereIsMedia { uri } => Ok(governance::copies(services, &uri).await?),
            Order::EraseMedia { which } => Ok(governance::erase(services, &which, by).await?),
            Order::MediaQuota { user_id, quota } => self.media_quota(&user_id, quota, by).await,
            Order::PurgingMedia => Ok(governance::purging(services).await?),
            Order::UnconfirmedErasures => Ok(governance::unconfirmed(services).await?),
            Order::DeviceLost { user_id, device_id } => {
                Ok(governance::device_lost(services, &user_id, &device_id, by).await?)
            }
            Order::CheckStore => self.check_store().await,
            Order::StoreStats => self.store_stats().await,
            Order::ExportStore { to } => self.export_store(&to).await,
            Order::ImportStore { .. } | Order::RotateKey { .. } => Err(Refusal {
                reason: Reason::Refused,
                message: "this needs a server that is stopped; stop it, then try again".into(),
            }),
        }
    }

    async fn status(&self) -> Value {
        let not_ready = self.house.ready().await.err();
        let services = &self.house.services;
        let purging = services.media.purging().await.ok().map(|(files, _)| files.len());
        let unconfirmed = services.media.unconfirmed().await.ok().map(|(servers, _)| servers.len());
        let floor_ms = Some(services.house.ledger.floor_ms()).filter(|floor_ms| *floor_ms > 0);
        json!({
            "server_name": services.house.server_name,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "ready": not_ready.is_none(),
            "not_ready_because": not_ready,
            "files_being_erased": purging,
            "erasures_unconfirmed": unconfirmed,
            "clock_set_back_from_ms": floor_ms,
        })
    }
}
