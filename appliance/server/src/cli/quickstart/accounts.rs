//! The accounts of a quickstart server, and the file with their passwords.

use std::path::Path;
use std::sync::Arc;

use appliance_model::{Dice, Kind, OsDice};
use appliance_services::accounts::NewAccount;

use super::SERVER_NAME;
use crate::files;
use crate::wiring::House;

/// 16 letters and digits: 95 bits, and still to be typed by hand.
const PASSWORD_LENGTH: usize = 16;

/// Who there is, with the role that is printed beside.
const PEOPLE: [(&str, &str); 3] =
    [("admin", "administrator"), ("nurse.amara", "clinician"), ("dr.osei", "clinician")];

/// One account of the demo.
#[derive(Clone)]
pub struct Login {
    /// The part before the colon.
    pub localpart: String,
    /// `administrator` or `clinician`.
    pub role: &'static str,
    /// In clear: this is a demo on one machine.
    pub password: String,
}

impl Login {
    /// `@localpart:localhost`
    pub fn user_id(&self) -> String {
        format!("@{}:{SERVER_NAME}", self.localpart)
    }
}

/// The accounts of the demo.
#[derive(Clone)]
pub struct Logins(pub Vec<Login>);

impl Logins {
    /// Reads `path`, or makes passwords and writes it, readable by the owner alone.
    ///
    /// # Errors
    ///
    /// A sentence naming the file.
    pub fn open(path: &Path) -> Result<Self, String> {
        if !path.exists() {
            let lines: Vec<String> = PEOPLE
                .iter()
                .map(|(localpart, _)| format!("{localpart} {}", OsDice.letters(PASSWORD_LENGTH)))
                .collect();
            let text = format!("# name and password, for trying out\n{}\n", lines.join("\n"));
            files::create(path, &text, 0o600)?;
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let password = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(localpart, _)| *localpart == name).map(|(_, password)| password)
        };
        let login = |(localpart, role): (&str, &'static str)| {
            let password = password(localpart).map(|password| password.trim().to_owned());
            let password = password.filter(|password| !password.is_empty()).ok_or_else(|| {
                format!(
                    "{} does not name {localpart}; delete the folder to start anew",
                    path.display()
                )
            })?;
            Ok(Login { localpart: localpart.to_owned(), role, password })
        };
        PEOPLE.into_iter().map(login).collect::<Result<_, _>>().map(Self)
    }

    /// Makes the accounts that are not there yet.
    ///
    /// # Errors
    ///
    /// A sentence: the store failed.
    pub async fn create_in(self, house: Arc<House>) -> Result<(), String> {
        for login in self.0 {
            let new = NewAccount {
                localpart: Some(login.localpart),
                password: Some(login.password),
                administrator: login.role == "administrator",
                ..NewAccount::default()
            };
            match house.services.accounts.create_account(new, None).await {
                Ok(_) => {}
                Err(error) if error.kind == Kind::UserInUse => {}
                Err(error) => return Err(error.message.into_owned()),
            }
        }
        Ok(())
    }
}
