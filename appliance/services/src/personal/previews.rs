//! What apps load by themselves ([MSC4278]): nothing, until its owner says otherwise.
//!
//! An app that shows pictures of a room unasked keeps them on the phone and copies them into notifications.
//! "Homeservers MAY specify a default value … user MUST be able to mutate" it: so it is written once, when the
//! account is made, and is theirs.
//!
//! [MSC4278]: https://github.com/matrix-org/matrix-spec-proposals/pull/4278

use appliance_ledger::Commit;
use appliance_model::{RoomNid, UserNid};

use super::account_data::write;

/// As merged, and as released apps ask for it.
const KINDS: [&str; 2] = ["m.media_preview_config", "io.element.msc4278.media_preview_config"];
const OFF: &str = r#"{"media_previews":"off"}"#;

/// Has a new user's apps load pictures when they are asked to.
pub(crate) fn begin_without_previews(user: UserNid, commit: &mut Commit) {
    for kind in KINDS {
        write(commit, (user, RoomNid(0), kind.to_owned()), None, Some(OFF.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Ward;

    #[tokio::test]
    async fn a_new_user_s_apps_load_no_pictures_unasked_until_they_say_so() {
        let (ward, [nurse]) = Ward::with_members(["nurse"]).await;
        let personal = &ward.services.personal;
        for kind in KINDS {
            let now = personal.account_data(nurse.user, None, kind).await.unwrap();
            assert_eq!(now.as_deref(), Some(OFF), "{kind}");
        }
        let owner = (nurse.user, nurse.user_id.as_str());
        let on = r#"{"media_previews":"on"}"#;
        personal.set_account_data(owner, None, KINDS[0], on).await.unwrap();
        let now = personal.account_data(nurse.user, None, KINDS[0]).await.unwrap();
        assert_eq!(now.as_deref(), Some(on));
    }
}
