//! Signing out.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::DEVICES;
use appliance_ledger::rows::DeviceRow;
use appliance_model::{Caller, Error, UserNid};
use appliance_rules::Permit;

use super::Accounts;
use super::session::DEVICES_MAX;

impl Accounts {
    /// Ends the caller's session and device.
    ///
    /// # Errors
    ///
    /// If the store fails; the session lives on then.
    pub async fn logout(&self, caller: &Caller) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(caller.user.0).await;
        let key = (caller.user, caller.device_id.to_string());
        let Some(device) = ledger.get(&DEVICES, &key).await? else { return Ok(()) };
        let permit = Permit::own("session.ended", &caller.user_id, &caller.device_id);
        let mut commit = ledger.begin(permit);
        self.end_own_device(key, device, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// Ends all sessions and devices of the caller.
    ///
    /// # Errors
    ///
    /// If the store fails; all sessions live on then.
    pub async fn logout_all(&self, caller: &Caller) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(caller.user.0).await;
        let permit = Permit::own("sessions.ended", &caller.user_id, &caller.user_id);
        let mut commit = ledger.begin(permit);
        for (key, device) in self.devices_of(caller.user).await? {
            self.end_device(key, device, &mut commit).await?;
        }
        commit.hold(inside);
        ledger.commit(commit).await.map(drop)
    }

    /// All devices of a user.
    pub(super) async fn devices_of(
        &self,
        user: UserNid,
    ) -> Result<Vec<((UserNid, String), DeviceRow)>, Error> {
        let newest = self.house.ledger.newest();
        let (devices, _) = newest.scan(&DEVICES, &user, Direction::Forward, DEVICES_MAX).await?;
        Ok(devices)
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::Kind;
    use appliance_model::ruma::OwnedUserId;

    use crate::accounts::{Login, NewAccount, NewSession, Session};
    use crate::scenario::Ward;

    async fn nurse(ward: &Ward) -> (OwnedUserId, Session) {
        let new = NewAccount {
            localpart: Some("nurse".to_owned()),
            password: Some("nurse".to_owned()),
            ..NewAccount::default()
        };
        let session = Some(NewSession { refreshable: true, ..NewSession::default() });
        let (user_id, session) = ward.services.accounts.create_account(new, session).await.unwrap();
        (user_id, session.unwrap())
    }

    /// The phone that signs out loses its network in the same second. It is signed out all the same:
    /// in the store, and in the memory that would otherwise go on letting it in.
    #[tokio::test]
    async fn whoever_hangs_up_while_signing_out_is_out() {
        let ward = Ward::new().await;
        let accounts = &ward.services.accounts;
        let (_, session) = nurse(&ward).await;
        let caller = accounts.authenticate(&session.access_token).await.unwrap();
        {
            let leaving = accounts.logout(&caller);
            tokio::pin!(leaving);
            tokio::select! {
                biased;
                _ = &mut leaving => panic!("the lane answers later"),
                () = std::future::ready(()) => {}
            }
        }
        // Whoever comes next meets at the account's door and waits for the commit.
        accounts.logout(&caller).await.unwrap();
        let refused = accounts.authenticate(&session.access_token).await.unwrap_err();
        assert_eq!(refused.kind, Kind::UnknownToken { soft_logout: false });
        let refresh = session.refresh_token.unwrap();
        assert!(accounts.refresh(&refresh, None).await.is_err());
    }

    #[tokio::test]
    async fn what_was_answered_survives_a_power_cut() {
        let ward = Ward::new().await;
        let (_, first) = nurse(&ward).await;
        let ward = ward.power_cut_and_restart().await;
        let accounts = &ward.services.accounts;
        let caller = accounts.authenticate(&first.access_token).await.unwrap();
        let second = accounts.refresh(first.refresh_token.as_deref().unwrap(), None).await.unwrap();
        let login = Login {
            user: "nurse".to_owned(),
            password: "nurse".to_owned(),
            session: NewSession::default(),
            address: None,
        };
        let other = accounts.login(login).await.unwrap();

        let ward = ward.power_cut_and_restart().await;
        let accounts = &ward.services.accounts;
        accounts.authenticate(&second.access_token).await.unwrap();
        let refused = accounts.authenticate(&first.access_token).await.unwrap_err();
        assert_eq!(
            refused.kind,
            Kind::UnknownToken { soft_logout: false },
            "a newer one is in use"
        );
        accounts.authenticate(&other.access_token).await.unwrap();
        accounts.logout(&caller).await.unwrap();

        let ward = ward.power_cut_and_restart().await;
        let accounts = &ward.services.accounts;
        accounts.authenticate(&second.access_token).await.unwrap_err();
        assert!(accounts.refresh(second.refresh_token.as_deref().unwrap(), None).await.is_err());
        accounts.authenticate(&other.access_token).await.unwrap();
    }

    #[tokio::test]
    async fn the_audit_trail_says_who_came_and_went_and_nothing_more() {
        let ward = Ward::new().await;
        let accounts = &ward.services.accounts;
        let (user_id, session) = nurse(&ward).await;
        let caller = accounts.authenticate(&session.access_token).await.unwrap();
        accounts.refresh(session.refresh_token.as_deref().unwrap(), None).await.unwrap();
        accounts.logout_all(&caller).await.unwrap();
        accounts.close_account(&user_id, "root").await.unwrap();
        assert_eq!(
            ward.audit().await,
            [
                "account.created @nurse:hospital.example",
                "sessions.ended @nurse:hospital.example",
                "account.deactivated root",
            ]
        );
    }
}
