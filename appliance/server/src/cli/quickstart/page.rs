//! The page that `quickstart` prints: what runs, who can sign in, how to connect.

use std::fmt::Write;
use std::path::Path;

use super::accounts::Logins;

/// What the page tells.
pub struct Page<'a> {
    pub folder: &'a Path,
    pub ca: &'a Path,
    pub port: u16,
    pub http_port: u16,
    pub photo_port: u16,
    pub metrics_port: u16,
    pub logins: &'a Logins,
}

impl Page<'_> {
    /// The page.
    pub fn text(&self) -> String {
        let Self { folder, ca, port, http_port, photo_port, metrics_port, logins } = self;
        let (folder, ca) = (folder.display(), ca.display());
        let mut accounts = String::new();
        for login in &logins.0 {
            let user_id = login.user_id();
            // A String takes everything.
            let _ = writeln!(accounts, "    {user_id:<25} {}   {}", login.password, login.role);
        }
        let someone = logins.0.last().map(super::accounts::Login::user_id).unwrap_or_default();
        format!(
            "
Wardstone is running, for this machine only.

  Homeserver   https://localhost:{port}   certificate authority: {ca}
               http://localhost:{http_port}    the same, for clients without that certificate
  Photo page   https://localhost:{photo_port}   looking at photos and taking them in a browser
  Metrics      http://localhost:{metrics_port}/metrics

  Accounts (also in {folder}/logins.txt)

{accounts}
  Element      Sign in, edit the homeserver, enter http://localhost:{http_port}, then one of the
               accounts. A second person: the same in a private window.
  iamb         in ~/.config/iamb/config.toml:
                 [profiles.ward]
                 user_id = \"{someone}\"
                 url = \"http://localhost:{http_port}\"
  curl         curl --cacert {ca} https://localhost:{port}/_matrix/client/versions

  Accounts for others: wardstone user create NAME --config {folder}/wardstone.toml
  Ctrl-C stops it. Everything is in {folder}; a second run goes on from there.
"
        )
    }
}
