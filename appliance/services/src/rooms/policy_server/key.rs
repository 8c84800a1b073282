//! The key with which this server vouches for events: not the one that signs for it. "This is to keep 'can
//! send federation traffic' and 'can recommend events for inclusion' separate, and to allow rooms to revoke
//! the Policy Server's key without cooperation of the Policy Server."

use std::sync::Arc;

use appliance_ledger::keyspaces::POLICY_SERVER_KEY;
use appliance_ledger::rows::policy::PolicyServerKeyRow;
use appliance_model::Error;
use appliance_model::ruma::CanonicalJsonObject;
use appliance_model::ruma::serde::Base64;
use appliance_model::ruma::signatures::Ed25519KeyPair;
use appliance_rules::Permit;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::rooms::Rooms;
use crate::rooms::build::content_from;

/// "The Key ID for the `ed25519` key in `m.room.policy` is *always* `ed25519:policy_server`."
const VERSION: &str = "policy_server";

/// What PKCS#8 puts before the 32 bytes of an Ed25519 key (RFC 8410).
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The key, once it was wanted.
pub(crate) type OwnKey = OnceCell<Arc<Ed25519KeyPair>>;

impl Rooms {
    /// The key; made when it is first wanted, and in the store before anybody sees it.
    pub(super) async fn policy_server_key(&self) -> Result<Arc<Ed25519KeyPair>, Error> {
        let key = self.policy_key.get_or_try_init(|| async {
            let ledger = &self.house.ledger;
            if let Some(row) = ledger.get(&POLICY_SERVER_KEY, &()).await? {
                return pair(&row.seed);
            }
            let mut seed = [0; 32];
            self.house.dice.fill(&mut seed);
            let own = self.house.server_name.as_str();
            let permit = Permit::administration("policy_server.key_made", own, VERSION);
            let mut commit = ledger.begin(permit);
            let row = PolicyServerKeyRow { seed: seed.to_vec(), at_ms: self.house.clock.now_ms() };
            commit.put(&POLICY_SERVER_KEY, &(), &row);
            ledger.commit(commit).await?;
            pair(&seed)
        });
        key.await.cloned()
    }

    /// What verifies this server's signatures as a policy server, for `m.room.policy` and
    /// `.well-known/matrix/policy_server`: unpadded Base64.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn policy_server_public_key(&self) -> Result<String, Error> {
        let key = self.policy_server_key().await?;
        Ok(Base64::<appliance_model::ruma::serde::base64::Standard, _>::new(key.public_key())
            .encode())
    }

    /// What a room says that names this server as its policy server.
    pub(in crate::rooms) async fn own_policy_server(&self) -> Result<CanonicalJsonObject, Error> {
        let key = self.policy_server_public_key().await?;
        content_from(&json!({ "via": self.house.server_name, "public_keys": { "ed25519": key } }))
    }
}

fn pair(seed: &[u8]) -> Result<Arc<Ed25519KeyPair>, Error> {
    let document = [&PKCS8_HEAD[..], seed].concat();
    let pair = Ed25519KeyPair::from_der(&document, VERSION.to_owned());
    pair.map(Arc::new).map_err(|error| Error::internal(format!("the policy server's key: {error}")))
}
