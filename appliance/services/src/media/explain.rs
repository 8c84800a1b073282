//! What somebody would get of one file now, and which scope says so: for those who answer for the policy.
//! Nothing is given, and nothing is counted.

use appliance_model::ruma::UserId;
use appliance_model::{Error, Role, SessionClass};
use appliance_rules::policy::{Action, Subject, decide};
use serde_json::{Map, Value, json};

use super::govern::object_of;
use super::{Media, no_such_media, row_of};
use crate::policy::verdict;

impl Media {
    /// Explains what a user of this server (none: anybody) would get of a file on a session of this class.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such user, or no such file (any more).
    pub async fn explain(
        &self,
        media_id: &str,
        (user_id, class): (Option<&UserId>, SessionClass),
    ) -> Result<Value, Error> {
        let (number, _) = row_of(&self.0.house, media_id).await?.ok_or_else(no_such_media)?;
        let living = self.living(number).await?.ok_or_else(no_such_media)?;
        let (user, role) = match user_id {
            Some(user_id) => {
                let (user, role) = self.0.accounts.role_of(user_id).await?;
                (Some(user), role)
            }
            None => (None, Role::User),
        };
        let policy = self.policy_of(Some(role), &living).await?;
        let opens = self.opens(number, user).await?;
        let uri = self.uri(media_id);
        let object = object_of(&uri, (&living.row, living.deadline_ms), &opens);
        let is_uploader = user.is_some_and(|user| user.0 == living.row.uploader);
        let user_id = user_id.map_or("somebody", UserId::as_str);
        let subject = Subject { user_id, device_id: "", class, is_uploader };
        let now_ms = self.time_ms_for(number);
        let verdicts = [Action::Download, Action::Thumbnail, Action::View].map(|action| {
            let judged = decide(&policy, &subject, action, &object, now_ms);
            (format!("{action:?}").to_lowercase(), Value::from(verdict(judged, action)))
        });
        Ok(json!({
            "uri": uri,
            "deadline_ms": living.deadline_ms,
            "opens": object.opens,
            "opens_of_user": object.opens_of_user,
            "is_uploader": is_uploader,
            "rules": policy.to_json(),
            "verdicts": verdicts.into_iter().collect::<Map<_, _>>(),
        }))
    }
}
