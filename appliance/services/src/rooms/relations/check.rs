//! What a local user's relation must be before it is sent.

use appliance_ledger::Digest;
use appliance_ledger::keyspaces::ANNOTATIONS;
use appliance_model::ruma::{EventId, UserId};
use appliance_model::{Error, Kind};

use super::{How, Relation};
use crate::rooms::OpenRoom;
use crate::rooms::build::Draft;

impl OpenRoom<'_> {
    /// Refuses a second reaction of the same kind, and threads that would start inside another
    /// relation.
    pub(in crate::rooms) async fn check_relation(&self, draft: &Draft) -> Result<(), Error> {
        if draft.state_key.is_some() || !draft.content.contains_key("m.relates_to") {
            return Ok(());
        }
        let content = serde_json::to_string(&draft.content).map_err(Error::internal)?;
        let Some(relation) = Relation::of(&content) else { return Ok(()) };
        match relation.how() {
            How::Annotation => {
                let digest = self.annotation(&draft.sender, draft.kind.to_string(), &relation);
                let known = self.rooms.house.ledger.get(&ANNOTATIONS, &digest).await?;
                // "The server MUST … return M_DUPLICATE_ANNOTATION".
                if known.is_some() {
                    let why = "You have reacted to this in the same way already.";
                    return Err(Error::new(Kind::DuplicateAnnotation, why));
                }
            }
            How::Thread => self.check_thread_root(&relation.event_id).await?,
            How::Replace | How::Reference | How::Other => {}
        }
        Ok(())
    }

    /// "Servers SHOULD reject client requests which attempt to start a thread off an event with an
    /// m.relates_to property" ([spec]); a plain reply has no `rel_type` and may be a root.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#validation-of-mthread-relationships
    async fn check_thread_root(&self, event_id: &str) -> Result<(), Error> {
        let Ok(event_id) = EventId::parse(event_id) else { return Ok(()) };
        let root = self.rooms.house.ledger.event_by_id(&event_id).await?;
        let related = root.filter(|root| root.room == self.room).is_some_and(|root| {
            Relation::of(root.content()).is_some_and(|relation| relation.how() != How::Other)
        });
        if related {
            let why = "A thread cannot start from an event that itself belongs to another.";
            return Err(Error::new(Kind::BadRelation, why));
        }
        Ok(())
    }

    /// The name of one person's one reaction to one event.
    pub(super) fn annotation(&self, who: &UserId, kind: String, relation: &Relation) -> Digest {
        let key = relation.key.as_deref().unwrap_or_default();
        self.rooms.house.ledger.digest(&[
            b"annotation",
            &self.room.0.to_be_bytes(),
            relation.event_id.as_bytes(),
            who.as_bytes(),
            kind.as_bytes(),
            key.as_bytes(),
        ])
    }
}
