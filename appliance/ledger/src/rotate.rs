//! A new master key: the data keys are wrapped anew, and a fresh data key seals what comes.
//!
//! What lies sealed under older data keys stays as it is: those keys are now wrapped by the new
//! master key alone, so the old one opens nothing of this store any more (copies made before it was
//! rotated excepted).

use std::collections::BTreeMap;
use std::sync::Arc;

use appliance_engine::{Batch, Direction, Engine, KeyRange, Write};
use appliance_model::Dice;

use crate::codec::KeyPart;
use crate::keyspaces::DATA_KEYS;
use crate::open::{DATA_KEYS_MAX, OpenError};
use crate::seal::{SecretKey, Vault};

/// Wraps every data key under `new` and adds a fresh one, in one batch. Running it again after a
/// crash is safe: keys under `new` already are left alone. The server must not be running.
///
/// # Errors
///
/// [`OpenError::WrongMasterKey`] if a key opens under neither; nothing was changed then.
pub async fn rotate_data_keys(
    engine: &dyn Engine,
    (old, new): (&SecretKey, &SecretKey),
    dice: Arc<dyn Dice>,
) -> Result<(), OpenError> {
    let vault = |key: &SecretKey| Vault::new(dice.clone(), &BTreeMap::from([(0, key.clone())]));
    let (old, new) = (vault(old), vault(new));
    let space = DATA_KEYS.space;
    let everything = KeyRange::prefix(&[]);
    let page = engine.scan(space, &everything, Direction::Forward, DATA_KEYS_MAX).await?;
    let mut writes = Vec::new();
    let mut newest = 0;
    for (key, sealed) in &page.rows {
        newest = u64::from_key(key).ok_or(OpenError::Damaged("a data key is unreadable"))?;
        if new.open(space, key, sealed).is_ok() {
            continue;
        }
        let data_key = old.open(space, key, sealed).map_err(|_| OpenError::WrongMasterKey)?;
        writes.push(Write::Put(space, key.to_vec(), new.seal(space, key, &data_key)));
    }
    if writes.is_empty() {
        return Ok(());
    }
    // Key numbers have two bytes in every sealed value.
    if newest >= u64::from(u16::MAX) || page.rows.len() >= DATA_KEYS_MAX {
        return Err(OpenError::Damaged(
            "it has no room for another data key; export and import it",
        ));
    }
    let key = (newest + 1).to_key();
    let fresh = SecretKey::random(&*dice);
    let sealed = new.seal(space, &key, fresh.expose());
    writes.push(Write::Put(space, key, sealed));
    let batch = Batch { preconditions: Vec::new(), writes };
    engine.commit(vec![batch]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use appliance_model::{OsDice, UserNid};
    use appliance_rules::Permit;

    use super::*;
    use crate::keyspaces::USERS;
    use crate::rows::UserRow;
    use crate::scenario::{Store, openers};

    #[tokio::test]
    async fn the_new_key_opens_everything_and_the_old_one_nothing() {
        let store = Store::new().await;
        let mut commit = store.ledger.begin(Permit::housekeeping());
        commit.put(&USERS, &UserNid(1), &UserRow { user_id: "@before:h".into() });
        store.ledger.commit(commit).await.unwrap();
        let dice: Arc<dyn Dice> = Arc::new(OsDice);
        let (old, new) = (store.master.clone(), SecretKey::random(&OsDice));
        let stranger = SecretKey::random(&OsDice);
        let wrong = rotate_data_keys(&*store.engine, (&stranger, &new), dice.clone()).await;
        assert!(matches!(wrong, Err(OpenError::WrongMasterKey)));
        for _ in 0..2 {
            rotate_data_keys(&*store.engine, (&old, &new), dice.clone()).await.unwrap();
        }

        let engine = store.engine.clone();
        assert!(crate::open(engine.clone(), openers(&old)).await.is_err());
        let rotated = Store::on(engine.clone(), new).await;
        let row = rotated.ledger.get(&USERS, &UserNid(1)).await.unwrap().unwrap();
        assert_eq!(row.user_id, "@before:h");
        assert_eq!(
            rotated.ledger.digest(&[b"name"]),
            store.ledger.digest(&[b"name"]),
            "indexes still find their rows"
        );
        let mut commit = rotated.ledger.begin(Permit::housekeeping());
        commit.put(&USERS, &UserNid(2), &UserRow { user_id: "@after:h".into() });
        rotated.ledger.commit(commit).await.unwrap();
        let key = UserNid(2).to_key();
        let sealed = appliance_engine::Read::get(&*engine, USERS.space, &key).await.unwrap();
        let sealed = sealed.unwrap();
        assert_eq!(sealed[..2], [0, 2], "the fresh data key seals what comes");
    }
}
