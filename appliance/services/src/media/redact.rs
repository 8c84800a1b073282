//! `POST /_matrix/client/unstable/uk.timedout.msc4322/media/redact/{server_name}/{media_id}` ([MSC4322]): whoever
//! uploaded a file takes it back. It goes the way of all files ([`super::purge`]): one commit condemns it,
//! queues the redaction of what showed it, and owes a notice to the servers that were given it.
//!
//! [MSC4322]: https://github.com/matrix-org/matrix-spec-proposals/pull/4322

use appliance_ledger::keyspaces::ERASURES;
use appliance_ledger::rows::media::Stage;
use appliance_model::{Caller, Error};
use appliance_rules::policy::{self, is_media_id};
use appliance_rules::{Denial, Permit};

use super::link::present;
use super::purge::condemn;
use super::{Media, media_digest, no_such_media};

/// The reason in the records.
const REASON: &str = "redacted";

impl Media {
    /// Erases a file because its uploader says so, or an administrator; `reason` is for the audit trail. Returns
    /// when nobody gets it any more; the job erases it from the disk soon after. Of another server's file an
    /// administrator can say that it is not to be had here any more. Said again, it says nothing new.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::Forbidden`]: it is somebody else's.
    /// * [`appliance_model::Kind::NotFound`]: there is no such file, and was none; an ID that is reserved
    ///   has none yet.
    /// * [`appliance_model::Kind::Limited`]: too often.
    pub async fn redact_file(
        &self,
        caller: &Caller,
        (server_name, media_id): (&str, &str),
        reason: Option<&str>,
    ) -> Result<(), Error> {
        self.count(caller)?;
        if !is_media_id(media_id) {
            return Err(no_such_media());
        }
        let uri = format!("mxc://{server_name}/{media_id}");
        if self.0.house.server_name != server_name {
            // "If the media URI belongs to a different server, it should only be deleted locally (and not
            // re-fetched)."
            let permit = policy::may_redact_file(caller, false, &uri, reason);
            let permit = self.permitted(permit).await?;
            return self.end_afar(&uri, (caller.user_id.as_str(), false), permit).await;
        }
        let Some((number, row)) = self.row(server_name, media_id).await? else {
            return self.redact_again(caller, media_id, &uri).await;
        };
        // Two who do so at once: the second finds it condemned.
        let door = self.0.doors.enter(number.0).await;
        let Some(living) = present(&self.0.house, number).await? else {
            return match row.stage {
                Stage::Reserved => Err(no_such_media()),
                Stage::Present | Stage::Purging => self.redact_again(caller, media_id, &uri).await,
            };
        };
        // "The user calling it is the same user that created the media URI, or a user with an appropriate
        // permission override."
        let is_uploader = living.uploader == caller.user.0;
        let permit = policy::may_redact_file(caller, is_uploader, &uri, reason);
        let mut commit = self.ledger().begin(self.permitted(permit).await?);
        condemn(&self.0.house, number, REASON, &mut commit).await?;
        commit.hold(door);
        self.ledger().commit(commit).await.map(drop)
    }

    /// "Subsequent requests to the redact endpoint should be treated as a no-op", for those who may make a first.
    async fn redact_again(&self, caller: &Caller, media_id: &str, uri: &str) -> Result<(), Error> {
        let name = media_digest(self.ledger(), media_id);
        let record = self.ledger().get(&ERASURES, &name).await?.ok_or_else(no_such_media)?;
        let is_uploader = record.uploader == Some(caller.user.0);
        let permit = policy::may_redact_file(caller, is_uploader, uri, None);
        self.permitted(permit).await.map(drop)
    }

    /// The permit; a denial is on record before it is heard of.
    async fn permitted(&self, judged: Result<Permit, Denial>) -> Result<Permit, Error> {
        match judged {
            Ok(permit) => Ok(permit),
            Err(denial) => Err(self.ledger().refuse(denial).await),
        }
    }
}
